-- expect error E0211
-- at 5:13
-- says not 2.5
local t = tune { tile = pow2(32, 256, 64), stages = range(2, 8, 4) }
on "h200" { stages = 2.5 }
return kernel "k" {}
