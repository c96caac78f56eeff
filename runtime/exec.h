// Exec: runs a Prog on threads, exactly as prog.h says it means: each worker goes through its queues in order, a task
// starts when its waits hold, signals follow its end. One thread serves one or more workers and never blocks inside a
// task: an entry that may not start yet lets the thread look at its other queues.
//
// What a task computes is not known here: see Work.
#ifndef TILERUN_EXEC_H
#define TILERUN_EXEC_H
#include "prog.h"

// What routing decided for the round's rows on one rank; written by the publisher's op.
typedef struct Routing {
    int active; // keys 0..active-1
    int rows;   // of the round
    int *keys;  // [rows][top], keys of each row in the router's order
    int top;
} Routing;

// One execution of a task.
typedef struct Run {
    const Task *task;
    OpId op;
    int rank, instance, layer, key, thread; // instance: of the round; key: -1 outside pools
} Run;

typedef struct Work {
    void (*op)(void *user, const Run *run);
    const Routing *(*routing)(void *user, int rank); // after the publisher's op
    void *user;
} Work;

typedef struct Exec Exec;

// `threads` at least 1; more than there are workers are not used. NULL after reporting (threads that cannot be
// started). Progs that prove accepts run to their end; others may stall, which is told.
Exec *exec_new(Ctx *ctx, const Prog *prog, int threads, Work work);
void exec_free(Exec *exec);
int exec_threads(const Exec *exec);

// Runs one round. `skip`: a bit for each Segment whose tasks do nothing. True when the round ended; false when nothing
// went forward for `stall_seconds` (exec_report says who waits for what) or a page held something else than it should.
bool exec_round(Exec *exec, unsigned skip);
// Text of the last failure, in the ctx's arena.
char *exec_report(Ctx *ctx, const Exec *exec);
#endif
