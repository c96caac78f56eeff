-- expect error E0210
-- at 5:5
-- says not H 200
local t = tune { tile = pow2(32, 256, 64), stages = range(2, 8, 4) }
on "H 200" { stages = 2 }
return kernel "k" {}
