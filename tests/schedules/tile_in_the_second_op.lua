-- expect error E0221
-- at 4:67
-- says not -8
return kernel "k" { steps = { op "embed" { tile = 8 }, op "qkv" { tile = -8 } } }
