#include "shape.h"

Shape shape_of(const Model *m, int ranks, int rows) {
    Shape s = {.rows = rows, .vocab = m->vocab / ranks};
    for (int kind = 0; kind < ATTENTION_KINDS; kind++) {
        const Attention *a = &m->attention[kind];
        s.heads[kind] = a->heads / ranks;
        s.kv_heads[kind] = a->kv_heads / ranks;
        s.o_cols[kind] = s.heads[kind] * a->v_dim;
        s.qkv_rows[kind] = s.heads[kind] * a->qk_dim + s.kv_heads[kind] * (a->qk_dim + a->v_dim);
    }
    s.dense_inner = m->dense_inner / ranks;
    if (m->experts.count) {
        s.expert_inner = m->experts.inner / ranks;
        s.keys = rows * m->experts.top_k < m->experts.count ? rows * m->experts.top_k : m->experts.count;
    }
    if (!m->has_drafter) return s;
    const Attention *a = &m->drafter.attention;
    s.hidden_slice = m->hidden / ranks;
    s.draft_heads = a->heads / ranks;
    s.draft_kv_heads = a->kv_heads / ranks;
    s.draft_inner = m->drafter.inner / ranks;
    s.draft_kv_rows = s.draft_kv_heads * (a->qk_dim + a->v_dim);
    s.draft_qkv_rows = s.draft_heads * a->qk_dim + s.draft_kv_rows;
    return s;
}

int shape_outputs(const Model *m, const Shape *s, OpId op, LayerAttention kind) {
    switch (op) {
    case OP_DRAFT_QKV: return s->draft_qkv_rows;
    case OP_DRAFT_ATTENTION: return s->draft_heads;
    case OP_DRAFT_UP: return s->draft_inner;
    case OP_DRAFT_HEAD:
    case OP_HEAD: return s->vocab;
    case OP_QKV: return s->qkv_rows[kind];
    case OP_APPEND: return s->kv_heads[kind];
    case OP_ATTENTION:
    case OP_MERGE: return s->heads[kind];
    case OP_ROUTER: return m->experts.count;
    case OP_EXPERTS_UP: return s->expert_inner;
    case OP_MLP_UP: return s->dense_inner;
    case OP_FC: return s->hidden_slice;
    case OP_CONTEXT: return s->draft_kv_rows;
    case OP_CONTEXT_APPEND: return s->draft_kv_heads;
    case OP_DRAFT_PICK:
    case OP_SAMPLE: return s->rows;
    case OP_ROUTE:
    case OP_ACCEPT: return 1;
    default: return m->hidden; // embeddings, output and down projections, combine, push, reduce
    }
}

// Bytes of `rows` rows of `cols` inputs, with their scales.
static int64_t weight_bytes(Dtype dtype, int64_t rows, int64_t cols) {
    int64_t bytes = rows * cols * dtype_bits(dtype) / 8;
    if (dtype == DTYPE_MXFP4) bytes += rows * cols / 32;
    if (dtype == DTYPE_FP8) bytes += (rows + 127) / 128 * ((cols + 127) / 128) * 4;
    return bytes;
}

int64_t shape_weights(const Model *m, const Shape *s, OpId op, LayerAttention kind, int outputs) {
    const Drafter *d = &m->drafter;
    int64_t hidden = m->hidden;
    switch (op) {
    case OP_DRAFT_QKV:
    case OP_CONTEXT: return weight_bytes(d->dtype, outputs, hidden);
    case OP_DRAFT_O: return weight_bytes(d->dtype, outputs, (int64_t)s->draft_heads * d->attention.v_dim);
    case OP_DRAFT_UP: return 2 * weight_bytes(d->dtype, outputs, hidden);
    case OP_DRAFT_DOWN: return weight_bytes(d->dtype, outputs, s->draft_inner);
    case OP_FC: return weight_bytes(d->dtype, outputs, hidden * d->tap_count);
    case OP_DRAFT_HEAD:
    case OP_HEAD: return weight_bytes(m->head_dtype, outputs, hidden);
    case OP_QKV: return weight_bytes(m->qkv_dtype, outputs, hidden);
    case OP_O_PROJ: return weight_bytes(m->o_dtype, outputs, s->o_cols[kind]);
    case OP_ROUTER: return weight_bytes(m->router_dtype, outputs, hidden);
    case OP_EXPERTS_UP: return 2 * weight_bytes(m->experts_dtype, outputs, hidden);
    case OP_EXPERTS_SUM:
    case OP_EXPERTS_DOWN: return weight_bytes(m->experts_dtype, outputs, s->expert_inner);
    case OP_MLP_UP: return 2 * weight_bytes(m->dense_dtype, outputs, hidden);
    case OP_MLP_DOWN: return weight_bytes(m->dense_dtype, outputs, s->dense_inner);
    default: return 0;
    }
}
