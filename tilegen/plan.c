#include "plan.h"
#include "text.h"
#include <string.h>

int plan_outputs(const Plan *plan, OpId op, LayerAttention kind) {
    const Model *model = plan->model;
    const Shape *shape = &plan->shape;
    switch (op) {
    case OP_DRAFT_QKV: return shape->draft_qkv_rows;
    case OP_DRAFT_ATTENTION: return shape->draft_heads;
    case OP_DRAFT_UP: return shape->draft_inner;
    case OP_DRAFT_HEAD:
    case OP_HEAD: return shape->vocab;
    case OP_QKV: return shape->qkv_rows[kind];
    case OP_APPEND: return shape->kv_heads[kind];
    case OP_ATTENTION:
    case OP_MERGE: return shape->heads[kind];
    case OP_ROUTER: return model->experts.count;
    case OP_EXPERTS_UP: return shape->expert_inner;
    case OP_MLP_UP: return shape->dense_inner;
    case OP_FC: return shape->hidden_slice;
    case OP_CONTEXT: return shape->draft_kv_rows;
    case OP_CONTEXT_APPEND: return shape->draft_kv_heads;
    case OP_SAMPLE: return plan->rows;
    case OP_DRAFT_PICK:
    case OP_ROUTE:
    case OP_ACCEPT: return 1;
    default: return model->hidden; // embeddings, output and down projections, combine, push, reduce
    }
}

int plan_group(const Plan *plan, OpId op, LayerAttention kind) {
    const Shape *s = &plan->shape;
    return op == OP_DRAFT_ATTENTION ? s->draft_heads / s->draft_kv_heads : s->heads[kind] / s->kv_heads[kind];
}

// Bytes of `rows` rows of `cols` inputs, with their scales.
static int64_t weight_bytes(Dtype dtype, int64_t rows, int64_t cols) {
    int64_t bytes = rows * cols * dtype_bits(dtype) / 8;
    if (dtype == DTYPE_MXFP4) bytes += rows * cols / 32;
    if (dtype == DTYPE_FP8) bytes += (rows + 127) / 128 * ((cols + 127) / 128) * 4;
    return bytes;
}

int plan_split(const Plan *plan, LayerAttention kind) {
    return kind == ATTENTION_WINDOW ? 1 : plan->ops[OP_ATTENTION].split;
}

int64_t plan_tile_bytes(const Plan *plan, OpId op, LayerAttention kind) {
    const Model *model = plan->model;
    const Drafter *drafter = &model->drafter;
    const Shape *shape = &plan->shape;
    int64_t tile = plan->ops[op].tile, hidden = model->hidden;
    switch (op) {
    case OP_DRAFT_QKV:
    case OP_CONTEXT: return weight_bytes(drafter->dtype, tile, hidden);
    case OP_DRAFT_O: return weight_bytes(drafter->dtype, tile, (int64_t)shape->draft_heads * drafter->attention.v_dim);
    case OP_DRAFT_UP: return 2 * weight_bytes(drafter->dtype, tile, hidden);
    case OP_DRAFT_DOWN: return weight_bytes(drafter->dtype, tile, shape->draft_inner);
    case OP_FC: return weight_bytes(drafter->dtype, tile, hidden * drafter->tap_count);
    case OP_DRAFT_HEAD:
    case OP_HEAD: return weight_bytes(model->head_dtype, tile, hidden);
    case OP_QKV: return weight_bytes(model->qkv_dtype, tile, hidden);
    case OP_O_PROJ: return weight_bytes(model->o_dtype, tile, shape->o_cols[kind]);
    case OP_ROUTER: return weight_bytes(model->router_dtype, tile, hidden);
    case OP_EXPERTS_UP: return 2 * weight_bytes(model->experts_dtype, tile, hidden);
    case OP_EXPERTS_DOWN: return weight_bytes(model->experts_dtype, tile, shape->expert_inner);
    case OP_MLP_UP: return 2 * weight_bytes(model->dense_dtype, tile, hidden);
    case OP_MLP_DOWN: return weight_bytes(model->dense_dtype, tile, shape->dense_inner);
    default: return 0;
    }
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
        text_printf(&text, "  %-16s tile %d, split %d, workers %d, %s, per %s via %s, %lld bytes a tile\n",
                    op_name((OpId)op), o->tile, o->split, o->workers, o->claim == CLAIM_DYNAMIC ? "dynamic" : "static",
                    per_names[o->per], o->via == VIA_DATA ? "data" : "counter",
                    (long long)plan_tile_bytes(plan, (OpId)op, shape->heads[0] ? ATTENTION_FULL : ATTENTION_WINDOW));
    }
    return text.at;
}
