// Checkpoint: a folder of published weights (safetensors, sharded or not), mapped and checked against a Model.
//
// checkpoint_open maps the shards, checks every header (size, offsets, holes, overlap, dtype, shape), lists missing and
// unexpected tensors by name (`mtp` layers of the published model are known and unused), and checks scales for NaN.
// Nothing is copied but vectors (norms, sinks, biases), which become float arrays. All but the mappings lives in the
// ctx's arena: close before freeing the ctx.
#ifndef TILERUN_CHECKPOINT_H
#define TILERUN_CHECKPOINT_H
#include "matrix.h"

typedef struct LayerWeights {
    const float *input_norm, *post_norm; // [hidden]
    // mimo_v2: the fused matrix, its chunks in order. llama: q, k, v apart and qkv.data NULL.
    Matrix qkv, q, k, v;
    Matrix o;                                      // [hidden, heads * v_dim]
    const float *sink;                             // [heads] or NULL
    const float *q_norm, *k_norm;                  // [qk_dim] or NULL
    Matrix gate, up, down;                         // dense MLP; gate.data NULL when the layer has experts
    Matrix router;                                 // [experts, hidden]
    const float *router_bias;                      // [experts] or NULL
    Matrix *expert_gate, *expert_up, *expert_down; // [experts] each
} LayerWeights;

typedef struct DrafterWeights {
    Matrix fc; // [hidden, taps * hidden]
    const float *hidden_norm, *norm;
    const float *mask_embedding; // [hidden]
    LayerWeights *layers;        // q, k, v, o, q_norm, k_norm, sink, gate, up, down, norms
} DrafterWeights;

typedef struct Checkpoint {
    Matrix embed, head; // [vocab, hidden]; the same when tied
    const float *norm;
    LayerWeights *layers;
    DrafterWeights drafter;              // layers NULL without one
    int end_tokens[16], end_token_count; // generation_config.json, else config.json
    struct CheckpointInner *inner;
} Checkpoint;

// `folder`: as published, the drafter in folder/dflash. NULL after reporting (E07xx).
Checkpoint *checkpoint_open(Ctx *ctx, const Model *model, const char *folder);
void checkpoint_close(Checkpoint *checkpoint);
// Random weights of the model's layout, in memory: trained-like spread, never zeros, router choices near uniform.
// The same seed gives the same weights. NULL after reporting.
Checkpoint *checkpoint_synthetic(Ctx *ctx, const Model *model, uint64_t seed);
// The model's matrices without their contents, and vectors of zeros: for a GPU that makes the weights itself. NULL
// after reporting.
Checkpoint *checkpoint_described(Ctx *ctx, const Model *model);
// Writes the weights in the published layout (index and shards, dflash/, generation_config.json) into `folder`, which
// is made. False after reporting.
bool checkpoint_write(Ctx *ctx, const Model *model, const Checkpoint *checkpoint, const char *folder);
#endif
