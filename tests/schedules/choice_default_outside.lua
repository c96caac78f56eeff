-- expect error E0210
-- at 4:12
-- says default 3 is not among the values
tune { a = choice({ 1, 2 }, 3) }
return kernel "k" {}
