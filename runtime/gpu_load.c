#include "gpu_parts.h"
#include "emit.h"
#include "rope.h"
#include "text.h"
#include <math.h>
#include <string.h>

enum { STAGING = 32 << 20, ALIGN = 256, RING_SLACK = 8 + KEY_CHUNK };

static bool ok(Gpu *gpu, int result, const char *tried) { return cuda_ok(gpu->ctx, gpu->cuda, result, tried); }
static uint64_t aligned(uint64_t bytes) { return (bytes + ALIGN - 1) / ALIGN * ALIGN; }

// ---- Where everything lies ----

// Positions that a layer keeps: all, or a ring with room for the window, a round and a chunk.
static uint32_t capacity_of(const Attention *a, int context) {
    uint32_t capacity = KEY_CHUNK;
    if (a->window == 0) return ((uint32_t)context + KEY_CHUNK - 1) / KEY_CHUNK * KEY_CHUNK;
    while (capacity < (uint32_t)a->window + RING_SLACK) capacity *= 2;
    return capacity;
}

static void cache_layout(Gpu *gpu, const Attention *a, EngineLayer *layer, uint64_t *bytes) {
    uint32_t capacity = capacity_of(a, gpu->context);
    uint64_t positions = (uint64_t)(a->kv_heads / gpu->prog->ranks) * capacity;
    uint64_t k = *bytes, v = k + aligned(positions * (uint64_t)KEY_DIM(a->qk_dim) * 2);
    *bytes = v + aligned(positions * (uint64_t)a->v_dim * 2);
    if (!layer) return;
    layer->k = gpu->memory[MEMORY_CACHES].at + k;
    layer->v = gpu->memory[MEMORY_CACHES].at + v;
    layer->capacity = capacity;
    layer->mask = a->window ? capacity - 1 : UINT32_MAX;
}

static uint64_t caches_layout(Gpu *gpu, EngineLayer *layers) {
    const Model *m = gpu->model;
    uint64_t bytes = 0;
    for (int i = 0; i < m->layer_count; i++)
        cache_layout(gpu, &m->attention[m->layers[i].attention], layers ? layers++ : NULL, &bytes);
    for (int i = 0; m->has_drafter && i < m->drafter.layers; i++)
        cache_layout(gpu, &m->drafter.attention, layers ? layers++ : NULL, &bytes);
    return bytes;
}

static void weights_layout(Gpu *gpu, EngineLayer *layers) {
    const PackList *list = gpu->weights;
    for (size_t i = 0; i < list->count; i++) {
        const PackSegment *s = &list->at[i];
        for (int t = 0; t < list->tables; t++)
            if (s->table == PACK_ALL_TABLES || s->table == t)
                layers[t].weight[s->slot] = gpu->memory[MEMORY_WEIGHTS].at + s->offset;
    }
}

static const Rope *rope_of(const Gpu *gpu, int kind) {
    const Model *m = gpu->model;
    const Attention *a = kind < ATTENTION_KINDS ? &m->attention[kind] : &m->drafter.attention;
    return (kind < ATTENTION_KINDS ? a->heads > 0 : m->has_drafter) ? &a->rope : NULL;
}
static uint64_t rope_rows(const Gpu *gpu) { return (uint64_t)gpu->context / ROPE_LOW + 1; }
static uint64_t rope_bytes(const Gpu *gpu) {
    uint64_t bytes = 0;
    for (int kind = 0; kind < 3; kind++)
        if (rope_of(gpu, kind))
            bytes += aligned((rope_rows(gpu) + ROPE_LOW) * (uint64_t)(rope_of(gpu, kind)->rotary / 2) * 16);
    return bytes;
}

// Control memory: state, gate, abort word, claims, exits, tables, layers, prompt.
typedef struct Control {
    uint64_t state, gate, abort, claims, exits, tables, layers, prompt, bytes;
} Control;
static Control control_layout(const Gpu *gpu) {
    Control c = {0};
    uint64_t instances = gpu->tables->instances;
    c.gate = aligned(ENGINE_GATES * sizeof(EngineState));
    c.abort = c.gate + ALIGN; // lines of their own: everybody polls them
    c.claims = c.abort + ALIGN;
    c.exits = c.claims + aligned(instances * 4);
    c.tables = c.exits + aligned(instances * 4);
    c.layers = c.tables + aligned(gpu->tables_bytes);
    c.prompt = c.layers + aligned((uint64_t)gpu->weights->tables * sizeof(EngineLayer));
    c.bytes = c.prompt + aligned((uint64_t)gpu->context * 4);
    return c;
}

