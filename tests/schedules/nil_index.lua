-- expect error E0201
-- at 5:17
-- says attempt to index a nil value (field 'missing')
local a = {}
local b = 1 + a.missing.field
return kernel "k" {}
