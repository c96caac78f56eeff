// The walk that prove.c and place rest on: three rounds of the sequential program, step by step, with a vector clock
// for each agent. Private to prove.
#ifndef TILEGEN_PROVE_ORDER_H
#define TILEGEN_PROVE_ORDER_H
#include "prove.h"

// Walks the program. With `report`, every rule of order, coverage and progress is checked and the first failures are
// reported; without, only the order of accesses, and the first unordered pair is put into *first. True when nothing was
// found.
bool order_walk(Ctx *ctx, const Prog *prog, bool report, Unordered *first);
#endif
