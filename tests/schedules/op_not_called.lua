-- expect error E0220
-- at 4:21
-- says entry 1 of steps is not op
return kernel "k" { steps = { op "qkv" } }
