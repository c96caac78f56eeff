// Peers: several GPUs that write into each other's memory. Each rank has a window, and knows every rank's by the
// address at which it reaches it. Here the ranks are devices of one process, numbered from the first one on.
#ifndef TILERUN_PEERS_H
#define TILERUN_PEERS_H
#include "cuda.h"

enum { PEERS_MOST = 8 };

typedef struct Peers {
    int rank, ranks;
    CudaAddress windows[PEERS_MOST];
} Peers;

typedef struct PeerGpu {
    CudaDevice device;
    void *context, *stream; // NULL while it is not open
    Peers peers;
} PeerGpu;

typedef struct PeerGroup {
    Ctx *ctx;
    const Cuda *cuda;
    int count;
    PeerGpu gpus[PEERS_MOST];
} PeerGroup;

// Opens `count` devices, each with a stream and a window of `bytes`. False after reporting E0909, E0910, E0911, E0913
// or E0926; close it then too.
bool peers_open(PeerGroup *group, Ctx *ctx, const Cuda *cuda, int first, int count, size_t bytes);
void peers_close(void *group);
// Makes the device of a rank the one that calls are for. False after reporting.
bool peers_use(PeerGroup *group, int rank);
// Waits for the streams of all.
bool peers_wait(PeerGroup *group, const char *tried);
#endif
