-- expect error E0223
-- at 5:72
-- says qkv has no option split
-- help it has tile, workers, per, via
return kernel "k" { steps = { op "attention" { split = 2 }, op "qkv" { split = 2 } } }
