-- expect error E0206
-- at 4:18
-- says unknown field "dump"
local x = string.dump(check)
return kernel "k" {}
