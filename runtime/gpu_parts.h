// What the files of the GPU engine share. Private to them.
#ifndef TILERUN_GPU_PARTS_H
#define TILERUN_GPU_PARTS_H
#include "cuda.h"
#include "gpu.h"
#include "nccl.h"
#include "trace.h"

enum {
    RING = 4096,          // rounds that may wait for the host
    TRACE_ROUNDS = 6,     // whole rounds that the trace has room for
    TRACE_LEAST = 4096,   // records a worker, also where rounds are small
    ROUND_ENDS = 1024,    // newest rounds whose times are kept for the trace
    ABORT_PATIENCE = 400, // ms that the kernel gets to leave
    STOP_PATIENCE = 2000, // ms to leave when idle
    MEMORIES = 8,
};
#define RANK_PATIENCE 0.2 // seconds that another rank has to say what happened to it
#define REST_PATIENCE 3.0 // to end its kernel

// One allocation of the device's memory, by what it is for.
typedef struct GpuMemory {
    const char *name;
    uint64_t bytes;
    bool zeroed;
    CudaAddress at;
} GpuMemory;
enum { MEMORY_WEIGHTS, MEMORY_CACHES, MEMORY_BUFFERS, MEMORY_ROPE, MEMORY_CONTROL, MEMORY_TRACE, MEMORY_GRAPH };

// Host memory that the device sees.
typedef struct GpuHost {
    EngineMailbox mailbox;
    _Alignas(64) EngineRound ring[RING];
    _Alignas(64) EngineReport report[REPORT_RECORDS];
    _Alignas(64) int32_t prompt[]; // [context]
} GpuHost;

typedef struct GpuGraph GpuGraph; // gpu_graph.c
typedef struct Gpu {
    Ctx *ctx;
    const Model *model;
    const Prog *prog;
    const PackList *weights;
    GpuOptions options;
    int context; // positions
    const EngineTables *tables;
    size_t tables_bytes;
    const Section *cubin;
    EngineLayer *layers; // as the device has them; [weights->tables]

    Cuda *cuda;
    CudaDevice device;
    bool held;     // the context
    bool launched; // the kernel runs, or ran until it failed; else it is launched with the next request
    bool dead;     // after a failure: nothing of the device is left
    void *cuda_context, *module, *function, *stream, *copies;
    GpuMemory memory[MEMORIES];
    GpuHost *host;
    CudaAddress host_at;
    float *logits; // [rows][vocab], pinned
    EngineParams params;
    GpuFigures figures;
    GpuGraph *graph; // NULL without the graph arm
    GpuArm arm;      // that runs
    Ranks *ranks;    // NULL: one, or alone
    Nccl *nccl;
    NcclWindow window; // several ranks: the buffers
    uint64_t digest;   // of the request's tokens so far
    void *told;        // room for a request as it is told to them

    DecodeRequest request;
    bool open;                 // a request is
    uint32_t number;           // of the newest request
    uint32_t read;             // ring entries
    uint32_t logits_of;        // the entry whose logits are in `logits`
    uint64_t ends[ROUND_ENDS]; // the GPU's clock at each round's end, of the request; a ring
    bool decoded[ROUND_ENDS];  // whether it was a round of decoding
    int end_count;
    int trace_room; // records a worker, or 0
} Gpu;

// gpu_load.c
Exit gpu_load(Gpu *gpu);
// gpu_graph.c: which kernels there are, before memory is allocated; then all that a launch needs. An exit code.
Exit gpu_graph_plan(Gpu *gpu, const Bundle *bundle);
uint64_t gpu_graph_bytes(const Gpu *gpu); // of the device
bool gpu_graph_open(Gpu *gpu);
bool gpu_graph_clear(Gpu *gpu); // what its kernels keep
void gpu_graph_close(Gpu *gpu);
Exit gpu_graph_begin(Gpu *gpu);
bool gpu_graph_feed(Gpu *gpu); // keeps rounds on their way
// gpu_bench.c: for one rank alone. Weights and caches at random, every segment by a launch of its own; or the caches
// alone. False after reporting.
bool gpu_fill(Gpu *gpu);
bool gpu_fill_caches(Gpu *gpu);
// gpu_ranks.c: the buffers as a window that the other ranks write into, and where theirs are. False after reporting.
bool gpu_window(Gpu *gpu);
void gpu_window_close(Gpu *gpu);
// All ranks come here before any goes on; `seconds` 0: rank 0 waits for ever, for one may read its weights from a slow
// disk. Of rank 0 false when one does not come; who, gpu_give_up says.
bool gpu_meet(Gpu *gpu, double seconds);
// Rank 0: the others are told; false when one does not take it. The newest request's end is waited for: an exit code.
bool gpu_tell(Gpu *gpu, RankWord word);
bool gpu_tell_request(Gpu *gpu);
Exit gpu_ranks_done(Gpu *gpu);
void gpu_digest(Gpu *gpu, const DecodedRound *round);
// gpu_kernel.c: bytes of shared memory that the kernel takes at most.
int gpu_shared(const Gpu *gpu);
// What a kernel is given that declares some of them.
int gpu_shared_beside(const Gpu *gpu, int declared);
// Launches the kernel. False after reporting.
bool gpu_launch(Gpu *gpu);
// The idle kernel ends (of the graph arm: all that are on their way), and what it kept is cleared, so that it can be
// launched anew; weights and caches stay.
Exit gpu_rest(Gpu *gpu);
// Whether the kernel has left within `ms`.
bool gpu_leaves(const Gpu *gpu, int ms);
// A word of the mailbox, after all that was written before it.
void gpu_say(volatile uint32_t *word, uint32_t value);
// gpu_report.c: the diagnostic E0906 with what the records say, or E0904 where ranks do not agree; the code.
DiagCode gpu_report(Ctx *ctx, const Prog *prog, int rank, const EngineReport *records, int count, const char *what);
// gpu.c: seconds of CLOCK_MONOTONIC.
double gpu_now(void);
// gpu_kernel.c: ends the kernel and releases the device, whatever state it is in.
void gpu_release(Gpu *gpu);
// The kernel has ended or gives no sign: reports what it says and releases the device.
Exit gpu_give_up(Gpu *gpu, const char *what);
// Reports that it was given up.
Exit gpu_is_dead(const Gpu *gpu);
#endif
