-- expect error E0210
-- at 7:5
-- says b wants a range of values, not 64
-- help b = pow2(lo, hi, default)
tune {
    a = pow2(1, 2, 1),
    b = 64,
}
return kernel "k" {}
