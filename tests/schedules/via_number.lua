-- expect error E0221
-- at 4:42
-- says unknown value of via "1"
return kernel "k" { steps = { op "qkv" { via = 1 } } }
