-- expect error E0210
-- at 4:12
-- says default 96 is not among the values
tune { a = pow2(32, 256, 96) }
return kernel "k" {}
