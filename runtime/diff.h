// Diff: a Prog on two machines, step by step: a GPU, and the host executor, which rounds where the GPU does.
//
// A request is run again and again on the device, halted after one step after the other (DecodeRequest.halt): the
// prompt's last block first, then a round of decoding with drafting. After each halt the device's buffers are read
// back. The host executor runs that one step alone (engine_span), and what its tasks wrote is compared task by task.
// Then the host takes the device's results over and goes on from these, so rounding does not add up over the layers,
// tolerances stay tight, and a difference is that task's own. An input that was overwritten since its step shows as one
// that the two sides do not agree on.
//
// The code lives with the runtime, which it drives; the program tilegen alone links it, its library does not.
#ifndef TILERUN_DIFF_H
#define TILERUN_DIFF_H
#include "decoder.h"
#include "engine.h"
#include "steps.h"

// The machine under test; in tests another host executor. Each returns EXIT_OK, or another code after reporting.
typedef struct DiffDevice {
    void *self;
    // Runs a request, up to its first round of decoding where its limit is above 1, else up to its last. What the round
    // left can then be read until the next request.
    Exit (*run)(void *self, const DecodeRequest *request, DecodedRound *round);
    Exit (*slab)(void *self, void *out, size_t bytes);
    Exit (*cache)(void *self, int layer, void *k, size_t k_bytes, void *v, size_t v_bytes); // layers as gpu_read_cache
    void (*cache_shape)(void *self, int layer, uint32_t *capacity, uint32_t *mask);
} DiffDevice;

typedef struct DiffOptions {
    const int *tokens; // the prompt
    int token_count;
    int layers;     // > 0: compare those before this one
    int stop_after; // an OpId: compare after this op alone; -1: after every one
} DiffOptions;

typedef struct DiffStep { // a step of which all tasks agree
    bool prompt;          // of the prompt's round
    int instance, step, tasks;
    double error, worst; // relative error of all tasks; largest difference in tolerances
} DiffStep;

typedef struct DiffDigest {
    double rms, min, max;
    uint64_t hash; // of the values
} DiffDigest;
typedef struct DiffInput {
    const char *text; // "x[0:8,0:384]"
    DiffDigest device, host;
} DiffInput;

typedef struct DiffFault { // the first task that differs
    bool prompt;
    int instance, step, lo, hi, part, key, worker; // worker -1: claimed
    int differing, tasks;                          // of the step's tasks
    const char *place;                             // of the worst element: "x: row 3, column 17"
    double device, host, tolerance, error;         // error: of the task, relative
    const DiffInput *inputs;
    int input_count;
} DiffFault;

enum { DIFF_TIES = 32, DIFF_TIE_TEXT = 160 };
typedef struct DiffReport {
    DiffStep *steps;
    int step_count;
    // Choices that differ where what they are made of agrees within tolerance: legitimate. The first ones as text.
    char ties[DIFF_TIES][DIFF_TIE_TEXT];
    int tie_count;
    DiffFault *fault; // NULL: all agree
} DiffReport;

// EXIT_OK, EXIT_VERIFY where something differs, or another code after reporting. `engine` belongs to `compiled->prog`,
// whose slab `steps` describes.
Exit diff_run(Ctx *ctx, const Compiled *compiled, const KernelSteps *steps, Engine *engine, const DiffDevice *device,
              const DiffOptions *options, DiffReport *report);
// The report as text or JSON.
void diff_print(Ctx *ctx, const Prog *prog, const DiffReport *report, bool json, FILE *out);
#endif
