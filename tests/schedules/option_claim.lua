-- expect error E0223
-- at 4:45
-- says o_proj has no option claim
return kernel "k" { steps = { op "o_proj" { claim = "dynamic" } } }
