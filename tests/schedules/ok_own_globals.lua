-- expect ok
function half(x) return x // 2 end
quarter = half(half(64))
assert(quarter == 16)
quarter = nil
return kernel "k" {}
