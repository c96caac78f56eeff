// The kernel's life: launched once when the session opens, and anew after what wants the GPU or the kernel's parameters
// for itself; ended when the session closes; given up when it hangs.
#include "gpu_parts.h"
#include "emit.h"
#include <string.h>
#include <unistd.h>

static bool ok(Gpu *gpu, int result, const char *tried) { return cuda_ok(gpu->ctx, gpu->cuda, result, tried); }

void gpu_say(volatile uint32_t *word, uint32_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }

// ---- Launching ----

int gpu_shared(const Gpu *gpu) { return gpu->prog->page_count * gpu->prog->page_bytes + ENGINE_SHARED_FIXED; }

int gpu_shared_beside(const Gpu *gpu, int declared) { // part of what lies beside the pages is declared
    return gpu_shared(gpu) - (declared < ENGINE_SHARED_FIXED ? declared : ENGINE_SHARED_FIXED);
}

bool gpu_launch(Gpu *gpu) {
    const Cuda *cuda = gpu->cuda;
    const GpuMemory *trace = &gpu->memory[MEMORY_TRACE];
    int declared = 0, shared;
    void *parameters[] = {&gpu->params};
    if (!ok(gpu, cuda->module_function(&gpu->function, gpu->module, ENGINE_KERNEL), "finding the kernel") ||
        !ok(gpu, cuda->function_get(&declared, CUDA_FUNCTION_STATIC, gpu->function), "asking for the kernel's memory"))
        return false;
    if (gpu->params.trace && !ok(gpu, cuda->fill(trace->at, 0, trace->bytes, gpu->stream), "clearing the trace"))
        return false;
    shared = gpu_shared_beside(gpu, declared);
    if (!ok(gpu, cuda->function_set(gpu->function, CUDA_FUNCTION_SHARED, shared), "giving the kernel its pages") ||
        !ok(gpu, cuda->stream_wait(gpu->stream), "preparing the device's memory"))
        return false;
    gpu->launched = ok(gpu,
                       cuda->launch(gpu->function, gpu->tables->workers, 1, 1, ENGINE_THREADS, 1, 1, (unsigned)shared,
                                    gpu->stream, parameters, NULL),
                       "launching the kernel");
    return gpu->launched;
}

// ---- Ending ----

bool gpu_leaves(const Gpu *gpu, int ms) {
    for (double until = gpu_now() + ms * 1e-3;; usleep(200)) {
        if (gpu->cuda->stream_query(gpu->stream) != CUDA_NOT_READY) return true;
        if (gpu_now() > until) return false;
    }
}

void gpu_release(Gpu *gpu) {
    const Cuda *cuda = gpu->cuda;
    if (!cuda || !gpu->held) return;
    if (gpu->launched) {
        gpu_say(&gpu->host->mailbox.stop, 1);
        bool left = gpu_leaves(gpu, gpu->dead ? 0 : STOP_PATIENCE);
        gpu_say(&gpu->host->mailbox.abort, 1);
        // Freeing memory would wait for a kernel that never ends; the end of the process takes it along.
        if (!left && !gpu_leaves(gpu, ABORT_PATIENCE)) {
            gpu->held = false;
            return;
        }
    }
    if (gpu->graph) gpu_graph_close(gpu);
    if (gpu->ranks) gpu_window_close(gpu);
    bool failed = gpu->launched && cuda->stream_query(gpu->stream) != CUDA_OK;
    for (int i = 0; i < MEMORIES; i++)
        if (gpu->memory[i].at) cuda->memory_free(gpu->memory[i].at), gpu->memory[i].at = 0;
    if (gpu->host) cuda->host_free(gpu->host);
    if (gpu->logits) cuda->host_free(gpu->logits);
    if (gpu->module) cuda->module_unload(gpu->module);
    if (gpu->stream) cuda->stream_free(gpu->stream);
    if (gpu->copies) cuda->stream_free(gpu->copies);
    cuda->context_set(NULL);
    // An error of the kernel stays in its context; but NCCL's threads are in there too, and the process is to end.
    if (failed && !gpu->ranks) cuda->context_reset(gpu->device.device);
    cuda->context_release(gpu->device.device);
    gpu->host = NULL;
    gpu->logits = NULL;
    gpu->module = gpu->stream = gpu->copies = NULL;
    gpu->held = gpu->launched = false;
}

