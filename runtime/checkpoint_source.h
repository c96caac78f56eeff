// TensorSource: where checkpoint.c gets its tensors by name: mapped shards of a folder, or made up from a seed. It
// keeps account of what was asked for, so that missing and unexpected tensors can be listed. Private to the checkpoint.
#ifndef TILERUN_CHECKPOINT_SOURCE_H
#define TILERUN_CHECKPOINT_SOURCE_H
#include "checkpoint.h"
#include "safetensors.h"

typedef struct TensorSource {
    Ctx *ctx;
    const char *folder; // NULL: synthetic
    uint64_t seed;
    Safetensors **shards;
    size_t shard_count;
    bool **used; // [shards][tensors]
    LIST(const char *) missing;
    size_t missing_count;
    LIST(TensorOut) made; // synthetic tensors, in the order asked for
    bool failed;
} TensorSource;

typedef struct SourcePair {
    TensorSource *target, *drafter;
} SourcePair;

// Opens a folder's shards: those of model.safetensors.index.json, else every *.safetensors. NULL after reporting.
TensorSource *source_open(Ctx *ctx, const char *folder);
TensorSource *source_synthetic(Ctx *ctx, uint64_t seed);
// The data of a tensor, [d0] or [d0, d1]. NULL when it is missing (listed later) or wrong (reported).
const uint8_t *source_tensor(TensorSource *source, const char *name, const char *dtype, int rank, int64_t d0,
                             int64_t d1);
// The mask embedding of mask_embedding.pt as floats, or NULL when there is no such file.
float *source_mask(TensorSource *source, int hidden, int mask_token);
// Reports missing and unexpected tensors, by name. False when there are any or when a tensor was wrong.
bool source_complete(TensorSource *source, const Model *model);
bool source_write(const TensorSource *source, const char *path);
SourcePair *source_pair(Ctx *ctx, TensorSource *target, TensorSource *drafter);
void source_pair_close(SourcePair *pair);
// eos_token_id of generation_config.json, else config.json. False after reporting.
bool source_end_tokens(Ctx *ctx, const char *folder, int vocab, int tokens[16], int *count);
#endif
