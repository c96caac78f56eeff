-- expect error E0221
-- at 4:21
-- says needs bytes and count
return kernel "k" { pages = { bytes = 16384 } }
