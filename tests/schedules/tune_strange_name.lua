-- expect error E0210
-- at 4:1
-- says "a b"
tune { ["a b"] = pow2(1, 2, 1) }
return kernel "k" {}
