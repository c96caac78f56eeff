// compile: the picture in DESIGN.md as one function.
#ifndef TILEGEN_COMPILE_H
#define TILEGEN_COMPILE_H
#include "prove.h"
#include "lower.h"

typedef struct Job {
    const char *name;     // target, or the model's name
    const char *model;    // path of the YAML
    const char *schedule; // path of the Lua
    const Sku *sku;
    int tp;
    const Setting *settings;
    size_t setting_count;
    bool prove; // false: --no-prove
} Job;

typedef enum Pass { PASS_SCHED, PASS_PLAN, PASS_LOWER, PASS_PROG } Pass;

typedef struct Compiled {
    Job job;
    Model *model;
    Sched *sched;
    Plan *plan; // NULL after PASS_SCHED
    Prog *prog; // NULL after PASS_PLAN
} Compiled;

// Runs the passes up to and including `last`. NULL after reporting.
Compiled *compile(Ctx *ctx, const Job *job, Pass last);
#endif
