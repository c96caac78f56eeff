-- expect error E0220
-- at 4:31
-- says op wants a name, not table
return kernel "k" { steps = { op { tile = 4 } } }
