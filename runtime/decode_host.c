// The host executor as a Decoder.
#include "decoder.h"
#include "engine.h"
#include <string.h>

typedef struct Host {
    Engine *engine;
    int rows, at, emitted; // prompt tokens that are done; tokens emitted
    DecodeRequest request;
    const volatile sig_atomic_t *cancelled;
} Host;

static Exit host_begin(void *self, const DecodeRequest *request) {
    Host *h = self;
    h->request = *request;
    h->at = h->emitted = 0;
    engine_reset(h->engine, &request->sampling, request->draft);
    return EXIT_OK;
}

// The round's tokens up to the first end token or the limit.
static void take(Host *h, const Round *round, DecodedRound *out) {
    for (int i = 0; i < round->count && !out->last; i++) {
        out->tokens[out->count++] = round->tokens[i];
        out->last = ++h->emitted == h->request.limit;
        for (int k = 0; k < h->request.stop_count; k++)
            if (h->request.stops[k] == round->tokens[i]) out->last = out->ended = true;
    }
}

static Exit host_next(void *self, DecodedRound *out) {
    Host *h = self;
    const DecodeRequest *r = &h->request;
    Round round;
    *out = (DecodedRound){.start = engine_start(h->engine), .prompt = h->at < r->prompt_count};
    if (*h->cancelled) {
        out->last = out->cancelled = true;
        return EXIT_OK;
    }
    if (out->prompt) {
        int left = r->prompt_count - h->at, rows = left < h->rows ? left : h->rows;
        if (!engine_prompt(h->engine, r->prompt + h->at, rows, &round)) return EXIT_VERIFY;
        h->at += rows;
    } else if (!engine_decode(h->engine, r->draft, &round))
        return EXIT_VERIFY;
    out->rows = round.rows;
    out->accepted = out->prompt ? 0 : round.accepted;
    if (h->at == r->prompt_count) take(h, &round, out);
    return EXIT_OK;
}

static Exit host_logits(void *self, int row, float *out) {
    engine_logits(((Host *)self)->engine, row, out);
    return EXIT_OK;
}

static void host_end(void *self) { (void)self; }
static void host_close(void *self) { engine_free(((Host *)self)->engine); }

bool decoder_host(Ctx *ctx, const Model *model, const Prog *prog, const Checkpoint *weights, int threads, int context,
                  const volatile sig_atomic_t *cancelled, Decoder *out) {
    Host *h = ARENA_NEW(ctx->arena, Host);
    *h = (Host){
        .engine = engine_new(ctx, model, prog, weights, threads, context), .rows = prog->rows, .cancelled = cancelled};
    if (!h->engine) return false;
    *out = (Decoder){.self = h,
                     .context = engine_context(h->engine),
                     .begin = host_begin,
                     .next = host_next,
                     .logits = host_logits,
                     .end = host_end,
                     .close = host_close};
    return true;
}
