-- expect error E0220
-- at 4:19
-- says more than 4096 calls
while true do op "qkv" {} end
