-- expect error E0211
-- at 6:13
-- says tile = 48 is none of the declared values
-- help tile may be 32, 64, 128, 256
local t = tune { tile = pow2(32, 256, 64), stages = range(2, 8, 4) }
on "h200" { tile = 48 }
return kernel "k" {}
