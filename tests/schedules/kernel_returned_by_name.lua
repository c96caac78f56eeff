-- expect error E0225
-- says returns no kernel
return "decode"
