-- expect error E0201
-- at 5:7
-- says bad argument #2 to 'insert'
local a = {}
table.insert(a, 5, 1)
