// mask_embedding.pt: any bytes give an embedding or a diagnostic; nothing in them is run.
#include "pickle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Input {
    const uint8_t *data;
    size_t size;
} Input;

static void read_one(Ctx *ctx, void *user) {
    Input *in = user;
    int64_t token;
    float *values, sum = 0;
    if (!mask_embedding_parse(ctx, NO_SPAN, in->data, in->size, 64, &token, &values)) {
        if (diag_errors(ctx) == 0) __builtin_trap();
        return;
    }
    for (int i = 0; i < 64; i++) sum += values[i]; // every value can be read
    if (sum == 1) diag_forget(ctx, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Ctx *ctx = ctx_new((Env){0});
    Input in = {data, size};
    ctx_protect(ctx, read_one, &in);
    ctx_free(ctx);
    return 0;
}