// What the kernel left behind. The exit code: with several ranks, one that hangs is an environment that failed.
static Exit autopsy(Gpu *gpu, const char *what, bool left) {
    int result = left ? gpu->cuda->stream_query(gpu->stream) : CUDA_OK;
    if (result != CUDA_OK) {
        diag_error(gpu->ctx, E0916, NO_SPAN, "the kernel failed: %s", cuda_words(gpu->ctx, gpu->cuda, result));
        diag_help(gpu->ctx, "--host runs the same Prog on the host executor");
        return gpu->ranks ? EXIT_ENVIRONMENT : EXIT_VERIFY;
    }
    // A kernel that does not leave may still be writing them.
    EngineReport *records = ARENA_ARRAY(gpu->ctx->arena, EngineReport, REPORT_RECORDS);
    for (int i = 0; i < REPORT_RECORDS; i++)
        if (__atomic_load_n(&gpu->host->report[i].kind, __ATOMIC_ACQUIRE)) records[i] = gpu->host->report[i];
    DiagCode code = gpu_report(gpu->ctx, gpu->prog, gpu->options.rank, records, REPORT_RECORDS, what);
    if (!left) diag_note(gpu->ctx, NO_SPAN, "it does not leave either; it ends with this process");
    return gpu->ranks && code == E0906 ? EXIT_ENVIRONMENT : EXIT_VERIFY;
}

// Rank 0, whose own kernel has been told to leave. A process that is not there any more is the reason for all else; but
// the others know nothing yet of a kernel that could not tell them.
static Exit ranks_autopsy(Gpu *gpu, const char *what, bool left) {
    Exit code = EXIT_ENVIRONMENT;
    bool crashed = what && left && gpu->cuda->stream_query(gpu->stream) != CUDA_OK;
    if (crashed) return autopsy(gpu, what, left);
    if (!ranks_gone(gpu->ctx, gpu->ranks, RANK_PATIENCE)) {
        if (what) code = autopsy(gpu, what, left);
        Exit theirs = what && code == EXIT_VERIFY ? EXIT_OK : ranks_failures(gpu->ctx, gpu->ranks);
        if (!what && theirs != EXIT_OK) code = theirs;
    }
    return code;
}

Exit gpu_give_up(Gpu *gpu, const char *what) {
    bool first = gpu->ranks && ranks_self(gpu->ranks) == 0;
    gpu_say(&gpu->host->mailbox.abort, 1);
    gpu->dead = true;
    gpu->open = false;
    bool left = !gpu->launched || gpu_leaves(gpu, ABORT_PATIENCE);
    Exit code = first ? ranks_autopsy(gpu, what, left) : autopsy(gpu, what, left);
    if (gpu->ranks && !first) ranks_leave(gpu->ctx, gpu->ranks, code); // and the driver takes back what it had
    if (gpu->ranks) ranks_kill(gpu->ranks);
    gpu_release(gpu);
    return code;
}

Exit gpu_is_dead(const Gpu *gpu) {
    diag_error(gpu->ctx, E0916, NO_SPAN, "the kernel has ended in an earlier request; open the session again");
    return EXIT_VERIFY;
}

// What the kernel finds when it begins: counters, state and gates of zero, an empty mailbox.
static bool clear(Gpu *gpu) {
    const GpuMemory *buffers = &gpu->memory[MEMORY_BUFFERS], *control = &gpu->memory[MEMORY_CONTROL];
    memset(&gpu->host->mailbox, 0, sizeof gpu->host->mailbox);
    memset(gpu->host->ring, 0, sizeof gpu->host->ring);
    gpu->number = gpu->read = gpu->logits_of = 0;
    return ok(gpu, gpu->cuda->fill(buffers->at, 0, buffers->bytes, gpu->stream), "clearing the device's memory") &&
           ok(gpu, gpu->cuda->fill(control->at, 0, gpu->params.tables - control->at, gpu->stream),
              "clearing the device's memory") &&
           (!gpu->graph || gpu_graph_clear(gpu));
}

Exit gpu_rest(Gpu *gpu) {
    if (gpu->dead) return gpu_is_dead(gpu);
    if (!gpu->launched) return EXIT_OK;
    if (!gpu_tell(gpu, RANK_REST)) return gpu_give_up(gpu, NULL);
    gpu_say(&gpu->host->mailbox.stop, 1);
    if (!gpu_leaves(gpu, STOP_PATIENCE)) return gpu_give_up(gpu, "the kernel does not end");
    if (gpu->cuda->stream_query(gpu->stream) != CUDA_OK) return gpu_give_up(gpu, "the kernel failed while it was idle");
    gpu->launched = false;
    // Kernels write into each other's buffers: these are cleared when all have ended, and written when all are clear.
    if (!gpu_meet(gpu, REST_PATIENCE)) return gpu_give_up(gpu, NULL);
    if (!clear(gpu) || !ok(gpu, gpu->cuda->stream_wait(gpu->stream), "clearing the device's memory"))
        return EXIT_ENVIRONMENT;
    return gpu_meet(gpu, REST_PATIENCE) ? EXIT_OK : gpu_give_up(gpu, NULL);
}
