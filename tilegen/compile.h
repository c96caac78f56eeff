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
    const char *prog; // a printed Prog instead of the one that place makes, or NULL
    bool prove;       // false: --no-prove
    bool graph;       // a kernel is also made for the graph arm of benches
    const char *home; // folder with templates/; used for kernels alone
} Job;

// The last two are for jobs with a kernel.
typedef enum Pass { PASS_SCHED, PASS_PLAN, PASS_LOWER, PASS_PROG, PASS_CUDA, PASS_CUBIN } Pass;
typedef struct Cubin Cubin; // cubin.h

typedef struct Compiled {
    Job job;
    Model *model;
    Sched *sched;
    Plan *plan;   // NULL after PASS_SCHED
    Prog *prog;   // NULL after PASS_PLAN
    char *cuda;   // NULL before PASS_CUDA
    Cubin *cubin; // NULL before PASS_CUBIN
    char *graph_cuda; // of the graph arm, or NULL
    Cubin *graph;
} Compiled;

// False for the SKU "host".
bool job_has_kernel(const Job *job);

// Runs the passes up to and including `last`. NULL after reporting.
Compiled *compile(Ctx *ctx, const Job *job, Pass last);
#endif
