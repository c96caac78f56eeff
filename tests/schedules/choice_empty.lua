-- expect error E0210
-- at 4:12
-- says 1 to 4096 values
tune { a = choice {} }
return kernel "k" {}
