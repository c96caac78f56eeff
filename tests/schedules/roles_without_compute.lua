-- expect error E0224
-- at 5:21
-- says needs the role compute
-- help compute = { warps = 8 }
return kernel "k" { roles = { load = { warps = 1 } } }
