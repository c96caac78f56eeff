// Kept bundles: the cache entry of a whole target. The same inputs give the same bytes, so where model, schedule, SKU,
// settings, templates, NVRTC and this program are those of an earlier build, its bundle is the result: nothing is
// placed, proved or compiled again.
#ifndef TILEGEN_BUNDLE_KEPT_H
#define TILEGEN_BUNDLE_KEPT_H
#include "compile.h"

typedef struct KeptBundle {
    const char *entry; // of the cache; NULL: nothing is kept of this job
    const char *name;  // of the target or the model
    const void *data;  // NULL: not there yet
    size_t size;
} KeptBundle;

// False after reporting that there is no CUDA compiler, or no templates. Inputs that cannot be read are left to
// compile to report.
bool bundle_kept_find(Ctx *ctx, const Job *job, KeptBundle *kept);
// Keeps a bundle under kept->entry.
void bundle_kept_put(Ctx *ctx, const KeptBundle *kept, const char *name, const void *data, size_t size);
#endif
