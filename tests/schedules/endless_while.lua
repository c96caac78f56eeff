-- expect error E0203
-- says does not end
local a = 1
while true do
    a = a + 1
end
