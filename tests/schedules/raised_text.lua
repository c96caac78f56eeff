-- expect error E0201
-- at 5:5
-- says tiles are odd
local function f()
    error("tiles are odd")
end
f()
