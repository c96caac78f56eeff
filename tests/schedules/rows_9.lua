-- expect error E0221
-- at 4:21
-- says rows wants a whole number from 1 to 8, not 9
return kernel "k" { rows = 9 }
