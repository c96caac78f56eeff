-- expect error E0210
-- at 5:5
-- says wants a table of tunables
local t = tune { tile = pow2(32, 256, 64), stages = range(2, 8, 4) }
on "h200" (3)
return kernel "k" {}
