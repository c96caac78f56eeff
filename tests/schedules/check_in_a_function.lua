-- expect error E0213
-- at 5:5
-- says no
local function need(x)
    check(x, "no")
end
need(nil)
return kernel "k" {}
