#include "allreduce.h"
#include <stdlib.h>
#include <string.h>

const int allreduce_sizes[ALLREDUCE_SIZES] = {4, 8, 16, 32, 64, 96, 128, 256, 384, 768};
enum { WARM_UP = 200, CHECKED = 25, LARGEST = 768 << 10, CONTROL = 256, TIMES = 16, HALF = 2 };

#define TEXT(name)  TEXT_(name)
#define TEXT_(name) #name
static const AllReduceWay kernels[] = {
#define KERNEL(word, ready, quads)                                                                                     \
    {TEXT(ALLREDUCE_NAME(word, ready, quads)), #word, #ready, ALLREDUCE_##word, ALLREDUCE_##ready, quads, 0, 0},
    ALLREDUCE_KERNELS(KERNEL)
#undef KERNEL
};
enum { KERNELS = sizeof kernels / sizeof *kernels };

int allreduce_ways(AllReduceWay *out) {
    int count = 0;
    for (int form = 0; form < 4; form++)
        for (int i = 0; i < KERNELS; i++) {
            if (form > 1 && kernels[i].quads > 1) continue;
            out[count] = kernels[i];
            out[count].two_steps = form % 2;
            out[count++].meets = form / 2;
        }
    return count;
}

typedef struct Run {
    Ctx *ctx;
    const AllReduceJob *job;
    const Section *cubin;
    const Cuda *cuda;
    PeerGroup group;
    void *modules[PEERS_MOST];
    CudaAddress control[PEERS_MOST]; // failure, meeting; times; the sum
    uint64_t *times;                 // [blocks][2]
    uint32_t *words, *wanted[2];     // of bf16 and of f32
    AllReduceTimes result;
    Exit code; // of what was reported
} Run;

static bool ok(Run *run, int result, const char *tried) { return cuda_ok(run->ctx, run->cuda, result, tried); }

static void run_close(void *user) {
    Run *run = user;
    for (int r = 0; r < run->group.count; r++) {
        if (!run->group.gpus[r].context) continue;
        run->cuda->context_set(run->group.gpus[r].context);
        if (run->modules[r]) run->cuda->module_unload(run->modules[r]);
        if (run->control[r]) run->cuda->memory_free(run->control[r]);
    }
    peers_close(&run->group);
}

static size_t times_bytes(const Run *run) { return (size_t)run->result.blocks * TIMES; }

static bool run_open(Run *run) {
    const Cuda *cuda = run->cuda;
    int most = 0;
    CudaDevice device;
    if (!cuda_device(run->ctx, cuda, run->job->device, &device)) return false;
    run->result.blocks = run->job->blocks && run->job->blocks < device.workers ? run->job->blocks : device.workers;
    for (int i = 0; i < run->result.way_count; i++)
        if (run->result.ways[i].quads > most) most = run->result.ways[i].quads;
    size_t quads = (size_t)(most * ALLREDUCE_THREADS * run->result.blocks);
    if (!peers_open(&run->group, run->ctx, cuda, run->job->device, run->job->gpus,
                    ALLREDUCE_SLOTS * (size_t)run->job->gpus * quads * ALLREDUCE_QUAD))
        return false;
    for (int r = 0; r < run->group.count; r++)
        if (!peers_use(&run->group, r) ||
            !ok(run, cuda->module_load(&run->modules[r], run->cubin->data, 0, NULL, NULL), "loading the kernels") ||
            !ok(run, cuda->memory_new(&run->control[r], CONTROL + times_bytes(run) + 2 * LARGEST),
                "allocating memory for sums"))
            return false;
    run->result.device = arena_text(run->ctx->arena, run->group.gpus[0].device.name);
    run->times = arena_alloc(run->ctx->arena, times_bytes(run));
    run->words = arena_alloc(run->ctx->arena, 2 * LARGEST);
    for (int i = 0; i < 2; i++) run->wanted[i] = arena_alloc(run->ctx->arena, 2 * LARGEST);
    return true;
}

// ---- One launch ----

static uint32_t words_of(const AllReduceWay *way, int bytes) {
    return (uint32_t)(way->floats ? bytes / HALF : bytes / HALF / 2);
}
static uint32_t quads_of(const AllReduceWay *way, int bytes) { return words_of(way, bytes) / (way->flags ? 2 : 4); }

// As few threads as have all quads. 0: a block cannot have so many.
static unsigned threads_of(const AllReduceWay *way, uint32_t quads, unsigned blocks) {
    uint32_t warps = (quads + 31) / 32, each = blocks * (uint32_t)way->quads, threads = (warps + each - 1) / each * 32;
    return threads <= ALLREDUCE_THREADS ? threads : 0;
}

static bool failure_report(Run *run, int rank, const AllReduceFailure *f) {
    if (!f->set) return true;
    run->code = EXIT_VERIFY;
    if (f->rank < (uint32_t)run->group.count)
        diag_error(run->ctx, E0927, NO_SPAN, "rank %d waited in vain for quad %u of rank %u in iteration %u", rank,
                   f->quad, f->rank, f->iteration);
    else
        diag_error(run->ctx, E0927, NO_SPAN, "rank %d waited in vain %s in iteration %u", rank,
                   f->rank == ~0u ? "for its own blocks" : "for other ranks", f->iteration);
    return false;
}

// Everything empty on all ranks before the first kernel begins, for it writes to all.
static bool launch(Run *run, const AllReduceWay *way, int bytes, int iterations, int warm, unsigned *blocks) {
    const Cuda *cuda = run->cuda;
    const uint32_t quads = quads_of(way, bytes), warps = (quads + 31) / 32;
    *blocks = warps < (uint32_t)run->result.blocks ? warps : (unsigned)run->result.blocks;
    const size_t window = ALLREDUCE_SLOTS * (size_t)run->group.count * quads * ALLREDUCE_QUAD;
    void *functions[PEERS_MOST];
    int unused;
    for (int r = 0; r < run->group.count; r++) {
        PeerGpu *gpu = &run->group.gpus[r];
        if (!peers_use(&run->group, r) ||
            !ok(run, cuda->module_function(&functions[r], run->modules[r], way->kernel), "finding a kernel") ||
            // Asked for so that it is loaded: loading waits for what runs.
            !ok(run, cuda->function_get(&unused, CUDA_FUNCTION_STATIC, functions[r]), "loading a kernel") ||
            !ok(run, cuda->fill(gpu->peers.windows[r], 0xFF, window, gpu->stream), "emptying a window") ||
            !ok(run, cuda->fill(run->control[r], 0, CONTROL + times_bytes(run), gpu->stream), "clearing memory"))
            return false;
    }
    if (!peers_wait(&run->group, "emptying windows")) return false;
    for (int r = 0; r < run->group.count; r++) {
        PeerGpu *gpu = &run->group.gpus[r];
        AllReduce given = {.failure = run->control[r],
                           .meeting = run->control[r] + CONTROL / 2,
                           .times = run->control[r] + CONTROL,
                           .out = run->control[r] + CONTROL + times_bytes(run),
                           .patience = (uint64_t)(run->job->timeout * 1e9),
                           .rank = (uint32_t)r,
                           .quads = quads,
                           .iterations = (uint32_t)iterations,
                           .warm = (uint32_t)warm,
                           .two_steps = (uint32_t)way->two_steps,
                           .meets = (uint32_t)way->meets};
        memcpy(given.windows, gpu->peers.windows, sizeof given.windows);
        void *parameters[] = {&given};
        if (!peers_use(&run->group, r) || !ok(run,
                                              cuda->launch(functions[r], *blocks, 1, 1, threads_of(way, quads, *blocks),
                                                           1, 1, 0, gpu->stream, parameters, NULL),
                                              "launching a kernel"))
            return false;
    }
    if (!peers_wait(&run->group, "summing")) return false;
    for (int r = 0; r < run->group.count; r++) {
        AllReduceFailure failure;
        PeerGpu *gpu = &run->group.gpus[r];
        if (!peers_use(&run->group, r) ||
            !ok(run, cuda->copy_out(&failure, run->control[r], sizeof failure, gpu->stream), "reading the result") ||
            !ok(run, cuda->stream_wait(gpu->stream), "reading the result") || !failure_report(run, r, &failure))
            return false;
    }
    return true;
}

static bool read_back(Run *run, int rank, void *to, uint64_t offset, size_t bytes) {
    void *stream = run->group.gpus[rank].stream;
    return peers_use(&run->group, rank) &&
           ok(run, run->cuda->copy_out(to, run->control[rank] + CONTROL + offset, bytes, stream),
              "reading the result") &&
           ok(run, run->cuda->stream_wait(stream), "reading the result");
}

// ---- Sums and times ----

static bool check(Run *run, const AllReduceWay *way, int bytes) {
    unsigned blocks;
    const uint32_t words = words_of(way, bytes), *wanted = run->wanted[way->floats];
    if (!launch(run, way, bytes, CHECKED, 0, &blocks)) return false;
    for (int r = 0; r < run->group.count; r++) {
        if (!read_back(run, r, run->words, times_bytes(run), words * sizeof *run->words)) return false;
        for (uint32_t i = 0; i < words; i++) {
            if (run->words[i] == wanted[i]) continue;
            diag_error(run->ctx, E0928, NO_SPAN,
                       "%s, %s: word %u of %d KB is %08x on rank %d after %d iterations, not %08x", way->kernel,
                       way->two_steps ? "two steps" : "one shot", i, bytes >> 10, run->words[i], r, CHECKED, wanted[i]);
            run->code = EXIT_VERIFY;
            return false;
        }
    }
    return true;
}

// Microseconds an iteration, from the first block that began to the last one that ended; of the slowest rank.
static bool time_way(Run *run, const AllReduceWay *way, int bytes, double *us) {
    unsigned blocks;
    *us = 0;
    if (!launch(run, way, bytes, WARM_UP + run->job->iterations, WARM_UP, &blocks)) return false;
    for (int r = 0; r < run->group.count; r++) {
        if (!read_back(run, r, run->times, 0, blocks * TIMES)) return false;
        uint64_t begin = UINT64_MAX, end = 0;
        for (unsigned b = 0; b < blocks; b++) {
            if (run->times[2 * b] < begin) begin = run->times[2 * b];
            if (run->times[2 * b + 1] > end) end = run->times[2 * b + 1];
        }
        double each = (double)(end - begin) * 1e-3 / run->job->iterations;
        if (each > *us) *us = each;
    }
    return true;
}

static int by_value(const void *a, const void *b) {
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}
static double median(double *of) {
    qsort(of, ALLREDUCE_TURNS, sizeof *of, by_value);
    return of[ALLREDUCE_TURNS / 2];
}

static bool run_size(Run *run, int size, NcclArm *nccl) {
    AllReduceTimes *result = &run->result;
    double us[ALLREDUCE_WAYS + 1][ALLREDUCE_TURNS];
    const int bytes = allreduce_sizes[size] << 10;
    bool fits[ALLREDUCE_WAYS];
    for (int floats = 0; floats < 2; floats++)
        allreduce_sums(floats, result->ranks, CHECKED, run->wanted[floats], (uint32_t)(floats ? bytes / 2 : bytes / 4));
    for (int i = 0; i < result->way_count; i++) {
        const AllReduceWay *way = &result->ways[i];
        fits[i] = threads_of(way, quads_of(way, bytes), (unsigned)result->blocks) > 0;
        if (fits[i] && !check(run, way, bytes)) return false;
    }
    if (nccl) nccl_arm_prepare(nccl, (size_t)bytes);
    for (int turn = 0; turn < ALLREDUCE_TURNS; turn++) {
        for (int i = 0; i < result->way_count; i++)
            if (fits[i] && !time_way(run, &result->ways[i], bytes, &us[i][turn])) return false;
        if (nccl) us[ALLREDUCE_WAYS][turn] = nccl_arm_time(nccl);
    }
    for (int i = 0; i < result->way_count; i++) result->us[size][i] = fits[i] ? median(us[i]) : 0;
    NcclHow how = nccl ? nccl_arm_how(nccl) : NCCL_NOT;
    if (how != NCCL_NOT) result->nccl[how][size] = median(us[ALLREDUCE_WAYS]);
    return true;
}

static bool run_all(Run *run) {
    if (!run_open(run)) return false;
    NcclArm *nccl = nccl_arm_open(&run->group, run->job->nccl, LARGEST);
    if (nccl) run->result.nccl_version = nccl_arm_version(nccl);
    bool done = true;
    for (int size = 0; size < ALLREDUCE_SIZES && done; size++) done = run_size(run, size, nccl);
    done = done && allreduce_report(&run->result, run->job);
    if (nccl) ctx_done(run->ctx, nccl); // it waits for its own: the result is out before
    return done;
}

Exit allreduce_run(Ctx *ctx, const Bundle *bundle, const AllReduceJob *job) {
    Run *run = ARENA_NEW(ctx->arena, Run);
    *run = (Run){.ctx = ctx, .job = job, .cubin = bundle_section(bundle, "cubin"), .code = EXIT_ENVIRONMENT};
    run->result.ranks = job->gpus;
    run->result.way_count = allreduce_ways(run->result.ways);
    if (!run->cubin) {
        diag_error(ctx, E0914, NO_SPAN, "the bundle has no kernels: it is for the host");
        diag_help(ctx, "any bundle of as many ranks for the GPUs at hand will do: `tilegen build demo/h200-tp2`");
        return EXIT_INPUT;
    }
    if (!(run->cuda = cuda_open(ctx, job->cuda))) return EXIT_ENVIRONMENT;
    ctx_defer(ctx, run_close, run);
    bool done = run_all(run);
    ctx_done(ctx, run);
    return done ? EXIT_OK : run->code;
}
