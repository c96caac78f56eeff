-- expect error E0212
-- at 6:13
-- says unknown tunable "tiel"
-- help did you mean "tile"?
local t = tune { tile = pow2(32, 256, 64) }
local x = t.tiel
return kernel "k" {}
