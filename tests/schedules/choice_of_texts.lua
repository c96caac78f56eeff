-- expect error E0210
-- at 4:12
-- says not "x"
tune { a = choice { "x", "y" } }
return kernel "k" {}
