-- expect ok
assert(model.name == "test" and model.hidden == 6144 and model.vocab == 152576 and model.layers == 70)
assert(model.context == 1048576 and model.dense_inner == 16384)
assert(model.full.heads == 128 and model.full.kv_heads == 8 and model.full.qk_dim == 192 and model.full.v_dim == 128)
assert(model.full.window == 0 and model.window.window == 128)
assert(model.full.qkv_rows == 27136) -- of the fused qkv weight
assert(model.experts.count == 384 and model.experts.top_k == 8 and model.experts.inner == 2048)
assert(model.moe == model.experts and model.moe.inter == 2048)
assert(model.drafter.layers == 5 and model.drafter.block == 8 and model.drafter.inner == 16384)
assert(model.drafter.heads == 128 and model.drafter.kv_heads == 8)
assert(sku.name == "h200" and sku.arch == "sm_90a" and sku.workers == 132 and sku.shared_memory == 232448)
assert(sku.registers == 65536 and sku.memory == 150754820096 and sku.l2 == 62914560)
assert(sku.bandwidth == 4.71e12 and sku.clock == 1.98e9 and tp == 8)
local names = ""
for name in pairs(model.experts) do names = names .. name .. " " end
assert(names == "count inner inter top_k ", names)
return kernel "k" {}
