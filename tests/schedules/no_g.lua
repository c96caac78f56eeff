-- expect error E0208
-- at 5:11
-- says scripts have no "_G"
-- help no files
local x = _G
return kernel "k" {}
