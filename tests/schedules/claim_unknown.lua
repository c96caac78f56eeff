-- expect error E0221
-- at 4:49
-- says unknown value of claim "true"
return kernel "k" { steps = { op "experts_up" { claim = true } } }
