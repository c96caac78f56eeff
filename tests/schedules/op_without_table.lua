-- expect error E0221
-- at 4:35
-- says qkv wants a table, not 8
return kernel "k" { steps = { op "qkv" (8) } }
