-- expect error E0221
-- at 4:31
-- says bytes wants a whole number from 16
return kernel "k" { pages = { bytes = 0, count = 8 } }
