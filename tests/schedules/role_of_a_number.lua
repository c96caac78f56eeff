-- expect error E0224
-- at 5:31
-- says compute wants a table, not 8
-- help compute = { warps
return kernel "k" { roles = { compute = 8 } }
