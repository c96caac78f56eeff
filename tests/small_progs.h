// Random small Progs that are right by construction: every reader waits for all signals of the writers before it, every
// writer for those of the readers and writers before it, group by group.
#ifndef SMALL_PROGS_H
#define SMALL_PROGS_H
#include "prog.h"

// Text of one, for prog_parse. The same seed gives the same text.
char *small_prog(Ctx *ctx, uint64_t seed);
#endif
