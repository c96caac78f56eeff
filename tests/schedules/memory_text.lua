-- expect error E0202
-- at 6:5
-- says more than its 64 MB
local s = "0123456789abcdef"
while true do
    s = s .. s
end
