// A driver without a GPU: device memory is host memory, and the kernel is a thread that plays the device's side of the
// mailbox and the ring. Its tokens are a chain, each made of the one before, so drafting changes nothing.
#include "fake_cuda.h"
#include "../templates/synthetic.h"
#include "allreduce_sums.c"
#include "cuda.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CUDA(name, symbol, parameters) int symbol parameters;
#include "cuda_api.def"
#undef CUDA

enum { CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED };
enum { MAX_WORKERS = 256, FAKE_STEP_NS = 1000, FAKE_INSTANCE_NS = 20000 };

static FakeCuda state;
static atomic_int running; // 1: the kernel runs; 2: it has crashed
static pthread_t kernel;
static void *kernel_stream;
static void *graph_stream; // that the graph arm runs in
static int graph_fails;    // what it answers
static int of_graph;       // stands for the graph arm's kernel

const FakeCuda *fake_cuda(void) { return &state; }

enum { FIRST_DEVICE = 40 };            // a device is no ordinal
static int device_here = FIRST_DEVICE; // that was opened last

// The text behind `word` in FAKE_CUDA, or NULL; "word@1" is for device 1 alone.
static const char *told(const char *word) {
    const char *all = getenv("FAKE_CUDA");
    size_t length = strlen(word);
    for (const char *at = all; at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (strncmp(at, word, length) == 0 &&
            (at[length] != '@' || atoi(at + length + 1) == device_here - FIRST_DEVICE))
            return at + length;
    return NULL;
}
static int number(const char *word, int otherwise) { return told(word) ? atoi(told(word)) : otherwise; }

static bool there_is(int device) { return device >= FIRST_DEVICE && device < FIRST_DEVICE + number("devices=", 1); }

int cuInit(unsigned flags) { return flags ? 1 : told("nodevice") ? CUDA_NO_DEVICE : CUDA_OK; }
int cuDriverGetVersion(int *version) {
    *version = told("old") ? 12080 : 13000;
    return CUDA_OK;
}
int cuGetErrorName(int result, const char **name) {
    *name = result == CUDA_OUT_OF_MEMORY        ? "CUDA_ERROR_OUT_OF_MEMORY"
            : result == CUDA_DEVICE_UNAVAILABLE ? "CUDA_ERROR_DEVICE_UNAVAILABLE"
            : result == CUDA_NO_DEVICE          ? "CUDA_ERROR_NO_DEVICE"
            : result == CUDA_LAUNCH_FAILED      ? "CUDA_ERROR_LAUNCH_FAILED"
                                                : NULL;
    return *name ? CUDA_OK : 1;
}
int cuGetErrorString(int result, const char **text) {
    *text = "in the driver's words";
    return result ? CUDA_OK : CUDA_OK;
}
int cuDeviceGetCount(int *count) {
    *count = number("devices=", 1);
    return CUDA_OK;
}
int cuDeviceGet(int *device, int ordinal) {
    *device = device_here = ordinal + FIRST_DEVICE;
    return CUDA_OK;
}
int cuDeviceGetName(char *name, int length, int device) {
    const char *is = told("name=");
    size_t n = is ? strcspn(is, ",") : 0;
    if (!is || n >= (size_t)length) is = "NVIDIA H200", n = strlen(is);
    memcpy(name, is, n);
    name[n] = 0;
    return there_is(device) ? CUDA_OK : 101;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    *bytes = 150754820096;
    return there_is(device) ? CUDA_OK : 101;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
    case CUDA_MAJOR: *value = number("major=", 9); break;
    case CUDA_MINOR: *value = 0; break;
    case CUDA_WORKERS: *value = number("workers=", 132); break;
    case CUDA_SHARED_OPTIN: *value = number("shared=", 232448); break;
    case CUDA_COMPUTE_MODE: *value = told("prohibited") ? 2 : told("exclusive") ? 3 : 0; break;
    default: return 1;
    }
    return there_is(device) ? CUDA_OK : 101;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    if (told("busy") || told("exclusive")) return CUDA_DEVICE_UNAVAILABLE;
    if (told("crowded")) return CUDA_OUT_OF_MEMORY;
    *context = &state;
    state.contexts++;
    return there_is(device) ? CUDA_OK : 101;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
    state.contexts--;
    graph_fails = 0;
    return there_is(device) ? CUDA_OK : 101;
}
int cuDevicePrimaryCtxReset_v2(int device) { return there_is(device) ? CUDA_OK : 101; }
int cuCtxSetCurrent(void *context) { return context == NULL || context == &state ? CUDA_OK : 1; }
int cuDeviceCanAccessPeer(int *can, int device, int other) {
    *can = !told("apart");
    return device != other && there_is(other) ? CUDA_OK : 101;
}
int cuCtxEnablePeerAccess(void *other, unsigned flags) { return other && !flags ? CUDA_OK : 1; }
int cuMemGetInfo_v2(size_t *unused, size_t *total) {
    *unused = told("full") ? 10000000 : 150000000000;
    *total = 150754820096;
    return CUDA_OK;
}
int cuMemAlloc_v2(CudaAddress *at, size_t bytes) {
    void *memory = NULL;
    if (posix_memalign(&memory, 256, bytes) != 0) return CUDA_OUT_OF_MEMORY;
    memset(memory, 0xA5, bytes);
    *at = (CudaAddress)(uintptr_t)memory;
    state.allocations++;
    return CUDA_OK;
}
int cuMemFree_v2(CudaAddress at) {
    free((void *)(uintptr_t)at);
    state.allocations--;
    return CUDA_OK;
}
int cuMemHostAlloc(void **at, size_t bytes, unsigned flags) {
    *at = aligned_alloc(64, (bytes + 63) / 64 * 64);
    state.hosts++;
    return *at && flags ? CUDA_OK : CUDA_OUT_OF_MEMORY;
}
int cuMemFreeHost(void *at) {
    free(at);
    state.hosts--;
    return CUDA_OK;
}
int cuMemHostGetDevicePointer_v2(CudaAddress *at, void *host, unsigned flags) {
    *at = (CudaAddress)(uintptr_t)host;
    return flags ? 1 : CUDA_OK;
}
int cuModuleLoadDataEx(void **module, const void *image, unsigned options, int *keys, void **values) {
    (void)keys, (void)values;
    *module = &state.modules;
    state.modules++;
    return options == 0 && (memcmp(image, "cubin", 5) == 0 || memcmp(image,
                                                                     "\x7f"
                                                                     "ELF",
                                                                     4) == 0)
               ? CUDA_OK
               : 200;
}
int cuModuleUnload(void *module) {
    state.modules--;
    return module ? CUDA_OK : 1;
}
// A kernel of allreduce.cuh is known by its name.
static const char *sums[64];
static void *sum_function(const char *name) {
    int i = 0;
    while (sums[i] && strcmp(sums[i], name) != 0) i++;
    sums[i] = name; // of the program's own tables
    return &sums[i];
}
static bool is_sum(const void *function) {
    return (const char **)function >= sums && (const char **)function < sums + 64;
}

