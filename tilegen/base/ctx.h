// Ctx is what every function of the compiler gets first: memory, diagnostics, environment.
//
// Nothing is global. One Ctx belongs to one thread. Memory that runs out leaves through
// ctx_protect, which is the only place that catches it; resources outside the arena (a Lua state,
// a YAML parser, an open file) are registered with ctx_defer so that they are released on that way too.
#ifndef TILEGEN_CTX_H
#define TILEGEN_CTX_H
#include "arena.h"
#include <stdbool.h>

// Exit codes of both programs.
typedef enum Exit {
    EXIT_OK = 0,          // done
    EXIT_INPUT = 1,       // the input has errors
    EXIT_USAGE = 2,       // the command line has
    EXIT_ENVIRONMENT = 3, // no driver, wrong SKU, no memory, no disk
    EXIT_VERIFY = 4,      // a result failed verification
    EXIT_BUG = 5,         // ours
    EXIT_INTERRUPTED = 130
} Exit;

// What main knows of the surroundings; environment variables are read there, once.
typedef struct Env {
    const char *cuda_home; // CUDA_HOME, or NULL
    const char *nvrtc;     // TILEGEN_NVRTC: the library itself, looked for nowhere else; or NULL
    const char *driver;    // TILERUN_CUDA: NVIDIA's driver itself, for diff; or NULL
    const char *cache_dir; // where results are kept (TILEGEN_CACHE or the user's cache folder), or NULL for none
    const char *program;   // this program's file, or NULL; whole bundles are kept only where it is known
    bool colour;           // stderr is a terminal and NO_COLOR is not set
} Env;

typedef struct Diags Diags;
typedef struct Ctx {
    Arena *arena;
    Diags *diags;
    Env env;
    struct CtxInner *inner;
} Ctx;

// NULL when there is no memory for it.
Ctx *ctx_new(Env env);
void ctx_free(Ctx *ctx);

// Runs `body(ctx, user)`. True when it returned; false when memory ran out inside, which is then
// reported as E0001. Calls nest.
bool ctx_protect(Ctx *ctx, void (*body)(Ctx *ctx, void *user), void *user);

// Runs `release(thing)` when ctx_protect is left by lack of memory. ctx_done takes the newest
// registration of `thing` back and runs it.
void ctx_defer(Ctx *ctx, void (*release)(void *thing), void *thing);
void ctx_done(Ctx *ctx, void *thing);

// Leaves to the nearest ctx_protect as if memory had run out: for allocators of libraries.
_Noreturn void ctx_out_of_memory(Ctx *ctx);
#endif
