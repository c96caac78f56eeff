-- expect error E0207
-- at 4:7
-- says "hidden" is read, not written
model.hidden = 64
return kernel "k" {}
