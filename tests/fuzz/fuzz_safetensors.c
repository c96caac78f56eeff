// Safetensors headers: any bytes give a list of tensors that lie inside the file, or a diagnostic.
#include "safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Input {
    const uint8_t *data;
    size_t size;
} Input;

static void read_one(Ctx *ctx, void *user) {
    Input *in = user;
    Tensor *tensors;
    size_t count;
    uint8_t sum = 0;
    if (!safetensors_parse(ctx, NO_SPAN, in->data, in->size, in->size, in->data, &tensors, &count)) return;
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < tensors[i].bytes; k++)
            sum = (uint8_t)(sum + tensors[i].data[k]); // every byte can be read
    if (sum == 1) diag_forget(ctx, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Ctx *ctx = ctx_new((Env){0});
    Input in = {data, size};
    ctx_protect(ctx, read_one, &in);
    ctx_free(ctx);
    return 0;
}
