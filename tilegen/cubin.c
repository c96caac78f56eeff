#include "cubin.h"
#include "../templates/abi.h"
#include "cache.h"
#include "nvrtc.h"
#include "version.h"
#include <string.h>

// NVRTC's own cache, which it has where there is a driver, forgets ptxas's figures.
static const char *const plain_options[] = {"--std=c++17", "-default-device", "-lineinfo", "--ptxas-options=-v",
                                            "--no-cache"};
enum { PLAIN_OPTIONS = sizeof plain_options / sizeof *plain_options };

// What stands beside the text: the inputs of every kernel.
typedef struct Tools {
    const Templates *templates;
    Nvrtc *nvrtc;
} Tools;

static bool tools_open(Ctx *ctx, const char *home, Tools *tools) {
    tools->templates = templates_read(ctx, home);
    tools->nvrtc = tools->templates ? nvrtc_open(ctx, home) : NULL;
    return tools->nvrtc != NULL;
}

static void tools_key(Ctx *ctx, const Tools *tools, Sha256 *key) {
    cache_add_text(ctx, key, "tilegen %s, NVRTC %s of %lld bytes", TILEGEN_VERSION, nvrtc_version(tools->nvrtc),
                   (long long)nvrtc_bytes(tools->nvrtc));
    for (int i = 0; i < PLAIN_OPTIONS; i++) cache_add(key, plain_options[i], strlen(plain_options[i]));
    for (size_t i = 0; i < tools->templates->count; i++) {
        const Source *file = tools->templates->files[i];
        cache_add(key, strrchr(file->name, '/') + 1, strlen(strrchr(file->name, '/') + 1));
        cache_add(key, file->text, file->length);
    }
}

bool cubin_key(Ctx *ctx, const char *home, Sha256 *key) {
    Tools tools;
    if (!tools_open(ctx, home, &tools)) return false;
    tools_key(ctx, &tools, key);
    return true;
}

// Compiles for `arch`. False after reporting.
static bool run_nvrtc(Ctx *ctx, const Tools *tools, const char *text, const char *arch, bool ptx, NvrtcResult *out) {
    const char *options[PLAIN_OPTIONS + 1] = {arena_printf(ctx->arena, "--gpu-architecture=%s", arch)};
    memcpy(options + 1, plain_options, sizeof plain_options);
    Source *source = source_new(ctx, "kernel.cu", text, strlen(text));
    size_t count = tools->templates->count, errors = diag_errors(ctx);
    NvrtcJob job = {source, tools->templates->files, count, options, PLAIN_OPTIONS + 1, ptx};
    if (!nvrtc_compile(ctx, tools->nvrtc, &job, out)) return false;
    const Source **sources = ARENA_ARRAY(ctx->arena, const Source *, count + 1);
    memcpy(sources, tools->templates->files, count * sizeof *sources);
    sources[count] = source;
    nvrtc_log_report(ctx, out->log, sources, count + 1);
    if (!out->ok && diag_errors(ctx) == errors)
        diag_error(ctx, E0453, NO_SPAN, "the CUDA compiler refused the kernel: %.400s", out->log);
    return diag_errors(ctx) == errors;
}

int cubin_dynamic_shared(const Compiled *c) { return c->prog->page_count * c->prog->page_bytes; }

static bool fits(Ctx *ctx, const Compiled *c, const Resources *r, int local) {
    _Static_assert((int)KERNEL_THREADS == (int)ENGINE_THREADS, "threads");
    const Sku *sku = c->job.sku;
    size_t errors = diag_errors(ctx);
    if (r->functions == 0) diag_error(ctx, E0453, NO_SPAN, "ptxas gave no figures of the kernel");
    if (r->stack > local || (local == 0 && r->spill_stores + r->spill_loads > 0)) {
        diag_error(ctx, E0454, NO_SPAN, "the kernel keeps %d bytes a thread in local memory: %d stored, %d loaded",
                   r->stack, r->spill_stores, r->spill_loads);
        diag_help(ctx, "make the tiles of its ops smaller, or index no local array at run time");
    }
    int registers = (r->registers + 7) / 8 * 8 * ENGINE_THREADS; // handed out by eights
    if (registers > sku->registers)
        diag_error(ctx, E0455, NO_SPAN, "%d registers a thread for %d threads are %d; %s has %d an SM", r->registers,
                   ENGINE_THREADS, registers, sku->name, sku->registers);
    int64_t shared = (int64_t)r->shared + cubin_dynamic_shared(c);
    if (shared > sku->shared_memory) {
        diag_error(
            ctx, E0455, NO_SPAN, "%d pages of %d bytes and %d beside them are %lld bytes of shared memory; %s has %d",
            c->prog->page_count, c->prog->page_bytes, r->shared, (long long)shared, sku->name, sku->shared_memory);
        if (c->prog->page_bytes)
            diag_help(ctx, "at most %d pages of this size fit", (sku->shared_memory - r->shared) / c->prog->page_bytes);
    }
    return diag_errors(ctx) == errors;
}

Cubin *cubin_make(Ctx *ctx, const Compiled *c, const char *text, int local) {
    Tools tools;
    if (!tools_open(ctx, c->job.home, &tools)) return NULL;
    Sha256 key;
    sha256_init(&key);
    tools_key(ctx, &tools, &key);
    cache_add(&key, c->job.sku->arch, strlen(c->job.sku->arch));
    cache_add(&key, text, strlen(text));
    const char *name = cache_name(ctx, &key, "cubin"), *log;
    Cubin *cubin = ARENA_NEW(ctx->arena, Cubin);
    *cubin = (Cubin){.templates = tools.templates, .nvrtc = nvrtc_version(tools.nvrtc)};
    const void *entry;
    size_t size;
    if (cache_get(ctx, name, &entry, &size)) { // the log, its zero byte, the cubin
        log = entry;
        cubin->data = log + strlen(log) + 1;
        cubin->size = size - strlen(log) - 1;
    } else {
        NvrtcResult result;
        size_t said = diag_count(ctx);
        if (!run_nvrtc(ctx, &tools, text, c->job.sku->arch, false, &result)) return NULL;
        cubin->data = result.data;
        cubin->size = result.size;
        cubin->seconds = result.seconds;
        log = result.log;
        size_t head = strlen(log) + 1;
        char *keep = arena_alloc(ctx->arena, head + cubin->size);
        memcpy(keep, log, head);
        memcpy(keep + head, cubin->data, cubin->size);
        if (diag_count(ctx) == said) cache_put(ctx, name, keep, head + cubin->size); // warnings are told every time
    }
    cubin->resources = nvrtc_log_resources(log);
    return fits(ctx, c, &cubin->resources, local) ? cubin : NULL;
}

const char *cubin_ptx(Ctx *ctx, const Compiled *c) {
    Tools tools;
    NvrtcResult result;
    // PTX is of a virtual architecture: compute_90a for sm_90a.
    const char *arch = arena_printf(ctx->arena, "compute_%s", c->job.sku->arch + strlen("sm_"));
    if (!tools_open(ctx, c->job.home, &tools)) return NULL;
    return run_nvrtc(ctx, &tools, c->cuda, arch, true, &result) ? result.data : NULL;
}
