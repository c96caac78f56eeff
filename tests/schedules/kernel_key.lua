-- expect error E0222
-- at 7:5
-- says unknown key of kernel "stpes"
-- help did you mean "steps"?
return kernel "k" {
    rows = 8,
    stpes = {},
}
