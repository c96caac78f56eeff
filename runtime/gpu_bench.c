// What `tilerun bench` asks of a GPU beside rounds. For one rank alone, or ranks without a checkpoint: weights and
// caches made on the GPU by the cubin's own kernels (templates/bench.cuh), of which the host only says what each
// segment is. For all: the streaming rate of the memory that weights lie in, and what the kernel noted of its tasks.
#include "emit.h"
#include "gpu_parts.h"
#include "../templates/synthetic.h"
#include <math.h>
#include <stdlib.h>

enum { FILL_BLOCKS = 16, TURNS = 7, WARM_UP = 2 }; // blocks an SM; timed readings, and those before them
#define STREAM_LEAST (1ull << 30)                  // bytes; less would be read from L2
#define STREAM_MOST  (16ull << 30)
#define MXFP4_STD    2.9261750f // of e2m1 codes drawn alike: sqrt(68.5 / 8)

static bool ok(Gpu *gpu, int result, const char *tried) { return cuda_ok(gpu->ctx, gpu->cuda, result, tried); }

// ---- Weights and caches ----

// As checkpoint_slots.c has it, but of a rank alone by the inputs that it has, for the other ranks' parts of a sum are
// missing; and with a router and a bias whose choices are nearly uniform: a token takes any expert as likely as
// another.
static void spread_of(const Gpu *gpu, const PackSegment *s, EngineFill *f) {
    bool parts = gpu->ranks && (s->slot == SLOT_O || s->slot == SLOT_DOWN || s->slot == SLOT_EXPERT_DOWN);
    float inputs = s->a ? 1 / sqrtf((float)s->a->cols * (float)(parts ? gpu->prog->ranks : 1)) : 1;
    switch (s->slot) {
    case SLOT_INPUT_NORM:
    case SLOT_POST_NORM:
    case SLOT_Q_NORM:
    case SLOT_K_NORM:
    case SLOT_NORM:
    case SLOT_HIDDEN_NORM:
    case SLOT_DRAFT_NORM: f->mean = 1, f->std = 0.1f; break;
    case SLOT_ROUTER_BIAS: f->std = 0.001f; break;
    case SLOT_SINK:
    case SLOT_MASK:
    case SLOT_EMBED: f->std = 1; break;
    case SLOT_HEAD: f->std = 3 * inputs; break;
    default: f->std = inputs;
    }
}

// Of several ranks each has its own numbers, but for what all have alike.
static uint64_t key_of(const Gpu *gpu, uint64_t segment, bool alike) {
    uint64_t seed = gpu->options.seed + (gpu->ranks && !alike ? (uint64_t)gpu->options.rank << 56 : 0);
    return fill_mix(fill_mix(seed + 0x9E3779B97F4A7C15u) ^ segment);
}
static bool is_alike(int slot) {
    switch (slot) {
    case SLOT_QKV:
    case SLOT_O:
    case SLOT_UP:
    case SLOT_DOWN:
    case SLOT_EXPERT_UP:
    case SLOT_EXPERT_DOWN:
    case SLOT_SINK:
    case SLOT_HEAD:
    case SLOT_FC: return false;
    default: return true;
    }
}

static void fill_of(const Gpu *gpu, const PackSegment *s, EngineFill *f) {
    spread_of(gpu, s, f);
    f->quads = (s->bytes + 15) / 16; // the segment's end is aligned, so a last piece may go over it
    if (s->kind == PACK_ROWS || s->kind == PACK_HALVES || s->kind == PACK_FLOATS) {
        size_t element = s->kind == PACK_FLOATS ? 4 : 2;
        f->kind = s->kind == PACK_FLOATS ? FILL_FLOATS : FILL_HALVES;
        f->rows = (uint32_t)s->units;
        f->cols = f->pitch = (uint32_t)(s->unit_bytes / element);
        return;
    }
    f->kind = s->dtype == DTYPE_BF16    ? FILL_BF16
              : s->dtype == DTYPE_FP8   ? FILL_FP8
              : s->dtype == DTYPE_MXFP4 ? FILL_MXFP4
                                        : FILL_F32;
    f->rows = (uint32_t)s->rows;
    f->cols = (uint32_t)s->a->cols;
    f->strips = (uint32_t)s->strips;
    f->blocks = (f->cols + BLOCK_K - 1) / BLOCK_K;
    f->pairs = s->kind == PACK_PAIRS;
    if (f->kind != FILL_MXFP4) return;
    // Two neighbouring powers of two, mixed so that the mean square is right.
    int exponent;
    float part = frexpf(f->std / MXFP4_STD, &exponent) * 2; // [1, 2), times 2^(exponent - 1)
    f->scale = (uint32_t)(127 + exponent - 1);
    f->upper = (uint32_t)((part * part - 1) / 3 * 0x1p24f);
}

