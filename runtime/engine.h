// Engine: a Prog with its model's weights, buffers and caches, running rounds. One request at a time.
//
// A round takes 1 to `rows` tokens at positions start, start + 1, ...: a block of the prompt, the anchor alone, or the
// anchor and its drafts. It ends with the target's choice for each row and, after accept, the next start and anchor.
#ifndef TILERUN_ENGINE_H
#define TILERUN_ENGINE_H
#include "checkpoint.h"
#include "exec.h"
#include "plan.h"
#include "sample.h"

typedef struct Engine Engine;

typedef struct Round {
    int rows, accepted;   // rows run; drafts accepted
    int tokens[MAX_ROWS]; // the choices that count: accepted + 1 of them; of a prompt block, the last row's alone
    int count;
} Round;

// Everything is allocated here. `context` 0: the model's. NULL after reporting.
Engine *engine_new(Ctx *ctx, const Model *model, const Prog *prog, const Checkpoint *weights, int threads, int context);
void engine_free(Engine *engine);
int engine_context(const Engine *engine);

// Forgets all positions. `drafting`: the request will draft, so the drafter's cache is kept up.
void engine_reset(Engine *engine, const Sampling *sampling, bool drafting);
// Runs 1 to `rows` tokens of a prompt at the positions after those before. False after reporting (E0903, E0904).
bool engine_prompt(Engine *engine, const int *tokens, int count, Round *round);
// One round from the anchor. `draft` 0: the anchor alone.
bool engine_decode(Engine *engine, bool draft, Round *round);
// Logits of row `row` of the last round, [vocab] in token order.
void engine_logits(const Engine *engine, int row, float *out);
int engine_start(const Engine *engine); // positions that are committed

// A place in a round: a step of an instance's body. The sequential program goes by instance, then step.
typedef struct StepAt {
    int instance, step;
} StepAt;
// From now on only the steps from `first` to `last` compute; all others wait and signal, and leave every buffer as it
// is. With `first` {0, 0} a round halts after `last` as the engine kernel does (REQUEST_HALT); with both the same it is
// that one step, on what the buffers hold. Accept is a step too: where it does not compute, positions stay uncommitted.
void engine_span(Engine *engine, StepAt first, StepAt last);
void engine_span_all(Engine *engine);
#endif
