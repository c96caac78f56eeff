-- expect error E0207
-- at 4:5
-- says "workers" is read
sku.workers = 64
return kernel "k" {}
