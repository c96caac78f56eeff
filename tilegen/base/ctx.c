#include "ctx.h"
#include "diag.h"
#include <setjmp.h>
#include <stdlib.h>

typedef struct Deferred {
    void (*release)(void *);
    void *thing;
} Deferred;

typedef struct CtxInner {
    jmp_buf *landing;
    Deferred *deferred;
    size_t count, room;
} CtxInner;

void ctx_out_of_memory(Ctx *ctx) {
    if (!ctx->inner->landing) abort(); // a library call outside ctx_protect: a bug of ours
    longjmp(*ctx->inner->landing, 1);
}

static void arena_full(void *user) { ctx_out_of_memory(user); }

Ctx *ctx_new(Env env) {
    Ctx *ctx = calloc(1, sizeof *ctx);
    if (!ctx) return NULL;
    ctx->env = env;
    ctx->inner = calloc(1, sizeof *ctx->inner);
    ctx->arena = arena_new(arena_full, ctx);
    ctx->diags = diags_new();
    if (ctx->inner && ctx->arena && ctx->diags) return ctx;
    ctx_free(ctx);
    return NULL;
}

static void unwind(CtxInner *inner, size_t to) {
    while (inner->count > to) {
        Deferred last = inner->deferred[--inner->count];
        last.release(last.thing);
    }
}

void ctx_free(Ctx *ctx) {
    if (!ctx) return;
    if (ctx->inner) {
        unwind(ctx->inner, 0);
        free(ctx->inner->deferred);
    }
    free(ctx->inner);
    arena_free(ctx->arena);
    diags_free(ctx->diags);
    free(ctx);
}

bool ctx_protect(Ctx *ctx, void (*body)(Ctx *, void *), void *user) {
    jmp_buf here, *volatile outer = ctx->inner->landing;
    volatile size_t depth = ctx->inner->count;
    ctx->inner->landing = &here;
    if (setjmp(here) == 0) {
        body(ctx, user);
        ctx->inner->landing = outer;
        return true;
    }
    ctx->inner->landing = outer;
    unwind(ctx->inner, depth);
    diags_out_of_memory(ctx->diags);
    return false;
}

void ctx_defer(Ctx *ctx, void (*release)(void *), void *thing) {
    CtxInner *inner = ctx->inner;
    if (inner->count == inner->room) {
        size_t room = inner->room ? inner->room * 2 : 8;
        Deferred *grown = realloc(inner->deferred, room * sizeof *grown);
        if (!grown) {
            release(thing);
            ctx_out_of_memory(ctx);
        }
        inner->deferred = grown;
        inner->room = room;
    }
    inner->deferred[inner->count++] = (Deferred){release, thing};
}

void ctx_done(Ctx *ctx, void *thing) {
    CtxInner *inner = ctx->inner;
    for (size_t i = inner->count; i-- > 0;) {
        if (inner->deferred[i].thing != thing) continue;
        Deferred found = inner->deferred[i];
        for (size_t j = i + 1; j < inner->count; j++) inner->deferred[j - 1] = inner->deferred[j];
        inner->count--;
        found.release(found.thing);
        return;
    }
}
