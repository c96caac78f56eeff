-- expect error E0206
-- at 5:25
-- says unknown field "topk"
-- help did you mean "top_k"?
local x = model.experts.topk
return kernel "k" {}
