-- expect error E0220
-- at 5:35
-- says unknown op "qvk"
-- help did you mean "qkv"?
return kernel "k" { steps = { op "qvk" {} } }
