// Bench, both arms: rounds of the engine and of the graph arm in turns, in one process, from the same state; what they
// take, and whether they give the same tokens.
#ifndef TILERUN_BENCH_COMPARE_H
#define TILERUN_BENCH_COMPARE_H
#include "bench.h"

// Of a session opened with `graph`. An exit code, as the functions of tilerun.h; 4 where tokens differ.
int bench_compare(tr_session *session, const BenchJob *job);
#endif
