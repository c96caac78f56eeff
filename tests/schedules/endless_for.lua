-- expect error E0203
-- at 4:1
-- says does not end
for i = 1, math.huge do end
