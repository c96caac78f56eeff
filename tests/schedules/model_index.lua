-- expect error E0206
-- at 4:17
-- says unknown field "1"
local x = model[1]
return kernel "k" {}
