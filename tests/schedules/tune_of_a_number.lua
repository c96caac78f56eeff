-- expect error E0210
-- at 4:1
-- says wants a table
tune(3)
return kernel "k" {}
