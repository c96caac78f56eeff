-- One round of decoding, for every model and SKU: a tile size for each op, and how finely its results are handed on.
-- A tile is a number of outputs; it must divide the outputs of a rank.

local host = sku.arch == "host"

local t = tune {
    waves = choice { 1, 2, 4 },           -- tiles a worker and op
    expert_waves = choice { 4, 1, 2, 8 }, -- the same for the experts, over all that may be active
    page_bytes = choice { 16384, 8192, 32768 },
    page_count = range(4, 13, 12),
    split = choice { 1, 2, 4, 8 },        -- parts of an attention over the keys
}
on "sm_90a" { split = 4 }

local function ceil_div(a, b) return (a + b - 1) // b end

-- The smallest tile of at least `least` outputs that divides `outputs` (and `other`, outputs of the other kind of layer),
-- in multiples of `unit` where that is possible.
local function tile_of(unit, least, outputs, other)
    local step = outputs % unit == 0 and unit or 1
    for tile = ceil_div(math.max(least, 1), step) * step, outputs, step do
        if outputs % tile == 0 and (other or outputs) % tile == 0 then return tile end
    end
    for tile = math.min(least, outputs), 1, -1 do
        if outputs % tile == 0 and (other or outputs) % tile == 0 then return tile end
    end
end

-- A tile that gives each worker about `waves` tasks of an op.
local function spread(unit, waves, outputs, other)
    return tile_of(unit, ceil_div(outputs, sku.workers * waves), outputs, other)
end

local full, window, drafter, experts = model.full, model.window, model.drafter, model.experts
local one, two = full or window, window or full
local hidden = spread(16, t.waves, model.hidden)

local steps = {
    op "embed"     { tile = hidden },
    op "qkv"       { tile = spread(16, t.waves, one.qkv_rows // tp, two.qkv_rows // tp), per = "tile" },
    op "append"    { tile = 1 },
    op "attention" { tile = 1, split = t.split },
    op "merge"     { tile = 1 },
    op "o_proj"    { tile = hidden },
    op "reduce"    { tile = hidden },
    op "head"      { tile = spread(64, 2 * t.waves, model.vocab // tp) },
}
local function add(step) steps[#steps + 1] = step end

if model.dense_inner > 0 then
    add(op "mlp_up"   { tile = spread(16, t.waves, model.dense_inner // tp) })
    add(op "mlp_down" { tile = hidden })
end
if experts then
    -- At most rows * top_k experts are active. A down waits for its own expert's ups only.
    local tasks = ceil_div(sku.workers * t.expert_waves, math.min(experts.count, 8 * experts.top_k))
    local inner = experts.inner // tp
    add(op "router"       { tile = spread(8, t.waves, experts.count) })
    add(op "experts_up"   { tile = tile_of(16, ceil_div(inner, tasks), inner), claim = "dynamic", per = "expert" })
    add(op "experts_down" { tile = tile_of(32, ceil_div(model.hidden, tasks), model.hidden), claim = "dynamic" })
    add(op "combine"      { tile = hidden })
end
if drafter then
    add(op "draft_embed"     { tile = hidden })
    add(op "draft_qkv"       { tile = spread(16, t.waves, drafter.qkv_rows // tp), per = "tile" })
    add(op "draft_attention" { tile = 1 })
    add(op "draft_o"         { tile = hidden })
    add(op "draft_up"        { tile = spread(16, t.waves, drafter.inner // tp) })
    add(op "draft_down"      { tile = hidden })
    add(op "draft_head"      { tile = spread(64, 2 * t.waves, model.vocab // tp) })
    add(op "fc"              { tile = spread(16, t.waves, model.hidden // tp) })
    add(op "context"         { tile = 1 })
end

if host then
    return kernel "decode" { rows = 8, cache = "f32", roles = { compute = { warps = 1 } }, steps = steps }
end
return kernel "decode" {
    rows = 8,
    activations = "bf16",
    roles = {
        load    = { warps = 4, registers = 40 }, -- a warpgroup: registers move between warpgroups
        compute = { warps = 8, registers = 208 },
        control = { warps = 4, registers = 40 },
    },
    pages = { bytes = t.page_bytes, count = t.page_count },
    steps = steps,
}
