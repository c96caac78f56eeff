-- expect error E0207
-- at 4:8
-- says "format" is read
string.format = nil
return kernel "k" {}
