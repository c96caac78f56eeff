-- expect error E0221
-- at 4:42
-- says not table
return kernel "k" { steps = { op "qkv" { tile = {} } } }
