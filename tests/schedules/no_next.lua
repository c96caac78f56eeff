-- expect error E0208
-- at 5:11
-- says scripts have no "next"
-- help no files
local x = next
return kernel "k" {}
