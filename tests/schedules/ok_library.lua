-- expect ok
assert(("abc"):upper() == "ABC" and ("ABC"):lower() == "abc" and ("abcd"):sub(2, 3) == "bc" and ("abc"):len() == 3)
assert(("a"):byte() == 97 and string.char(98) == "b" and ("abc"):reverse() == "cba")
assert(math.max(1, 2) == 2 and math.min(1, 2) == 1 and math.floor(2.5) == 2 and math.ceil(2.5) == 3 and math.abs(-1) == 1)
local t = { 1, 2 }
table.insert(t, 3)
assert(#t == 3 and table.remove(t) == 3 and table.concat(t, ",") == "1,2" and select("#", table.unpack(t)) == 2)
assert(tonumber("0x10") == 16 and type(t) == "table" and 128 // 2 == 64 and 128 / 2 == 64)
local sum = 0
for _, v in ipairs(t) do sum = sum + v end
assert(sum == 3)
return kernel "k" {}
