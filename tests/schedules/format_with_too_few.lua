-- expect error E0201
-- at 4:18
-- says bad argument #3 to 'format' (no value)
local x = string.format("%d %d", 1)
