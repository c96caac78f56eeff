// Bench: `tilerun bench`. Times rounds of decoding, traces others, and says what they come to (bench_report.h). On a
// GPU, in turn: the streaming rate, the rounds that are timed, rounds that are traced, the streaming rate again.
#ifndef TILERUN_BENCH_H
#define TILERUN_BENCH_H
#include "tilerun.h"

enum { BENCH_CONTEXT = 1024, BENCH_PROMPT = 16 }; // positions before the rounds where all is made

typedef struct BenchJob {
    int rounds;
    bool alone; // one rank of several: see gpu_bench.c
    bool made;  // alone, or weights of all ranks made on their GPUs: rounds behind positions that are made too
    int rank;
    int context; // made: positions before the first round that is timed
    bool no_draft;
    double accept; // mean of drawn lengths; 0: verified, made 6.30
    double temperature, top_p;
    int top_k;
    uint64_t seed;
    bool graph;                // the graph arm instead of the engine
    FILE *text, *json, *trace; // where the results go, for people, and as JSON all of them or the trace alone; or NULL
} BenchJob;

// Positions that the session keeps where all is made.
int bench_positions(const BenchJob *job);
// What is timed: rounds after a short prompt of arbitrary ids.
typedef int BenchPrompt[BENCH_PROMPT];
tr_request bench_request(const tr_session *session, const BenchJob *job, int rounds, BenchPrompt prompt);
// An exit code, as the functions of tilerun.h. On a GPU of a session that was opened with room for a trace, or with
// `graph`.
int bench_run(tr_session *session, const BenchJob *job);
#endif
