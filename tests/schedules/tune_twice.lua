-- expect error E0210
-- at 5:1
-- says declared once
tune { a = pow2(1, 2, 1) }
tune { b = pow2(1, 2, 1) }
return kernel "k" {}
