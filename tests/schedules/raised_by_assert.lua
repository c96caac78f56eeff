-- expect error E0201
-- at 6:1
-- says tile is odd
local tile = 7

assert(tile % 2 == 0, "tile is odd")
