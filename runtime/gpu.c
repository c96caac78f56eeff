#include "gpu_parts.h"
#include "trace.h"
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SPINS = 4000, NAP_US = 20, LOOK_EVERY = 64 };

double gpu_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

// A word of the mailbox, after all that was written before it.
static void say(volatile uint32_t *word, uint32_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }

// ---- The end ----

// Whether the kernel has left within `ms`.
static bool kernel_leaves(const Gpu *gpu, int ms) {
    for (double until = gpu_now() + ms * 1e-3;; usleep(200)) {
        if (gpu->cuda->stream_query(gpu->stream) != CUDA_NOT_READY) return true;
        if (gpu_now() > until) return false;
    }
}

void gpu_release(Gpu *gpu) {
    const Cuda *cuda = gpu->cuda;
    if (!cuda || !gpu->held) return;
    if (gpu->launched) {
        say(&gpu->host->mailbox.stop, 1);
        bool left = kernel_leaves(gpu, gpu->dead ? 0 : STOP_PATIENCE);
        say(&gpu->host->mailbox.abort, 1);
        // Freeing memory would wait for a kernel that never ends; the end of the process takes it along.
        if (!left && !kernel_leaves(gpu, ABORT_PATIENCE)) {
            gpu->held = false;
            return;
        }
    }
    if (gpu->graph) gpu_graph_close(gpu);
    bool failed = gpu->launched && cuda->stream_query(gpu->stream) != CUDA_OK;
    for (int i = 0; i < MEMORIES; i++)
        if (gpu->memory[i].at) cuda->memory_free(gpu->memory[i].at), gpu->memory[i].at = 0;
    if (gpu->host) cuda->host_free(gpu->host);
    if (gpu->logits) cuda->host_free(gpu->logits);
    if (gpu->module) cuda->module_unload(gpu->module);
    if (gpu->stream) cuda->stream_free(gpu->stream);
    if (gpu->copies) cuda->stream_free(gpu->copies);
    cuda->context_set(NULL);
    if (failed) cuda->context_reset(gpu->device.device); // an error of the kernel stays in its context
    cuda->context_release(gpu->device.device);
    gpu->host = NULL;
    gpu->logits = NULL;
    gpu->module = gpu->stream = gpu->copies = NULL;
    gpu->held = gpu->launched = false;
}

// The kernel has ended or gives no sign: reports what it says and releases the device.
static Exit give_up(Gpu *gpu, const char *what) {
    say(&gpu->host->mailbox.abort, 1);
    gpu->dead = true;
    gpu->open = false;
    bool left = kernel_leaves(gpu, ABORT_PATIENCE);
    int result = left ? gpu->cuda->stream_query(gpu->stream) : CUDA_OK;
    if (result != CUDA_OK) {
        diag_error(gpu->ctx, E0916, NO_SPAN, "the kernel failed: %s", cuda_words(gpu->ctx, gpu->cuda, result));
        diag_help(gpu->ctx, "--host runs the same Prog on the host executor");
    } else {
        // A kernel that does not leave may still be writing them.
        EngineReport *records = ARENA_ARRAY(gpu->ctx->arena, EngineReport, REPORT_RECORDS);
        for (int i = 0; i < REPORT_RECORDS; i++)
            if (__atomic_load_n(&gpu->host->report[i].kind, __ATOMIC_ACQUIRE)) records[i] = gpu->host->report[i];
        gpu_report(gpu->ctx, gpu->prog, records, REPORT_RECORDS, what);
        if (!left) diag_note(gpu->ctx, NO_SPAN, "it does not leave either; it ends with this process");
    }
    gpu_release(gpu);
    return EXIT_VERIFY;
}

Exit gpu_rest(Gpu *gpu) {
    if (!gpu->launched) return EXIT_OK;
    say(&gpu->host->mailbox.stop, 1);
    if (!kernel_leaves(gpu, STOP_PATIENCE)) return give_up(gpu, "the kernel does not leave");
    if (gpu->cuda->stream_query(gpu->stream) != CUDA_OK) return give_up(gpu, "the kernel failed");
    gpu->launched = false;
    return EXIT_OK;
}