int cuModuleGetFunction(void **function, void *module, const char *name) {
    *function = strcmp(name, "tilegen_fill") == 0       ? &state.fills
                : strcmp(name, "tilegen_stream") == 0   ? &state.reads
                : strcmp(name, "tilegen_node") == 0     ? &of_graph
                : strncmp(name, "tilegen_all", 11) == 0 ? sum_function(name)
                                                        : module;
    return strncmp(name, "tilegen_", 8) == 0 ? CUDA_OK : 500;
}
int cuFuncGetAttribute(int *value, int attribute, void *function) {
    *value = 30000;
    return function && attribute == CUDA_FUNCTION_STATIC ? CUDA_OK : 1;
}
int cuFuncSetAttribute(void *function, int attribute, int value) {
    return function && attribute == CUDA_FUNCTION_SHARED && value + 30000 <= number("shared=", 232448) ? CUDA_OK : 1;
}
int cuStreamCreateWithPriority(void **stream, unsigned flags, int priority) {
    *stream = malloc(1);
    state.streams++;
    return flags == CUDA_STREAM_APART && priority == 0 ? CUDA_OK : 1;
}
int cuStreamDestroy_v2(void *stream) {
    free(stream);
    state.streams--;
    return CUDA_OK;
}
static int graph_answer(void);
int cuStreamQuery(void *stream) {
    if (graph_stream && stream == graph_stream && graph_fails) return graph_answer();
    if (stream != kernel_stream) return CUDA_OK;
    int now = atomic_load(&running);
    return now == 1 ? CUDA_NOT_READY : now == 2 ? CUDA_LAUNCH_FAILED : CUDA_OK;
}
int cuStreamSynchronize(void *stream) { return cuStreamQuery(stream); }
int cuEventCreate(void **event, unsigned flags) {
    *event = malloc(1);
    state.events++;
    return flags == CUDA_EVENT_UNTIMED || flags == CUDA_EVENT_TIMED ? CUDA_OK : 1;
}
int cuEventDestroy_v2(void *event) {
    free(event);
    state.events--;
    return CUDA_OK;
}
int cuEventRecord(void *event, void *stream) { return event && stream ? CUDA_OK : 1; }
int cuEventSynchronize(void *event) { return event ? CUDA_OK : 1; }
int cuEventElapsedTime(float *ms, void *begin, void *end) {
    *ms = 2;
    return begin && end ? CUDA_OK : 1;
}
int cuMemcpyHtoDAsync_v2(CudaAddress to, const void *from, size_t bytes, void *stream) {
    memcpy((void *)(uintptr_t)to, from, bytes);
    return stream ? CUDA_OK : 1;
}
int cuMemcpyDtoHAsync_v2(void *to, CudaAddress from, size_t bytes, void *stream) {
    memcpy(to, (const void *)(uintptr_t)from, bytes);
    return stream ? CUDA_OK : 1;
}
int cuMemcpyDtoDAsync_v2(CudaAddress to, CudaAddress from, size_t bytes, void *stream) {
    memcpy((void *)(uintptr_t)to, (const void *)(uintptr_t)from, bytes);
    return stream ? CUDA_OK : 1;
}
int cuMemsetD8Async(CudaAddress at, unsigned char value, size_t bytes, void *stream) {
    memset((void *)(uintptr_t)at, value, bytes);
    return stream ? CUDA_OK : 1;
}

