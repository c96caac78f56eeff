-- expect error E0202
-- at 9:1
-- says more than its 64 MB
local function double(s)
    return s .. s
end
local s = "0123456789abcdef"
for i = 1, 18 do s = double(s) end
local t = double(s) .. s .. s
