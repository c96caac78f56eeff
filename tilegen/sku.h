// Sku: the machine a kernel is specialised for. Target: what to build by name. Both are data in build.lua:
//
//   sku "h200" { arch = "sm_90a", workers = 132, shared_memory = 232448, registers = 65536, memory = 141e9, ... }
//   target "demo/h200" { model = "models/demo.yaml", schedule = "schedules/decode.lua", sku = "h200", tp = 1 }
#ifndef TILEGEN_SKU_H
#define TILEGEN_SKU_H
#include "diag.h"

typedef struct Sku {
    const char *name;
    const char *arch;  // "host" or "sm_90a"
    int workers;       // SMs; workers of the host executor
    int shared_memory; // bytes a block may use; 0 on the host
    int registers;     // 32-bit registers an SM
    int64_t memory;    // bytes
    int64_t l2;        // bytes
    double bandwidth;  // streaming read, bytes a second, measured
    double clock;      // Hz under load
    Span span;
} Sku;

bool sku_is_host(const Sku *sku);
// Shared memory of a block that pages may take: what the kernel needs beside them is taken off. 0 on the host.
int sku_page_memory(const Sku *sku);

typedef struct Target {
    const char *name, *model, *schedule, *sku; // files relative to build.lua's folder
    int tp;
    Span span;
} Target;

typedef struct Build {
    Sku *skus;
    size_t sku_count;
    Target *targets;
    size_t target_count;
    const char *folder; // of build.lua
} Build;

// Runs build.lua in the sandbox. NULL after reporting (E03xx).
Build *build_read(Ctx *ctx, Source *source, const char *folder);
// NULL after reporting the unknown name with a suggestion at `span`.
const Sku *build_sku(Ctx *ctx, const Build *build, const char *name, Span span);
const Target *build_target(Ctx *ctx, const Build *build, const char *name, Span span);
#endif
