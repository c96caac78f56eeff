// A driver without a GPU (fake_cuda.c): what a test may ask it. FAKE_CUDA, a list of words separated by commas, says
// how it behaves: old, devices=N, nodevice, busy, prohibited, exclusive, full (little memory), crowded (none),
// name=..., apart (no links), workers=N, vocab=N, experts=N (active in each layer, 5) for the device; slow, hang, deaf,
// dies, crashes, lies, errs (a token) for its kernel; unrecorded (no graphs), differs for the graph arm's tokens;
// wrong, lost for the sums of GPUs. WORD@N: on device N alone.
#ifndef FAKE_CUDA_H
#define FAKE_CUDA_H
#include "../templates/abi.h"
#include <stdbool.h>

enum { FAKE_FILLS = 1024, FAKE_NODES = 4096 };
typedef struct FakeNode { // a launch with attributes
    EngineNode node;
    unsigned grid, block, shared;
    bool early; // before the kernel before it has ended
} FakeNode;
typedef struct FakeCuda {
    int allocations, hosts, contexts, modules, streams, events, kernels; // alive
    int launches;
    EngineParams params;   // of the newest launch
    EngineRequest request; // the newest
    unsigned grid, block, shared;
    int fills; // launches of the kernel that makes weights, which are really made
    EngineFill fill[FAKE_FILLS];
    int fills_at_launch; // of them, before the engine's
    int graphs;          // alive: texts and what is made of them
    int graph_launches, takes;
    FakeNode *node; // of the graph launched last
    int node_count;
    int reads;         // launches of the kernel that reads
    int reads_beside;  // of them, while the engine ran
    EngineStream read; // the newest
} FakeCuda;

const FakeCuda *fake_cuda(void);
#endif