// ---- The kernel ----

typedef struct Kernel {
    EngineParams p;
    EngineMailbox *mailbox;
    EngineRound *ring;
    EngineRequest request;
    uint32_t number; // rounds told
    int token, position, emitted, turn;
    float *logits;                 // NULL: not kept
    uint64_t clock;                // end of a round: each takes a millisecond
    uint32_t records[MAX_WORKERS]; // of the trace
} Kernel;

static void report(const Kernel *k) {
    EngineReport *at = (EngineReport *)(uintptr_t)k->p.report;
    for (uint32_t i = 0; i < 20; i++) {
        at[i] = (EngineReport){.worker = i,
                               .role = 1,
                               .instance = i == 17 ? 3 : 4, // the earliest is told first
                               .step = 0,
                               .lo = 16 * i,
                               .hi = 16 * i + 16,
                               .group = i < 6 ? 3 : i,
                               .want = 12,
                               .have = 11,
                               .round = 7,
                               .timed_out = i == 17};
        __atomic_store_n(&at[i].kind, i == 2 ? WAITER_RING : i == 3 ? WAITER_GATE : WAITER_COUNTER, __ATOMIC_RELEASE);
    }
}

// Several ranks: what the kernel does at the end of a round (control.cuh).
static EngineMeeting *meeting(const Kernel *k, uint32_t rank) {
    return (EngineMeeting *)(uintptr_t)(k->p.peers[rank] + (k->p.meeting - k->p.slab));
}
static bool aborted(const Kernel *k) {
    return __atomic_load_n(&k->mailbox->abort, __ATOMIC_ACQUIRE) != 0 ||
           (k->p.meeting && __atomic_load_n(meeting(k, k->p.rank)->abort, __ATOMIC_ACQUIRE) != 0);
}
static void tell_ranks(const Kernel *k, bool cancel) { // of the round that is told
    uint32_t round = k->number - 1;
    uint64_t word = (uint64_t)k->number << 32 | (uint32_t)(k->token << 1) | cancel;
    for (uint32_t rank = 0; k->p.meeting && rank < ENGINE_RANKS && k->p.peers[rank]; rank++)
        __atomic_store_n(&meeting(k, rank)->word[round % 2][k->p.rank], word, __ATOMIC_RELEASE);
}
// Whether all came to the same in the round before; `cancel`: what rank 0 said of the request.
static bool agree(Kernel *k, bool *cancel) {
    uint64_t word[ENGINE_RANKS] = {0};
    for (uint32_t rank = 0; k->number && rank < ENGINE_RANKS && k->p.peers[rank]; rank++)
        for (;; usleep(10)) {
            word[rank] = __atomic_load_n(&meeting(k, k->p.rank)->word[(k->number - 1) % 2][rank], __ATOMIC_ACQUIRE);
            if (word[rank] >> 32 == k->number) break;
            if (aborted(k)) return false;
        }
    *cancel = word[0] & 1;
    for (uint32_t rank = 0; rank < ENGINE_RANKS && k->p.peers[rank]; rank++) {
        if ((uint32_t)word[rank] >> 1 == (uint32_t)word[k->p.rank] >> 1) continue;
        EngineReport *at = (EngineReport *)(uintptr_t)k->p.report;
        *at = (EngineReport){.group = rank,
                             .want = (uint32_t)word[k->p.rank] >> 1,
                             .have = (uint32_t)word[rank] >> 1,
                             .round = k->number};
        __atomic_store_n(&at->kind, WAITER_DIGEST, __ATOMIC_RELEASE);
        return false;
    }
    return true;
}

