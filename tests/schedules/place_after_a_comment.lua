-- expect error E0221
-- at 6:34
-- says not 12
return kernel "k" { -- rows = 3
    --[[ rows
    rows ]] activations = "f32", rows = 12 }
