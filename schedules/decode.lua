-- One round of decoding, for every model, SKU and degree: a tile size for each op, and how finely its results are
-- handed on. A tile is the number of outputs of one task; it divides the outputs of a rank, so that all tasks of an op
-- are alike. What is not said here (claims, waits, counters, workers) is the compiler's.

local host = sku.arch == "host"
-- All latency: a claim across the chip costs more than it balances.
local small = model.hidden < 1024
local rows = 8 -- tokens a round: a block of the drafter

-- A GPU's weights are packed in strips of 16 rows, or of 8 gate and 8 up rows; a tile is whole strips or all outputs.
local strip, pair = 16, host and 16 or 8
local function pages_of(bytes) return host and 1 or sku.page_memory // bytes end -- that fit into a block

-- Sums over ranks. In one shot a rank sends its partial sums, in float, to all others: least latency. In two steps it
-- sends each rank those of the columns that rank sums, and that one the new activations: a link carries less, and a rank
-- reads less, for a second trip of about a microsecond between GPUs. A GPU writes about 366 GB/s to the others.
local activation = small and 4 or 2 -- bytes
local one_shot = (tp - 1) * rows * model.hidden * 4
local two_steps = (tp - 1) * rows * model.hidden * (4 + activation) // tp
local split_sums = not host and one_shot - two_steps > 366000 and model.hidden % tp == 0

local t = tune {
    reduce_steps = split_sums and choice { 2, 1 } or choice { 1, 2 },
    waves = choice { 1, 2, 4 },           -- tasks of an op for each worker, about
    expert_waves = small and choice { 1, 2, 4, 8 } or choice { 4, 1, 2, 8 }, -- the same for the experts, over all that may be active
    -- 26112 bytes: 24 blocks of MXFP4, 12 of FP8, 6 of BF16. Copies of 17 KB and more stream at the memory's rate.
    page_bytes = choice { 16384, 8192, 26112, 32768 },
    page_count = range(1, pages_of(8192), pages_of(16384)),
    heads = choice { 16, 8, 4, 2, 1 },    -- query heads of an attention task, at most
    split = choice { 1, 2, 4, 8, 16 },    -- parts of an attention over all keys; a window's are few
    key_parts = choice { 128, 0, 2, 4, 8, 16, 32, 64 }, -- the same, at most, where keys come through pages; 0: they do not
    up_strips = choice { 1, 2, 4 },       -- strips of 8 outputs of an experts_up task
    router_parts = choice { 4, 1, 2, 3, 6, 8 }, -- of a large model's router over its inputs
    sum_downs = choice { 1, 0 },          -- 1: downs of all experts in one task, which sums them; 0: a task an expert
    down_tile = choice { 384, 192, 128, 256, 512 },
}
-- With a few kv heads a rank, only splitting occupies all SMs; a short context is not worth the merge.
on "sm_90a" { split = model.context <= 4096 and 1 or 16, heads = small and 16 or 2 }
if not small then on "sm_90a" { page_bytes = 26112, page_count = pages_of(26112) } end

local function ceil_div(a, b) return (a + b - 1) // b end

-- Calls `visit` with every tile up to `most` that divides `outputs` (and `other`, those of the other kind of layer),
-- in multiples of `unit` where that is possible. Where it is not: on the host any, on a GPU whole strips or all outputs.
local function each_tile(unit, most, outputs, other, visit)
    local function divides(n) return outputs % n == 0 and (other or outputs) % n == 0 end
    if not divides(unit) then unit = host and 1 or strip end
    if not divides(unit) then visit(outputs) return end
    for tile = unit, math.max(unit, ceil_div(most, unit) * unit), unit do
        if divides(tile) then visit(tile) end
    end
end

