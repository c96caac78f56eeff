-- expect error E0206
-- at 5:15
-- says unknown field "worker"
-- help did you mean "workers"?
local x = sku.worker
return kernel "k" {}
