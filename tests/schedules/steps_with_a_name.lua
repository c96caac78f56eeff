-- expect error E0220
-- at 4:21
-- says "last" does not belong
return kernel "k" { steps = { op "qkv" {}, last = op "head" {} } }
