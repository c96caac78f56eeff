-- expect error E0221
-- at 4:21
-- says not 0
return kernel "k" { rows = 0 }
