-- expect error E0206
-- at 4:16
-- says unknown field "random"
local x = math.random(3)
return kernel "k" {}
