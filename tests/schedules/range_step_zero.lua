-- expect error E0210
-- at 4:12
-- says step of range
tune { a = range(0, 8, 1, 0) }
return kernel "k" {}
