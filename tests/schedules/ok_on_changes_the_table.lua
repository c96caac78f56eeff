-- expect ok
local t = tune { tile = pow2(32, 256, 64), stages = range(2, 8, 4), split = choice { 1, 2, 4 } }
assert(t.tile == 64 and t.stages == 4 and t.split == 1)
on "h200" { stages = 6 }
assert(t.stages == 6)
on "sm_90a" { stages = 5, tile = 128 } -- weaker than the SKU, whatever the order
assert(t.stages == 6 and t.tile == 128)
on "h100-sxm" { split = 4 }
on "host" { split = 4 }
assert(t.split == 1)
local names = ""
for name, value in pairs(t) do names = names .. name .. "=" .. value .. " " end
assert(names == "split=1 stages=6 tile=128 ", names)
return kernel "k" {}