// A task of a round: steps of an instance end one after the other, each a step long. Skipped ones never begin.
static void trace_task(Kernel *k, uint32_t worker, uint32_t instance, uint32_t step, uint64_t begin, bool skipped) {
    EngineTrace *at = (EngineTrace *)(uintptr_t)k->p.trace + worker * k->p.trace_room;
    at += k->records[worker]++ % k->p.trace_room;
    uint64_t begun = begin + step * FAKE_STEP_NS;
    at->instance = instance, at->step = step, at->posted = begin;
    at->ready = begun;
    if (!skipped) at->begun = begun + 100;
    at->ended = begun + FAKE_STEP_NS;
}

// The tasks of a round by the tables; items of pools are dealt out.
static void trace(Kernel *k, const EngineRound *round) {
    const char *tables = (const char *)(uintptr_t)k->p.tables;
    const EngineTables *t = (const void *)tables;
    const EngineInstance *instances = (const void *)(tables + t->instance_at);
    const EngineQueue *queues = (const void *)(tables + t->queue_at);
    const EngineEntry *entries = (const void *)(tables + t->entry_at);
    const EnginePool *pools = (const void *)(tables + t->pool_at);
    const uint32_t active = (uint32_t)number("experts=", 5);
    for (uint32_t n = 0; k->p.trace && n < t->instances * t->workers; n++) {
        const uint32_t i = n / t->workers, w = n % t->workers;
        const uint64_t begin = k->clock + i * FAKE_INSTANCE_NS;
        const bool skipped = (instances[i].segment == 1 && !(round->flags & ROUND_DRAFTED)) ||
                             (instances[i].segment == 2 && !(k->request.flags & REQUEST_DRAFT));
        const EngineQueue *q = &queues[(instances[i].body * t->workers + w) * 3 + 1];
        for (const EngineEntry *e = entries + q->first; e < entries + q->first + q->count; e++) {
            if (e->kind == ENGINE_TASK || e->kind == ENGINE_EARLY) trace_task(k, w, i, e->body_step, begin, skipped);
            if (e->kind != ENGINE_POOL) continue;
            const EnginePool *pool = &pools[e->pool];
            uint32_t turn = 0;
            for (uint32_t s = 0; s < pool->items; s++)
                for (uint32_t item = 0; item < entries[pool->item + s].pool * active; item++)
                    if (turn++ % pool->participants == e->part)
                        trace_task(k, w, i, entries[pool->item + s].body_step, begin, skipped);
        }
    }
}

static void tell(Kernel *k, EngineRound entry) {
    EngineRound *at = &k->ring[k->number % k->p.ring_size];
    trace(k, &entry);
    entry.nanoseconds = k->clock += 1000000;
    entry.number = 0;
    memcpy((char *)at + 4, (char *)&entry + 4, sizeof entry - 4);
    __atomic_store_n(&at->number, ++k->number, __ATOMIC_RELEASE);
}

static bool waits(Kernel *k, bool hold) {
    for (;;) {
        uint32_t taken = __atomic_load_n(&k->mailbox->taken, __ATOMIC_ACQUIRE);
        if (aborted(k)) return false;
        if (hold ? taken == k->number : k->number - taken < k->p.ring_size) return true;
        usleep(10);
    }
}

