-- expect error E0203
-- at 6:1
-- says does not end


while true do end
