-- expect error E0222
-- says unknown key of kernel "1"
return kernel "k" { 8 }
