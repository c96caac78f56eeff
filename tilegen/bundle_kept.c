#include "bundle_kept.h"
#include "cache.h"
#include "cubin.h"
#include "file.h"
#include "version.h"
#include <string.h>

enum { PROGRAM_CAP = 1 << 28 };

// The file's bytes and its name without folders, which the manifest has. False when it cannot be read.
static bool add_file(Ctx *ctx, Sha256 *key, const char *path, size_t cap) {
    size_t errors = diag_errors(ctx);
    Source *file = file_read(ctx, path, cap);
    if (!file) {
        diag_forget(ctx, errors);
        return false;
    }
    const char *slash = strrchr(path, '/');
    cache_add_text(ctx, key, "%s", slash ? slash + 1 : path);
    cache_add(key, file->text, file->length);
    return true;
}

bool bundle_kept_find(Ctx *ctx, const Job *job, KeptBundle *kept) {
    *kept = (KeptBundle){0};
    if (!ctx->env.cache_dir || !ctx->env.program || job->prog) return true;
    if (strcmp(job->model, "-") == 0 || strcmp(job->schedule, "-") == 0) return true; // standard input is read once
    const Sku *sku = job->sku;
    Sha256 key;
    sha256_init(&key);
    if (job_has_kernel(job) && !cubin_key(ctx, job->home, &key)) return false;
    // The program's own bytes: passes change between two builds of one version.
    if (!add_file(ctx, &key, ctx->env.program, PROGRAM_CAP)) return true;
    if (!add_file(ctx, &key, job->model, MODEL_FILE_CAP)) return true;
    if (!add_file(ctx, &key, job->schedule, SCHED_FILE_CAP)) return true;
    cache_add_text(ctx, &key, "%s", job->name ? job->name : "");
    cache_add_text(ctx, &key, "%s %s %d %d %d %lld %lld %.17g %.17g", sku->name, sku->arch, sku->workers,
                   sku->shared_memory, sku->registers, (long long)sku->memory, (long long)sku->l2, sku->bandwidth,
                   sku->clock);
    cache_add_text(ctx, &key, "%d %d %d", job->tp, job->prove, job->graph);
    for (size_t i = 0; i < job->setting_count; i++)
        cache_add_text(ctx, &key, "%s=%s from %d", job->settings[i].name, job->settings[i].value,
                       (int)job->settings[i].origin);
    kept->entry = cache_name(ctx, &key, "bundle");
    const void *entry;
    size_t size;
    if (!cache_get(ctx, kept->entry, &entry, &size)) return true;
    kept->name = entry; // a C string, then the bundle
    kept->data = kept->name + strlen(kept->name) + 1;
    kept->size = size - strlen(kept->name) - 1;
    return true;
}

void bundle_kept_put(Ctx *ctx, const KeptBundle *kept, const char *name, const void *data, size_t size) {
    if (!kept->entry) return;
    size_t head = strlen(name) + 1;
    char *entry = arena_alloc(ctx->arena, head + size);
    memcpy(entry, name, head);
    memcpy(entry + head, data, size);
    cache_put(ctx, kept->entry, entry, head + size);
}
