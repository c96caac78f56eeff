-- expect error E0208
-- at 5:11
-- says scripts have no "debug"
-- help no files
local x = debug
return kernel "k" {}
