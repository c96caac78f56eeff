#include "checkpoint.h"
#include "checkpoint_source.h"
#include "file.h"
#include <jansson.h>
#include <math.h>
#include <string.h>

// ---- Names, shapes and dtypes of every tensor, one function a part of the network ----

static const char *file_dtype(Dtype dtype) {
    switch (dtype) {
    case DTYPE_F32: return "F32";
    case DTYPE_BF16: return "BF16";
    case DTYPE_FP8: return "F8_E4M3";
    default: return "U8";
    }
}

static float *vector(TensorSource *s, const char *name, int count, Dtype dtype) {
    const uint8_t *data = source_tensor(s, name, file_dtype(dtype), 1, count, 0);
    float *out = ARENA_ARRAY(s->ctx->arena, float, count);
    for (int i = 0; data && i < count; i++) {
        uint16_t half;
        if (dtype == DTYPE_F32)
            memcpy(&out[i], data + 4 * i, 4);
        else {
            memcpy(&half, data + 2 * i, 2);
            out[i] = bf16_to_float(half);
        }
    }
    return out;
}

// `stem` without ".weight". Chunks: see matrix.h; 0 for a plain tensor.
static Matrix matrix(TensorSource *s, const char *stem, Dtype dtype, int rows, int cols, int chunk_rows) {
    Arena *arena = s->ctx->arena;
    Matrix m = {.dtype = dtype, .rows = rows, .cols = cols, .chunk_rows = chunk_rows ? chunk_rows : rows};
    bool packed = dtype == DTYPE_MXFP4;
    m.data =
        source_tensor(s, arena_printf(arena, "%s.weight", stem), file_dtype(dtype), 2, rows, packed ? cols / 2 : cols);
    m.stride = (size_t)cols * (size_t)dtype_bits(dtype) / 8;
    m.chunk_scale_rows = (m.chunk_rows + 127) / 128;
    if (dtype == DTYPE_FP8) {
        m.scale_stride = (cols + 127) / 128;
        m.scale = source_tensor(s, arena_printf(arena, "%s.weight_scale_inv", stem), "F32", 2,
                                rows / m.chunk_rows * m.chunk_scale_rows, m.scale_stride);
    }
    if (packed) {
        m.scale_stride = cols / 32;
        m.scale = source_tensor(s, arena_printf(arena, "%s.weight_scale", stem), "U8", 2, rows, m.scale_stride);
    }
    return m;
}

static void attention_weights(TensorSource *s, const Model *model, int layer, const char *stem, LayerWeights *w) {
    LayerAttention kind = model->layers[layer].attention;
    const Attention *a = &model->attention[kind];
    Arena *arena = s->ctx->arena;
    int hidden = model->hidden;
    if (model->family == FAMILY_MIMO_V2) {
        int rows = model_qkv_chunk_rows(model, kind);
        w->qkv = matrix(s, arena_printf(arena, "%s.self_attn.qkv_proj", stem), model->qkv_dtype,
                        rows * model_qkv_chunks(model), hidden, rows);
    } else {
        w->q = matrix(s, arena_printf(arena, "%s.self_attn.q_proj", stem), model->qkv_dtype, a->heads * a->qk_dim,
                      hidden, 0);
        w->k = matrix(s, arena_printf(arena, "%s.self_attn.k_proj", stem), model->qkv_dtype, a->kv_heads * a->qk_dim,
                      hidden, 0);
        w->v = matrix(s, arena_printf(arena, "%s.self_attn.v_proj", stem), model->qkv_dtype, a->kv_heads * a->v_dim,
                      hidden, 0);
    }
    w->o = matrix(s, arena_printf(arena, "%s.self_attn.o_proj", stem), model->o_dtype, hidden, a->heads * a->v_dim, 0);
    if (a->sink)
        w->sink = vector(s, arena_printf(arena, "%s.self_attn.attention_sink_bias", stem), a->heads, DTYPE_BF16);
    if (a->qk_norm) {
        w->q_norm = vector(s, arena_printf(arena, "%s.self_attn.q_norm.weight", stem), a->qk_dim, DTYPE_BF16);
        w->k_norm = vector(s, arena_printf(arena, "%s.self_attn.k_norm.weight", stem), a->qk_dim, DTYPE_BF16);
    }
}

