// Shards: the safetensors files of one folder, looked up by tensor name.
//
// The folder holds model.safetensors.index.json and the files that it names, or else one safetensors file. Index and
// headers must name the same tensors in the same files.
#ifndef TILERUN_SHARDS_H
#define TILERUN_SHARDS_H
#include "safetensors.h"

typedef struct Shards Shards;

// NULL after reporting (E07xx). Mappings live until shards_close; the rest lives in the ctx's arena.
Shards *shards_open(Ctx *ctx, const char *folder);
void shards_close(Shards *shards);
size_t shards_count(const Shards *shards); // tensors
// Tensors sorted by name.
const Tensor *shards_at(const Shards *shards, size_t index);
// Index of the tensor of that name, or -1.
long shards_find(const Shards *shards, const char *name);
// The file that holds tensor `index`.
Span shards_span(const Shards *shards, size_t index);
#endif
