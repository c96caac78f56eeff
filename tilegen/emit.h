// Emit: Compiled -> CUDA text of its engine kernel, one translation unit on top of templates/engine.cuh: the model's
// dimensions as constants, and a table of steps. The kernel's name is ENGINE_KERNEL. The text depends on its inputs
// alone and names template files without folders. It is compiled with -I of the templates' folder.
#ifndef TILEGEN_EMIT_H
#define TILEGEN_EMIT_H
#include "compile.h"

#define ENGINE_KERNEL "tilegen_engine"
// Beside it, for benches: fills a segment at random (EngineFill), reads a range as fast as it can (EngineStream).
#define FILL_KERNEL   "tilegen_fill"
#define STREAM_KERNEL "tilegen_stream"
// The same device functions as a kernel for each part of a round, in a translation unit of its own.
#define GRAPH_KERNEL "tilegen_node"
// NULL after reporting what the kernel cannot do (E0442).
char *emit_cuda(Ctx *ctx, const Compiled *compiled);
char *emit_graph(Ctx *ctx, const Compiled *compiled);
#endif
