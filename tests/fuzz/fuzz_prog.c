// prog_parse and everything that takes what it accepts: what parses prints, and parses back to the same bytes.
#include "prog.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Input {
    const uint8_t *data;
    size_t size;
} Input;

static void run(Ctx *ctx, void *user) {
    const Input *input = user;
    char *text = arena_copy(ctx->arena, input->data, input->size);
    Prog *prog = prog_parse(ctx, source_new(ctx, "input", text, input->size));
    if (!prog) {
        if (!diag_errors(ctx)) abort();
        return;
    }
    char *first = prog_print(ctx, prog);
    Prog *again = prog_parse(ctx, source_new(ctx, "again", first, strlen(first)));
    if (!again || strcmp(first, prog_print(ctx, again)) != 0) abort();
    Prog *copy = prog_copy(ctx, prog);
    if (!prog_verify(ctx, copy) || strcmp(first, prog_print(ctx, copy)) != 0) abort();
    for (int b = 0; b < prog->body_count; b++)
        for (int c = 0; c < prog->counter_count; c++)
            if (prog_total(prog, &prog->bodies[b], c, 0) < 0) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Ctx *ctx = ctx_new((Env){0});
    Input input = {data, size};
    if (ctx && !ctx_protect(ctx, run, &input)) abort();
    ctx_free(ctx);
    return 0;
}
