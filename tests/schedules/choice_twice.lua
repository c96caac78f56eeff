-- expect error E0210
-- at 4:12
-- says 1 stands twice
tune { a = choice { 1, 2, 1 } }
return kernel "k" {}
