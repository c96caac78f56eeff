// Plan: every number concrete, still tiles. What bind makes of Model, Sched and Sku for a degree of tensor parallelism,
// check approves, and lower turns into tasks.
#ifndef TILEGEN_PLAN_H
#define TILEGEN_PLAN_H
#include "shape.h"

typedef struct OpPlan {
    bool used;
    int tile, split, workers; // concrete
    int full_tile;            // of attention in layers with full attention, where it is another; else 0
    int steps;                // of a reduce
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
// Outputs of a task.
int plan_tile(const Plan *plan, OpId op, LayerAttention kind);
// Whether a GPU's tasks get keys and values of such layers through pages: `full_tile` says so.
bool plan_pages_keys(const Plan *plan, LayerAttention kind);
// Query heads that share a key and value head: of the drafter, or of layers of this kind.
int plan_group(const Plan *plan, OpId op, LayerAttention kind);
// Parts that the keys of an attention of such a layer are cut in. A window's are too few to cut.
int plan_split(const Plan *plan, LayerAttention kind);
// Columns of the residual stream that a rank sums for all, in two steps; 0 where each rank sums all of them, or is
// alone.
int plan_slice(const Plan *plan);

// plan_bind: NULL after reporting (E04xx): what the degree does not divide, ops named that do not exist for the model,
// ...
Plan *plan_bind(Ctx *ctx, const Model *model, const Sched *sched, const Sku *sku, int tp);
// plan_check: tiles against alignments (32 inputs of an mxfp4 group, heads, strips of a GPU's packed weights), pages
// against the SKU. False after reporting.
bool plan_check(Ctx *ctx, const Plan *plan);
char *plan_print(Ctx *ctx, const Plan *plan);
#endif