static bool fill(Gpu *gpu, void *kernel, EngineFill *f) {
    uint64_t blocks = (f->quads + FILL_THREADS - 1) / FILL_THREADS, most = (uint64_t)gpu->device.workers * FILL_BLOCKS;
    void *parameters[] = {f};
    return ok(gpu,
              gpu->cuda->launch(kernel, (unsigned)(blocks < most ? blocks : most), 1, 1, FILL_THREADS, 1, 1, 0,
                                gpu->stream, parameters, NULL),
              "making weights");
}

// Keys of the size that norms and projections give them, values as they are kept: after their scale.
static bool caches_fill(Gpu *gpu, void *kernel, const Attention *a, const EngineLayer *layer, uint64_t *segment) {
    uint64_t rows = (uint64_t)(a->kv_heads / gpu->prog->ranks) * layer->capacity;
    EngineFill k = {.at = layer->k,
                    .quads = rows * (uint64_t)KEY_DIM(a->qk_dim) / 8,
                    .key = key_of(gpu, (*segment)++, false),
                    .kind = FILL_HALVES,
                    .rows = (uint32_t)rows,
                    .cols = (uint32_t)a->qk_dim,
                    .pitch = KEY_DIM((uint32_t)a->qk_dim),
                    .std = 1};
    EngineFill v = k;
    v.at = layer->v;
    v.quads = rows * (uint64_t)a->v_dim / 8;
    v.key = key_of(gpu, (*segment)++, false);
    v.cols = v.pitch = (uint32_t)a->v_dim;
    v.std = (float)a->value_scale;
    return fill(gpu, kernel, &k) && fill(gpu, kernel, &v);
}

static bool fill_kernel(Gpu *gpu, void **kernel) {
    return ok(gpu, gpu->cuda->module_function(kernel, gpu->module, FILL_KERNEL),
              "finding the kernel that makes weights");
}

bool gpu_fill_caches(Gpu *gpu) {
    const Model *m = gpu->model;
    uint64_t segment = gpu->weights->count;
    void *kernel;
    if (!fill_kernel(gpu, &kernel)) return false;
    for (int i = 0; i < m->layer_count; i++)
        if (!caches_fill(gpu, kernel, &m->attention[m->layers[i].attention], &gpu->layers[i], &segment)) return false;
    for (int i = 0; m->has_drafter && i < m->drafter.layers; i++)
        if (!caches_fill(gpu, kernel, &m->drafter.attention, &gpu->layers[m->layer_count + i], &segment)) return false;
    return true;
}

bool gpu_fill(Gpu *gpu) {
    const PackList *list = gpu->weights;
    void *kernel;
    progress_tell(&gpu->options.progress, "making weights", 0);
    if (!fill_kernel(gpu, &kernel)) return false;
    for (size_t i = 0; i < list->count; i++) {
        EngineFill f = {.at = gpu->memory[MEMORY_WEIGHTS].at + list->at[i].offset,
                        .key = key_of(gpu, i, is_alike(list->at[i].slot))};
        fill_of(gpu, &list->at[i], &f);
        if (!fill(gpu, kernel, &f)) return false;
    }
    bool made = gpu_fill_caches(gpu) && ok(gpu, gpu->cuda->stream_wait(gpu->stream), "making weights");
    progress_tell(&gpu->options.progress, "making weights", 1);
    return made;
}

// ---- The streaming rate ----

static int by_value(const void *a, const void *b) {
    return (*(const float *)a > *(const float *)b) - (*(const float *)a < *(const float *)b);
}

typedef struct Events {
    Gpu *gpu;
    void *at[2];
} Events;
static void events_free(void *user) {
    Events *e = user;
    for (int i = 0; i < 2; i++)
        if (e->at[i]) e->gpu->cuda->event_free(e->at[i]);
}

