-- expect error E0222
-- at 5:43
-- says unknown key of compute "warp"
-- help did you mean "warps"?
return kernel "k" { roles = { compute = { warp = 8 } } }
