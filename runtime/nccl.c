#include "nccl.h"
#include "file.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { WINDOW_SYMMETRIC = 1, WINDOW_ALIGN = 2 << 20, NCCL_OK = 0, IN_PROGRESS = 7, WORDS = 400, JOIN_SECONDS = 60 };

// The device's side of a window, of which every version from 2.28 on has these fields first. Newer ones have a function
// that says where a rank's window is.
typedef struct WindowOnDevice {
    void *host;
    CudaAddress base; // of the first rank
    int lsa_rank, world_rank;
    uint32_t stride; // from rank to rank, in 4 GiB
} WindowOnDevice;

static const struct {
    const char *symbol;
    size_t at;
} functions[] = {
#define NCCL(name, symbol, result, parameters) {#symbol, offsetof(Nccl, name)},
#include "nccl_api.def"
#undef NCCL
};
enum { FUNCTIONS = sizeof functions / sizeof *functions };

static void help_install(Ctx *ctx) {
    diag_help(ctx, "NCCL 2.28 or newer is in PyTorch's wheels (nvidia-nccl-cu13) and in NVIDIA's packages (libnccl2); "
                   "`make cuda` fetches it into build/cuda; TILERUN_NCCL names the library itself");
}

// Beside this program, as `make cuda` leaves it; on the loader's path; where a toolkit may have it.
static void *open_library(Ctx *ctx, const char *path, const char **name) {
    char exe[4000];
    const char *places[5] = {path};
    int count = path ? 1 : 0;
    ssize_t length = path ? 0 : readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (!path) {
        exe[length > 0 ? length : 0] = 0;
        char *slash = strrchr(exe, '/');
        if (slash) {
            *slash = 0;
            places[count++] = arena_printf(ctx->arena, "%s/cuda/nvidia/nccl/lib/libnccl.so.2", exe);
        }
        places[count++] = "libnccl.so.2";
        places[count++] = "/usr/local/cuda/lib64/libnccl.so.2";
        places[count++] = "/usr/local/cuda/lib/libnccl.so.2";
    }
    void *handle = NULL;
    for (int i = 0; i < count && !handle; i++) {
        *name = places[i];
        handle = dlopen(places[i], RTLD_NOW | RTLD_LOCAL);
    }
    return handle;
}

Nccl *nccl_open(Ctx *ctx, const char *path, bool needed) {
    void (*report)(Ctx *, DiagCode, Span, const char *, ...) = needed ? diag_error : diag_warning;
    // Multicast puts a host's switches out of order when a program that uses it is killed. All ranks are on one host,
    // so they find each other without a network.
    setenv("NCCL_NVLS_ENABLE", "0", 1);
    setenv("NCCL_SOCKET_IFNAME", "lo", 0);
    setenv("NCCL_RAS_ENABLE", "0", 0); // a service that nobody asks
    const char *name = NULL;
    void *library = open_library(ctx, path, &name);
    if (!library) {
        const char *why = dlerror();
        report(ctx, E0923, NO_SPAN, "no NCCL: %s not found", path ? path : "libnccl.so.2");
        diag_note(ctx, NO_SPAN, "%s", why ? why : "the loader does not say why");
        help_install(ctx);
        return NULL;
    }
    Nccl *nccl = ARENA_NEW(ctx->arena, Nccl);
    void *version = dlsym(library, "ncclGetVersion");
    if (version) {
        memcpy(&nccl->version, &version, sizeof version);
        if (nccl->version(&nccl->is) != NCCL_OK) nccl->is = 0;
    }
    if (nccl->is < NCCL_VERSION_WANTED) {
        report(ctx, E0924, NO_SPAN, "%s is NCCL %d.%d; 2.28 is needed", name, nccl->is / 10000, nccl->is % 10000 / 100);
        help_install(ctx);
        return NULL;
    }
    for (int i = 0; i < FUNCTIONS; i++) {
        void *found = dlsym(library, functions[i].symbol);
        if (!found) {
            report(ctx, E0924, NO_SPAN, "%s has no function %s", name, functions[i].symbol);
            help_install(ctx);
            return NULL;
        }
        memcpy((char *)nccl + functions[i].at, &found, sizeof found);
    }
    void *newer = dlsym(library, "ncclGetPeerDevicePointer");
    memcpy(&nccl->peer_address, &newer, sizeof newer);
    return nccl;
}

