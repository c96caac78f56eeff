-- expect error E0220
-- at 4:21
-- says steps wants a list, not 3
return kernel "k" { steps = 3 }
