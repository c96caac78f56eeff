#include "geometry.h"
#include <string.h>

static void divides(Ctx *ctx, const Plan *plan, int count, const char *what) {
    if (count % plan->ranks == 0) return;
    diag_error(ctx, E0401, NO_SPAN, "%s: %d %s cannot be split over %d ranks", plan->model->name, count, what,
               plan->ranks);
    diag_help(ctx, "choose a degree of tensor parallelism that divides %d", count);
}

// Reports every count that the degree does not divide.
static void shape_check(Ctx *ctx, const Plan *plan) {
    static const char *const heads[] = {"query heads of the full layers", "query heads of the window layers"};
    static const char *const kv_heads[] = {"kv heads of the full layers", "kv heads of the window layers"};
    const Model *model = plan->model;
    for (int kind = 0; kind < ATTENTION_KINDS; kind++) {
        divides(ctx, plan, model->attention[kind].heads, heads[kind]);
        divides(ctx, plan, model->attention[kind].kv_heads, kv_heads[kind]);
    }
    if (model->family == FAMILY_MIMO_V2) divides(ctx, plan, model_qkv_chunks(model), "chunks of the fused qkv weight");
    divides(ctx, plan, model->dense_inner, "inner columns of the dense MLP");
    if (model->experts.count) divides(ctx, plan, model->experts.inner, "inner columns of an expert");
    divides(ctx, plan, model->vocab, "rows of the head");
    if (!model->has_drafter) return;
    const Drafter *drafter = &model->drafter;
    divides(ctx, plan, model->hidden, "rows of the drafter's fc");
    divides(ctx, plan, drafter->attention.heads, "query heads of the drafter");
    divides(ctx, plan, drafter->attention.kv_heads, "kv heads of the drafter");
    divides(ctx, plan, drafter->inner, "inner columns of the drafter's MLP");
}

static const SchedStep *op_named(const Plan *plan, OpId op) {
    for (size_t i = 0; i < plan->sched->step_count; i++)
        if (plan->sched->steps[i].op == op) return &plan->sched->steps[i];
    return NULL;
}

// experts_sum is another way to do what `op` is part of.
static void one_way(Ctx *ctx, const Plan *plan, OpId op) {
    if (!op_named(plan, OP_EXPERTS_SUM) || !op_named(plan, op)) return;
    diag_error(ctx, E0415, op_named(plan, op)->span, "%s beside experts_sum, which does its work", op_name(op));
    diag_help(ctx, "name either experts_sum, or experts_down and combine");
}

static bool op_exists(const Plan *plan, OpId op) {
    const Model *model = plan->model;
    switch (op) {
    case OP_DRAFT_EMBED:
    case OP_DRAFT_QKV:
    case OP_DRAFT_ATTENTION:
    case OP_DRAFT_O:
    case OP_DRAFT_UP:
    case OP_DRAFT_DOWN:
    case OP_DRAFT_HEAD:
    case OP_DRAFT_PICK:
    case OP_FC:
    case OP_CONTEXT:
    case OP_CONTEXT_APPEND: return model->has_drafter;
    case OP_ROUTER:
    case OP_ROUTE:
    case OP_EXPERTS_UP: return model->experts.count > 0;
    case OP_EXPERTS_DOWN:
    case OP_COMBINE: return model->experts.count > 0 && !op_named(plan, OP_EXPERTS_SUM);
    case OP_EXPERTS_SUM: return model->experts.count > 0 && op_named(plan, OP_EXPERTS_SUM);
    case OP_MLP_UP:
    case OP_MLP_DOWN: return model->dense_inner > 0;
    case OP_PUSH:
    case OP_REDUCE: return plan->ranks > 1;
    case OP_MERGE: return plan->shape.heads[ATTENTION_FULL] && plan_split(plan, ATTENTION_FULL) > 1;
    default: return true;
    }
}

// The common divisor of an op's outputs over the kinds of layers that the model has.
static int common_outputs(const Plan *plan, OpId op) {
    int common = 0;
    for (int kind = 0; kind < ATTENTION_KINDS; kind++) {
        if (!plan->shape.heads[kind]) continue;
        int a = plan_outputs(plan, op, (LayerAttention)kind), b = common;
        while (b) {
            int rest = a % b;
            a = b;
            b = rest;
        }
        common = a;
    }
    return common;
}

