-- expect error E0208
-- at 5:11
-- says unknown name "modle"
-- help did you mean "model"?
local x = modle.hidden
return kernel "k" {}
