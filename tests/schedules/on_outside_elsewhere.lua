-- expect error E0211
-- at 5:14
-- says stages = 9 is none
local t = tune { tile = pow2(32, 256, 64), stages = range(2, 8, 4) }
on "gh200" { stages = 9 }
return kernel "k" {}
