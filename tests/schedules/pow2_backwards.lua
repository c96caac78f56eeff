-- expect error E0210
-- at 4:12
-- says high end of pow2 wants a whole number from 64
tune { a = pow2(64, 32, 64) }
return kernel "k" {}
