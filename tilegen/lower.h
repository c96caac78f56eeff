// lower: Plan -> Prog whose tasks are unplaced. A step a step of the model's round (DESIGN.md, "The round"), a task a
// tile, with the regions it reads and writes; a body for each kind of layer, so that layers are a table and not a copy.
// No queue, no wait, no page yet.
//
// place: gives each task a worker and role, each weight tile its pages, and makes the hand-offs: a counter for each
// buffer that is handed on (`NAME.w`, signalled by its writers, in groups as fine as the schedule says), and, only
// where prove finds a pair that those do not order, one for its readers (`NAME.r`).
#ifndef TILEGEN_LOWER_H
#define TILEGEN_LOWER_H
#include "plan.h"
#include "prog.h"

Prog *lower(Ctx *ctx, const Plan *plan);
// False after reporting.
bool place(Ctx *ctx, const Plan *plan, Prog *prog);
#endif
