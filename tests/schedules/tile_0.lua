-- expect error E0221
-- at 4:42
-- says tile wants a whole number from 1
return kernel "k" { steps = { op "qkv" { tile = 0 } } }
