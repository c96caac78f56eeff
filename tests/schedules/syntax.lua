-- expect error E0201
-- at 4:1
-- says unexpected symbol near '='
local a = = 1
return kernel "k" {}
