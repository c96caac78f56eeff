-- expect error E0202
-- says more than its 64 MB
local t = {}
for i = 1, 8 do t[i] = "0123456789abcdef" end
for n = 1, 30 do
    for i = 1, 8 do t[i] = t[i] .. t[i] end
    table.concat(t)
end
