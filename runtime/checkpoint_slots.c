#include "checkpoint_slots.h"
#include <math.h>
#include <string.h>

// Where slots of one network part are added.
typedef struct Part {
    Ctx *ctx;
    Slots *slots;
    const char *prefix; // of names: "model.layers.3."
    bool drafter;
    bool fresh; // matrices are described here; else they are bound already and stay as they are
    bool ok;
} Part;

static void add(Part *p, Slot slot) {
    slot.drafter = p->drafter;
    LIST_ADD(p->ctx->arena, p->slots, slot);
}

static const char *named(Part *p, const char *name, const char *suffix) {
    return arena_printf(p->ctx->arena, "%s%s%s", p->prefix, name, suffix);
}

// A weight and, where its dtype has one, its scale. chunk_rows 0: the whole is one chunk.
static void add_matrix(Part *p, const char *name, const char *group, Matrix *matrix, Dtype dtype, int rows, int cols,
                       int chunk_rows, float std) {
    static const char *const published[DTYPE_COUNT] = {
        [DTYPE_F32] = "F32", [DTYPE_BF16] = "BF16", [DTYPE_FP8] = "F8_E4M3", [DTYPE_MXFP4] = "U8"};
    if (dtype == DTYPE_MXFP4 && cols % 32 != 0) {
        diag_error(p->ctx, E0732, NO_SPAN, "%s: %d columns, which mxfp4 cannot group by 32", named(p, name, ".weight"),
                   cols);
        p->ok = false;
        return;
    }
    if (chunk_rows == 0) chunk_rows = rows;
    int chunk_scale_rows = (chunk_rows + 127) / 128, scale_rows = rows / chunk_rows * chunk_scale_rows;
    size_t stride = (size_t)cols * (size_t)dtype_bits(dtype) / 8;
    int scale_stride = dtype == DTYPE_FP8 ? (cols + 127) / 128 : dtype == DTYPE_MXFP4 ? cols / 32 : 0;
    if (p->fresh)
        *matrix = (Matrix){.dtype = dtype,
                           .rows = rows,
                           .cols = cols,
                           .stride = stride,
                           .scale_stride = scale_stride,
                           .chunk_rows = chunk_rows,
                           .chunk_scale_rows = chunk_scale_rows};
    Slot slot = {.name = named(p, name, ".weight"),
                 .group = group,
                 .kind = SLOT_MATRIX,
                 .matrix = matrix,
                 .dtype = published[dtype],
                 .rank = 2,
                 .shape = {rows, dtype == DTYPE_MXFP4 ? cols / 2 : cols},
                 .bytes = (size_t)rows * stride,
                 .std = std};
    add(p, slot);
    if (!scale_stride) return;
    slot.kind = SLOT_SCALE;
    slot.name = named(p, name, dtype == DTYPE_FP8 ? ".weight_scale_inv" : ".weight_scale");
    slot.dtype = dtype == DTYPE_FP8 ? "F32" : "U8";
    slot.shape[0] = dtype == DTYPE_FP8 ? scale_rows : rows;
    slot.shape[1] = scale_stride;
    slot.bytes = (size_t)slot.shape[0] * (size_t)scale_stride * (dtype == DTYPE_FP8 ? 4 : 1);
    add(p, slot);
}

static void add_vector(Part *p, const char *name, const float **vector, const char *dtype, int length, float mean,
                       float std) {
    add(p, (Slot){.name = named(p, name, ""),
                  .group = "norms, sinks and biases",
                  .kind = SLOT_VECTOR,
                  .vector = vector,
                  .dtype = dtype,
                  .rank = 1,
                  .shape = {length},
                  .bytes = (size_t)length * (dtype[0] == 'F' ? 4 : 2),
                  .mean = mean,
                  .std = std});
}

static void add_norm(Part *p, const char *name, const float **vector, int length) {
    add_vector(p, name, vector, "BF16", length, 1, 0.1f);
}

// The usual spread of a trained weight: outputs keep the size of the inputs. Scores that are compared (router, head)
// get SHARP times that, so that synthetic choices are no near ties.
static float spread(int cols) { return 1 / sqrtf((float)cols); }
enum { SHARP = 3 };

static void add_mlp(Part *p, const char *name, const char *group, Dtype dtype, Matrix *gate, Matrix *up, Matrix *down,
                    int hidden, int inner) {
    char path[64];
    snprintf(path, sizeof path, "%sgate_proj", name);
    add_matrix(p, path, group, gate, dtype, inner, hidden, 0, spread(hidden));
    snprintf(path, sizeof path, "%sup_proj", name);
    add_matrix(p, path, group, up, dtype, inner, hidden, 0, spread(hidden));
    snprintf(path, sizeof path, "%sdown_proj", name);
    add_matrix(p, path, group, down, dtype, hidden, inner, 0, spread(inner));
}

// Norms, projections, sinks. chunks 0: q, k, v apart.
static void add_attention(Part *p, LayerWeights *w, const Attention *a, int hidden, int chunk_rows, int chunks,
                          const char *group, const char *group_o, Dtype qkv, Dtype o) {
    int q_rows = a->heads * a->qk_dim, k_rows = a->kv_heads * a->qk_dim, v_rows = a->kv_heads * a->v_dim;
    add_norm(p, "input_layernorm.weight", &w->input_norm, hidden);
    add_norm(p, "post_attention_layernorm.weight", &w->post_norm, hidden);
    if (chunks) {
        add_matrix(p, "self_attn.qkv_proj", group, &w->qkv, qkv, chunks * chunk_rows, hidden, chunk_rows,
                   spread(hidden));
    } else {
        add_matrix(p, "self_attn.q_proj", group, &w->q, qkv, q_rows, hidden, 0, spread(hidden));
        add_matrix(p, "self_attn.k_proj", group, &w->k, qkv, k_rows, hidden, 0, spread(hidden));
        add_matrix(p, "self_attn.v_proj", group, &w->v, qkv, v_rows, hidden, 0, spread(hidden));
    }
    add_matrix(p, "self_attn.o_proj", group_o, &w->o, o, hidden, a->heads * a->v_dim, 0, spread(a->heads * a->v_dim));
    if (a->sink) add_vector(p, "self_attn.attention_sink_bias", &w->sink, "BF16", a->heads, 0, 1);
    if (a->qk_norm) {
        add_norm(p, "self_attn.q_norm.weight", &w->q_norm, a->qk_dim);
        add_norm(p, "self_attn.k_norm.weight", &w->k_norm, a->qk_dim);
    }
}

