-- expect error E0201
-- at 4:1
-- says format takes
local x = string.format("%p", {})
