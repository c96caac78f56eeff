// Bench: `tilerun bench`. Times rounds of decoding and says what they come to, for people or as JSON.
#ifndef TILERUN_BENCH_H
#define TILERUN_BENCH_H
#include "tilerun.h"

enum { BENCH_CONTEXT = 1024, BENCH_PROMPT = 16 }; // positions before the rounds of a rank alone

typedef struct BenchJob {
    int rounds;
    bool alone; // one rank of several: see gpu_bench.c
    int rank;
    int context; // alone: positions before the first round that is timed
    bool no_draft;
    double accept; // mean of drawn lengths; 0: verified, alone 6.30
    double temperature, top_p;
    int top_k;
    uint64_t seed;
    const char *trace; // file, or NULL
    bool graph; // the graph arm instead of the engine
    bool json;
} BenchJob;

// Positions that the session of a rank alone keeps.
int bench_positions(const BenchJob *job);
// What is timed: rounds after a short prompt of arbitrary ids.
typedef int BenchPrompt[BENCH_PROMPT];
tr_request bench_request(const tr_session *session, const BenchJob *job, BenchPrompt prompt);
// An exit code, as the functions of tilerun.h.
int bench_run(tr_session *session, const BenchJob *job, FILE *out);
#endif