static void add_layer(Part *p, const Model *m, int layer, LayerWeights *w) {
    LayerAttention kind = m->layers[layer].attention;
    char prefix[48], path[64];
    bool fused = m->family == FAMILY_MIMO_V2;
    snprintf(prefix, sizeof prefix, "model.layers.%d.", layer);
    p->prefix = prefix;
    add_attention(p, w, &m->attention[kind], m->hidden, fused ? model_qkv_chunk_rows(m, kind) : 0,
                  fused ? model_qkv_chunks(m) : 0, "qkv", "o", m->qkv_dtype, m->o_dtype);
    if (m->layers[layer].mlp == MLP_DENSE) {
        add_mlp(p, "mlp.", "dense", m->dense_dtype, &w->gate, &w->up, &w->down, m->hidden, m->dense_inner);
    } else {
        const Experts *e = &m->experts;
        add_matrix(p, "mlp.gate", "router", &w->router, m->router_dtype, e->count, m->hidden, 0,
                   SHARP * spread(m->hidden));
        if (e->selection_bias)
            add_vector(p, "mlp.gate.e_score_correction_bias", &w->router_bias, "F32", e->count, 0, 0.01f);
        if (p->fresh) {
            w->expert_gate = ARENA_ARRAY(p->ctx->arena, Matrix, e->count);
            w->expert_up = ARENA_ARRAY(p->ctx->arena, Matrix, e->count);
            w->expert_down = ARENA_ARRAY(p->ctx->arena, Matrix, e->count);
        }
        for (int i = 0; i < e->count && p->ok; i++) {
            snprintf(path, sizeof path, "mlp.experts.%d.", i);
            add_mlp(p, path, "experts", m->experts_dtype, &w->expert_gate[i], &w->expert_up[i], &w->expert_down[i],
                    m->hidden, e->inner);
        }
    }
    p->prefix = "";
}

static void add_drafter(Part *p, const Model *m, DrafterWeights *w) {
    const Drafter *d = &m->drafter;
    p->drafter = true;
    p->prefix = "";
    if (p->fresh) w->layers = ARENA_ARRAY(p->ctx->arena, LayerWeights, d->layers);
    add_matrix(p, "fc", "drafter", &w->fc, d->dtype, m->hidden, d->tap_count * m->hidden, 0,
               spread(d->tap_count * m->hidden));
    add_norm(p, "hidden_norm.weight", &w->hidden_norm, m->hidden);
    add_norm(p, "norm.weight", &w->norm, m->hidden);
    add_vector(p, "mask_embedding", &w->mask_embedding, "BF16", m->hidden, 0, 1);
    p->slots->at[p->slots->count - 1].elsewhere = true;
    for (int i = 0; i < d->layers; i++) {
        char prefix[48];
        snprintf(prefix, sizeof prefix, "layers.%d.", i);
        p->prefix = prefix;
        add_attention(p, &w->layers[i], &d->attention, m->hidden, 0, 0, "drafter", "drafter", d->dtype, d->dtype);
        add_mlp(p, "mlp.", "drafter", d->dtype, &w->layers[i].gate, &w->layers[i].up, &w->layers[i].down, m->hidden,
                d->inner);
    }
    p->prefix = "";
}

static bool walk(Ctx *ctx, const Model *m, Checkpoint *c, Slots *slots, bool fresh) {
    Part part = {.ctx = ctx, .slots = slots, .prefix = "", .fresh = fresh, .ok = true};
    *slots = (Slots){0};
    if (fresh) c->layers = ARENA_ARRAY(ctx->arena, LayerWeights, m->layer_count);
    // A tied embedding is the head as well and needs the head's spread.
    add_matrix(&part, "model.embed_tokens", "embed", &c->embed, m->embed_dtype, m->vocab, m->hidden, 0,
               m->tied_head ? SHARP * spread(m->hidden) : 1);
    if (!m->tied_head)
        add_matrix(&part, "lm_head", "head", &c->head, m->head_dtype, m->vocab, m->hidden, 0,
                   SHARP * spread(m->hidden));
    add_norm(&part, "model.norm.weight", &c->norm, m->hidden);
    for (int i = 0; i < m->layer_count && part.ok; i++) add_layer(&part, m, i, &c->layers[i]);
    if (m->has_drafter && part.ok) add_drafter(&part, m, &c->drafter);
    return part.ok;
}

Checkpoint *checkpoint_new(Ctx *ctx, const Model *model, Slots *slots) {
    Checkpoint *checkpoint = ARENA_NEW(ctx->arena, Checkpoint);
    checkpoint->inner = ARENA_NEW(ctx->arena, CheckpointInner);
    return walk(ctx, model, checkpoint, slots, true) ? checkpoint : NULL;
}

bool checkpoint_slots(Ctx *ctx, const Model *model, Checkpoint *checkpoint, Slots *slots) {
    return walk(ctx, model, checkpoint, slots, false);
}
