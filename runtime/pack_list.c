// The list of a rank's weights.
#include "pack.h"
#include "geometry.h"
#include <string.h>

typedef struct Listing {
    Ctx *ctx;
    PackList *list;
    const Model *model;
    int rank, ranks, table;
    const char *where; // of names: "layer 3 "
    bool ok;
} Listing;

static void add(Listing *l, PackSegment s, int slot, const char *name, const char *group) {
    PackList *list = l->list;
    s.name = arena_printf(l->ctx->arena, "%s%s", l->where, name);
    s.group = group;
    s.slot = slot;
    s.table = l->table;
    s.offset = (list->bytes + PACK_ALIGN - 1) / PACK_ALIGN * PACK_ALIGN;
    s.bytes = s.units * s.unit_bytes;
    list->bytes = s.offset + s.bytes;
    if (s.unit_bytes > list->largest) list->largest = s.unit_bytes;
    LIST_ADD(l->ctx->arena, list, s);
}

// Eight rows of a strip share one factor, and 128 columns do.
static bool grid_fits(const Matrix *m, int count) {
    for (int i = 0; i < count; i++, m++) {
        if (m->col0 % 128) return false;
        for (int row = 0; row + 1 < m->rows; row++) {
            int a = m->row0 + row, b = a + 1;
            bool same = a / m->chunk_rows == b / m->chunk_rows && a % m->chunk_rows / 128 == b % m->chunk_rows / 128;
            if (!same && (row + 1) % 8) return false;
        }
        if (i + 1 < count && m->rows % 8) return false;
    }
    return true;
}

static void add_packed(Listing *l, int slot, const char *name, const char *group, PackKind kind, const Matrix *a,
                       const Matrix *b, int count) {
    PackSegment s = {.kind = kind, .dtype = a->dtype, .a = a, .b = b, .count = count, .rows = a->rows};
    bool fits = true;
    for (int i = 1; kind == PACK_STACK && i < count; i++) s.rows += a[i].rows;
    if (a->dtype == DTYPE_FP8) {
        fits = kind == PACK_STACK ? grid_fits(a, count) : true;
        for (int i = 0; kind != PACK_STACK && i < count; i++)
            fits = fits && grid_fits(&a[i], 1) && (!b || grid_fits(&b[i], 1));
    }
    if (!fits) {
        diag_error(l->ctx, E0741, NO_SPAN,
                   "%s%s: the grid of its fp8 scales cuts through 8 rows or 128 columns of rank %d", l->where, name,
                   l->rank);
        diag_help(l->ctx, "another degree of tensor parallelism may fit; --host takes any");
        l->ok = false;
        return;
    }
    int outputs = kind == PACK_PAIRS ? STRIP_ROWS / 2 : STRIP_ROWS;
    s.strips = (uint64_t)((s.rows + outputs - 1) / outputs);
    s.units = s.strips * (uint64_t)(kind == PACK_STACK ? 1 : count);
    s.unit_bytes = (size_t)((a->cols + BLOCK_K - 1) / BLOCK_K) * (size_t)pack_block_bytes(a->dtype);
    add(l, s, slot, name, group);
}

static void add_vector(Listing *l, int slot, const char *name, PackKind kind, const float *vector, int length) {
    if (!vector) return;
    for (int i = 0; kind == PACK_HALVES && i < length; i++) {
        float back = bf16_to_float(float_to_bf16(vector[i]));
        if (memcmp(&back, &vector[i], sizeof back) == 0) continue;
        diag_error(l->ctx, E0743, NO_SPAN, "%s%s: value %d, %.9g, is none of bf16's", l->where, name, i,
                   (double)vector[i]);
        diag_help(l->ctx, "store it as bf16, or run with --host");
        l->ok = false;
        return;
    }
    add(l,
        (PackSegment){.kind = kind,
                      .units = 1,
                      .unit_bytes = (size_t)length * (kind == PACK_FLOATS ? 4 : 2),
                      .vector = vector,
                      .rows = length},
        slot, name, "norms");
}

