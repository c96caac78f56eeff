-- expect error E0225
-- at 4:8
-- says letters, digits and _
return kernel "a-b" {}
