-- expect error E0221
-- at 5:21
-- says unknown value of activations "f16"
-- help did you mean
return kernel "k" { activations = "f16" }
