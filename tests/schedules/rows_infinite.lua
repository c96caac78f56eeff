-- expect error E0221
-- at 4:21
-- says not inf
return kernel "k" { rows = math.huge }
