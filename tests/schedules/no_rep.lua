-- expect error E0206
-- at 4:18
-- says unknown field "rep"
local x = string.rep("b", 1e9)
return kernel "k" {}
