-- expect error E0221
-- at 4:21
-- says pages wants a table, not 8
return kernel "k" { pages = 8 }
