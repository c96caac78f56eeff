// Cubin: CUDA text -> the binary of the engine kernel, by NVRTC, or from the cache. A kernel that spills, drops what
// it asks for or does not fit the SKU is refused. The same text, templates and NVRTC give the same bytes.
#ifndef TILEGEN_CUBIN_H
#define TILEGEN_CUBIN_H
#include "compile.h"
#include "nvrtc_log.h"
#include "sha256.h"
#include "templates.h"

struct Cubin {
    const void *data;
    size_t size;
    Resources resources;
    const Templates *templates;
    const char *nvrtc; // version
    double seconds;    // of NVRTC; 0 from the cache
};

enum { KERNEL_THREADS = 512 }; // ENGINE_THREADS of templates/abi.h
// Bytes of shared memory a block is started with: pages and what stands beside them.
int cubin_dynamic_shared(const Compiled *compiled);
// Bytes a thread that the control arm's kernel may keep in local memory; the engine's may keep none.
enum { GRAPH_LOCAL = 64 };
// Of `text`, compiled->cuda or compiled->graph_cuda, with at most `local` bytes a thread in local memory. NULL after
// reporting (E0451..E0458).
Cubin *cubin_make(Ctx *ctx, const Compiled *compiled, const char *text, int local);
// PTX text of compiled->cuda. NULL after reporting.
const char *cubin_ptx(Ctx *ctx, const Compiled *compiled);
// Adds all that a cubin depends on beside its text to a key: templates, NVRTC, options. False after reporting.
bool cubin_key(Ctx *ctx, const char *home, Sha256 *key);
#endif
