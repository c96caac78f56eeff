// Trace: what the kernel noted of its tasks (EngineTrace), summed up by op: how much of a round each takes on the way
// from one step's end to the next one's, how long its tasks waited and worked, and how many experts were active.
#ifndef TILERUN_TRACE_H
#define TILERUN_TRACE_H
#include "../templates/abi.h"
#include "traffic.h"

typedef struct TraceRounds { // of one request, in order
    const uint64_t *ends;    // nanoseconds of the GPU's clock
    const bool *decoded;     // false: a block of the prompt
    int count;
} TraceRounds;

typedef struct TraceRecords { // of each worker the newest `room`, a ring; zeros where there were fewer
    const EngineTrace *at;    // [workers][room]
    int workers, room;
} TraceRecords;

// Nanoseconds, over all rounds. A step of an instance ends when its last task on any worker has ended; its time is
// what passes from the latest end of the steps before it.
typedef struct TraceOp {
    double time;        //
    double waits, work; // of tasks: from posted to ready, from begun to ended
    long steps, tasks;
} TraceOp;

typedef struct TraceSums {
    TraceOp of[SEGMENTS][OP_COUNT];
    double total;   // of the rounds
    double experts; // active in a layer, on average; 0: the rounds had none
    int rounds;
} TraceSums;

// Records that a worker makes in so many rounds: entries of its queue, and twice its share of the items that are
// claimed, since some workers claim more than others.
int trace_room(const Prog *prog, int rounds);
// Of the rounds of decoding that the records cover whole. False after reporting E0917: there are none.
bool trace_sums(Ctx *ctx, const Prog *prog, const TraceRecords *records, const TraceRounds *rounds, TraceSums *out);
#endif