// The next tokens of the chain, cut behind a stop and at the limit.
static void emit(Kernel *k, EngineRound *entry, int count) {
    const EngineRequest *r = &k->request;
    for (int i = 0; i < count && !(entry->flags & ROUND_LAST); i++) {
        k->token = (k->token * 31 + 7 + (told("errs") && k->emitted == 5)) % 199;
        entry->tokens[entry->count++] = told("lies") ? 1 << 30 : k->token;
        if (++k->emitted == (int)r->limit) entry->flags |= ROUND_LAST;
        for (uint32_t s = 0; s < r->stop_count; s++)
            if (r->stops[s] == k->token) entry->flags |= ROUND_LAST | ROUND_ENDED;
    }
}

static void take(Kernel *k) {
    k->request = k->mailbox->body; // the host may write the next one as soon as the last round is told
    state.request = k->request;
    k->emitted = k->position = k->turn = 0;
}

// A round of the request.
static EngineRound play(Kernel *k) {
    const EngineRequest *r = &k->request;
    const int32_t *prompt = (const int32_t *)(uintptr_t)k->p.prompt_host;
    EngineRound entry = {.start = (uint32_t)k->position, .flags = 0};
    if (k->position < (int)r->prompt) {
        int left = (int)r->prompt - k->position;
        entry.rows = (uint32_t)(left < ENGINE_ROWS ? left : ENGINE_ROWS);
        entry.flags = ROUND_PROMPT;
        for (uint32_t i = 0; i < entry.rows && k->logits; i++)
            k->logits[i * (uint32_t)number("vocab=", 2048) + 5] = (float)prompt[k->position + (int)i];
        k->position += (int)entry.rows;
        k->token = prompt[k->position - 1];
        if (k->position == (int)r->prompt) emit(k, &entry, 1);
    } else {
        entry.rows = r->flags & REQUEST_DRAFT ? ENGINE_ROWS : 1;
        entry.flags = r->flags & REQUEST_DRAFT ? ROUND_DRAFTED : 0;
        entry.accepted = r->flags & REQUEST_DRAFT ? (uint32_t)k->turn % 8 : 0;
        emit(k, &entry, (int)entry.accepted + 1);
        k->position += (int)entry.accepted + 1;
    }
    k->turn++;
    return entry;
}

static bool serve(Kernel *k, uint32_t request) {
    const EngineTables *t = (const EngineTables *)(uintptr_t)k->p.tables;
    const EngineRequest *r = &k->request;
    k->logits = (float *)(uintptr_t)(k->p.slab + t->logits_at);
    take(k);
    for (int turn = 0;; turn++) {
        if (told("slow")) usleep(20000);
        if (aborted(k)) return false;
        EngineRound entry = {.start = (uint32_t)k->position, .flags = ROUND_LAST | ROUND_CANCELLED};
        bool cancel = __atomic_load_n(&k->mailbox->cancel, __ATOMIC_ACQUIRE) == request;
        if (k->p.meeting && !agree(k, &cancel)) return false;
        if (!cancel) entry = play(k);
        if (told("hang") && turn == 2) {
            while (!aborted(k)) usleep(100);
            return false;
        }
        if (told("dies") && turn == 2) return false;
        if (!waits(k, false)) return false;
        tell(k, entry);
        tell_ranks(k, !(entry.flags & ROUND_LAST) && __atomic_load_n(&k->mailbox->cancel, __ATOMIC_ACQUIRE) == request);
        if ((r->flags & REQUEST_HOLD) && !waits(k, true)) return false;
        if (entry.flags & ROUND_LAST) return true;
    }
}

static void *kernel_main(void *user) {
    Kernel *k = user;
    uint32_t seen = 0;
    bool sound = true;
    while (sound && !aborted(k)) {
        uint32_t request = __atomic_load_n(&k->mailbox->request, __ATOMIC_ACQUIRE);
        if (request != seen)
            sound = serve(k, seen = request);
        else if (__atomic_load_n(&k->mailbox->stop, __ATOMIC_ACQUIRE))
            break;
        else
            usleep(20);
    }
    EngineReport *first = (EngineReport *)(uintptr_t)k->p.report;
    for (uint32_t rank = 0; !sound && k->p.meeting && rank < ENGINE_RANKS && k->p.peers[rank]; rank++)
        __atomic_store_n(meeting(k, rank)->abort, 1, __ATOMIC_RELEASE);
    if (!sound && !told("crashes") && !told("silent") && first->kind != WAITER_DIGEST) report(k);
    while (!sound && told("deaf")) usleep(1000);
    free(k);
    state.kernels--;
    atomic_store(&running, !sound && told("crashes") ? 2 : 0);
    return NULL;
}

