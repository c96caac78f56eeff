-- expect error E0221
-- at 4:48
-- says split wants a whole number from 1 to 128
return kernel "k" { steps = { op "attention" { split = 129 } } }