static Exit is_dead(Gpu *gpu) {
    diag_error(gpu->ctx, E0916, NO_SPAN, "the kernel has ended in an earlier request; open the session again");
    return EXIT_VERIFY;
}

// ---- Requests ----

static Exit gpu_begin(void *self, const DecodeRequest *r) {
    Gpu *gpu = self;
    if (gpu->dead) return is_dead(gpu);
    if (gpu->cuda->stream_query(gpu->stream) != (gpu->arm == GPU_GRAPH ? CUDA_OK : CUDA_NOT_READY))
        return give_up(gpu, gpu->arm == GPU_GRAPH ? "a kernel of the round before failed"
                                                  : "the kernel ended while it was idle");
    if (gpu->arm == GPU_GRAPH && (r->logits || r->halt)) {
        diag_error(gpu->ctx, E0919, NO_SPAN, "the graph arm is for timing: it gives no logits and halts nowhere");
        return EXIT_INPUT;
    }
    EngineMailbox *mailbox = &gpu->host->mailbox;
    gpu->request = *r;
    gpu->end_count = 0;
    memcpy(gpu->host->prompt, r->prompt, (size_t)r->prompt_count * sizeof(int32_t));
    mailbox->body = (EngineRequest){.prompt = (uint32_t)r->prompt_count,
                                    .limit = (uint32_t)r->limit,
                                    .flags = (r->draft ? REQUEST_DRAFT : 0u) | (r->logits ? REQUEST_HOLD : 0u) |
                                             (r->accept > 0 ? REQUEST_ACCEPT : 0u) | (r->halt ? REQUEST_HALT : 0u),
                                    .temperature = (float)r->sampling.temperature,
                                    .top_p = (float)r->sampling.top_p,
                                    .top_k = r->sampling.top_k,
                                    .seed = r->sampling.seed,
                                    .stop_count = (uint32_t)r->stop_count,
                                    .halt_instance = (uint32_t)r->halt_instance,
                                    .halt_body_step = (uint32_t)r->halt_step,
                                    .start = (uint32_t)r->start,
                                    .accept_seed = (uint32_t)r->sampling.seed,
                                    .accept_mean = (float)r->accept};
    for (int i = 0; i < r->stop_count; i++) mailbox->body.stops[i] = r->stops[i];
    say(&mailbox->taken, gpu->read);
    say(&mailbox->request, ++gpu->number);
    gpu->open = true;
    return gpu->arm == GPU_GRAPH ? gpu_graph_begin(gpu) : EXIT_OK;
}

static const EngineRound *arrived(const Gpu *gpu) {
    const EngineRound *entry = &gpu->host->ring[gpu->read % RING];
    return __atomic_load_n(&entry->number, __ATOMIC_ACQUIRE) == gpu->read + 1 ? entry : NULL;
}

// The next entry of the ring; NULL after giving up. Cancelling is passed on, and then the kernel's last round waited
// for.
static const EngineRound *await(Gpu *gpu, Exit *code) {
    const EngineRound *entry = arrived(gpu);
    double until = 0;
    for (unsigned turn = 0; !entry; turn++) {
        if (*gpu->options.cancelled) say(&gpu->host->mailbox.cancel, gpu->number);
        if (turn >= SPINS) usleep(NAP_US);
        if (turn % LOOK_EVERY == 0) {
            bool gone = gpu->cuda->stream_query(gpu->stream) != CUDA_NOT_READY;
            double time = gpu_now();
            if (until == 0) until = time + 1.5 * gpu->options.timeout;
            entry = arrived(gpu); // also what came before the kernel ended
            if (!entry && (gone || time > until)) {
                *code = give_up(gpu, gone ? "the kernel gave up: a wait lasted too long"
                                          : "no round came for 1.5 s: the kernel hangs");
                return NULL;
            }
        } else
            entry = arrived(gpu);
    }
    return entry;
}

// Rounds of the graph arm that nobody waits for any more: they end, and are passed over.
static void graph_end(Gpu *gpu) {
    gpu->open = false;
    kernel_leaves(gpu, STOP_PATIENCE);
    while (arrived(gpu)) gpu->read++;
    say(&gpu->host->mailbox.taken, gpu->read);
}
static Exit graph_cancelled(Gpu *gpu, DecodedRound *out) {
    graph_end(gpu);
    out->last = out->cancelled = true;
    return EXIT_OK;
}

