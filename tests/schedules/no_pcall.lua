-- expect error E0208
-- at 5:11
-- says scripts have no "pcall"
-- help no files
local x = pcall
return kernel "k" {}
