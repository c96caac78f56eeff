-- expect error E0201
-- at 4:1
-- says a table has no place in an order
for k in pairs({[{}] = 1}) do end
