-- expect ok
assert(tostring({}) == "table")
assert(tostring(check) == "function")
assert(tostring(model) == "table")
assert(string.format("%s %s", {}, tune) == "table function")
return kernel "k" {}
