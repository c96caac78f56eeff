-- expect error E0207
-- at 4:1
-- says "model" is read
model = { hidden = 4 }
return kernel "k" {}
