-- expect error E0221
-- at 4:43
-- says in eights, not 41
return kernel "k" { roles = { compute = { registers = 41 } } }
