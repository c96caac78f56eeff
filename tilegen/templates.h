// Templates: the CUDA headers of a kernel, all of them, in the order of their names.
#ifndef TILEGEN_TEMPLATES_H
#define TILEGEN_TEMPLATES_H
#include "diag.h"

typedef struct Templates {
    const Source **files;
    size_t count;
} Templates;

// *.h and *.cuh of HOME/templates. NULL after reporting (E0458, E0002).
const Templates *templates_read(Ctx *ctx, const char *home);
#endif
