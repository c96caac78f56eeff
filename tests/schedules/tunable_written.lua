-- expect error E0207
-- at 5:3
-- says "tile" is read
local t = tune { tile = pow2(32, 256, 64) }
t.tile = 128
return kernel "k" {}
