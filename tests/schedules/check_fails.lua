-- expect error E0213
-- at 5:1
-- says tile = 64 does not divide inner = 2048
local t = tune { tile = pow2(32, 256, 64), stages = range(2, 8, 4) }
check(model.moe.inner % 7 == 0, "tile = %d does not divide inner = %d", t.tile, model.moe.inner)
return kernel "k" {}
