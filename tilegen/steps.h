// Steps: what the engine kernel knows of each step of each body (templates/steps.h), and where a rank's buffers lie in
// its slab. Shared by emit (the table in the kernel's text) and tasks (entries that point into it).
#ifndef TILEGEN_ENGINE_STEPS_H
#define TILEGEN_ENGINE_STEPS_H
#include "../templates/steps.h"
#include "compile.h"

typedef struct BufferPlace {
    uint32_t offset, row, item, bytes; // row: of the rows of a round; item: of a key, a rank, a tap; in bytes
} BufferPlace;

typedef struct KernelSteps {
    EngineStep *at; // body after body, in the order of their steps
    int count;
    int *first;          // [bodies]: where a body's steps begin
    BufferPlace *places; // [buffers of the Prog]
    uint32_t counter_at, slab_bytes, logits_at;
} KernelSteps;

// NULL after reporting what the kernel cannot do (E0442).
KernelSteps *kernel_steps(Ctx *ctx, const Compiled *compiled);
// A buffer's place by name; zeros where the Prog has none of that name.
BufferPlace kernel_place(const KernelSteps *steps, const Prog *prog, const char *name);
// The kind of attention of the layers that run a body.
LayerAttention kernel_body_kind(const Model *model, const Prog *prog, int body);
#endif
