-- expect error E0222
-- says unknown key of qkv "1"
return kernel "k" { steps = { op "qkv" { 16 } } }
