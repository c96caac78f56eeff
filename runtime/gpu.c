#include "gpu_parts.h"
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SPINS = 4000, NAP_US = 20, LOOK_EVERY = 64 };

double gpu_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

// ---- Requests ----

static Exit gpu_begin(void *self, const DecodeRequest *r) {
    Gpu *gpu = self;
    bool graph = gpu->arm == GPU_GRAPH;
    if (gpu->dead) return gpu_is_dead(gpu);
    if (!graph && !gpu->launched && !gpu_launch(gpu)) return EXIT_ENVIRONMENT;
    if (gpu->ranks && !ranks_sound(gpu->ranks)) return gpu_give_up(gpu, NULL);
    if (gpu->cuda->stream_query(gpu->stream) != (graph ? CUDA_OK : CUDA_NOT_READY))
        return gpu_give_up(gpu, graph ? "a kernel of the round before failed" : "the kernel ended while it was idle");
    if (graph && (r->logits || r->halt)) {
        diag_error(gpu->ctx, E0919, NO_SPAN, "the graph arm is for timing: it gives no logits and halts nowhere");
        return EXIT_INPUT;
    }
    EngineMailbox *mailbox = &gpu->host->mailbox;
    gpu->request = *r;
    gpu->end_count = 0;
    gpu->digest = 0;
    if (!gpu_tell_request(gpu)) return gpu_give_up(gpu, NULL);
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
    gpu_say(&mailbox->taken, gpu->read);
    gpu_say(&mailbox->request, ++gpu->number);
    gpu->open = true;
    return graph ? gpu_graph_begin(gpu) : EXIT_OK;
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
        if (*gpu->options.cancelled) gpu_say(&gpu->host->mailbox.cancel, gpu->number);
        if (turn >= SPINS) usleep(NAP_US);
        if (turn % LOOK_EVERY == 0) {
            bool gone = gpu->cuda->stream_query(gpu->stream) != CUDA_NOT_READY;
            double time = gpu_now();
            if (until == 0) until = time + 1.5 * gpu->options.timeout;
            entry = arrived(gpu); // also what came before the kernel ended
            if (!entry && gpu->ranks && !ranks_sound(gpu->ranks)) {
                *code = gpu_give_up(gpu, NULL);
                return NULL;
            }
            if (!entry && (gone || time > until)) {
                *code = gpu_give_up(gpu, gone ? "the kernel gave up: a wait lasted too long"
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
    gpu_leaves(gpu, STOP_PATIENCE);
    while (arrived(gpu)) gpu->read++;
    gpu_say(&gpu->host->mailbox.taken, gpu->read);
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
    if (gpu->dead) return gpu_is_dead(gpu);
    if (gpu->request.logits && gpu->end_count > 0 && !gpu_tell(gpu, RANK_STEP)) return gpu_give_up(gpu, NULL);
    gpu_say(&gpu->host->mailbox.taken, gpu->read); // a held round is done with
    if (*gpu->options.cancelled) gpu_say(&gpu->host->mailbox.cancel, gpu->number);
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
    gpu->ends[gpu->end_count % ROUND_ENDS] = out->nanoseconds;
    gpu->decoded[gpu->end_count++ % ROUND_ENDS] = !out->prompt && !out->cancelled;
    gpu->read++;
    if (!gpu->request.logits) gpu_say(&gpu->host->mailbox.taken, gpu->read);
    if (out->last) gpu->open = false;
    if (sound) {
        gpu_digest(gpu, out);
        return out->last ? gpu_ranks_done(gpu) : EXIT_OK;
    }
    diag_error(gpu->ctx, E0916, NO_SPAN, "the kernel answered at position %d with tokens that there are none of",
               out->start);
    gpu->dead = true;
    if (gpu->ranks && ranks_self(gpu->ranks) > 0) ranks_leave(gpu->ctx, gpu->ranks, EXIT_VERIFY);
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
        gpu_say(&gpu->host->mailbox.cancel, gpu->number);
        if (gpu_next(gpu, &round) != EXIT_OK) return;
    }
    gpu_say(&gpu->host->mailbox.taken, gpu->read);
}

static Exit gpu_logits(void *self, int row, float *out) {
    Gpu *gpu = self;
    size_t vocab = (size_t)gpu->model->vocab, bytes = (size_t)gpu->prog->rows * vocab * sizeof(float);
    if (gpu->dead) return gpu_is_dead(gpu);
    if (gpu->logits_of != gpu->read) {
        CudaAddress from = gpu->params.slab + gpu->tables->logits_at;
        if (!cuda_ok(gpu->ctx, gpu->cuda, gpu->cuda->copy_out(gpu->logits, from, bytes, gpu->copies),
                     "copying logits") ||
            !cuda_ok(gpu->ctx, gpu->cuda, gpu->cuda->stream_wait(gpu->copies), "copying logits"))
            return EXIT_ENVIRONMENT;
        gpu->logits_of = gpu->read;
    }
    size_t share = vocab / (size_t)gpu->prog->ranks; // [ranks][rows][share]
    for (size_t rank = 0; rank < (size_t)gpu->prog->ranks; rank++)
        memcpy(out + rank * share, gpu->logits + (rank * (size_t)gpu->prog->rows + (size_t)row) * share,
               share * sizeof *out);
    return EXIT_OK;
}

GpuFigures gpu_figures(const Decoder *decoder) {
    const Gpu *gpu = decoder->self;
    return gpu->figures;
}

static void gpu_close(void *self) {
    Gpu *gpu = self;
    gpu_end(gpu);
    if (!gpu->dead) gpu_tell(gpu, RANK_CLOSE); // the others leave the communicator when this one does
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
    *gpu = (Gpu){
        .ctx = ctx, .model = model, .prog = prog, .weights = weights, .options = *options, .ranks = options->ranks};
    if (!(gpu->options.timeout > 0)) gpu->options.timeout = 1;
    gpu->context = model->context;
    // Where all is made, the last rounds may lie behind the model's context: what is timed begins at any position of
    // it.
    if (options->context > 0 && (options->made || options->context < model->context)) gpu->context = options->context;
    if (prog->ranks > 1 && !options->alone && !options->ranks) {
        diag_error(ctx, E0905, NO_SPAN, "the bundle is for %d GPUs; this is done on one", prog->ranks);
        diag_help(ctx, "build with --tp 1, run it on the CPU with --host, or time one rank of it by itself: "
                       "`tilerun bench BUNDLE --alone synthetic:1`");
        return EXIT_ENVIRONMENT;
    }
    if (!bundle_fits(gpu, bundle)) return EXIT_INPUT;
    if (options->graph && gpu_graph_plan(gpu, bundle) != EXIT_OK) return EXIT_INPUT;
    ctx_defer(ctx, release, gpu);
    Exit code = gpu_load(gpu);
    if (code != EXIT_OK) {
        gpu->dead = true;
        if (gpu->ranks && ranks_self(gpu->ranks) > 0) ranks_leave(ctx, gpu->ranks, code);
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
                     .close = gpu_close};
    return EXIT_OK;
}