static Exit gpu_next(void *self, DecodedRound *out) {
    Gpu *gpu = self;
    Exit code = EXIT_OK;
    *out = (DecodedRound){0};
    if (gpu->dead) return is_dead(gpu);
    say(&gpu->host->mailbox.taken, gpu->read); // a held round is done with
    if (*gpu->options.cancelled) say(&gpu->host->mailbox.cancel, gpu->number);
    if (gpu->arm == GPU_GRAPH) { // nothing waits for the host there: rounds are kept on their way
        if (*gpu->options.cancelled) return graph_cancelled(gpu, out);
        if (!gpu_graph_feed(gpu)) return EXIT_ENVIRONMENT;
    }
    const EngineRound *entry = await(gpu, &code);
    if (!entry) return code;
    *out = (DecodedRound){.start = (int)entry->start,
                          .rows = (int)entry->rows,
                          .accepted = (int)entry->accepted,
                          .count = (int)entry->count,
                          .prompt = (entry->flags & ROUND_PROMPT) != 0,
                          .last = (entry->flags & ROUND_LAST) != 0,
                          .ended = (entry->flags & ROUND_ENDED) != 0,
                          .cancelled = (entry->flags & ROUND_CANCELLED) != 0,
                          .nanoseconds = entry->nanoseconds};
    if (entry->accepted == UINT32_MAX) out->accepted = 0; // a round that was halted
    bool sound = entry->count <= ENGINE_ROWS && entry->rows <= ENGINE_ROWS && out->accepted < ENGINE_ROWS;
    for (int i = 0; sound && i < out->count; i++) {
        out->tokens[i] = entry->tokens[i];
        sound = out->tokens[i] >= 0 && out->tokens[i] < gpu->model->vocab;
    }
    if (gpu->end_count < ROUND_ENDS) {
        gpu->ends[gpu->end_count] = out->nanoseconds;
        gpu->decoded[gpu->end_count++] = !out->prompt && !out->cancelled;
    }
    gpu->read++;
    if (!gpu->request.logits) say(&gpu->host->mailbox.taken, gpu->read);
    if (out->last) gpu->open = false;
    if (sound) return EXIT_OK;
    diag_error(gpu->ctx, E0916, NO_SPAN, "the kernel answered at position %d with tokens that there are none of",
               out->start);
    gpu->dead = true;
    gpu_release(gpu);
    return EXIT_VERIFY;
}

static void gpu_end(void *self) {
    Gpu *gpu = self;
    DecodedRound round;
    if (gpu->dead) return;
    if (gpu->arm == GPU_GRAPH) {
        graph_end(gpu);
        return;
    }
    while (gpu->open) {
        say(&gpu->host->mailbox.cancel, gpu->number);
        if (gpu_next(gpu, &round) != EXIT_OK) return;
    }
    say(&gpu->host->mailbox.taken, gpu->read);
}

static Exit gpu_logits(void *self, int row, float *out) {
    Gpu *gpu = self;
    size_t vocab = (size_t)gpu->model->vocab, bytes = (size_t)gpu->prog->rows * vocab * sizeof(float);
    if (gpu->dead) return is_dead(gpu);
    if (gpu->logits_of != gpu->read) {
        CudaAddress from = gpu->params.slab + gpu->tables->logits_at;
        if (!cuda_ok(gpu->ctx, gpu->cuda, gpu->cuda->copy_out(gpu->logits, from, bytes, gpu->copies),
                     "copying logits") ||
            !cuda_ok(gpu->ctx, gpu->cuda, gpu->cuda->stream_wait(gpu->copies), "copying logits"))
            return EXIT_ENVIRONMENT;
        gpu->logits_of = gpu->read;
    }
    memcpy(out, gpu->logits + (size_t)row * vocab, vocab * sizeof *out);
    return EXIT_OK;
}

