-- expect error E0208
-- at 5:11
-- says scripts have no "io"
-- help no files
local x = io
return kernel "k" {}
