// The commands of tilegen, behind main. Each returns an exit code and leaves its diagnostics in the Ctx.
#ifndef TILEGEN_CLI_H
#define TILEGEN_CLI_H
#include "compile.h"

typedef struct Options {
    const char *output, *model, *schedule, *sku, *after, *build_file;
    const char *weights, *tokens, *stop_after; // of diff
    int tp, workers, layers;                   // 0: not said
    int device;
    const char *prog; // --prog
    bool no_prove, keep, with_graph, json;
    Setting settings[64];
    size_t setting_count;
    const char **args;
    size_t arg_count;
    const char *home; // folder of build.lua, schedules/, models/ and templates/
} Options;

Exit cli_build(Ctx *ctx, const Options *options);
Exit cli_import(Ctx *ctx, const Options *options);
Exit cli_check(Ctx *ctx, const Options *options);
Exit cli_explain(Ctx *ctx, const Options *options);
Exit cli_dump(Ctx *ctx, const Options *options);
Exit cli_sku(Ctx *ctx, const Options *options);

// build.lua of the options. NULL after reporting.
Build *cli_build_file(Ctx *ctx, const Options *options);
// The job of a target, or (target NULL) of --model, --sku and --tp, with `sku` where none is said. False after
// reporting.
bool cli_job(Ctx *ctx, const Options *options, const char *target, const char *sku, Job *job);
// A job's bundle, from the cache or made and kept, and what it was compiled to, as far as its Prog. NULL after
// reporting.
Compiled *cli_bundle(Ctx *ctx, const Job *job, const void **data, size_t *size);
// Bytes and times of each phase of a round, on stdout.
void explain_target(Ctx *ctx, const Compiled *compiled);
// What the kernel uses of an SM; one line where there is no CUDA compiler. EXIT_INPUT after reporting.
Exit explain_kernel(Ctx *ctx, Compiled *compiled);
// The exit code of a command that a report ended: EXIT_ENVIRONMENT where the machine lacks something.
Exit cli_failed(const Ctx *ctx);
#endif
