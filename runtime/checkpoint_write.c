#include "checkpoint_slots.h"
#include "file.h"
#include "text.h"
#include <string.h>

enum { SHARD_BYTES = 1 << 30 }; // a shard is closed by the tensor that fills it

typedef LIST(TensorOut) Tensors;

// The floats of a vector in the published dtype, or as F32 where that would round them.
static TensorOut vector_out(Ctx *ctx, const Slot *slot) {
    size_t count = (size_t)slot->shape[0];
    const float *values = *slot->vector;
    TensorOut out = {.name = slot->name, .dtype = "F32", .rank = 1, .shape = {slot->shape[0]}};
    bool half = slot->dtype[0] == 'B';
    for (size_t i = 0; i < count; i++) half &= bf16_to_float(float_to_bf16(values[i])) == values[i];
    out.data = values;
    out.bytes = count * sizeof *values;
    if (!half) return out;
    uint16_t *halves = ARENA_ARRAY(ctx->arena, uint16_t, count);
    for (size_t i = 0; i < count; i++) halves[i] = float_to_bf16(values[i]);
    out.dtype = "BF16";
    out.data = halves;
    out.bytes = count * sizeof *halves;
    return out;
}

static TensorOut slot_out(Ctx *ctx, const Slot *slot) {
    if (slot->kind == SLOT_VECTOR) return vector_out(ctx, slot);
    return (TensorOut){.name = slot->name,
                       .dtype = slot->dtype,
                       .rank = slot->rank,
                       .shape = {slot->shape[0], slot->shape[1]},
                       .data = slot->kind == SLOT_MATRIX ? (const void *)slot->matrix->data : slot->matrix->scale,
                       .bytes = slot->bytes};
}

static size_t shard_length(const Tensors *all, size_t from) {
    size_t bytes = 0, to = from;
    while (to < all->count && bytes < SHARD_BYTES) bytes += all->at[to++].bytes;
    return to - from;
}

// The shards, then the index that names them.
static bool shards_write(Ctx *ctx, const Tensors *all, const char *folder) {
    size_t total = 0, shards = 0, number = 0;
    for (size_t at = 0; at < all->count; at += shard_length(all, at)) shards++;
    for (size_t i = 0; i < all->count; i++) total += all->at[i].bytes;
    Text index = text_new(ctx->arena);
    text_printf(&index, "{\"metadata\": {\"total_size\": %zu}, \"weight_map\": {", total);
    for (size_t at = 0, length; at < all->count; at += length) {
        length = shard_length(all, at);
        char *name = arena_printf(ctx->arena, "model-%05zu-of-%05zu.safetensors", ++number, shards);
        if (!safetensors_write(ctx, file_join(ctx, folder, name), all->at + at, length)) return false;
        for (size_t i = at; i < at + length; i++) {
            text_printf(&index, "%s\n\"", i ? "," : "");
            text_json(&index, all->at[i].name, strlen(all->at[i].name));
            text_printf(&index, "\": \"%s\"", name);
        }
    }
    text_printf(&index, "}}\n");
    return file_write(ctx, file_join(ctx, folder, "model.safetensors.index.json"), index.at, index.length);
}

static bool end_tokens_write(Ctx *ctx, const Checkpoint *checkpoint, const char *folder) {
    Text text = text_new(ctx->arena);
    text_printf(&text, "{\"eos_token_id\": [");
    for (int i = 0; i < checkpoint->end_token_count; i++)
        text_printf(&text, "%s%d", i ? ", " : "", checkpoint->end_tokens[i]);
    text_printf(&text, "]}\n");
    return file_write(ctx, file_join(ctx, folder, "generation_config.json"), text.at, text.length);
}

bool checkpoint_write(Ctx *ctx, const Model *model, const Checkpoint *checkpoint, const char *folder) {
    Checkpoint copy = *checkpoint; // slots point into it, and it is read alone
    Slots slots;
    Tensors target = {0}, drafter = {0};
    if (!checkpoint_slots(ctx, model, &copy, &slots)) return false;
    for (size_t i = 0; i < slots.count; i++) {
        Tensors *to = slots.at[i].drafter ? &drafter : &target;
        LIST_ADD(ctx->arena, to, slot_out(ctx, &slots.at[i]));
    }
    char *dflash = file_join(ctx, folder, "dflash");
    if (!file_mkdirs(ctx, folder) || !shards_write(ctx, &target, folder) || !end_tokens_write(ctx, &copy, folder))
        return false;
    return !model->has_drafter ||
           (file_mkdirs(ctx, dflash) &&
            safetensors_write(ctx, file_join(ctx, dflash, "model.safetensors"), drafter.at, drafter.count));
}
