-- expect error E0225
-- at 5:8
-- says describes one kernel
kernel "a" {}
return kernel "b" {}
