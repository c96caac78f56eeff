-- expect error E0208
-- at 5:11
-- says scripts have no "setmetatable"
-- help no files
local x = setmetatable
return kernel "k" {}
