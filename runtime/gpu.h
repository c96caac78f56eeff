// Gpu: the engine kernel of a bundle, resident on one GPU, as a Decoder. It is launched once when opened; requests go
// through a mailbox in host memory and rounds come back through a ring (templates/abi.h).
//
// Nothing waits for ever: the kernel bounds its own waits, and the host gives up when no round comes. Then the kernel
// is told to leave, who waited for what is reported (E0906), and the device is released.
//
// Of several ranks each process opens its own (ranks.h); rank 0's is the Decoder, and what is asked of it here the
// other processes do too (gpu_ranks.c).
#ifndef TILERUN_GPU_H
#define TILERUN_GPU_H
#include "bundle.h"
#include "decoder.h"
#include "pack.h"
#include "progress.h"
#include "ranks.h"
#include "trace.h"

typedef struct GpuOptions {
    const char *library; // the driver; NULL: libcuda.so.1
    const char *nccl;    // NULL: libnccl.so.2
    int device, context, threads;
    double timeout; // seconds that the kernel waits for anything; the host half as long again
    bool trace;     // room for the records of gpu_trace
    bool graph;     // the graph arm of benches, which is the one that runs first: see gpu_graph.c
    bool alone;     // one rank of several by itself: see gpu_bench.c
    bool made;      // weights and caches are made on the GPU from `seed`, as always for one that is alone
    int rank;       // whose work is done
    Ranks *ranks;   // NULL: one, or alone
    uint64_t seed;
    const volatile sig_atomic_t *cancelled;
    Progress progress;
} GpuOptions;

// Checks bundle and device, allocates everything, loads weights and kernel, launches. EXIT_OK, or another code after
// reporting.
Exit gpu_open(Ctx *ctx, const Model *model, const Prog *prog, const Bundle *bundle, const PackList *weights,
              const GpuOptions *options, Decoder *out);

// A rank other than 0: does what rank 0 says until it closes, and ends the process.
_Noreturn void gpu_follow(const Decoder *decoder);

// What was measured while opening. `decoder` is of gpu_open.
typedef struct GpuFigures {
    double ready;     // when the weights were there, seconds of CLOCK_MONOTONIC
    uint64_t weights; // bytes
    int kernels[2];   // of a round of one token and of a drafted one, with the graph arm; else 0
} GpuFigures;
GpuFigures gpu_figures(const Decoder *decoder);

// What runs requests: the resident kernel, or a kernel for each part of a round in a CUDA graph. Begins anew with one
// of them: all state is as after opening, but for caches of a rank that is not alone, which are written before they are
// read. Of gpu_open with `graph`; between requests. EXIT_OK, or another code after reporting.
typedef enum GpuArm { GPU_ENGINE, GPU_GRAPH } GpuArm;
Exit gpu_arm(const Decoder *decoder, GpuArm arm);
// For `tilerun bench` alone, between requests. Each ends the idle kernel, and the next request launches it anew.
// Whether it notes its tasks from then on; of a decoder that was opened with `trace`. EXIT_OK, or another code after
// reporting, as below.
Exit gpu_trace(const Decoder *decoder, bool on);
// What it noted of the newest request.
Exit gpu_sums(const Decoder *decoder, TraceSums *out);
// Bytes a second that the memory gives to a kernel that only reads weights; 0: they are so few that they stay in L2.
Exit gpu_stream(const Decoder *decoder, double *rate);

// For `tilegen diff` alone: what a round left in the device's memory, read while it is held (DecodeRequest.logits) or
// the kernel idle. `decoder` is of gpu_open. EXIT_OK, or another code after reporting.
Exit gpu_read_slab(const Decoder *decoder, void *out, size_t bytes);
// Keys and values of a layer of the target, or behind these of the drafter, as abi.h lays them out.
Exit gpu_read_cache(const Decoder *decoder, int layer, void *k, size_t k_bytes, void *v, size_t v_bytes);
void gpu_cache_shape(const Decoder *decoder, int layer, uint32_t *capacity, uint32_t *mask);
#endif
