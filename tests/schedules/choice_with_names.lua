-- expect error E0210
-- at 4:12
-- says plain list
tune { a = choice { 1, 2, x = 3 } }
return kernel "k" {}
