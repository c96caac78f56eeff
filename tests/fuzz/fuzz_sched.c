// Schedules and build files: any bytes give a Sched, a Build or diagnostics, within the caps of memory and
// instructions.
#include "../test_model.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Input {
    const uint8_t *data;
    size_t size;
} Input;

static void read_one(Ctx *ctx, void *user) {
    Input *in = user;
    Model *model = ARENA_NEW(ctx->arena, Model);
    test_model(model);
    Source *source = source_new(ctx, "fuzz", arena_copy(ctx->arena, in->data, in->size), in->size);
    size_t errors = diag_errors(ctx);
    for (int tuning = 0; tuning < 2; tuning++) {
        Sched *sched = sched_read_within(ctx, source, model, tuning ? &test_host : &test_h200, tuning ? 1 : 8, NULL, 0,
                                         tuning, 1 << 20, 200000);
        if (sched) sched_print(ctx, sched);
        if (!sched && diag_errors(ctx) != errors + 1) abort(); // refused without a word, or with two
        errors = diag_errors(ctx);
    }
    // build.lua's functions stand in no schedule: what survives here is a build file or short.
    if (in->size < 4096 && !build_read(ctx, source, "folder") && diag_errors(ctx) == errors) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Ctx *ctx = ctx_new((Env){0});
    Input in = {data, size};
    if (!ctx) return 0;
    ctx_protect(ctx, read_one, &in);
    FILE *out = fopen("/dev/null", "w");
    if (out) {
        diag_print(ctx, out, DIAG_TEXT);
        fclose(out);
    }
    ctx_free(ctx);
    return 0;
}
