-- expect error E0207
-- at 4:7
-- says "extra" is read
model.extra = 64
return kernel "k" {}
