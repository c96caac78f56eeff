-- expect error E0212
-- at 7:13
-- says unknown tunable "tiel"
-- help did you mean "tile"?
local t = tune { tile = pow2(32, 256, 64), stages = range(2, 8, 4) }
on "h200" { stages = 6,
            tiel = 64 }
return kernel "k" {}
