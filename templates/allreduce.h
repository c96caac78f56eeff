// allreduce: the all-reduce that is timed alone: its parameters, its kernels' names, and what its inputs are. Plain C11
// and CUDA C++.
//
// A message is a vector of elements that each rank has its own summand of; all ranks get the sum, added in rank order.
// Between ranks go words of 32 bits (two bf16 or one f32), in quads of four. Readiness is carried in the data:
//
//   flag       a quad is {word, flag, word, flag}, the flag the iteration's number: half of what is sent is summands
//   sentinel   a quad is four words, and the inbox holds ALLREDUCE_EMPTY until they come: a NaN that no arithmetic
//   makes.
//              Who has read a quad empties it; it is written again ALLREDUCE_SLOTS iterations later
//
// A window is [ALLREDUCE_SLOTS][ranks][quads]: what each rank has sent. One-shot: everybody sends its summands to all.
// Two steps: summands go to the one rank that owns their quad (of 32 quads in turn), which sends the sum to all.
#ifndef TILEGEN_ALLREDUCE_H
#define TILEGEN_ALLREDUCE_H
#include "abi.h"

enum {
    ALLREDUCE_RANKS = 8,
    ALLREDUCE_SLOTS = 3,
    ALLREDUCE_THREADS = 512, // of a block, at most
    ALLREDUCE_QUAD = 16,     // bytes
};
#define ALLREDUCE_EMPTY 0xFFFFFFFFu

// Kernels, by what a word is, how readiness is carried, and quads of a thread. Bundles of several ranks have them, for
// as many.
#define ALLREDUCE_KERNELS(X) X(bf16, flag, 1) X(bf16, sentinel, 1) X(bf16, sentinel, 2) X(f32, sentinel, 1)
enum { ALLREDUCE_bf16, ALLREDUCE_f32, ALLREDUCE_sentinel = 0, ALLREDUCE_flag };
#define ALLREDUCE_NAME(word, ready, quads) tilegen_allreduce_##word##_##ready##_##quads

typedef struct AllReduceFailure { // of the first thread that gave up waiting; rank: ~0 for a meeting
    uint32_t set, iteration, rank, quad;
} AllReduceFailure;

typedef struct AllReduce {
    uint64_t windows[ALLREDUCE_RANKS]; // every rank's, as this rank sees it
    uint64_t out;                      // uint32_t[words], the last sum
    uint64_t times;                    // uint64_t[blocks][2]: the clock after `warm` iterations and at the end, ns
    uint64_t meeting;                  // uint32_t, 0
    uint64_t failure;                  // AllReduceFailure, 0
    uint64_t patience;                 // ns
    uint32_t rank, quads, iterations, warm;
    uint32_t two_steps; // else one shot
    uint32_t meets;     // all blocks of a rank meet after each iteration, so that each could read the whole sum
} AllReduce;

// The summands. Word `at` of rank `rank` in an iteration comes of the last iteration's sum there (first 0): it takes
// the sum's sign and fraction, turned over as a number of the rank and the place says, at a size in [1, 2).
#ifdef __CUDACC__
#define ALLREDUCE_PLAIN static __device__ __forceinline__
#else
#define ALLREDUCE_PLAIN static inline
#endif
ALLREDUCE_PLAIN uint32_t allreduce_key(uint32_t rank, uint32_t at) {
    uint32_t z = at * 0x9E3779B1u + rank * 0x85EBCA77u + 0x165667B1u;
    z = (z ^ z >> 15) * 0x2C1B3C6Du;
    z = (z ^ z >> 12) * 0x297A2D39u;
    return z ^ z >> 15;
}
ALLREDUCE_PLAIN uint32_t allreduce_summand(int floats, uint32_t key, uint32_t sum) {
    return floats ? ((sum ^ key) & 0x807FFFFFu) | 0x3F800000u : ((sum ^ key) & 0x807F807Fu) | 0x3F803F80u;
}
#endif
