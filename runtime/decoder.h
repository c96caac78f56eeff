// Decoder: what runs requests, round by round, on the host or on a GPU.
//
//   begin(request); next(round) until round.last; end(). Between two rounds of a request that wants logits, logits()
//   gives those of the newer one.
#ifndef TILERUN_DECODER_H
#define TILERUN_DECODER_H
#include "checkpoint.h"
#include "prog.h"
#include "sample.h"
#include <signal.h>

typedef struct DecodeRequest {
    const int *prompt; // from position `start` on
    int prompt_count;
    int start; // GPU only, 0 elsewhere: the caches before it are as they are
    int limit; // tokens to emit, at least 1
    bool draft, logits;
    Sampling sampling;
    int stops[16], stop_count; // end tokens
    double accept;             // > 0: accepted lengths are drawn with this mean instead of verified (GPU only)
    bool halt;                 // GPU only: tasks after a step do nothing, in the prompt's last block where the limit is
    int halt_instance, halt_step; // 1, else in rounds of decoding; such a round is the last, with nothing accepted
} DecodeRequest;

typedef struct DecodedRound {
    int start, rows;      // positions [start, start + rows)
    int accepted;         // drafts
    int tokens[MAX_ROWS]; // emitted: cut behind an end token and at the limit
    int count;
    bool prompt; // a block of the prompt; it emits a token when it is the last one
    bool last, ended, cancelled;
    uint64_t nanoseconds; // the GPU's clock at the round's end; 0 on the host
} DecodedRound;

typedef struct Decoder {
    void *self; // NULL: none
    int context;
    bool gpu;
    // Each returns EXIT_OK, or another exit code after reporting. Cancelling makes `next` give a last round.
    Exit (*begin)(void *self, const DecodeRequest *request);
    Exit (*next)(void *self, DecodedRound *round);
    Exit (*logits)(void *self, int row, float *out); // [vocab] of the newest round's row
    void (*end)(void *self);                         // gives up what is left of the request
    void (*close)(void *self);
} Decoder;

// `cancelled` is looked at before each round. False after reporting.
bool decoder_host(Ctx *ctx, const Model *model, const Prog *prog, const Checkpoint *weights, int threads, int context,
                  const volatile sig_atomic_t *cancelled, Decoder *out);
#endif
