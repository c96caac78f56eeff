-- expect error E0224
-- at 5:45
-- says unknown key of roles "laod"
-- help did you mean "load"?
return kernel "k" { roles = { compute = {}, laod = {} } }
