-- expect error E0222
-- at 9:9
-- says unknown key of qkv "pre"
-- help did you mean "per"?
return kernel "k" { steps = {
    op "o_proj" { tile = 16 },
    op "qkv" {
        tile = 16,
        pre = "tile",
    },
} }
