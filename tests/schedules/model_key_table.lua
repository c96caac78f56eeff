-- expect error E0206
-- at 4:1
-- says unknown field "table"
local x = model[{}]
return kernel "k" {}
