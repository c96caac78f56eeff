-- expect error E0221
-- at 4:21
-- says not "8"
return kernel "k" { rows = "8" }
