// NCCL without GPUs: windows are files that all ranks map. FAKE_NCCL, a list of words separated by commas, says how it
// behaves: old; broken (an error), hangs for joining; failing for sums; apart (no window), crossed (the wrong one) for
// windows; WORD@N: in rank N alone.
#include "nccl.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define NCCL(name, symbol, result, parameters) result symbol parameters;
#include "nccl_api.def"
#undef NCCL

typedef struct Comm {
    NcclId id;
    int rank, ranks;
    size_t bytes;
} Comm;
typedef struct Window { // as a device has it
    void *host;
    char *base;
    int lsa_rank, world_rank;
    uint32_t stride;
} Window;
static Comm here;

static bool told(const char *word) {
    const char *at = getenv("FAKE_NCCL") ? strstr(getenv("FAKE_NCCL"), word) : NULL;
    return at && (at[strlen(word)] != '@' || atoi(at + strlen(word) + 1) == here.rank);
}

static void path_of(char *path, size_t size, int rank, const char *what) {
    const char *folder = getenv("TEST_TMP");
    snprintf(path, size, "%s/nccl-%s-%d-%s", folder ? folder : "/tmp", here.id.bytes, rank, what);
}

// All ranks come here before any goes on.
static void meet(const char *what) {
    char path[600];
    path_of(path, sizeof path, here.rank, what);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    for (int rank = 0; rank < here.ranks; rank++) {
        path_of(path, sizeof path, rank, what);
        while (access(path, F_OK) != 0) usleep(200);
    }
}

static void *map(int rank, size_t bytes, void *at) {
    char path[600];
    path_of(path, sizeof path, rank, "memory");
    int file = open(path, O_CREAT | O_RDWR, 0600);
    if (file < 0 || ftruncate(file, (off_t)bytes) != 0) return NULL;
    void *memory = mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | (at ? MAP_FIXED : 0), file, 0);
    close(file);
    return memory == MAP_FAILED ? NULL : memory;
}

int ncclGetVersion(int *version) {
    *version = told("old") ? 22703 : 22809;
    return 0;
}
const char *ncclGetErrorString(int result) { return result ? "unhandled system error" : "no error"; }
const char *ncclGetLastError(void *comm) { return comm ? "" : "no way from here"; }
int ncclGetUniqueId(NcclId *id) {
    static int number;
    memset(id, 0, sizeof *id);
    snprintf(id->bytes, sizeof id->bytes, "%d.%d", (int)getpid(), number++);
    return 0;
}
int ncclCommInitRank(void **comm, int ranks, NcclId id, int rank) {
    here = (Comm){id, rank, ranks, 0};
    while (told("hangs")) usleep(1000);
    if (told("broken")) return 2;
    meet("here");
    *comm = &here;
    return strcmp(getenv("NCCL_NVLS_ENABLE"), "0") == 0 ? 0 : 3;
}
int ncclMemAlloc(void **at, size_t bytes) {
    here.bytes = bytes;
    return (*at = map(here.rank, bytes, NULL)) ? 0 : 2;
}
int ncclMemFree(void *at) { return munmap(at, here.bytes); }
int ncclCommWindowRegister(void *comm, void *at, size_t bytes, void **window, int flags) {
    meet("window");
    *window = NULL;
    if (told("apart")) return 0;
    Window *w = calloc(1, sizeof *w);
    size_t all = (size_t)here.ranks << 32;
    w->base = mmap(NULL, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (int rank = 0; rank < here.ranks; rank++)
        map(told("crossed") ? here.rank : rank, bytes, w->base + ((size_t)rank << 32));
    w->lsa_rank = w->world_rank = here.rank;
    w->stride = 1;
    *window = w;
    return comm == &here && at && flags == 1 ? 0 : 4;
}
int ncclCommWindowDeregister(void *comm, void *window) {
    Window *w = window;
    munmap(w->base, (size_t)here.ranks << 32);
    free(w);
    return comm == &here ? 0 : 4;
}
int ncclCommDestroy(void *comm) {
    char path[600];
    if (here.ranks == 0) return 0; // of one process
    meet("gone");
    path_of(path, sizeof path, here.rank, "memory");
    unlink(path);
    return comm == &here ? 0 : 4;
}
int ncclCommAbort(void *comm) { return comm == &here ? 0 : 4; }

// Several ranks of one process: sums are no business of a test.
static int groups;
int ncclCommInitAll(void **comms, int count, const int *devices) {
    for (int i = 0; i < count; i++) comms[i] = &here, here.bytes += (size_t)devices[i];
    return strcmp(getenv("NCCL_NVLS_ENABLE"), "0") == 0 && !told("broken") ? 0 : 3;
}
int ncclGroupStart(void) { return groups++ ? 5 : 0; }
int ncclGroupEnd(void) { return --groups ? 5 : 0; }
int ncclAllReduce(const void *from, void *to, size_t count, int type, int op, void *comm, void *stream) {
    return groups == 1 && from != to && count && type == 9 && op == 0 && comm && stream && !told("failing") ? 0 : 4;
}
