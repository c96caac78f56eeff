-- expect error E0201
-- at 4:1
-- says number expected, got string
check(false, "%d", "x")
return kernel "k" {}
