-- expect error E0210
-- at 4:1
-- says name is letters
tune { pow2(1, 2, 1) }
return kernel "k" {}
