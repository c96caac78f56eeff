-- expect error E0201
-- at 4:1
-- says bad argument #1 to 'check'
check()
return kernel "k" {}
