-- expect error E0208
-- at 5:11
-- says scripts have no "dofile"
-- help no files
local x = dofile
return kernel "k" {}