static void mlp_weights(TensorSource *s, const char *stem, Dtype dtype, int hidden, int inner, Matrix *gate, Matrix *up,
                        Matrix *down) {
    Arena *arena = s->ctx->arena;
    *gate = matrix(s, arena_printf(arena, "%s.gate_proj", stem), dtype, inner, hidden, 0);
    *up = matrix(s, arena_printf(arena, "%s.up_proj", stem), dtype, inner, hidden, 0);
    *down = matrix(s, arena_printf(arena, "%s.down_proj", stem), dtype, hidden, inner, 0);
}

static void layer_weights(TensorSource *s, const Model *model, int layer, LayerWeights *w) {
    Arena *arena = s->ctx->arena;
    const Experts *experts = &model->experts;
    char *stem = arena_printf(arena, "model.layers.%d", layer);
    w->input_norm = vector(s, arena_printf(arena, "%s.input_layernorm.weight", stem), model->hidden, DTYPE_BF16);
    w->post_norm =
        vector(s, arena_printf(arena, "%s.post_attention_layernorm.weight", stem), model->hidden, DTYPE_BF16);
    attention_weights(s, model, layer, stem, w);
    if (model->layers[layer].mlp == MLP_DENSE) {
        mlp_weights(s, arena_printf(arena, "%s.mlp", stem), model->dense_dtype, model->hidden, model->dense_inner,
                    &w->gate, &w->up, &w->down);
        return;
    }
    w->router =
        matrix(s, arena_printf(arena, "%s.mlp.gate", stem), model->router_dtype, experts->count, model->hidden, 0);
    if (experts->selection_bias)
        w->router_bias =
            vector(s, arena_printf(arena, "%s.mlp.gate.e_score_correction_bias", stem), experts->count, DTYPE_F32);
    w->expert_gate = ARENA_ARRAY(arena, Matrix, experts->count);
    w->expert_up = ARENA_ARRAY(arena, Matrix, experts->count);
    w->expert_down = ARENA_ARRAY(arena, Matrix, experts->count);
    for (int e = 0; e < experts->count; e++)
        mlp_weights(s, arena_printf(arena, "%s.mlp.experts.%d", stem, e), model->experts_dtype, model->hidden,
                    experts->inner, &w->expert_gate[e], &w->expert_up[e], &w->expert_down[e]);
}

static void target_weights(TensorSource *s, const Model *model, Checkpoint *c) {
    c->embed = matrix(s, "model.embed_tokens", model->embed_dtype, model->vocab, model->hidden, 0);
    c->head = model->tied_head ? c->embed : matrix(s, "lm_head", model->head_dtype, model->vocab, model->hidden, 0);
    c->norm = vector(s, "model.norm.weight", model->hidden, DTYPE_BF16);
    c->layers = ARENA_ARRAY(s->ctx->arena, LayerWeights, model->layer_count);
    for (int i = 0; i < model->layer_count; i++) layer_weights(s, model, i, &c->layers[i]);
}

