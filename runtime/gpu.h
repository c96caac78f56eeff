// Gpu: the engine kernel of a bundle, resident on one GPU, as a Decoder. It is launched once when opened; requests go
// through a mailbox in host memory and rounds come back through a ring (templates/abi.h).
//
// Nothing waits for ever: the kernel bounds its own waits, and the host gives up when no round comes. Then the kernel
// is told to leave, who waited for what is reported (E0906), and the device is released.
#ifndef TILERUN_GPU_H
#define TILERUN_GPU_H
#include "bundle.h"
#include "decoder.h"
#include "pack.h"
#include "progress.h"

typedef struct GpuOptions {
    const char *library; // the driver; NULL: libcuda.so.1
    int device, context, threads;
    bool trace; // keep records for Decoder.trace
    const volatile sig_atomic_t *cancelled;
    Progress progress;
} GpuOptions;

// Checks bundle and device, allocates everything, loads weights and kernel, launches. EXIT_OK, or another code after
// reporting.
Exit gpu_open(Ctx *ctx, const Model *model, const Prog *prog, const Bundle *bundle, const PackList *weights,
              const GpuOptions *options, Decoder *out);
#endif