static void memory_layout(Gpu *gpu) {
    GpuMemory *m = gpu->memory;
    m[MEMORY_WEIGHTS] = (GpuMemory){"weights", gpu->weights->bytes, false, 0};
    m[MEMORY_CACHES] = (GpuMemory){"caches", caches_layout(gpu, NULL), true, 0};
    m[MEMORY_BUFFERS] =
        (GpuMemory){"buffers", gpu->tables->slab_bytes + (gpu->ranks ? sizeof(EngineMeeting) : 0), true, 0};
    m[MEMORY_ROPE] = (GpuMemory){"tables of angles", rope_bytes(gpu), false, 0};
    m[MEMORY_CONTROL] = (GpuMemory){"tables of tasks", control_layout(gpu).bytes, true, 0};
    if (gpu->options.trace) {
        int room = trace_room(gpu->prog, TRACE_ROUNDS + 1); // the last one, with which another begins
        gpu->trace_room = room > TRACE_LEAST ? room : TRACE_LEAST;
    }
    m[MEMORY_TRACE] = (GpuMemory){
        "trace", (uint64_t)gpu->tables->workers * (uint64_t)gpu->trace_room * sizeof(EngineTrace), false, 0};
    m[MEMORY_GRAPH] = (GpuMemory){"the graph arm", gpu_graph_bytes(gpu), true, 0};
}

// ---- Memory ----

static const char *size_text(Ctx *ctx, uint64_t bytes) {
    return bytes >= 1000000000 ? arena_printf(ctx->arena, "%.2f GB", (double)bytes / 1e9)
           : bytes >= 1000000  ? arena_printf(ctx->arena, "%.1f MB", (double)bytes / 1e6)
                               : arena_printf(ctx->arena, "%.1f kB", (double)bytes / 1e3);
}

static void too_large(Gpu *gpu, uint64_t need, uint64_t unused) {
    Ctx *ctx = gpu->ctx;
    diag_error(ctx, E0911, NO_SPAN, "%s of memory are needed on device %d (%s), %s of its %s are free",
               size_text(ctx, need), gpu->device.ordinal, gpu->device.name, size_text(ctx, unused),
               size_text(ctx, gpu->device.memory));
    const PackList *list = gpu->weights;
    for (size_t i = 0; i < list->count; i++) {
        uint64_t bytes = 0;
        bool first = true;
        for (size_t k = 0; k < list->count; k++) {
            if (strcmp(list->at[k].group, list->at[i].group) != 0) continue;
            first = first && k >= i;
            bytes += list->at[k].bytes;
        }
        if (first) diag_note(ctx, NO_SPAN, "weights, %-16s %12s", list->at[i].group, size_text(ctx, bytes));
    }
    for (int i = MEMORY_CACHES; i < MEMORIES; i++)
        if (gpu->memory[i].bytes)
            diag_note(ctx, NO_SPAN, "%-25s %12s", gpu->memory[i].name, size_text(ctx, gpu->memory[i].bytes));
    diag_help(ctx,
              "--context N keeps fewer than the %d positions of the caches; `nvidia-smi` shows who else uses memory",
              gpu->context);
}

static uint64_t needed(const Gpu *gpu) {
    uint64_t need = 0;
    for (int i = 0; i < MEMORIES; i++) need += gpu->memory[i].bytes;
    return need;
}

static bool allocate(Gpu *gpu) {
    const Cuda *cuda = gpu->cuda;
    uint64_t need = needed(gpu);
    size_t unused = 0, total = 0;
    if (!ok(gpu, cuda->memory_info(&unused, &total), "asking for the device's free memory")) return false;
    for (int i = 0; i < MEMORIES; i++) {
        GpuMemory *m = &gpu->memory[i];
        if (m->bytes == 0) continue;
        if (i == MEMORY_BUFFERS && gpu->ranks) continue; // the window
        int result = need > unused ? CUDA_OUT_OF_MEMORY : cuda->memory_new(&m->at, m->bytes);
        if (result == CUDA_OUT_OF_MEMORY) return too_large(gpu, need, unused), false;
        if (!ok(gpu, result, "allocating the device's memory")) return false;
        if (m->zeroed && !ok(gpu, cuda->fill(m->at, 0, m->bytes, gpu->stream), "clearing the device's memory"))
            return false;
    }
    size_t host = sizeof(GpuHost) + (size_t)gpu->context * 4,
           logits = (size_t)gpu->prog->rows * (size_t)gpu->model->vocab * sizeof(float);
    void *at = NULL, *rows = NULL;
    if (!ok(gpu, cuda->host_new(&at, host, CUDA_HOST_PORTABLE | CUDA_HOST_MAPPED), "allocating the mailbox"))
        return false;
    gpu->host = at;
    memset(at, 0, host);
    if (!ok(gpu, cuda->host_new(&rows, logits, CUDA_HOST_PORTABLE), "allocating pinned memory for logits"))
        return false;
    gpu->logits = rows;
    return ok(gpu, cuda->host_address(&gpu->host_at, at, 0), "mapping the mailbox");
}

