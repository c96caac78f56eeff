-- expect error E0223
-- at 4:49
-- says experts_down alone
return kernel "k" { steps = { op "experts_up" { per = "token" } } }
