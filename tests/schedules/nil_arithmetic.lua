-- expect error E0201
-- at 5:11
-- says attempt to perform arithmetic on a nil value (local 'a')
local a
local b = a * 2
return kernel "k" {}
