-- expect error E0210
-- at 4:12
-- says not nothing
tune { a = pow2() }
return kernel "k" {}