static void drafter_weights(TensorSource *s, const Model *model, DrafterWeights *d) {
    const Drafter *drafter = &model->drafter;
    const Attention *a = &drafter->attention;
    Arena *arena = s->ctx->arena;
    int hidden = model->hidden;
    d->fc = matrix(s, "fc", drafter->dtype, hidden, hidden * drafter->tap_count, 0);
    d->hidden_norm = vector(s, "hidden_norm.weight", hidden, DTYPE_BF16);
    d->norm = vector(s, "norm.weight", hidden, DTYPE_BF16);
    d->layers = ARENA_ARRAY(arena, LayerWeights, drafter->layers);
    for (int i = 0; i < drafter->layers; i++) {
        LayerWeights *w = &d->layers[i];
        char *stem = arena_printf(arena, "layers.%d", i);
        w->input_norm = vector(s, arena_printf(arena, "%s.input_layernorm.weight", stem), hidden, DTYPE_BF16);
        w->post_norm = vector(s, arena_printf(arena, "%s.post_attention_layernorm.weight", stem), hidden, DTYPE_BF16);
        w->q = matrix(s, arena_printf(arena, "%s.self_attn.q_proj", stem), drafter->dtype, a->heads * a->qk_dim, hidden,
                      0);
        w->k = matrix(s, arena_printf(arena, "%s.self_attn.k_proj", stem), drafter->dtype, a->kv_heads * a->qk_dim,
                      hidden, 0);
        w->v = matrix(s, arena_printf(arena, "%s.self_attn.v_proj", stem), drafter->dtype, a->kv_heads * a->v_dim,
                      hidden, 0);
        w->o =
            matrix(s, arena_printf(arena, "%s.self_attn.o_proj", stem), drafter->dtype, hidden, a->heads * a->v_dim, 0);
        if (a->qk_norm) {
            w->q_norm = vector(s, arena_printf(arena, "%s.self_attn.q_norm.weight", stem), a->qk_dim, DTYPE_BF16);
            w->k_norm = vector(s, arena_printf(arena, "%s.self_attn.k_norm.weight", stem), a->qk_dim, DTYPE_BF16);
        }
        if (a->sink)
            w->sink = vector(s, arena_printf(arena, "%s.self_attn.attention_sink_bias", stem), a->heads, DTYPE_BF16);
        mlp_weights(s, arena_printf(arena, "%s.mlp", stem), drafter->dtype, hidden, drafter->inner, &w->gate, &w->up,
                    &w->down);
    }
    d->mask_embedding = source_mask(s, hidden, drafter->mask_token);
    if (!d->mask_embedding) d->mask_embedding = vector(s, "mask_embedding", hidden, DTYPE_BF16);
}

// ---- Where tensors come from ----

Checkpoint *checkpoint_open(Ctx *ctx, const Model *model, const char *folder) {
    size_t errors = diag_errors(ctx);
    Checkpoint *c = ARENA_NEW(ctx->arena, Checkpoint);
    if (!file_is_folder(folder)) {
        diag_error(ctx, E0702, file_span(ctx, folder), "no such folder of weights");
        return NULL;
    }
    TensorSource *target = source_open(ctx, folder), *drafter = NULL;
    if (!target) return NULL;
    target_weights(target, model, c);
    if (model->has_drafter) {
        drafter = source_open(ctx, file_join(ctx, folder, "dflash"));
        if (drafter) drafter_weights(drafter, model, &c->drafter);
    }
    c->inner = (struct CheckpointInner *)source_pair(ctx, target, drafter);
    bool ok = source_complete(target, model) && (!drafter || source_complete(drafter, model));
    ok = ok && source_end_tokens(ctx, folder, model->vocab, c->end_tokens, &c->end_token_count);
    if (ok && diag_errors(ctx) == errors) return c;
    checkpoint_close(c);
    return NULL;
}

void checkpoint_close(Checkpoint *checkpoint) {
    if (checkpoint && checkpoint->inner) source_pair_close((SourcePair *)checkpoint->inner);
    if (checkpoint) checkpoint->inner = NULL;
}

Checkpoint *checkpoint_synthetic(Ctx *ctx, const Model *model, uint64_t seed) {
    Checkpoint *c = ARENA_NEW(ctx->arena, Checkpoint);
    TensorSource *target = source_synthetic(ctx, seed), *drafter = source_synthetic(ctx, seed + 1);
    target_weights(target, model, c);
    if (model->has_drafter) drafter_weights(drafter, model, &c->drafter);
    c->inner = (struct CheckpointInner *)source_pair(ctx, target, drafter);
    return c;
}

bool checkpoint_write(Ctx *ctx, const Model *model, const Checkpoint *checkpoint, const char *folder) {
    SourcePair *pair = (SourcePair *)checkpoint->inner;
    char *dflash = file_join(ctx, folder, "dflash");
    if (!file_mkdirs(ctx, folder) || !source_write(pair->target, file_join(ctx, folder, "model.safetensors")))
        return false;
    if (!model->has_drafter) return true;
    return file_mkdirs(ctx, dflash) && source_write(pair->drafter, file_join(ctx, dflash, "model.safetensors"));
}
