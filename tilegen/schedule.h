// Sched: what the author of a schedule wrote, with its source spans. The Lua state is closed before any pass runs.
//
//   local t = tune { tile = pow2(32, 256, 64), stages = range(2, 8, 4), split = choice { 1, 2, 4 } }
//   on "sm_90a" { ... }   on "h200" { tile = 128 }
//   check(model.experts.inner % t.tile == 0, "tile = %d does not divide experts.inner = %d", t.tile,
//   model.experts.inner) return kernel "decode" { rows = 8, roles = {...}, pages = {...}, steps = { op "qkv" { tile =
//   t.tile }, ... } }
#ifndef TILEGEN_SCHEDULE_H
#define TILEGEN_SCHEDULE_H
#include "model.h"
#include "sku.h"

typedef enum OpId {
#define OP(id, name, options, meaning) OP_##id,
#include "ops.def"
#undef OP
    OP_COUNT
} OpId;
typedef enum Role {
#define ROLE(id, name, meaning) ROLE_##id,
#include "roles.def"
#undef ROLE
    ROLE_COUNT
} Role;
const char *op_name(OpId op);
const char *op_options(OpId op);
int op_from(const char *name); // -1: none
const char *role_name(Role role);

typedef enum Claim { CLAIM_STATIC, CLAIM_DYNAMIC } Claim;
typedef enum Per { PER_ALL, PER_TILE, PER_EXPERT, PER_TOKEN } Per;
typedef enum Via { VIA_COUNTER, VIA_DATA } Via;

// One `op "name" { ... }`. 0 in a number: not said, the compiler's default.
typedef struct SchedStep {
    OpId op;
    int tile, full_tile, split, workers, steps;
    Claim claim;
    Per per;
    Via via;
    Span span; // of the op call; the option spans fall back to it
} SchedStep;

typedef struct SchedRole {
    bool used;
    int warps, registers; // a thread
    Span span;
} SchedRole;

typedef enum Origin { ORIGIN_DEFAULT, ORIGIN_ARCH, ORIGIN_SKU, ORIGIN_RECORD, ORIGIN_OPTION } Origin;
typedef struct Tunable {
    const char *name;
    const int64_t *values; // the declared range, in the author's order
    size_t value_count;
    int64_t value; // the one in force
    Origin origin;
    Span span;
} Tunable;

typedef struct Setting { // -D name=value, or a tuning record's
    const char *name, *value;
    Origin origin;
} Setting;

typedef struct Sched {
    const char *name;
    int rows;                 // tokens a round at most, 1..MAX_ROWS
    Dtype activations, cache; // activations f32 or bf16; KV cache f32 or bf16
    SchedRole roles[ROLE_COUNT];
    int page_bytes, page_count; // 0: no pages
    SchedStep *steps;
    size_t step_count;
    Tunable *tunables;
    size_t tunable_count;
    const char *failed_check; // when tuning: text of the first failed check, else NULL
    const Source *source;
} Sched;

enum { SCHED_FILE_CAP = 1 << 20, SCHED_MEMORY_CAP = 64 << 20, SCHED_INSTRUCTIONS = 50 * 1000 * 1000 };

// Runs a schedule for this model, SKU and degree. `tuning`: a failed check is not an error but recorded.
// NULL after reporting (E02xx).
Sched *sched_read(Ctx *ctx, Source *source, const Model *model, const Sku *sku, int tp, const Setting *settings,
                  size_t setting_count, bool tuning);
// The same with other limits of the sandbox than SCHED_MEMORY_CAP and SCHED_INSTRUCTIONS.
Sched *sched_read_within(Ctx *ctx, Source *source, const Model *model, const Sku *sku, int tp, const Setting *settings,
                         size_t setting_count, bool tuning, size_t memory, int64_t instructions);
char *sched_print(Ctx *ctx, const Sched *sched);
#endif
