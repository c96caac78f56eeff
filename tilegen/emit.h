// Emit: Compiled -> CUDA text of its engine kernel, one translation unit on top of templates/engine.cuh: the model's
// dimensions as constants, and a table of steps. The kernel's name is ENGINE_KERNEL. The text depends on its inputs
// alone and names template files without folders. It is compiled with -I of the templates' folder.
#ifndef TILEGEN_EMIT_H
#define TILEGEN_EMIT_H
#include "compile.h"

#define ENGINE_KERNEL "tilegen_engine"
// NULL after reporting what the kernel cannot do (E0442).
char *emit_cuda(Ctx *ctx, const Compiled *compiled);
#endif
