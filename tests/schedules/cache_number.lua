-- expect error E0221
-- at 4:21
-- says unknown value of cache "16"
return kernel "k" { cache = 16 }
