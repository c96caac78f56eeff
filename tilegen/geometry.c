#include "geometry.h"
#include "../templates/abi.h"

enum { COMPUTE_WARPS = 8 };

int pack_block_bytes(Dtype dtype) {
    return dtype == DTYPE_MXFP4 ? MXFP4_BLOCK
           : dtype == DTYPE_FP8 ? FP8_BLOCK
           : dtype == DTYPE_F32 ? F32_BLOCK
                                : BF16_BLOCK;
}

// Inputs and dtype of an op's matrix on one rank; two: gate and up. False for ops without weights.
static bool inputs(const Plan *plan, OpId op, LayerAttention kind, Dtype *dtype, int *k, bool *two) {
    const Model *m = plan->model;
    const Drafter *d = &m->drafter;
    const Shape *s = &plan->shape;
    *two = op == OP_DRAFT_UP || op == OP_MLP_UP || op == OP_EXPERTS_UP;
    *k = m->hidden;
    *dtype = d->dtype;
    switch (op) {
    case OP_DRAFT_QKV:
    case OP_DRAFT_UP:
    case OP_CONTEXT: break;
    case OP_DRAFT_O: *k = s->draft_heads * d->attention.v_dim; break;
    case OP_DRAFT_DOWN: *k = s->draft_inner; break;
    case OP_FC: *k = m->hidden * d->tap_count; break;
    case OP_DRAFT_HEAD:
    case OP_HEAD: *dtype = m->head_dtype; break;
    case OP_QKV: *dtype = m->qkv_dtype; break;
    case OP_O_PROJ: *dtype = m->o_dtype, *k = s->o_cols[kind]; break;
    case OP_ROUTER: *dtype = m->router_dtype, *k = m->hidden / plan->ops[OP_ROUTER].split; break;
    case OP_EXPERTS_UP: *dtype = m->experts_dtype; break;
    case OP_EXPERTS_SUM:
    case OP_EXPERTS_DOWN: *dtype = m->experts_dtype, *k = s->expert_inner; break;
    case OP_MLP_UP: *dtype = m->dense_dtype; break;
    case OP_MLP_DOWN: *dtype = m->dense_dtype, *k = s->dense_inner; break;
    default: return false;
    }
    return true;
}

int geometry_run(const Plan *plan) {
    int units = (plan->model->hidden + BLOCK_K - 1) / BLOCK_K, share = (units + COMPUTE_WARPS - 1) / COMPUTE_WARPS;
    return plan->sched->activations == DTYPE_F32 ? 1 : share % 3 == 0 ? 3 : share > 1 ? 2 : 1;
}

bool plan_geometry(const Plan *plan, OpId op, LayerAttention kind, Geometry *out) {
    Geometry g = {.strip_outputs = STRIP_ROWS};
    bool two;
    if (!inputs(plan, op, kind, &g.dtype, &g.k, &two)) return false;
    if (two) g.strip_outputs = STRIP_ROWS / 2;
    g.blocks = (g.k + BLOCK_K - 1) / BLOCK_K;
    g.block_bytes = pack_block_bytes(g.dtype);
    // Float activations are for small models, where latency is all there is: warps share every block. Otherwise a warp
    // takes whole blocks, and short sums stay with one warp. Few inputs: strips go side by side.
    g.unit = plan->sched->activations == DTYPE_F32 ? 1 : 4;
    int units = g.blocks * 4 / g.unit, least = g.unit == 4 ? 2 : 1; // units that are worth a warp
    for (g.warps_k = 1; g.warps_k < COMPUTE_WARPS && g.warps_k * least < units;) g.warps_k *= 2;
    g.warp_units = (units + g.warps_k - 1) / g.warps_k;
    g.direct = op == OP_EXPERTS_DOWN && g.warps_k == 1;
    int fit = plan->sched->page_bytes / g.block_bytes; // blocks that fit into a page
    if (fit < 1) fit = 1;
    g.run = g.warp_units < geometry_run(plan) ? g.warp_units : geometry_run(plan);
    int whole = g.unit == 1 ? 1 : g.run; // chunks are made of runs
    if (fit < whole) fit = whole;        // steps.c says that the page is too small
    g.chunk_blocks = g.blocks <= fit ? g.blocks : fit / whole * whole;
    g.chunks_of_strip = (g.blocks + g.chunk_blocks - 1) / g.chunk_blocks;
    int even = (g.blocks + g.chunks_of_strip - 1) / g.chunks_of_strip; // chunks of about one size
    if (g.chunks_of_strip > 1) g.chunk_blocks = (even + whole - 1) / whole * whole;
    g.chunks_of_strip = (g.blocks + g.chunk_blocks - 1) / g.chunk_blocks;
    g.strips_of_chunk = fit / g.blocks > 1 ? fit / g.blocks : 1;
    *out = g;
    return true;
}

int geometry_strips(const Geometry *g, int outputs) { return (outputs + g->strip_outputs - 1) / g->strip_outputs; }

int geometry_chunks(const Geometry *g, int outputs) {
    int strips = geometry_strips(g, outputs);
    return g->chunks_of_strip > 1 ? strips * g->chunks_of_strip
                                  : (strips + g->strips_of_chunk - 1) / g->strips_of_chunk;
}

int geometry_keys(const Plan *plan, const Geometry *g) {
    int bytes = geometry_strips(g, plan->ops[OP_EXPERTS_SUM].tile) * g->blocks * g->block_bytes;
    return bytes < plan->sched->page_bytes ? plan->sched->page_bytes / bytes : 1;
}

int geometry_own_bytes(const Attention *attention, bool wide, int heads) {
    int key = KEY_DIM(attention->qk_dim), positions = 16 + ENGINE_ROWS;
    int cached = positions * (key + attention->v_dim) * 2, angles = ENGINE_ROWS * attention->rope.rotary * 4;
    return cached + angles + 16 * 4 + 16 + (heads + 1) / 2 * ENGINE_ROWS * key * 4 * (wide ? 2 : 1);
}
