-- expect error E0225
-- says returns no kernel
-- help return kernel "decode"
local t = 1
