// Plan: every number concrete, still tiles. What bind makes of Model, Sched and Sku for a degree of tensor parallelism,
// check approves, and lower turns into tasks.
#ifndef TILEGEN_PLAN_H
#define TILEGEN_PLAN_H
#include "schedule.h"

// Shapes of one rank.
typedef struct Shape {
    int heads[ATTENTION_KINDS], kv_heads[ATTENTION_KINDS], qkv_rows[ATTENTION_KINDS], o_cols[ATTENTION_KINDS];
    int dense_inner, expert_inner, vocab, hidden_slice; // vocab and hidden rows of this rank (head, fc)
    int keys;                                           // most experts active in a round: min(count, rows * top_k)
    int draft_heads, draft_kv_heads, draft_qkv_rows, draft_inner;
    int draft_kv_rows; // of the drafter's fused rows, the [K | V] part
} Shape;

typedef struct OpPlan {
    bool used;
    int tile, split, workers; // concrete
    Claim claim;
    Per per;
    Via via;
    Span span;
} OpPlan;

typedef struct Plan {
    const Model *model;
    const Sched *sched;
    const Sku *sku;
    int ranks, workers, rows;
    Shape shape;
    OpPlan ops[OP_COUNT];
} Plan;

// The extent of an op's tile dimension on one rank, for a layer of this kind (ops of the target's attention; else any).
int plan_outputs(const Plan *plan, OpId op, LayerAttention kind);
// Query heads that share a key and value head: of the drafter, or of layers of this kind.
int plan_group(const Plan *plan, OpId op, LayerAttention kind);
// Parts that the keys of an attention of such a layer are cut in. A window's are too few to cut.
int plan_split(const Plan *plan, LayerAttention kind);
// Bytes of weights behind outputs [0, tile) of an op: 0 for ops without weights.
int64_t plan_tile_bytes(const Plan *plan, OpId op, LayerAttention kind);

// plan_bind: NULL after reporting (E04xx): what the degree does not divide, ops named that do not exist for the model,
// ...
Plan *plan_bind(Ctx *ctx, const Model *model, const Sched *sched, const Sku *sku, int tp);
// plan_check: tiles against alignments (32 inputs of an mxfp4 group, heads, strips of a GPU's packed weights), pages
// against the SKU. False after reporting.
bool plan_check(Ctx *ctx, const Plan *plan);
char *plan_print(Ctx *ctx, const Plan *plan);
#endif
