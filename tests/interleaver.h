// The brute-force interleaver: runs a small placed Prog in every way that prog.h (MEANING) allows, and says whether one
// of them goes wrong. It shares no code and no idea with prove: it executes.
//
// Wrong is what prove.h promises to exclude: a step whose tasks do not write what it covers exactly once; a task that
// starts while a cell it reads does not hold the version that the sequential program would have it see, or a cell it
// writes does not hold the version before; two tasks at once on a cell that one of them writes; a page that holds
// another chunk than its user needs; a claim before the publisher has ended; an execution that stops before all has
// run. A cell is a part of a buffer that no region divides; its version is the (instance, step) that wrote it last.
#ifndef INTERLEAVER_H
#define INTERLEAVER_H
#include "prog.h"

typedef enum Verdict { VERDICT_RIGHT, VERDICT_BROKEN, VERDICT_TOO_BIG } Verdict;
typedef struct Interleaving {
    Verdict verdict;
    long states;   // looked at
    char why[240]; // when broken
} Interleaving;

// Depth first through all states of `rounds` rounds, for every routing and every choice of skipped segments. Events: a
// task's start, its use of each chunk, its end; each fill of a page; each claim. More than `cap` states: too big.
Interleaving interleave(Ctx *ctx, const Prog *prog, int rounds, long cap);

// The same verdict without visiting every state. Counters only grow and a page is freed by its one user, so an event
// that may happen stays possible until it does, whatever else happens first; who makes a claim is the only choice.
// Hence, for given claims, all events that can happen at all without the end of task T do happen when everything but
// that end is run as far as it goes. Task U may start before T has ended if and only if U starts in that run. So one
// run for each T decides every pair that the sequential program orders, and one more run decides whether all ends.
Interleaving interleave_pairs(Ctx *ctx, const Prog *prog, int rounds, long cap);
#endif
