-- expect error E0213
-- at 4:1
-- says a check of the schedule failed
check(1 == 2)
return kernel "k" {}
