#include "emit.h"
char *emit_cuda(Ctx *ctx, const Compiled *compiled) {
    (void)compiled;
    return arena_text(ctx->arena, "#include \"engine.cuh\"\n");
}