static void add_layer(Listing *l, const RankLayer *r, const Attention *a, int experts, bool drafter) {
    const LayerWeights *w = r->whole;
    int hidden = l->model->hidden, heads = a->heads / l->ranks;
    const char *qkv = drafter ? "drafter" : "qkv", *o = drafter ? "drafter" : "o",
               *dense = drafter ? "drafter" : "dense";
    add_vector(l, SLOT_INPUT_NORM, "input norm", PACK_HALVES, w->input_norm, hidden);
    add_packed(l, SLOT_QKV, "qkv", qkv, PACK_STACK, r->qkv, NULL, r->qkv_parts);
    add_vector(l, SLOT_Q_NORM, "q norm", PACK_HALVES, w->q_norm, a->qk_dim);
    add_vector(l, SLOT_K_NORM, "k norm", PACK_HALVES, w->k_norm, a->qk_dim);
    add_vector(l, SLOT_SINK, "sinks", PACK_FLOATS, w->sink ? w->sink + l->rank * heads : NULL, heads);
    add_packed(l, SLOT_O, "o", o, PACK_EACH, &r->o, NULL, 1);
    add_vector(l, SLOT_POST_NORM, "post norm", PACK_HALVES, w->post_norm, hidden);
    if (!experts) {
        add_packed(l, SLOT_UP, "gate and up", dense, PACK_PAIRS, &r->gate, &r->up, 1);
        add_packed(l, SLOT_DOWN, "down", dense, PACK_EACH, &r->down, NULL, 1);
        return;
    }
    add_packed(l, SLOT_ROUTER, "router", "router", PACK_EACH, &r->router, NULL, 1);
    add_vector(l, SLOT_ROUTER_BIAS, "router bias", PACK_FLOATS, w->router_bias, experts);
    add_packed(l, SLOT_EXPERT_UP, "gate and up of expert", "experts", PACK_PAIRS, r->expert_gate, r->expert_up,
               experts);
    add_packed(l, SLOT_EXPERT_DOWN, "down of expert", "experts", PACK_EACH, r->expert_down, NULL, experts);
}

static void add_ends(Listing *l, const Checkpoint *w, const RankViews *views) {
    const Model *m = l->model;
    l->table = PACK_ALL_TABLES;
    l->where = "";
    if (w->embed.dtype != DTYPE_BF16) {
        diag_error(l->ctx, E0744, NO_SPAN, "the embeddings are %s; the GPU reads bf16 rows",
                   dtype_name(w->embed.dtype));
        diag_help(l->ctx, "run with --host");
        l->ok = false;
        return;
    }
    add(l,
        (PackSegment){.kind = PACK_ROWS,
                      .dtype = DTYPE_BF16,
                      .a = &w->embed,
                      .count = 1,
                      .rows = m->vocab,
                      .units = (uint64_t)m->vocab,
                      .unit_bytes = (size_t)m->hidden * 2},
        SLOT_EMBED, "embeddings", "embed");
    add_packed(l, SLOT_HEAD, "head", "head", PACK_EACH, &views->head, NULL, 1);
    add_vector(l, SLOT_NORM, "norm", PACK_HALVES, w->norm, m->hidden);
    if (!m->has_drafter) return;
    add_packed(l, SLOT_FC, "fc of the drafter", "drafter", PACK_EACH, &views->fc, NULL, 1);
    add_vector(l, SLOT_HIDDEN_NORM, "hidden norm of the drafter", PACK_HALVES, w->drafter.hidden_norm, m->hidden);
    add_vector(l, SLOT_DRAFT_NORM, "norm of the drafter", PACK_HALVES, w->drafter.norm, m->hidden);
    add_vector(l, SLOT_MASK, "mask embedding", PACK_HALVES, w->drafter.mask_embedding, m->hidden);
}

bool pack_list(Ctx *ctx, const Model *m, const Checkpoint *weights, int rank, int ranks, PackList *list) {
    RankViews *views = ARENA_NEW(ctx->arena, RankViews); // segments point into it
    *views = views_of(ctx, m, weights, rank, ranks);
    *list = (PackList){.tables = m->layer_count + (m->has_drafter ? m->drafter.layers : 0) + 1};
    Listing l = {.ctx = ctx, .list = list, .model = m, .rank = rank, .ranks = ranks, .ok = true};
    for (int i = 0; i < m->layer_count && l.ok; i++, l.table++) {
        l.where = arena_printf(ctx->arena, "layer %d ", i);
        add_layer(&l, &views->layers[i], &m->attention[m->layers[i].attention],
                  m->layers[i].mlp == MLP_EXPERTS ? m->experts.count : 0, false);
    }
    for (int i = 0; m->has_drafter && i < m->drafter.layers && l.ok; i++, l.table++) {
        l.where = arena_printf(ctx->arena, "drafter layer %d ", i);
        add_layer(&l, &views->draft_layers[i], &m->drafter.attention, 0, true);
    }
    if (l.ok) add_ends(&l, weights, views);
    list->bytes = (list->bytes + PACK_ALIGN - 1) / PACK_ALIGN * PACK_ALIGN;
    return l.ok;
}
