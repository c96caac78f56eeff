// Schedules: any bytes give a Sched or a diagnostic, within the caps of memory and instructions.
#include "schedule.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Input {
    const char *data;
    size_t size;
} Input;

static void read_one(Ctx *ctx, void *user) {
    Input *in = user;
    static const Sku sku = {
        .name = "h200", .arch = "sm_90a", .workers = 132, .shared_memory = 232448, .registers = 65536};
    Model *m = ARENA_NEW(ctx->arena, Model);
    *m = (Model){.name = "fuzz", .hidden = 384, .vocab = 2048, .layer_count = 2, .context = 2048, .dense_inner = 1024};
    m->attention[ATTENTION_FULL] = (Attention){.heads = 8, .kv_heads = 2, .qk_dim = 48, .v_dim = 32};
    m->experts = (Experts){.count = 24, .top_k = 4, .inner = 128};
    Sched *sched = sched_read(ctx, source_new(ctx, "fuzz", in->data, in->size), m, &sku, 1, NULL, 0, false);
    if (sched) sched_print(ctx, sched);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Ctx *ctx = ctx_new((Env){0});
    Input in = {arena_copy(ctx->arena, data, size), size};
    ctx_protect(ctx, read_one, &in);
    ctx_free(ctx);
    return 0;
}
