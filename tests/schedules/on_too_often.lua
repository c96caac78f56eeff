-- expect error E0220
-- at 5:19
-- says more than 4096 calls
local t = tune { tile = pow2(32, 256, 64), stages = range(2, 8, 4) }
while true do on "h200" { stages = 2 } end
