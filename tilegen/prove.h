// prog_prove: shows for a Prog, for every interleaving, every routing result and every claim order, that
//   1. coverage    each step's tasks write each element of what the step covers exactly once, and nothing else;
//   2. order       each read of a task happens after the write that the sequential program puts before it (prog.h,
//                  MEANING), and no write happens before all reads and writes that the sequential program puts before
//                  it have ended: scratch, KV rows, inboxes of other ranks, across layers and across rounds;
//   3. progress    every wait is met: the graph of everything that may block is free of cycles, each threshold is
//   reached;
//   4. pages       loads and uses of each worker pair up in order, page by page, chunk by chunk;
//   5. budgets     shared memory, mbarriers and their transaction bytes (at most 2^20 - 1 a phase), named barriers
//   (16),
//                  registers of the roles, against the Sku.
// It says no when it cannot show it, and names the task, what it conflicts with, and the schedule line (E06xx).
//
// How: two rounds are laid out as instances. Each queue of each rank is an agent with a vector clock. A wait c>=v gives
// the edge from S, the longest prefix of c's signals in the order of the sequential program (instance, step) whose sum
// is at most v; that is sound when every signal after the prefix happens after all of S, which is checked too
// (otherwise a fast worker's later signal could stand in for a slow one's). By induction over time over the first wait
// that would return too early, the clocks then hold in every execution. Pools: items are agents of their own, for two
// symbolic keys, which stand for any two; nothing is assumed of who runs them; what is assumed active is assumed for
// readers of the same key only. Rounds repeat: what holds from the first to the second holds from each to the next,
// since bases shift alike.
#ifndef TILEGEN_PROVE_H
#define TILEGEN_PROVE_H
#include "prog.h"

typedef enum Hazard { HAZARD_NONE, HAZARD_READ_AFTER_WRITE, HAZARD_WRITE_AFTER_READ, HAZARD_WRITE_AFTER_WRITE } Hazard;

// The first pair of accesses that is not ordered, for `place`, which adds a hand-off and asks again.
typedef struct Unordered {
    Hazard hazard;
    int buffer;
    int first_body, first_step, second_body, second_step; // first comes first in the sequential program
} Unordered;

// `sku` NULL: budgets are not checked. False after reporting (E06xx).
bool prog_prove(Ctx *ctx, const Prog *prog, const Sku *sku);
// Only the order, without reporting. HAZARD_NONE when all pairs are ordered.
Unordered prog_unordered(Ctx *ctx, const Prog *prog);
#endif