// ---- Calls in a thread of their own ----

// On the heap and with nothing of others, since the thread may still be at it when nobody waits any more.
typedef struct Call {
    Nccl nccl;
    Cuda cuda;
    void *context;
    NcclId id;
    int rank, ranks;
    size_t bytes;
    NcclWindow window;
    bool broken;
    const char *tried; // what failed, or NULL
    char words[WORDS];
    atomic_int done; // 1: the thread has ended; 2: nobody waits for it
} Call;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void over(Call *c) {
    if (atomic_exchange(&c->done, 1) == 2) free(c);
}

static bool fine(Call *c, int result, const char *tried) {
    if (result == NCCL_OK) return true;
    const char *last = c->nccl.last_error(c->window.comm);
    c->tried = tried;
    snprintf(c->words, sizeof c->words, "%s (%d)%s%s", c->nccl.error_string(result), result, last && *last ? ": " : "",
             last && *last ? last : "");
    return false;
}
static bool fine_cuda(Call *c, int result, const char *tried) {
    const char *name = NULL;
    if (result == CUDA_OK) return true;
    if (c->cuda.error_name(result, &name) != CUDA_OK || !name) name = "an unknown error";
    c->tried = tried;
    snprintf(c->words, sizeof c->words, "%s (%d)", name, result);
    return false;
}

static bool addresses(Call *c) {
    NcclWindow *w = &c->window;
    WindowOnDevice d = {0};
    void *stream = NULL;
    w->at[c->rank] = (CudaAddress)(uintptr_t)w->memory;
    if (!c->nccl.peer_address) {
        bool read = fine_cuda(c, c->cuda.stream_new(&stream, CUDA_STREAM_APART, 0), "reading the window") &&
                    fine_cuda(c, c->cuda.copy_out(&d, (CudaAddress)(uintptr_t)w->window, sizeof d, stream),
                              "reading the window") &&
                    fine_cuda(c, c->cuda.stream_wait(stream), "reading the window");
        if (stream) c->cuda.stream_free(stream);
        if (!read) return false;
        if (!d.base || d.stride == 0 || d.lsa_rank != c->rank || d.world_rank != c->rank) return true;
    }
    for (int rank = 0; rank < c->ranks; rank++) {
        void *at = NULL;
        if (rank == c->rank) continue;
        if (!c->nccl.peer_address)
            w->at[rank] = d.base + ((uint64_t)rank * d.stride << 32);
        else if (fine(c, c->nccl.peer_address(w->window, 0, rank, &at), "asking where a window is"))
            w->at[rank] = (CudaAddress)(uintptr_t)at;
        else
            return false;
    }
    return true;
}

static void *join_main(void *user) {
    Call *c = user;
    NcclWindow *w = &c->window;
    bool in =
        fine_cuda(c, c->cuda.context_set(c->context), "taking the device") &&
        fine(c, c->nccl.comm_new(&w->comm, c->ranks, c->id, c->rank), "joining the other ranks") &&
        fine(c, c->nccl.memory_new(&w->memory, c->bytes), "allocating the window") &&
        fine(c, c->nccl.window_new(w->comm, w->memory, c->bytes, &w->window, WINDOW_SYMMETRIC), "opening the window");
    if (in && w->window) addresses(c);
    over(c);
    return NULL;
}

static void *leave_main(void *user) {
    Call *c = user;
    NcclWindow *w = &c->window;
    c->cuda.context_set(c->context);
    if (c->broken) {
        if (w->comm) c->nccl.comm_abort(w->comm);
    } else {
        if (w->window) c->nccl.window_free(w->comm, w->window);
        if (w->comm) c->nccl.comm_free(w->comm);
        if (w->memory) c->nccl.memory_free(w->memory);
    }
    over(c);
    return NULL;
}