static bool stream_timed(Gpu *gpu, Events *e, void *kernel, EngineStream *range, float *ms) {
    const Cuda *cuda = gpu->cuda;
    void *parameters[] = {range};
    for (int i = 0; i < WARM_UP + TURNS; i++)
        if (!ok(gpu, cuda->event_record(e->at[0], gpu->stream), "timing the memory") ||
            !ok(gpu,
                cuda->launch(kernel, (unsigned)gpu->device.workers, 1, 1, STREAM_THREADS, 1, 1,
                             STREAM_CHUNK * STREAM_STAGES, gpu->stream, parameters, NULL),
                "timing the memory") ||
            !ok(gpu, cuda->event_record(e->at[1], gpu->stream), "timing the memory") ||
            !ok(gpu, cuda->event_wait(e->at[1]), "timing the memory") ||
            !ok(gpu, cuda->event_time(&ms[i < WARM_UP ? 0 : i - WARM_UP], e->at[0], e->at[1]), "timing the memory"))
            return false;
    return true;
}

Exit gpu_stream(const Decoder *decoder, double *rate) {
    Gpu *gpu = decoder->self;
    uint64_t bytes = gpu->weights->bytes < STREAM_MOST ? gpu->weights->bytes : STREAM_MOST;
    EngineStream range = {gpu->memory[MEMORY_WEIGHTS].at, bytes / STREAM_CHUNK};
    float ms[TURNS];
    void *kernel;
    *rate = 0;
    if (bytes < STREAM_LEAST) return EXIT_OK;
    Exit code = gpu_rest(gpu);
    if (code != EXIT_OK) return code;
    if (!ok(gpu, gpu->cuda->module_function(&kernel, gpu->module, STREAM_KERNEL), "finding the kernel that reads") ||
        !ok(gpu, gpu->cuda->function_set(kernel, CUDA_FUNCTION_SHARED, STREAM_CHUNK * STREAM_STAGES),
            "giving the kernel that reads its memory"))
        return EXIT_ENVIRONMENT;
    Events *e = ARENA_NEW(gpu->ctx->arena, Events);
    e->gpu = gpu;
    ctx_defer(gpu->ctx, events_free, e);
    bool timed = ok(gpu, gpu->cuda->event_new(&e->at[0], CUDA_EVENT_TIMED), "making an event") &&
                 ok(gpu, gpu->cuda->event_new(&e->at[1], CUDA_EVENT_TIMED), "making an event") &&
                 stream_timed(gpu, e, kernel, &range, ms);
    ctx_done(gpu->ctx, e);
    if (!timed) return EXIT_ENVIRONMENT;
    qsort(ms, TURNS, sizeof *ms, by_value);
    *rate = (double)(range.chunks * STREAM_CHUNK) / (double)ms[TURNS / 2] * 1e3;
    return EXIT_OK;
}

// ---- The trace ----

Exit gpu_trace(const Decoder *decoder, bool on) {
    Gpu *gpu = decoder->self;
    Exit code = gpu_rest(gpu);
    if (code != EXIT_OK) return code;
    if (on && !gpu->trace_room) {
        diag_error(gpu->ctx, E0917, NO_SPAN, "the session was opened without a trace");
        return EXIT_INPUT;
    }
    gpu->params.trace = on ? gpu->memory[MEMORY_TRACE].at : 0;
    return EXIT_OK;
}

// Read when the kernel has ended: a copy to memory that is not pinned could wait for it.
Exit gpu_sums(const Decoder *decoder, TraceSums *out) {
    Gpu *gpu = decoder->self;
    if (!gpu->params.trace) {
        diag_error(gpu->ctx, E0917, NO_SPAN, "the last request was not traced");
        return EXIT_INPUT;
    }
    Exit code = gpu_rest(gpu);
    if (code != EXIT_OK) return code;
    size_t bytes = (size_t)gpu->memory[MEMORY_TRACE].bytes;
    EngineTrace *at = arena_alloc(gpu->ctx->arena, bytes);
    if (!ok(gpu, gpu->cuda->copy_out(at, gpu->params.trace, bytes, gpu->stream), "copying the trace") ||
        !ok(gpu, gpu->cuda->stream_wait(gpu->stream), "copying the trace"))
        return EXIT_ENVIRONMENT;
    uint64_t ends[ROUND_ENDS];
    bool decoded[ROUND_ENDS];
    int count = gpu->end_count < ROUND_ENDS ? gpu->end_count : ROUND_ENDS;
    for (int i = 0; i < count; i++) {
        int from = (gpu->end_count - count + i) % ROUND_ENDS;
        ends[i] = gpu->ends[from], decoded[i] = gpu->decoded[from];
    }
    TraceRecords records = {at, gpu->prog->workers, gpu->trace_room};
    TraceRounds rounds = {ends, decoded, count};
    return trace_sums(gpu->ctx, gpu->prog, &records, &rounds, out) ? EXIT_OK : EXIT_INPUT;
}
