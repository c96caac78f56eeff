-- expect error E0223
-- at 4:51
-- says experts_up alone
return kernel "k" { steps = { op "experts_down" { per = "expert" } } }