// ---- Contents ----

static bool copy(Gpu *gpu, CudaAddress to, const void *from, size_t bytes) {
    return bytes == 0 || (ok(gpu, gpu->cuda->copy_in(to, from, bytes, gpu->stream), "copying to the device") &&
                          ok(gpu, gpu->cuda->stream_wait(gpu->stream), "copying to the device"));
}

static bool tables_load(Gpu *gpu) {
    Control c = control_layout(gpu);
    CudaAddress at = gpu->memory[MEMORY_CONTROL].at;
    EngineLayer *layers = ARENA_ARRAY(gpu->ctx->arena, EngineLayer, gpu->weights->tables);
    caches_layout(gpu, layers);
    weights_layout(gpu, layers);
    gpu->layers = layers;
    EngineParams *p = &gpu->params;
    p->tables = at + c.tables;
    p->layers = at + c.layers;
    p->slab = gpu->memory[MEMORY_BUFFERS].at;
    // A rank alone is its own peer as often as there are ranks: each of its pushes signals every rank once, and in a
    // real run every rank signals each counter once, so the counters come to the same. The other ranks' parts of a sum
    // stay the zeros that they were.
    for (int rank = 0; rank < gpu->prog->ranks; rank++) p->peers[rank] = gpu->ranks ? gpu->window.at[rank] : p->slab;
    p->rank = (uint32_t)gpu->options.rank;
    p->state = at + c.state;
    p->gate = at + c.gate;
    p->abort = at + c.abort;
    if (gpu->ranks) {
        p->meeting = p->slab + gpu->tables->slab_bytes;
        p->abort = p->meeting + offsetof(EngineMeeting, abort);
    }
    p->claims = at + c.claims;
    p->exits = at + c.exits;
    p->prompt = at + c.prompt;
    p->mailbox = gpu->host_at + offsetof(GpuHost, mailbox);
    p->ring = gpu->host_at + offsetof(GpuHost, ring);
    p->report = gpu->host_at + offsetof(GpuHost, report);
    p->prompt_host = gpu->host_at + offsetof(GpuHost, prompt);
    p->trace_room = (uint32_t)gpu->trace_room; // `trace` is 0 until gpu_trace
    p->context = (uint32_t)gpu->context;
    p->ring_size = RING;
    p->timeout_ms = (uint32_t)(gpu->options.timeout * 1e3);
    return copy(gpu, p->tables, gpu->tables, gpu->tables_bytes) &&
           copy(gpu, p->layers, layers, (size_t)gpu->weights->tables * sizeof *layers);
}

// Angles of positions as two factors, so that the tables stay small and the product exact to double precision.
static bool rope_load(Gpu *gpu) {
    CudaAddress at = gpu->memory[MEMORY_ROPE].at;
    for (int kind = 0; kind < 3; kind++) {
        const Rope *rope = rope_of(gpu, kind);
        if (!rope) continue;
        const double *f = rope_frequencies(gpu->ctx, rope);
        size_t half = (size_t)rope->rotary / 2, high = (size_t)rope_rows(gpu), rows = high + ROPE_LOW;
        double *table = ARENA_ARRAY(gpu->ctx->arena, double, rows *half * 2 + 1);
        for (size_t row = 0; row < rows; row++)
            for (size_t i = 0; i < half; i++) {
                double position = row < high ? (double)(row * ROPE_LOW) : (double)(row - high);
                table[(row * half + i) * 2] = cos(position * f[i]);
                table[(row * half + i) * 2 + 1] = sin(position * f[i]);
            }
        gpu->params.rope_high[kind] = at;
        gpu->params.rope_low[kind] = at + high * half * 16;
        if (!copy(gpu, at, table, rows * half * 16)) return false;
        at += aligned(rows * half * 16);
    }
    return true;
}

typedef struct Staging {
    Gpu *gpu;
    void *at[2], *event[2];
} Staging;

static void staging_free(void *user) {
    Staging *s = user;
    const Cuda *cuda = s->gpu->cuda;
    for (int i = 0; i < 2; i++) {
        if (s->event[i]) cuda->event_wait(s->event[i]), cuda->event_free(s->event[i]);
        if (s->at[i]) cuda->host_free(s->at[i]);
    }
}

