// Model descriptions: any bytes give a model or a diagnostic.
#include "model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Input {
    const char *data;
    size_t size;
} Input;

static void read_one(Ctx *ctx, void *user) {
    Input *in = user;
    Model *model = model_read(ctx, source_new(ctx, "fuzz", in->data, in->size));
    if (!model) return;
    char *text = model_print(ctx, model, NULL);
    if (!model_read(ctx, source_new(ctx, "again", text, __builtin_strlen(text))))
        __builtin_trap(); // what it prints it reads
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Ctx *ctx = ctx_new((Env){0});
    Input in = {arena_copy(ctx->arena, data, size), size};
    ctx_protect(ctx, read_one, &in);
    ctx_free(ctx);
    return 0;
}
