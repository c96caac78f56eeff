-- expect error E0206
-- at 5:17
-- says unknown field "hiden"
-- help did you mean "hidden"?
local x = model.hiden
return kernel "k" {}
