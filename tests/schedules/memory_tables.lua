-- expect error E0202
-- says more than its 64 MB
local all = {}
local i = 0
while true do
    i = i + 1
    all[i] = { i, i, i, i }
end
