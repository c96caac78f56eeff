-- expect error E0223
-- at 5:43
-- says push has no option tile
-- help no options at all
return kernel "k" { steps = { op "push" { tile = 2 } } }
