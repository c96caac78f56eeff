-- expect error E0208
-- at 5:11
-- says scripts have no "coroutine"
-- help no files
local x = coroutine
return kernel "k" {}