static int run_fill(const EngineFill *f, unsigned grid, unsigned block) {
    if (state.fills == FAKE_FILLS || grid == 0 || block != FILL_THREADS || f->at % 256) return 1;
    state.fill[state.fills++] = *f;
    for (uint64_t quad = 0; quad < f->quads; quad++) fill_quad(f, quad, (uint32_t *)(uintptr_t)f->at + 4 * quad);
    return CUDA_OK;
}

// A rank's kernel of a sum: 1.5 us an iteration. Sums are made where few iterations are asked for.
static int run_sum(const char *name, const AllReduce *a, unsigned grid) {
    static uint32_t *made[2], count[2], of[2];
    int floats = strstr(name, "f32") != NULL, ranks = 0;
    while (ranks < ALLREDUCE_RANKS && a->windows[ranks]) ranks++;
    uint32_t words = a->quads * (strstr(name, "flag") ? 2 : 4), *out = (uint32_t *)(uintptr_t)a->out;
    uint64_t *times = (uint64_t *)(uintptr_t)a->times;
    for (int r = 0; r < ranks; r++)
        if (*(const uint32_t *)(uintptr_t)a->windows[r] != ALLREDUCE_EMPTY) return 1;
    for (unsigned b = 0; b < grid; b++)
        times[2 * b] = 5000 + b, times[2 * b + 1] = 5000 + (a->iterations - a->warm) * 1500ull;
    if (told("lost")) *(AllReduceFailure *)(uintptr_t)a->failure = (AllReduceFailure){1, 3, 1 - a->rank, 7};
    if (a->iterations > 100) return CUDA_OK;
    if (count[floats] != words || of[floats] != a->iterations) {
        made[floats] = realloc(made[floats], words * sizeof(uint32_t));
        allreduce_sums(floats, ranks, (int)a->iterations, made[floats], words);
        count[floats] = words, of[floats] = a->iterations;
    }
    memcpy(out, made[floats], words * sizeof *out);
    if (told("wrong") && a->rank == 1) out[words / 2] ^= 1;
    return CUDA_OK;
}

int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                   unsigned block_y, unsigned block_z, unsigned shared_bytes, void *stream, void **parameters,
                   void **extra) {
    if (is_sum(function)) return run_sum(*(const char **)function, parameters[0], grid_x);
    if (function == &state.fills) return run_fill(parameters[0], grid_x, block_x);
    if (function == &state.reads) {
        memcpy(&state.read, parameters[0], sizeof state.read);
        state.reads++;
        state.reads_beside += atomic_load(&running) != 0;
        return shared_bytes == STREAM_CHUNK * STREAM_STAGES && block_x == STREAM_THREADS && grid_x > 0 ? CUDA_OK : 1;
    }
    Kernel *k = calloc(1, sizeof *k);
    state.fills_at_launch = state.fills;
    if (!k || !function || extra || grid_y * grid_z * block_y * block_z != 1) return 1;
    memcpy(&k->p, parameters[0], sizeof k->p);
    k->clock = 1000000;
    k->mailbox = (EngineMailbox *)(uintptr_t)k->p.mailbox;
    k->ring = (EngineRound *)(uintptr_t)k->p.ring;
    state.params = k->p;
    state.grid = grid_x;
    state.block = block_x;
    state.shared = shared_bytes;
    state.launches++;
    state.kernels++;
    kernel_stream = stream;
    atomic_store(&running, 1);
    if (pthread_create(&kernel, NULL, kernel_main, k) != 0) return 1;
    return pthread_detach(kernel) == 0 ? CUDA_OK : 1;
}

// ---- The graph arm: a round is done at once when its graph is launched ----

typedef struct Recorded {
    int count;
    void *stream;
    struct Recorded *next; // that is being recorded
    bool spoiled;
    FakeNode node[FAKE_NODES];
} Recorded;
static Recorded *recordings; // of streams that record
static Recorded *recording_of(const void *stream) {
    Recorded *r = recordings;
    while (r && r->stream != stream) r = r->next;
    return r;
}
static Kernel graph_kernel;
static bool graph_idle;

// Its kernels bound their own waits: they leave.
static int graph_answer(void) {
    if (graph_fails == CUDA_NOT_READY && aborted(&graph_kernel)) graph_fails = 0;
    return graph_fails;
}

