-- expect ok
local seen = ""
for k, v in pairs({ zeta = 1, alpha = 2, [3] = 3, [1] = 4, [2.5] = 5, [true] = 6, mid = 7 }) do
    seen = seen .. tostring(k) .. "=" .. tostring(v) .. " "
end
assert(seen == "1=4 2.5=5 3=3 alpha=2 mid=7 zeta=1 true=6 ", seen)
return kernel "k" {}