static Exit gpu_trace(void *self, const char *path) {
    Gpu *gpu = self;
    if (gpu->dead) return is_dead(gpu);
    if (!gpu->params.trace) {
        diag_error(gpu->ctx, E0917, NO_SPAN, "the session was opened without a trace");
        return EXIT_INPUT;
    }
    size_t count = (size_t)gpu->tables->workers * TRACE_ROOM;
    EngineTrace *records = ARENA_ARRAY(gpu->ctx->arena, EngineTrace, count);
    if (!cuda_ok(gpu->ctx, gpu->cuda,
                 gpu->cuda->copy_out(records, gpu->params.trace, count * sizeof *records, gpu->copies),
                 "copying the trace") ||
        !cuda_ok(gpu->ctx, gpu->cuda, gpu->cuda->stream_wait(gpu->copies), "copying the trace"))
        return EXIT_ENVIRONMENT;
    TraceRounds rounds = {gpu->ends, gpu->decoded, gpu->end_count};
    return trace_write(gpu->ctx, gpu->prog, records, count, &rounds, path) ? EXIT_OK : EXIT_ENVIRONMENT;
}

GpuFigures gpu_figures(const Decoder *decoder) {
    const Gpu *gpu = decoder->self;
    return gpu->figures;
}

static void gpu_close(void *self) {
    Gpu *gpu = self;
    gpu_end(gpu);
    ctx_done(gpu->ctx, gpu);
}

// ---- Opening ----

static void release(void *user) { gpu_release(user); }

static bool bundle_fits(Gpu *gpu, const Bundle *bundle) {
    const Section *tasks = bundle_section(bundle, "tasks");
    const char *what = NULL;
    gpu->cubin = bundle_section(bundle, "cubin");
    gpu->tables = tasks ? tasks->data : NULL;
    gpu->tables_bytes = tasks ? tasks->size : 0;
    if (!gpu->cubin || !tasks)
        what = "the bundle has no kernel";
    else if (tasks->size < sizeof(EngineTables) || gpu->tables->magic != TABLES_MAGIC)
        what = "the bundle's tables of tasks are damaged";
    else if (gpu->tables->abi != ENGINE_ABI)
        what = "the bundle's kernel was made by another version of tilegen";
    else if (gpu->tables->size != tasks->size || gpu->tables->workers != (uint32_t)gpu->prog->workers ||
             gpu->tables->layers != (uint32_t)gpu->weights->tables || gpu->tables->logits_at > gpu->tables->slab_bytes)
        what = "the bundle's tables of tasks are not its Prog's";
    if (!what) return true;
    diag_error(gpu->ctx, E0914, NO_SPAN, "%s", what);
    diag_help(gpu->ctx, "build it again with this version of tilegen; --host runs it on the CPU");
    return false;
}

Exit gpu_open(Ctx *ctx, const Model *model, const Prog *prog, const Bundle *bundle, const PackList *weights,
              const GpuOptions *options, Decoder *out) {
    Gpu *gpu = ARENA_NEW(ctx->arena, Gpu);
    *gpu = (Gpu){.ctx = ctx, .model = model, .prog = prog, .weights = weights, .options = *options};
    if (!(gpu->options.timeout > 0)) gpu->options.timeout = 1;
    gpu->context = model->context;
    // Alone, the last rounds may lie behind the model's context: what is timed begins at any position of it.
    if (options->context > 0 && (options->alone || options->context < model->context)) gpu->context = options->context;
    if (prog->ranks > 1 && !options->alone) {
        diag_error(ctx, E0905, NO_SPAN, "the bundle is for %d GPUs; this program drives one", prog->ranks);
        diag_help(ctx, "build with --tp 1, run it on the CPU with --host, or time one rank of it by itself: "
                       "`tilerun bench BUNDLE --alone synthetic:1`");
        return EXIT_ENVIRONMENT;
    }
    if (!bundle_fits(gpu, bundle)) return EXIT_INPUT;
    if (options->graph && gpu_graph_plan(gpu, bundle) != EXIT_OK) return EXIT_INPUT;
    ctx_defer(ctx, release, gpu);
    Exit code = gpu_load(gpu);
    if (code != EXIT_OK) {
        ctx_done(ctx, gpu);
        return code;
    }
    *out = (Decoder){.self = gpu,
                     .context = gpu->context,
                     .gpu = true,
                     .begin = gpu_begin,
                     .next = gpu_next,
                     .logits = gpu_logits,
                     .end = gpu_end,
                     .trace = gpu_trace,
                     .close = gpu_close};
    return EXIT_OK;
}
