-- expect error E0220
-- at 5:35
-- says unknown op "convolution"
-- help there is draft_embed, 
return kernel "k" { steps = { op "convolution" {} } }
