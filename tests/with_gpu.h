// Whether this machine has a GPU that a bundle could run on, for tests that need one.
#ifndef WITH_GPU_H
#define WITH_GPU_H
#include "check.h"
#include "cuda.h"
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

// The SKU of device 0 ("h200"), or NULL: no driver, no device, or one that build.lua has no SKU for.
static inline const char *gpu_sku(void) {
    CudaDevice device;
    Ctx *ctx = ctx_new((Env){0});
    Cuda *cuda = ctx ? cuda_open(ctx, NULL) : NULL;
    const char *sku = cuda && cuda_device(ctx, cuda, 0, &device) ? cuda_sku(&device) : NULL;
    ctx_free(ctx);
    return sku;
}

// The same, asked in a process of its own: ranks are forked from one that has not used CUDA.
static inline const char *gpu_sku_apart(void) {
    static char sku[64];
    int ends[2];
    ssize_t got = 0;
    if (pipe(ends) != 0) return NULL;
    pid_t pid = fork();
    if (pid == 0) {
        const char *is = gpu_sku();
        ssize_t put = is ? write(ends[1], is, strlen(is)) : 0;
        _exit(put < 0);
    }
    close(ends[1]);
    if (pid > 0) got = read(ends[0], sku, sizeof sku - 1);
    close(ends[0]);
    if (pid > 0) waitpid(pid, NULL, 0);
    return got > 0 ? sku : NULL;
}

#define SKIP_WITHOUT_GPU()                                                                                             \
    do {                                                                                                               \
        if (!gpu_sku()) SKIP("no GPU that build.lua has a SKU for");                                                   \
    } while (0)
#endif
