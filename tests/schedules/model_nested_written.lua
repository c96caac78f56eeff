-- expect error E0207
-- at 4:12
-- says "heads" is read
model.full.heads = 64
return kernel "k" {}
