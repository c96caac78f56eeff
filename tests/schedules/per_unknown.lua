-- expect error E0221
-- at 5:42
-- says unknown value of per "tiles"
-- help did you mean "tile"?
return kernel "k" { steps = { op "qkv" { per = "tiles" } } }