static bool staged_load(Gpu *gpu, Staging *s, size_t room) {
    const Cuda *cuda = gpu->cuda;
    const PackList *list = gpu->weights;
    PackCursor cursor = {0};
    PackFault fault;
    uint64_t offset;
    for (int i = 0; i < 2; i++)
        if (!ok(gpu, cuda->host_new(&s->at[i], room, CUDA_HOST_PORTABLE), "allocating pinned memory for weights") ||
            !ok(gpu, cuda->event_new(&s->event[i], CUDA_EVENT_UNTIMED), "making an event"))
            return false;
    // One buffer is packed while the other one is copied.
    for (int i = 0;; i ^= 1) {
        progress_tell(&gpu->options.progress, "loading weights",
                      cursor.segment < list->count ? (double)list->at[cursor.segment].offset / (double)list->bytes : 1);
        if (!ok(gpu, cuda->event_wait(s->event[i]), "copying weights")) return false;
        size_t bytes = pack_next(list, &cursor, false, s->at[i], room, gpu->options.threads, &offset, &fault);
        if (fault.segment) return pack_report(gpu->ctx, &fault), false;
        if (bytes == 0) return ok(gpu, cuda->stream_wait(gpu->stream), "copying weights");
        if (!ok(gpu, cuda->copy_in(gpu->memory[MEMORY_WEIGHTS].at + offset, s->at[i], bytes, gpu->stream),
                "copying weights") ||
            !ok(gpu, cuda->event_record(s->event[i], gpu->stream), "copying weights"))
            return false;
    }
}

static bool weights_load(Gpu *gpu) {
    size_t least = gpu->weights->largest + PACK_ALIGN,
           room = gpu->weights->bytes < STAGING ? (size_t)gpu->weights->bytes : STAGING;
    Staging *s = ARENA_NEW(gpu->ctx->arena, Staging);
    s->gpu = gpu;
    ctx_defer(gpu->ctx, staging_free, s);
    bool loaded = staged_load(gpu, s, room > least ? room : least);
    ctx_done(gpu->ctx, s);
    return loaded;
}

// ---- The kernel ----

static bool module_open(Gpu *gpu) {
    return ok(gpu, gpu->cuda->module_load(&gpu->module, gpu->cubin->data, 0, NULL, NULL), "loading the kernel");
}

static bool device_open(Gpu *gpu) {
    const Cuda *cuda = gpu->cuda;
    void *context = NULL;
    if (gpu->device.mode == CUDA_MODE_PROHIBITED) {
        diag_error(gpu->ctx, E0910, NO_SPAN,
                   "device %d (%s) is closed for computing: its compute mode is \"prohibited\"", gpu->device.ordinal,
                   gpu->device.name);
        diag_help(gpu->ctx,
                  "an administrator opens it with `nvidia-smi -c DEFAULT`; or choose another with --device N");
        return false;
    }
    int result = cuda->context_retain(&context, gpu->device.device);
    gpu->cuda_context = context;
    if (result == CUDA_OUT_OF_MEMORY) return too_large(gpu, needed(gpu), 0), false; // not even for a context
    if (!ok(gpu, result, "opening the device")) {
        if (gpu->device.mode == CUDA_MODE_EXCLUSIVE)
            diag_note(gpu->ctx, NO_SPAN, "its compute mode is \"exclusive\": one program at a time");
        return false;
    }
    gpu->held = true;
    return ok(gpu, cuda->context_set(context), "opening the device") &&
           ok(gpu, cuda->stream_new(&gpu->stream, CUDA_STREAM_APART, 0), "making a stream") &&
           ok(gpu, cuda->stream_new(&gpu->copies, CUDA_STREAM_APART, 0), "making a stream");
}

Exit gpu_load(Gpu *gpu) {
    memory_layout(gpu);
    gpu->cuda = cuda_open(gpu->ctx, gpu->options.library);
    if (!gpu->cuda || !cuda_device(gpu->ctx, gpu->cuda, gpu->options.device, &gpu->device) ||
        !cuda_fits(gpu->ctx, &gpu->device, gpu->prog->sku, gpu->prog->workers, gpu_shared(gpu)) || !device_open(gpu) ||
        !allocate(gpu) || (gpu->ranks && !gpu_window(gpu)) || !tables_load(gpu) || !rope_load(gpu) || !module_open(gpu))
        return EXIT_ENVIRONMENT;
    size_t errors = diag_errors(gpu->ctx);
    if (!(gpu->options.made ? gpu_fill(gpu) : weights_load(gpu)))
        return diag_code_at(gpu->ctx, errors) == E0742 ? EXIT_INPUT : EXIT_ENVIRONMENT;
    gpu->figures.ready = gpu_now();
    gpu->figures.weights = gpu->weights->bytes;
    if (!gpu_meet(gpu, 0)) return gpu_give_up(gpu, NULL);
    return (gpu->graph ? gpu_graph_open(gpu) : gpu_launch(gpu)) ? EXIT_OK : EXIT_ENVIRONMENT;
}
