-- expect error E0201
-- at 5:1
-- says zero
local a = 0
local b = 7 // a
return kernel "k" {}
