-- expect error E0222
-- at 5:46
-- says unknown key of pages "cuont"
-- help did you mean "count"?
return kernel "k" { pages = { bytes = 16384, cuont = 8 } }
