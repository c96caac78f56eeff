#include "plan.h"
#include "text.h"
#include <string.h>

int plan_outputs(const Plan *plan, OpId op, LayerAttention kind) {
    if (op == OP_REDUCE && plan_slice(plan)) return plan_slice(plan);
    return shape_outputs(plan->model, &plan->shape, op, kind);
}

int plan_tile(const Plan *plan, OpId op, LayerAttention kind) {
    const OpPlan *o = &plan->ops[op];
    return op == OP_ATTENTION && kind == ATTENTION_FULL && o->full_tile ? o->full_tile : o->tile;
}

bool plan_pages_keys(const Plan *plan, LayerAttention kind) {
    return kind == ATTENTION_FULL && plan->ops[OP_ATTENTION].full_tile && plan->shape.heads[kind] &&
           !sku_is_host(plan->sku);
}

int plan_group(const Plan *plan, OpId op, LayerAttention kind) {
    const Shape *s = &plan->shape;
    return op == OP_DRAFT_ATTENTION ? s->draft_heads / s->draft_kv_heads : s->heads[kind] / s->kv_heads[kind];
}

int plan_split(const Plan *plan, LayerAttention kind) {
    return kind == ATTENTION_WINDOW ? 1 : plan->ops[OP_ATTENTION].split;
}

int plan_slice(const Plan *plan) {
    return plan->ranks > 1 && plan->ops[OP_REDUCE].steps == 2 ? plan->model->hidden / plan->ranks : 0;
}

static const char *const per_names[] = {"all", "tile", "expert", "token"};

char *plan_print(Ctx *ctx, const Plan *plan) {
    const Shape *shape = &plan->shape;
    Text text = text_new(ctx->arena);
    text_printf(&text, "plan %s on %s, %d rank%s of %d workers, %d rows\n", plan->model->name, plan->sku->name,
                plan->ranks, plan->ranks > 1 ? "s" : "", plan->workers, plan->rows);
    static const char *const kinds[] = {"full", "window"};
    for (int kind = 0; kind < ATTENTION_KINDS; kind++)
        if (shape->heads[kind])
            text_printf(&text, "  %s: heads %d, kv heads %d, qkv rows %d, o columns %d\n", kinds[kind],
                        shape->heads[kind], shape->kv_heads[kind], shape->qkv_rows[kind], shape->o_cols[kind]);
    text_printf(&text, "  dense inner %d, expert inner %d, keys %d, vocab %d, hidden slice %d\n", shape->dense_inner,
                shape->expert_inner, shape->keys, shape->vocab, shape->hidden_slice);
    if (plan->model->has_drafter)
        text_printf(&text, "  drafter: heads %d, kv heads %d, qkv rows %d, inner %d\n", shape->draft_heads,
                    shape->draft_kv_heads, shape->draft_qkv_rows, shape->draft_inner);
    for (int op = 0; op < OP_COUNT; op++) {
        const OpPlan *o = &plan->ops[op];
        if (!o->used) continue;
        text_printf(&text, "  %-16s tile %d, split %d, workers %d, %s, per %s via %s, %lld bytes a tile%s\n",
                    op_name((OpId)op), o->tile, o->split, o->workers, o->claim == CLAIM_DYNAMIC ? "dynamic" : "static",
                    per_names[o->per], o->via == VIA_DATA ? "data" : "counter",
                    (long long)shape_weights(plan->model, shape, (OpId)op,
                                             shape->heads[0] ? ATTENTION_FULL : ATTENTION_WINDOW, o->tile),
                    o->full_tile                          ? arena_printf(ctx->arena, ", full tile %d", o->full_tile)
                    : op == OP_REDUCE && plan_slice(plan) ? ", in two steps"
                                                          : "");
    }
    return text.at;
}
