-- expect error E0221
-- at 4:21
-- says roles wants a table
return kernel "k" { roles = "compute" }
