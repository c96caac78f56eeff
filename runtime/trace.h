// Trace: what the kernel noted of its tasks (EngineTrace), summed up: how much of a round each op takes on the way from
// one step's end to the next one's.
#ifndef TILERUN_TRACE_H
#define TILERUN_TRACE_H
#include "../templates/abi.h"
#include "prog.h"

typedef struct TraceRounds { // of one request, in order
    const uint64_t *ends;    // nanoseconds of the GPU's clock
    const bool *decoded;     // false: a block of the prompt
    int count;
} TraceRounds;

// JSON of the rounds of decoding that the records cover. A step of an instance ends when its last task on any worker
// has ended; its time is what passes from the latest end of the steps before it. NULL after reporting E0917.
char *trace_summary(Ctx *ctx, const Prog *prog, const EngineTrace *records, size_t count, const TraceRounds *rounds);
// Into a file. False after reporting.
bool trace_write(Ctx *ctx, const Prog *prog, const EngineTrace *records, size_t count, const TraceRounds *rounds,
                 const char *path);
#endif
