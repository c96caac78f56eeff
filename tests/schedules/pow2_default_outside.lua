-- expect error E0210
-- at 4:12
-- says default of pow2 wants a whole number from 32 to 256, not 512
tune { a = pow2(32, 256, 512) }
return kernel "k" {}