int cuLaunchKernelEx(const CudaLaunch *launch, void *function, void **parameters, void **extra) {
    FakeNode n = {.grid = launch->grid[0], .block = launch->block[0], .shared = launch->shared};
    for (unsigned i = 0; i < launch->attribute_count; i++)
        n.early |= launch->attributes[i].id == 6 && launch->attributes[i].value == 1;
    memcpy(&n.node, parameters[0], sizeof n.node);
    if (function != &of_graph || extra || launch->grid[1] * launch->grid[2] * launch->block[1] * launch->block[2] != 1)
        return 1;
    graph_stream = launch->stream;
    Recorded *recording = recording_of(launch->stream);
    if (recording) {
        if (recording->count == FAKE_NODES) return 1;
        recording->node[recording->count++] = n;
        return CUDA_OK;
    }
    if (!(n.node.flags & NODE_TAKE) || n.grid != 1) return 1;
    uint32_t told_before = graph_kernel.number;
    EngineRound *ring = (EngineRound *)(uintptr_t)n.node.params.ring;
    bool anew = ring[0].number == 0; // the arm has been cleared
    uint64_t clock = anew ? 1000000 : graph_kernel.clock;
    graph_kernel = (Kernel){.p = n.node.params, .number = anew ? 0 : told_before, .clock = clock};
    graph_kernel.mailbox = (EngineMailbox *)(uintptr_t)graph_kernel.p.mailbox;
    graph_kernel.ring = ring;
    graph_idle = false;
    state.takes++;
    state.params = n.node.params;
    take(&graph_kernel);
    return CUDA_OK;
}
int cuStreamBeginCapture_v2(void *stream, int mode) {
    Recorded *r = calloc(1, sizeof *r);
    if (told("unrecorded") || !r || !stream || recording_of(stream)) return free(r), CAPTURE_UNSUPPORTED;
    r->stream = stream, r->next = recordings;
    recordings = r;
    return mode == CUDA_CAPTURE_THREAD || mode == CUDA_CAPTURE_RELAXED ? CUDA_OK : 1;
}
int cuStreamEndCapture(void *stream, void **graph) {
    Recorded **at = &recordings, *r = recording_of(stream);
    *graph = NULL;
    if (!r) return 1;
    while (*at != r) at = &(*at)->next;
    *at = r->next;
    if (r->spoiled) return free(r), CAPTURE_INVALIDATED;
    *graph = r;
    state.graphs++;
    return CUDA_OK;
}
int cuGraphInstantiateWithFlags(void **made, void *graph, unsigned long long flags) {
    for (Recorded *r = recordings; r; r = r->next) r->spoiled = true;
    if (recordings) return CAPTURE_UNSUPPORTED;
    *made = malloc(sizeof(Recorded));
    memcpy(*made, graph, sizeof(Recorded));
    state.graphs++;
    return flags ? 1 : CUDA_OK;
}
int cuGraphUpload(void *made, void *stream) { return made && stream ? CUDA_OK : 1; }
int cuGraphExecDestroy(void *made) {
    if (state.node == ((Recorded *)made)->node) state.node = NULL;
    free(made);
    state.graphs--;
    return CUDA_OK;
}
int cuGraphDestroy(void *graph) {
    free(graph);
    state.graphs--;
    return CUDA_OK;
}
int cuGraphLaunch(void *made, void *stream) {
    Recorded *r = made;
    if (r->count == 0) return r->stream == stream ? CUDA_OK : 1; // may come of several threads
    state.graph_launches++;
    state.node = r->node;
    state.node_count = r->count;
    for (int i = 0; i < r->count; i++) {
        bool ends = i + 1 == r->count || r->node[i + 1].node.flags & NODE_FIRST;
        if (!ends || graph_idle || graph_fails) continue;
        if (graph_kernel.turn == 2 && (told("hang") || told("dies"))) {
            graph_fails = told("hang") ? CUDA_NOT_READY : CUDA_LAUNCH_FAILED;
            continue;
        }
        EngineRound entry = play(&graph_kernel);
        if (told("differs") && graph_kernel.turn == 3 && entry.count) entry.tokens[0] ^= 1;
        tell(&graph_kernel, entry);
        graph_idle = entry.flags & ROUND_LAST;
    }
    return stream == graph_stream ? CUDA_OK : 1;
}
