-- expect error E0221
-- at 4:42
-- says not 1099511627776
return kernel "k" { steps = { op "qkv" { tile = 1 << 40 } } }
