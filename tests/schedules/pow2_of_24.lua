-- expect error E0210
-- at 4:12
-- says power of two, not at 24
tune { a = pow2(24, 256, 48) }
return kernel "k" {}
