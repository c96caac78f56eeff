-- expect error E0221
-- at 4:42
-- says workers wants
return kernel "k" { steps = { op "qkv" { workers = 0 } } }
