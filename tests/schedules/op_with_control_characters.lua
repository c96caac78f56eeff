-- expect error E0220
-- says unknown op " [31m"
return kernel "k" { steps = { op "\27[31m" {} } }
