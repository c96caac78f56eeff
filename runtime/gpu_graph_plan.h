// GraphPlan: a round as kernels in a row. A step goes into the first kernel behind all steps that it conflicts with
// (one of the two writes what the other one reads or writes), so what is independent runs side by side, and the order
// of the kernels is all the synchronisation that is needed: the tables it makes have neither waits nor signals.
#ifndef TILERUN_GPU_GRAPH_PLAN_H
#define TILERUN_GPU_GRAPH_PLAN_H
#include "../templates/abi.h"
#include "prog.h"

enum {
    ROUND_PLAIN,   // neither drafts nor keeps the drafter's context: one token, or a block of the prompt
    ROUND_CONTEXT, // a block of the prompt where the request drafts
    ROUND_DRAFT,
    ROUND_KINDS
};

typedef struct GraphPart {
    int instance;
    uint64_t steps; // a bit a step of its body
    uint64_t late;  // of these the steps of pools that the kernel before may still be routing
} GraphPart;
typedef struct GraphKernel {
    GraphPart parts[NODE_INSTANCES]; // by rising instance
    int count;
    bool caches;             // reads what earlier rounds left in the caches
    uint32_t queue_at;       // in `tables`: EngineQueue [count][workers][3]
    uint32_t entry, entries; // worker w's are those from entry + w * entries on, at most so many
    uint16_t step[NODE_STEPS];
    uint32_t step_count;
    uint32_t pool[NODE_LINES], pools; // pools of `tables` that it works on
} GraphKernel;

typedef struct GraphPlan {
    GraphKernel *kernels[ROUND_KINDS];
    int count[ROUND_KINDS];
    uint8_t *tables; // entries, pools and queues
    size_t bytes;
    uint32_t entry_at, pool_at;
    uint32_t claims; // words
} GraphPlan;

uint32_t graph_skips(int kind); // GATE_SKIP_* of the kind's rounds
// `tables`: the bundle's section "tasks" of `prog`.
GraphPlan *graph_plan(Ctx *ctx, const Prog *prog, const EngineTables *tables);
#endif
