-- expect error E0208
-- at 5:11
-- says scripts have no "print"
-- help check(false
local x = print
return kernel "k" {}
