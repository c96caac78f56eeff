-- expect error E0201
-- at 5:1
-- says lies

error("schedule:4000: lies", 0)
