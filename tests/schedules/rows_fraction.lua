-- expect error E0221
-- at 4:21
-- says not 7.5
return kernel "k" { rows = 15 / 2 }
