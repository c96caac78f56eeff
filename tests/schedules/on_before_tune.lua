-- expect error E0210
-- at 4:5
-- says comes before tune
on "h200" { tile = 64 }
local t = tune { tile = pow2(32, 256, 64), stages = range(2, 8, 4) }
return kernel "k" {}
