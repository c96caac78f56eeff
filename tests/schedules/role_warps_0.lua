-- expect error E0221
-- at 6:21
-- says warps wants a whole number from 1 to 32, not 0
return kernel "k" {
    roles = {
        compute = { warps = 0 },
    },
}
