-- expect error E0225
-- at 4:8
-- says wants a table
return kernel "k" (3)
