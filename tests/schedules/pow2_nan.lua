-- expect error E0210
-- at 4:12
-- says low end of pow2
tune { a = pow2(0/0, 32, 32) }
return kernel "k" {}
