-- expect error E0208
-- at 5:11
-- says scripts have no "require"
-- help no files
local x = require
return kernel "k" {}
