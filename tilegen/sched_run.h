// A schedule while it runs: shared by sched_read.c (kernel, op), sched_tune.c (tune, on, check) and sched_env.c (model,
// sku, tp).
#ifndef TILEGEN_SCHED_RUN_H
#define TILEGEN_SCHED_RUN_H
#include "lua_box.h"
#include "schedule.h"

enum { MAX_VALUES = 4096, MAX_TUNABLES = 64, MAX_CALLS = 4096 };

typedef struct SchedRun {
    Ctx *ctx;
    LuaBox *box;
    const Model *model;
    const Sku *sku;
    int tp;
    const Setting *settings;
    size_t setting_count;
    bool tuning, tuned;
    Sched *sched;
    LIST(Tunable) tunables;
    LIST(SchedStep) steps; // every op called, in order
    int calls;             // of op and on: what they take of the arena is bounded by this
    Span kernel;
} SchedRun;

SchedRun *sched_run(lua_State *lua);
void sched_count_call(lua_State *lua, Span span);
void sched_env(lua_State *lua, const SchedRun *run); // sets the globals model, sku, tp
void sched_tune(lua_State *lua);                     // sets the globals tune, pow2, range, choice, on, check
// A name that is fit for kernels and tunables: a letter or _, then letters, digits, _; 64 at most.
bool sched_name(const char *name, size_t length);
#endif
