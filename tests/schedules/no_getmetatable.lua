-- expect error E0208
-- at 5:11
-- says scripts have no "getmetatable"
-- help no files
local x = getmetatable
return kernel "k" {}