// A tile that divides the outputs and gives each worker at most one task where that is possible; multiples of 16 first.
// On a GPU whole strips of packed weights, or all outputs.
static int default_tile(const Plan *plan, OpId op) {
    int outputs = common_outputs(plan, op), least = (outputs + plan->workers - 1) / plan->workers, strip = 16;
    if (op == OP_SAMPLE || op == OP_DRAFT_PICK) return 1;
    if (!sku_is_host(plan->sku)) {
        Geometry g;
        LayerAttention kind = plan->shape.heads[ATTENTION_FULL] ? ATTENTION_FULL : ATTENTION_WINDOW;
        if (op == OP_ATTENTION || op == OP_DRAFT_ATTENTION) return 1;
        if (plan_geometry(plan, op, kind, &g)) strip = g.strip_outputs;
        if (plan_geometry(plan, op, kind, &g) && outputs % strip) return outputs;
    }
    for (int step = outputs % strip == 0 ? strip : 1;; step = 1)
        for (int tile = (least + step - 1) / step * step; tile <= outputs; tile += step)
            if (outputs % tile == 0) return tile;
}

Plan *plan_bind(Ctx *ctx, const Model *model, const Sched *sched, const Sku *sku, int tp) {
    size_t errors = diag_errors(ctx);
    Plan *plan = ARENA_NEW(ctx->arena, Plan);
    *plan =
        (Plan){.model = model, .sched = sched, .sku = sku, .ranks = tp, .workers = sku->workers, .rows = sched->rows};
    if (tp != 1 && tp != 2 && tp != 4 && tp != 8) {
        diag_error(ctx, E0402, NO_SPAN, "a degree of tensor parallelism of %d", tp);
        diag_help(ctx, "1, 2, 4 and 8 ranks are supported");
        return NULL;
    }
    if (model->has_drafter && model->drafter.block > sched->rows) {
        diag_error(ctx, E0403, NO_SPAN, "the drafter's block of %d needs as many rows, but the schedule has %d",
                   model->drafter.block, sched->rows);
        diag_help(ctx, "write rows = %d in the schedule", model->drafter.block);
    }
    shape_check(ctx, plan);
    if (diag_errors(ctx) > errors) return NULL;
    plan->shape = shape_of(model, tp, plan->rows);
    one_way(ctx, plan, OP_EXPERTS_DOWN);
    one_way(ctx, plan, OP_COMBINE);
    if (diag_errors(ctx) > errors) return NULL;
    for (size_t i = 0; i < sched->step_count; i++) {
        const SchedStep *step = &sched->steps[i];
        plan->ops[step->op] = (OpPlan){.tile = step->tile,
                                       .full_tile = step->full_tile,
                                       .split = step->split,
                                       .workers = step->workers,
                                       .steps = step->steps,
                                       .claim = step->claim,
                                       .per = step->per,
                                       .via = step->via,
                                       .span = step->span};
    }
    if (plan_slice(plan)) {
        divides(ctx, plan, model->hidden, "columns of the residual stream, summed in two steps,");
        if (diag_errors(ctx) > errors) return NULL;
    }
    for (int op = 0; op < OP_COUNT; op++) {
        OpPlan *o = &plan->ops[op];
        o->used = op_exists(plan, (OpId)op);
        if (!o->used) continue;
        if (o->split == 0) o->split = 1;
        if (o->workers == 0 || o->workers > plan->workers) o->workers = plan->workers;
        if (o->steps == 0) o->steps = 1;
        if (o->tile == 0) o->tile = default_tile(plan, (OpId)op);
    }
    plan->ops[OP_PUSH].tile = plan->ops[OP_REDUCE].tile; // a tile is pushed as it will be reduced
    plan->ops[OP_PUSH].per = PER_TILE;
    static const OpId partial[] = {OP_O_PROJ, OP_MLP_DOWN, OP_COMBINE, OP_EXPERTS_SUM, OP_DRAFT_O, OP_DRAFT_DOWN};
    for (int i = 0; tp > 1 && i < (int)(sizeof partial / sizeof *partial); i++)
        plan->ops[partial[i]].per = PER_TILE; // sums go straight to the ranks that reduce them
    plan->ops[OP_ACCEPT].workers = 1;
    return plan;
}
