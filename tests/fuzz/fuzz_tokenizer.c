// tokenizer.json: any bytes give a tokenizer that gives text back as it was, or a diagnostic.
#include "tokenizer.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Input {
    const char *data;
    size_t size;
} Input;

static void read_one(Ctx *ctx, void *user) {
    static const char text[] = "def f(x):\n    return x ** 2  # \xC3\xA9 \xFF\xF0\x9F\x98\x80\n";
    Input *in = user;
    Tokenizer *t = tokenizer_read(ctx, source_new(ctx, "fuzz", in->data, in->size));
    if (!t) return;
    bool lossy = memmem(in->data, in->size, "Removed", 7); // such a split drops what it matches
    int *ids;
    size_t count, at = 0, length;
    tokenizer_encode(ctx, t, text, sizeof text - 1, true, &ids, &count);
    for (size_t i = 0; i < count; i++) {
        const char *bytes = tokenizer_bytes(t, ids[i], true, &length);
        // Normalisation to NFC leaves this text as it is.
        if (lossy) continue;
        if (at + length > sizeof text - 1 || memcmp(bytes, text + at, length) != 0) __builtin_trap();
        at += length;
    }
    if (!lossy && at != sizeof text - 1) __builtin_trap();
    ctx_done(ctx, t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Ctx *ctx = ctx_new((Env){0});
    Input in = {arena_copy(ctx->arena, data, size), size};
    ctx_protect(ctx, read_one, &in);
    ctx_free(ctx);
    return 0;
}
