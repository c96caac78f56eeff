-- expect error E0210
-- at 4:12
-- says default 5 is not among the values
tune { a = range(2, 10, 5, 2) }
return kernel "k" {}