// Whether the call came to an end within `seconds`, while `sound` says yes.
static bool run(Call *c, void *(*body)(void *), double seconds, bool (*sound)(void *), void *user, bool *left) {
    enum { NAP_US = 500, LOOK_EVERY = 10 };
    pthread_t thread;
    *left = false;
    if (pthread_create(&thread, NULL, body, c) != 0) return false;
    pthread_detach(thread);
    double until = now() + seconds;
    for (unsigned turn = 0; atomic_load(&c->done) == 0; turn++) {
        *left = sound && turn % LOOK_EVERY == 0 && !sound(user);
        if (*left || now() > until) return false;
        usleep(NAP_US);
    }
    return true;
}

// The caller is done with it; the thread may not be.
static void drop(Call *c) {
    if (atomic_exchange(&c->done, 2) == 1) free(c);
}

// ---- Joining and leaving ----

bool nccl_name(Ctx *ctx, const Nccl *nccl, NcclId *out) {
    int result = nccl->unique_id(out);
    if (result == NCCL_OK) return true;
    diag_error(ctx, E0925, NO_SPAN, "NCCL finds no way between the ranks: %s (%d)", nccl->error_string(result), result);
    diag_help(ctx,
              "the ranks meet through the loopback interface; NCCL_SOCKET_IFNAME names another, NCCL_DEBUG=WARN says "
              "more");
    return false;
}

static NcclJoined judge(Ctx *ctx, const Call *c, const Nccl *nccl) {
    if (c->tried) {
        diag_error(ctx, E0925, NO_SPAN, "NCCL %d.%d, %s: %s", nccl->is / 10000, nccl->is % 10000 / 100, c->tried,
                   c->words);
        diag_help(ctx, "NCCL_DEBUG=WARN says more");
        return NCCL_FAILED;
    }
    for (int rank = 0; rank < c->ranks; rank++) {
        if (c->window.at[rank] || rank == c->rank) continue;
        diag_error(ctx, E0926, NO_SPAN, "the GPU of rank %d does not reach the memory of rank %d's", c->rank, rank);
        diag_help(ctx,
                  "the GPUs of an engine are on one host and joined by NVLink: `nvidia-smi topo -p2p w` shows which "
                  "are");
        return NCCL_FAILED;
    }
    return NCCL_JOINED;
}

NcclJoined nccl_join(Ctx *ctx, const Nccl *nccl, const Cuda *cuda, void *context, const NcclId *id, int rank, int ranks,
                     size_t bytes, bool (*sound)(void *user), void *user, NcclWindow *out) {
    bool left;
    Call *c = calloc(1, sizeof *c);
    if (!c) ctx_out_of_memory(ctx);
    *c = (Call){.nccl = *nccl,
                .cuda = *cuda,
                .context = context,
                .id = *id,
                .rank = rank,
                .ranks = ranks,
                .bytes = (bytes + WINDOW_ALIGN - 1) / WINDOW_ALIGN * WINDOW_ALIGN};
    if (!run(c, join_main, JOIN_SECONDS, sound, user, &left)) {
        drop(c);
        if (left) return NCCL_LEFT;
        diag_error(ctx, E0925, NO_SPAN, "the ranks have not come together within %d s", JOIN_SECONDS);
        diag_help(ctx, "NCCL_DEBUG=INFO shows where they are waiting");
        return NCCL_LATE;
    }
    NcclJoined joined = judge(ctx, c, nccl);
    *out = c->window;
    drop(c);
    return joined;
}

void nccl_leave(const Nccl *nccl, const Cuda *cuda, void *context, NcclWindow *window, bool broken, double seconds) {
    bool left;
    Call *c = window->comm || window->memory ? calloc(1, sizeof *c) : NULL;
    if (!c) return;
    *c = (Call){.nccl = *nccl, .cuda = *cuda, .context = context, .window = *window, .broken = broken};
    *window = (NcclWindow){0};
    run(c, leave_main, seconds, NULL, NULL, &left);
    drop(c);
}
