// Shape: what one rank of several has of a model: heads, columns, rows, and the bytes of weights behind them.
#ifndef TILEGEN_SHAPE_H
#define TILEGEN_SHAPE_H
#include "schedule.h"

typedef struct Shape {
    int rows; // of a round
    int heads[ATTENTION_KINDS], kv_heads[ATTENTION_KINDS], qkv_rows[ATTENTION_KINDS], o_cols[ATTENTION_KINDS];
    int dense_inner, expert_inner, vocab, hidden_slice; // vocab and hidden rows of this rank (head, fc)
    int keys;                                           // most experts active in a round: min(count, rows * top_k)
    int draft_heads, draft_kv_heads, draft_qkv_rows, draft_inner;
    int draft_kv_rows; // of the drafter's fused rows, the [K | V] part
} Shape;

// Counts that the degree does not divide are cut; plan_bind refuses them.
Shape shape_of(const Model *model, int ranks, int rows);
// The extent of an op's tile dimension, for a layer of this kind (ops of the target's attention; else any).
int shape_outputs(const Model *model, const Shape *shape, OpId op, LayerAttention kind);
// Bytes of weights, with their scales, behind `outputs` of an op's outputs, of an expert where there are experts: 0 for
// ops without weights.
int64_t shape_weights(const Model *model, const Shape *shape, OpId op, LayerAttention kind, int outputs);
#endif
