-- expect error E0210
-- at 4:8
-- says a wants a range of values, not table
tune { a = { 1, 2, default = 1 } }
return kernel "k" {}
