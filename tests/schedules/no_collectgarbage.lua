-- expect error E0208
-- at 5:11
-- says scripts have no "collectgarbage"
-- help no files
local x = collectgarbage
return kernel "k" {}
