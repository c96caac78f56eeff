-- expect error E0220
-- at 7:9
-- says op "qkv" stands in the steps twice
return kernel "k" { steps = {
    op "qkv" { tile = 16 },
    op "o_proj" { tile = 16 },
    op "qkv" { tile = 32 },
} }
