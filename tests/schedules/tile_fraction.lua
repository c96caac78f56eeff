-- expect error E0221
-- at 4:42
-- says not 16.5
return kernel "k" { steps = { op "qkv" { tile = 33 / 2 } } }
