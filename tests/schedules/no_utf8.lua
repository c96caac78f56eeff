-- expect error E0208
-- at 5:11
-- says scripts have no "utf8"
-- help no files
local x = utf8
return kernel "k" {}
