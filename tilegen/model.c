#include "model.h"

int model_qkv_chunks(const Model *model) {
    const Attention *full = &model->attention[ATTENTION_FULL];
    return full->heads ? full->kv_heads : model->attention[ATTENTION_WINDOW].kv_heads;
}

int model_qkv_chunk_rows(const Model *model, LayerAttention kind) {
    const Attention *a = &model->attention[kind];
    return (a->heads * a->qk_dim + a->kv_heads * (a->qk_dim + a->v_dim)) / model_qkv_chunks(model);
}

int model_tap(const Model *model, int layer) {
    for (int i = 0; i < model->drafter.tap_count; i++)
        if (model->drafter.taps[i] == layer) return i;
    return -1;
}