-- The tile with which the busiest worker is done first, the largest of these. Starting a task is taken to cost as much
-- as `unit` outputs. No task is larger than one and a half of a worker's shares of a wave.
local function spread(unit, waves, outputs, other)
    local best, least
    local function finish(n, tile) return ceil_div(n // tile, sku.workers) * (tile + unit) end
    each_tile(unit, ceil_div(outputs * 3, sku.workers * waves * 2), outputs, other, function(tile)
        local time = finish(outputs, tile) + finish(other or 0, tile)
        if not best or time <= least then best, least = tile, time end
    end)
    return best
end

-- The largest tile that makes at least `tasks` tasks of an expert: these are claimed as workers come free, so balance
-- needs no more than enough of them.
local function cut(unit, tasks, outputs)
    local best
    each_tile(unit, outputs // tasks, outputs, nil, function(tile) best = tile end)
    return best
end

-- Query heads of a task: on a GPU heads that share a key and value head.
local function group(a, b)
    if host then return 1 end
    local one, two, tile = a.heads // a.kv_heads, b.heads // b.kv_heads, t.heads
    while one % tile > 0 or two % tile > 0 do tile = tile - 1 end
    return tile
end

local full, window, drafter, experts = model.full, model.window, model.drafter, model.experts
local one, two = full or window, window or full

-- Keys through pages: a task has 16 query heads that share a key head, and there is one for each worker, about. Parts
-- beyond a short context cost nothing but their hand-off. 64 positions of keys are a page at most; what heads the kernel
-- takes so is E0417.
local paged = not (host or small) and t.key_parts > 0 and t.split > 1 and full and full.heads // full.kv_heads % 16 == 0
    and (full.qk_dim + 31) // 32 * 32 * 128 <= t.page_bytes and full.v_dim * 128 <= t.page_bytes
    and not full.qk_norm and full.qk_dim % 8 == 0 and full.rotary % 16 == 0 and full.v_dim % 64 == 0
local split = t.split
if paged then
    split = t.key_parts
    while split > 2 and split * (full.heads // tp // 16) > sku.workers do split = split // 2 end
end
local hidden = spread(strip, t.waves, model.hidden)
-- A sum over ranks in two steps: few workers, since all wait for the last one to say that it is done.
local slice
each_tile(strip, 64, model.hidden // tp, nil, function(n) slice = n end)

local steps = {
    op "embed"     { tile = hidden },
    op "qkv"       { tile = spread(strip, t.waves, one.qkv_rows // tp, two.qkv_rows // tp), per = "tile" },
    op "append"    { tile = 1 }, -- kv heads
    op "attention" { tile = group(one, two), split = split, full_tile = paged and 16 or nil },
    op "merge"     { tile = 1, split = not host and split > 1 and rows or 1 },
    op "o_proj"    { tile = hidden },
    op "reduce"    { tile = t.reduce_steps == 2 and tp > 1 and slice or hidden, steps = t.reduce_steps },
    op "head"      { tile = spread(64, 2 * t.waves, model.vocab // tp) },
}
local function add(step) steps[#steps + 1] = step end

if model.dense_inner > 0 then
    add(op "mlp_up"   { tile = spread(pair, t.waves, model.dense_inner // tp) })
    add(op "mlp_down" { tile = hidden })
end
if experts then
    -- At most rows * top_k experts are active. Where experts are most of
    -- the bytes, tasks are as small as claiming them allows: the last one to end is waited for.
    local tasks = ceil_div(sku.workers * t.expert_waves, math.min(experts.count, rows * experts.top_k))
    -- A router has few outputs. Where inputs are many, what takes time is to bring them to a worker and to go through its
    -- pages: parts of them on several workers.
    local parts = not (small or host) and model.hidden % (t.router_parts * 128) == 0 and t.router_parts or 1
    add(op "router" {
        tile = parts > 1 and strip or spread(host and 8 or strip, t.waves, experts.count),
        split = parts,
    })
    local few = small or host
    -- Short down projections: a worker takes a tile of outputs of all experts, which are as good as balanced then, and sums
    -- them. Longer ones would be too much for the registers.
    local inner = experts.inner // tp
    local sum = not few and inner % 128 == 0 and inner <= 256 and t.sum_downs == 1
    add(op "experts_up" {
        tile = few and cut(32, tasks, experts.inner // tp) or cut(pair * t.up_strips, experts.inner // tp // (pair * t.up_strips), experts.inner // tp),
        claim = small and "static" or "dynamic", per = sum and "all" or "expert",
    })
    if sum then
        -- A block keeps the tile's outputs of all experts of all rows, 16 KB of them.
        local tile
        each_tile(strip, math.min(hidden, 16384 // (4 * rows * experts.top_k)), model.hidden, nil, function(n) tile = n end)
        add(op "experts_sum" { tile = tile })
    else
        add(op "experts_down" {
            tile = cut(32, few and tasks or ceil_div(model.hidden, t.down_tile), model.hidden),
            claim = small and "static" or "dynamic",
        })
        add(op "combine" { tile = hidden })
    end
end
if drafter then
    local kv_rows = drafter.kv_heads * (drafter.qk_dim + drafter.v_dim) // tp
    add(op "draft_embed"     { tile = hidden })
    add(op "draft_qkv"       { tile = spread(strip, t.waves, drafter.qkv_rows // tp), per = "tile" })
    add(op "draft_attention" { tile = group(drafter, drafter) })
    add(op "draft_o"         { tile = hidden })
    add(op "draft_up"        { tile = spread(pair, t.waves, drafter.inner // tp) })
    add(op "draft_down"      { tile = hidden })
    add(op "draft_head"      { tile = spread(64, 2 * t.waves, model.vocab // tp) })
    add(op "fc"              { tile = spread(strip, t.waves, model.hidden // tp) })
    add(op "context"         { tile = spread(strip, t.waves, kv_rows), per = "tile" })
    add(op "context_append"  { tile = 1 })
end

if host then
    -- One thread a worker, which reads weights where they lie; the cache is not rounded, so that this is the reference.
    return kernel "decode" { rows = rows, cache = "f32", roles = { compute = { warps = 1 } }, steps = steps }
end

check(t.page_bytes * t.page_count <= sku.page_memory, "%d pages of %d bytes are more than the %d that a block has for them",
    t.page_count, t.page_bytes, sku.page_memory)
return kernel "decode" {
    rows = rows,
    activations = small and "f32" or "bf16", -- precision is free where nothing waits for bytes
    cache = "bf16",
    roles = {
        load    = { warps = 4, registers = small and 80 or 72 }, -- a warpgroup: registers move between warpgroups
        compute = { warps = 8, registers = small and 184 or 192 },
        control = { warps = 4, registers = small and 64 or 56 },
    },
    pages = { bytes = t.page_bytes, count = t.page_count },
    steps = steps,
}
