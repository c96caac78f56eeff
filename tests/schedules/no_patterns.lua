-- expect error E0206
-- at 4:19
-- says unknown field "gsub"
local x = ("abc"):gsub("b", "c")
return kernel "k" {}
