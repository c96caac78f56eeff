// Phases: what a trace says of each op beside the bytes that it reads, and of ops that belong together.
#ifndef TILERUN_PHASES_H
#define TILERUN_PHASES_H
#include "tilerun.h"
#include "trace.h"

// `start`: positions before the rounds, on average.
tr_phases phases_of(Ctx *ctx, const Model *model, const Prog *prog, const TraceSums *sums, double start);
#endif
