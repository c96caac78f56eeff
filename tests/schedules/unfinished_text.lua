-- expect error E0201
-- says unfinished string
local a = "x
