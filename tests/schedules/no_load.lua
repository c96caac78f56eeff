-- expect error E0208
-- at 5:11
-- says scripts have no "load"
-- help no files
local x = load
return kernel "k" {}
