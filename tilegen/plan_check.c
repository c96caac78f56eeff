#include "geometry.h"
#include "../templates/abi.h"
#include <string.h>

static void check_tile(Ctx *ctx, const Plan *plan, OpId op, LayerAttention kind) {
    int outputs = plan_outputs(plan, op, kind), tile = plan_tile(plan, op, kind);
    if (tile <= outputs && outputs % tile == 0) return;
    diag_error(ctx, E0405, plan->ops[op].span, "%s: a tile of %d does not divide the %d outputs of a rank", op_name(op),
               tile, outputs);
    int below = tile < outputs ? tile : outputs, above = below;
    while (outputs % below) below--;
    while (outputs % above) above++;
    if (below == above)
        diag_help(ctx, "%d divides them", below);
    else
        diag_help(ctx, "%d and %d divide them", below, above);
}

// A GPU's tiles are whole strips of the packed weights, or all outputs: a warp's product makes a strip at a time.
static void check_strips(Ctx *ctx, const Plan *plan, OpId op, LayerAttention kind) {
    const OpPlan *o = &plan->ops[op];
    Geometry g;
    int outputs = plan_outputs(plan, op, kind);
    if (!plan_geometry(plan, op, kind, &g) || o->tile == outputs || o->tile % g.strip_outputs == 0) return;
    diag_error(ctx, E0411, o->span, "%s: a tile of %d cuts through a strip of %d outputs of the packed weights",
               op_name(op), o->tile, g.strip_outputs);
    int below = o->tile / g.strip_outputs * g.strip_outputs, above = below + g.strip_outputs;
    while (below > 0 && outputs % below) below -= g.strip_outputs;
    while (above < outputs && outputs % above) above += g.strip_outputs;
    if (above > outputs) above = outputs;
    if (below > 0)
        diag_help(ctx, "%d and %d are whole strips, or all, and divide the %d outputs", below, above, outputs);
    else
        diag_help(ctx, "%d is whole strips, or all, and divides the %d outputs", above, outputs);
}

// The query heads of a GPU's task share its key and value head.
static void check_group(Ctx *ctx, const Plan *plan, OpId op, LayerAttention kind) {
    int group = plan_group(plan, op, kind), tile = plan_tile(plan, op, kind), below = tile < group ? tile : group;
    if (group % tile == 0) return;
    diag_error(ctx, E0412, plan->ops[op].span, "%s: a tile of %d query heads, but %d share a key and value head",
               op_name(op), tile, group);
    while (group % below) below--;
    diag_help(ctx, "%d divides them", below);
}

// A GPU's task keeps the queries of all its heads in shared memory.
static void check_heads(Ctx *ctx, const Plan *plan, OpId op, LayerAttention kind) {
    if (op == OP_ATTENTION && plan_pages_keys(plan, kind)) return; // in registers
    const OpPlan *o = &plan->ops[op];
    const Attention *a = op == OP_DRAFT_ATTENTION ? &plan->model->drafter.attention : &plan->model->attention[kind];
    bool wide = plan->sched->activations == DTYPE_F32;
    int most = o->tile, group = plan_group(plan, op, kind);
    while (most > 0 && (group % most || geometry_own_bytes(a, wide, most) > GEOMETRY_OWN_ROOM)) most--;
    if (most == o->tile) return;
    diag_error(ctx, E0442, o->span, "%s: a tile of %d query heads keeps %d bytes in shared memory, where %d are for it",
               op_name(op), o->tile, geometry_own_bytes(a, wide, o->tile), GEOMETRY_OWN_ROOM);
    if (most > 0)
        diag_help(ctx, "%d heads fit", most);
    else
        diag_help(ctx, "build for the SKU \"host\"");
}

// Keys and values through pages (attend_chunks of attention.cuh): eight warps have two query heads each, and a chunk of
// keys and one of values are in a page each.
static void check_paged_keys(Ctx *ctx, const Plan *plan) {
    const Attention *a = &plan->model->attention[ATTENTION_FULL];
    const OpPlan *o = &plan->ops[OP_ATTENTION];
    int key = KEY_CHUNK * KEY_DIM(a->qk_dim) * 2, value = KEY_CHUNK * a->v_dim * 2, most = key > value ? key : value;
    const char *why = NULL;
    if (o->full_tile != PAGED_HEADS)
        why = arena_printf(ctx->arena, "a tile of %d query heads where keys come through pages", o->full_tile);
    else if (plan->sched->activations != DTYPE_BF16)
        why = "keys through pages, with activations that are not bf16";
    else if (o->split < 2)
        why = "keys through pages, but not split";
    else if (most > plan->sched->page_bytes || plan->sched->page_count < 2)
        why = arena_printf(ctx->arena, "%d bytes of a chunk of keys or values, but %d pages of %d", most,
                           plan->sched->page_count, plan->sched->page_bytes);
    else if (a->qk_norm)
        why = "keys through pages, with a norm of queries and keys";
    else if (a->qk_dim % 8 || a->v_dim % 64 || a->rope.rotary % 16)
        why = arena_printf(ctx->arena, "keys through pages, of %d dims, %d of them rotated, and values of %d",
                           a->qk_dim, a->rope.rotary, a->v_dim);
    if (!why) return;
    diag_error(ctx, E0417, o->span, "attention: %s", why);
    diag_help(ctx, "leave out full_tile");
}

// A merge has all rows, or tasks of as many rows each.
static void check_merge(Ctx *ctx, const Plan *plan) {
    const OpPlan *o = &plan->ops[OP_MERGE];
    int split = o->split;
    if (plan->rows % split == 0) return;
    diag_error(ctx, E0418, o->span, "merge: %d rows split in %d parts", plan->rows, split);
    while (plan->rows % split) split--;
    diag_help(ctx, "%d parts are alike", split);
}

