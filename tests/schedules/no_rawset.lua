-- expect error E0208
-- at 5:11
-- says scripts have no "rawset"
-- help no files
local x = rawset
return kernel "k" {}
