// Nccl: NVIDIA's library for communication between GPUs, opened when first needed. It brings the ranks together and
// gives each a window: memory of its GPU that the others' kernels can write. What goes through the windows is the
// kernels' business; NCCL is not asked again until the end.
//
// Its calls wait for the other ranks, so each runs in a thread of its own that is given up when it takes too long.
// NVLink multicast is switched off in this process before the library is opened.
#ifndef TILERUN_NCCL_H
#define TILERUN_NCCL_H
#include "cuda.h"

enum { NCCL_VERSION_WANTED = 22800, NCCL_ID_BYTES = 128, NCCL_RANKS = 8 };

typedef struct NcclId {
    char bytes[NCCL_ID_BYTES];
} NcclId;

typedef struct Nccl {
#define NCCL(name, symbol, result, parameters) result(*name) parameters;
#include "nccl_api.def"
#undef NCCL
    int (*peer_address)(void *window, size_t offset, int peer, void **out); // NULL before 2.29
    int is;                                                                 // version
} Nccl;

// Opens `library`, or libnccl.so.2 where it usually is when NULL. NULL after reporting E0923 or E0924, as an error
// where it is needed and else as a warning.
Nccl *nccl_open(Ctx *ctx, const char *library, bool needed);
// A name for a communicator, made by one rank for all. False after reporting E0925.
bool nccl_name(Ctx *ctx, const Nccl *nccl, NcclId *out);

// One rank's window, and where it sees those of the others.
typedef struct NcclWindow {
    void *comm, *memory, *window;
    CudaAddress at[NCCL_RANKS]; // of each rank's window; the own one is its memory
} NcclWindow;

typedef enum NcclJoined { NCCL_JOINED, NCCL_FAILED, NCCL_LATE, NCCL_LEFT } NcclJoined;

// Joins the communicator as `rank` of `ranks` and makes a window of `bytes`, the same in each. `context`: of the
// device, current in the calling thread. `sound` is asked now and then whether to go on. NCCL_JOINED; NCCL_FAILED after
// reporting E0925 or E0926, NCCL_LATE after reporting E0925; NCCL_LEFT, with nothing reported, when `sound` said no.
NcclJoined nccl_join(Ctx *ctx, const Nccl *nccl, const Cuda *cuda, void *context, const NcclId *id, int rank, int ranks,
                     size_t bytes, bool (*sound)(void *user), void *user, NcclWindow *out);
// Gives everything back, in the same order in all ranks; `broken`: the others may be gone, so what is left is left.
// Waits `seconds` at most.
void nccl_leave(const Nccl *nccl, const Cuda *cuda, void *context, NcclWindow *window, bool broken, double seconds);
#endif
