-- expect error E0203
-- at 4:1
-- says does not end
local function f() return f() end
f()
