-- expect error E0206
-- at 4:7
-- says unknown field "sort"
table.sort({ 2, 1 })
return kernel "k" {}
