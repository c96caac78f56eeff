-- expect error E0201
-- at 5:5
-- says stack overflow
local function f(n)
    return 1 + f(n + 1)
end
f(1)