// The drafter's context op multiplies by the K and V rows of its fused weights as they are packed.
static void check_context(Ctx *ctx, const Plan *plan) {
    int q_rows = plan->shape.draft_qkv_rows - plan->shape.draft_kv_rows;
    if (q_rows % STRIP_ROWS == 0) return;
    diag_error(ctx, E0411, plan->ops[OP_CONTEXT].span,
               "context: the drafter's keys begin at row %d of a rank, inside a strip of %d of the packed weights",
               q_rows, STRIP_ROWS);
    diag_help(ctx, "use fewer ranks: the query rows of a rank are a multiple of %d then", STRIP_ROWS);
}

// A split router's tasks have whole blocks of the packed weights, and on a GPU one strip.
static void check_router(Ctx *ctx, const Plan *plan) {
    const OpPlan *o = &plan->ops[OP_ROUTER];
    int hidden = plan->model->hidden, split = o->split;
    if (split == 1) return;
    if (hidden % (split * BLOCK_K)) {
        diag_error(ctx, E0416, o->span, "router: %d inputs split in %d parts that are no multiples of %d", hidden,
                   split, BLOCK_K);
        while (hidden % (split * BLOCK_K)) split--;
        diag_help(ctx, "%d parts are", split);
    } else if (!sku_is_host(plan->sku) && o->tile != STRIP_ROWS) {
        diag_error(ctx, E0416, o->span, "router: split, with a tile of %d", o->tile);
        diag_help(ctx, "use a tile of %d, a strip of the packed weights", STRIP_ROWS);
    }
}

// Pages take whole 16-byte copies, and a tile must not need more chunks than the parser and the counters allow.
static void check_pages(Ctx *ctx, const Plan *plan) {
    const Sched *sched = plan->sched;
    const SchedRole *load = &sched->roles[ROLE_LOAD];
    if (sched->page_count == 0) {
        if (load->used) {
            diag_error(ctx, E0406, load->span, "the role load has no pages to load into");
            diag_help(ctx, "write pages = { bytes = 16384, count = 8 } in the kernel, or leave out the role");
        }
        return;
    }
    if (!load->used) {
        diag_error(ctx, E0406, NO_SPAN, "the kernel has pages but no role load to fill them");
        diag_help(ctx, "write load = { warps = 1, registers = 40 } in roles");
    }
    if (sched->page_bytes % 16) {
        diag_error(ctx, E0407, NO_SPAN, "pages of %d bytes are not a multiple of 16, the unit of a bulk copy",
                   sched->page_bytes);
        diag_help(ctx, "use %d", (sched->page_bytes + 15) / 16 * 16);
    }
    int room = sku_page_memory(plan->sku);
    if ((int64_t)sched->page_bytes * sched->page_count > room) {
        diag_error(ctx, E0408, NO_SPAN,
                   "%d pages of %d bytes are %lld bytes, but of the %d bytes of shared memory of %s %d are for pages",
                   sched->page_count, sched->page_bytes, (long long)sched->page_bytes * sched->page_count,
                   plan->sku->shared_memory, plan->sku->name, room);
        diag_help(ctx, "at most %d pages of this size fit", room / sched->page_bytes);
    }
}

bool plan_check(Ctx *ctx, const Plan *plan) {
    size_t errors = diag_errors(ctx);
    bool gpu = !sku_is_host(plan->sku);
    for (int op = 0; op < OP_COUNT; op++) {
        if (!plan->ops[op].used || op == OP_PUSH) continue;
        bool attention = op == OP_QKV || op == OP_APPEND || op == OP_ATTENTION || op == OP_MERGE;
        for (int kind = 0; kind < ATTENTION_KINDS; kind++) {
            if (!plan->shape.heads[kind]) continue;
            size_t before = diag_errors(ctx);
            check_tile(ctx, plan, (OpId)op, (LayerAttention)kind);
            if (gpu && diag_errors(ctx) == before) check_strips(ctx, plan, (OpId)op, (LayerAttention)kind);
            if (gpu && (op == OP_ATTENTION || op == OP_DRAFT_ATTENTION) && diag_errors(ctx) == before)
                check_group(ctx, plan, (OpId)op, (LayerAttention)kind);
            if (gpu && (op == OP_ATTENTION || op == OP_DRAFT_ATTENTION) && diag_errors(ctx) == before)
                check_heads(ctx, plan, (OpId)op, (LayerAttention)kind);
            if (!attention || diag_errors(ctx) > before) break;
        }
    }
    const Experts *experts = &plan->model->experts;
    if (experts->count && plan->model->experts_dtype == DTYPE_MXFP4 && plan->shape.expert_inner % 32) {
        diag_error(ctx, E0409, NO_SPAN, "%d inner columns of an expert a rank cut through a 32-wide mxfp4 group",
                   plan->shape.expert_inner);
        diag_help(ctx, "use fewer ranks: %d inner columns are %d groups", experts->inner, experts->inner / 32);
    }
    if (plan->ops[OP_ATTENTION].split > 128)
        diag_error(ctx, E0410, plan->ops[OP_ATTENTION].span, "attention split in %d parts; at most 128",
                   plan->ops[OP_ATTENTION].split);
    if (plan_pages_keys(plan, ATTENTION_FULL)) check_paged_keys(ctx, plan);
    if (plan->ops[OP_MERGE].used) check_merge(ctx, plan);
    if (plan->ops[OP_ROUTER].used) check_router(ctx, plan);
    if (gpu && plan->model->has_drafter) check_context(ctx, plan);
    check_pages(ctx, plan);
    return diag_errors(ctx) == errors;
}
