-- expect error E0210
-- at 4:12
-- says not 0.5
tune { a = range(0.5, 8, 1) }
return kernel "k" {}
