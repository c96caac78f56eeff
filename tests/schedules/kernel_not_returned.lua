-- expect error E0225
-- at 5:1
-- says does not return its kernel
local t = 1
kernel "k" {}
