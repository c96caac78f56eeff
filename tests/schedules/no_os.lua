-- expect error E0208
-- at 5:11
-- says scripts have no "os"
-- help no files
local x = os
return kernel "k" {}
