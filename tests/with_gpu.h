// Whether this machine has a GPU that a bundle could run on, for tests that need one.
#ifndef WITH_GPU_H
#define WITH_GPU_H
#include "check.h"
#include "cuda.h"

// The SKU of device 0 ("h200"), or NULL: no driver, no device, or one that build.lua has no SKU for.
static inline const char *gpu_sku(void) {
    CudaDevice device;
    Ctx *ctx = ctx_new((Env){0});
    Cuda *cuda = ctx ? cuda_open(ctx, NULL) : NULL;
    const char *sku = cuda && cuda_device(ctx, cuda, 0, &device) ? cuda_sku(&device) : NULL;
    ctx_free(ctx);
    return sku;
}

#define SKIP_WITHOUT_GPU()                                                                                             \
    do {                                                                                                               \
        if (!gpu_sku()) SKIP("no GPU that build.lua has a SKU for");                                                   \
    } while (0)
#endif
