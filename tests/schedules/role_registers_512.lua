-- expect error E0221
-- at 4:43
-- says not 512
return kernel "k" { roles = { compute = { registers = 512 } } }
