// Views: the weights of one rank, as parts of the published matrices. Both engines compute with these.
#ifndef TILERUN_VIEWS_H
#define TILERUN_VIEWS_H
#include "checkpoint.h"

// A rank's views of the weights of one layer.
typedef struct RankLayer {
    Matrix qkv[3]; // fused, or q, k, v: row ranges one after the other
    int qkv_parts;
    Matrix o, gate, up, down, router;
    Matrix *expert_gate, *expert_up, *expert_down;
    const LayerWeights *whole;
} RankLayer;

typedef struct RankViews {
    RankLayer *layers, *draft_layers; // NULL without a drafter
    Matrix head, fc;
} RankViews;

// In the ctx's arena.
RankViews views_of(Ctx *ctx, const Model *model, const Checkpoint *weights, int rank, int ranks);
#endif
