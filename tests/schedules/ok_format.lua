-- expect ok
assert(string.format("%d|%5d|%-5d|%05d|%x|%s|%%", 1, 2, 3, 4, 255, "s") == "1|    2|3    |00004|ff|s|%")
assert(string.format("%.2f %g %s %s", 1.5, 0.25, nil, true) == "1.50 0.25 nil true")
assert(string.format("%d", 64.0) == "64")
assert(#string.format("%99.99f", 1.7e308) > 309)
return kernel "k" {}
