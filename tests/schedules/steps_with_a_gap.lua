-- expect error E0220
-- at 4:21
-- says without gaps
return kernel "k" { steps = { op "qkv" {}, nil, op "head" {} } }
