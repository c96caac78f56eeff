-- expect error E0210
-- at 4:12
-- says more than 4096 values
tune { a = range(0, 4096, 1) }
return kernel "k" {}
