#include "checkpoint_slots.h"
#include "file.h"
#include "pickle.h"
#include "safetensors_dtype.h"
#include <jansson.h>
#include <string.h>
#include <sys/mman.h>

enum { LISTED = 20, CONFIG_CAP = 16 << 20, EMBEDDING_CAP = 16 << 20 };

// A list of names in one diagnostic, the first LISTED of them.
typedef struct Names {
    const char *at[LISTED];
    size_t count;
} Names;

static void names_add(Names *names, const char *name) {
    if (names->count < LISTED) names->at[names->count] = name;
    names->count++;
}

static void names_report(Ctx *ctx, DiagCode code, Span span, const Names *names, const char *what, const char *help) {
    if (!names->count) return;
    diag_error(ctx, code, span, "%zu %s tensor%s", names->count, what, names->count == 1 ? "" : "s");
    for (size_t i = 0; i < names->count && i < LISTED; i++)
        diag_note(ctx, NO_SPAN, "%s", safetensors_shown(ctx, names->at[i]));
    if (names->count > LISTED) diag_note(ctx, NO_SPAN, "and %zu more", names->count - LISTED);
    diag_help(ctx, "%s", help);
}

static const char *shape_print(Ctx *ctx, int rank, const int64_t *shape) {
    const char *out = "";
    for (int i = 0; i < rank; i++) out = arena_printf(ctx->arena, "%s%s%lld", out, i ? ", " : "", (long long)shape[i]);
    return arena_printf(ctx->arena, "[%s]", out);
}

static bool tensor_fits(Ctx *ctx, const Slot *slot, const Tensor *t, Span span) {
    const char *name = slot->name;
    bool vector = slot->kind == SLOT_VECTOR && (strcmp(t->dtype, "BF16") == 0 || strcmp(t->dtype, "F32") == 0);
    if (!vector && strcmp(t->dtype, slot->dtype) != 0) {
        if (slot->kind == SLOT_MATRIX)
            diag_error(ctx, E0705, span, "tensor \"%s\" is %s; the description says %s: %s, stored as %s", name,
                       t->dtype, slot->group, dtype_name(slot->matrix->dtype), slot->dtype);
        else
            diag_error(ctx, E0705, span, "tensor \"%s\" is %s; %s is wanted", name, t->dtype,
                       slot->kind == SLOT_VECTOR ? "BF16 or F32" : slot->dtype);
        return false;
    }
    if (t->rank == slot->rank && memcmp(t->shape, slot->shape, (size_t)t->rank * sizeof *t->shape) == 0) return true;
    diag_error(ctx, E0705, span, "tensor \"%s\" has the shape %s; %s follows from the description", name,
               shape_print(ctx, t->rank, t->shape), shape_print(ctx, slot->rank, slot->shape));
    return false;
}

static bool float_is_number(const uint8_t *at) {
    uint32_t bits;
    memcpy(&bits, at, sizeof bits);
    return (bits & 0x7F800000) != 0x7F800000;
}

// First scale that is NaN or infinite, or -1.
static long scale_bad(const Slot *slot, const Tensor *t) {
    if (slot->matrix->dtype == DTYPE_MXFP4) {
        const uint8_t *found = memchr(t->data, 255, t->bytes);
        return found ? (long)(found - t->data) : -1;
    }
    for (size_t i = 0; i < t->bytes; i += 4)
        if (!float_is_number(t->data + i)) return (long)(i / 4);
    return -1;
}

static bool vector_bind(Ctx *ctx, const Slot *slot, const Tensor *t, Span span) {
    int length = (int)slot->shape[0];
    float *out = ARENA_ARRAY(ctx->arena, float, length);
    Matrix row = {.dtype = t->dtype[0] == 'F' ? DTYPE_F32 : DTYPE_BF16, .data = t->data};
    matrix_decode(&row, 0, 0, length, out);
    *slot->vector = out;
    for (int i = 0; i < length; i++) {
        if (float_is_number((const uint8_t *)&out[i])) continue;
        diag_error(ctx, E0725, span, "tensor \"%s\": value %d is NaN or infinite", slot->name, i);
        return false;
    }
    return true;
}

static bool tensor_bind(Ctx *ctx, const Slot *slot, const Tensor *t, Span span) {
    if (!tensor_fits(ctx, slot, t, span)) return false;
    if (slot->kind == SLOT_VECTOR) return vector_bind(ctx, slot, t, span);
    if (slot->kind == SLOT_MATRIX) {
        slot->matrix->data = t->data;
        return true;
    }
    slot->matrix->scale = t->data;
    long bad = scale_bad(slot, t);
    if (bad < 0) return true;
    diag_error(ctx, E0706, span, "tensor \"%s\": the scale of row %ld, column %ld is NaN or infinite", slot->name,
               bad / (long)slot->shape[1], bad % (long)slot->shape[1]);
    return false;
}

// "model.layers.N." of a layer past the description's: N, else -1.
static int layer_past(const Model *model, const char *name) {
    int layer = -1, used = 0;
    if (sscanf(name, "model.layers.%5d.%n", &layer, &used) != 1 || !used) return -1;
    return layer >= model->layer_count ? layer : -1;
}

// Multi-token prediction lies under its own name, or as layers past the last one that join embedding and hidden state.
static bool tensor_unused(const Model *model, const Shards *shards, const char *name) {
    static const char *const joints[] = {"eh_proj.weight", "enorm.weight", "hnorm.weight"};
    if (strncmp(name, "model.mtp", 9) == 0 || strncmp(name, "mtp.", 4) == 0) return true;
    if (model->tied_head && strcmp(name, "lm_head.weight") == 0) return true;
    size_t length = strlen(name), tail = strlen(".rotary_emb.inv_freq");
    if (length > tail && strcmp(name + length - tail, ".rotary_emb.inv_freq") == 0) return true;
    int layer = layer_past(model, name);
    for (size_t i = 0; layer >= 0 && i < sizeof joints / sizeof *joints; i++) {
        char joint[64];
        snprintf(joint, sizeof joint, "model.layers.%d.%s", layer, joints[i]);
        if (shards_find(shards, joint) >= 0) return true;
    }
    return false;
}

// Binds the slots of the target or of the drafter. True when each has its tensor and no tensor is left.
static bool shards_bind(Ctx *ctx, const Model *model, const Slots *slots, const Shards *shards, bool drafter,
                        Span folder) {
    Names missing = {0}, unexpected = {0};
    bool *used = ARENA_ARRAY(ctx->arena, bool, shards_count(shards) + 1);
    size_t wrong = 0;
    for (size_t i = 0; i < slots->count && wrong < LISTED; i++) {
        const Slot *slot = &slots->at[i];
        if (slot->drafter != drafter) continue;
        long at = shards_find(shards, slot->name);
        if (at >= 0) {
            used[at] = true;
            wrong += !tensor_bind(ctx, slot, shards_at(shards, (size_t)at), shards_span(shards, (size_t)at));
        } else if (!slot->elsewhere)
            names_add(&missing, slot->name);
    }
    if (wrong == LISTED) { // the rest of the list would be in doubt
        diag_note(ctx, NO_SPAN, "the other tensors were not looked at");
        return false;
    }
    for (size_t i = 0; i < shards_count(shards); i++) {
        const char *name = shards_at(shards, i)->name;
        if (!used[i] && !(!drafter && tensor_unused(model, shards, name))) names_add(&unexpected, name);
    }
    names_report(ctx, E0703, folder, &missing, "missing",
                 "the description must be that of this checkpoint; `tilegen import` makes one");
    names_report(ctx, E0704, folder, &unexpected, "unexpected",
                 "the description must be that of this checkpoint; `tilegen import` makes one");
    return !wrong && !missing.count && !unexpected.count;
}

// mask_embedding.pt, where the safetensors have no such tensor.
static bool mask_embedding_bind(Ctx *ctx, const Model *model, Checkpoint *checkpoint, const char *folder) {
    char *path = file_join(ctx, folder, "mask_embedding.pt");
    if (checkpoint->drafter.mask_embedding) return true;
    if (!file_exists(path)) {
        Names missing = {{"mask_embedding"}, 1};
        names_report(ctx, E0703, file_span(ctx, folder), &missing, "missing",
                     "the drafter's safetensors, or mask_embedding.pt beside them, hold it");
        return false;
    }
    Source *source = file_read(ctx, path, EMBEDDING_CAP);
    if (!source) return false;
    Span span = file_span(ctx, path); // the bytes are no text to show
    int64_t token = 0;
    float *values = NULL;
    if (!mask_embedding_parse(ctx, span, (const uint8_t *)source->text, source->length, model->hidden, &token, &values))
        return false;
    if (token != model->drafter.mask_token) {
        diag_error(ctx, E0727, span, "it belongs to the mask token %lld, the description has %d", (long long)token,
                   model->drafter.mask_token);
        return false;
    }
    for (int i = 0; i < model->hidden; i++) {
        if (float_is_number((const uint8_t *)&values[i])) continue;
        diag_error(ctx, E0725, span, "value %d is NaN or infinite", i);
        return false;
    }
    checkpoint->drafter.mask_embedding = values;
    return true;
}

static bool end_token_add(Ctx *ctx, const Model *model, Checkpoint *checkpoint, Span span, const json_t *value) {
    int room = (int)(sizeof checkpoint->end_tokens / sizeof *checkpoint->end_tokens);
    bool whole = json_is_integer(value) && json_integer_value(value) >= 0 && json_integer_value(value) < model->vocab;
    if (!whole || checkpoint->end_token_count == room) {
        diag_error(ctx, E0726, span,
                   whole ? "\"eos_token_id\" lists more than %d tokens"
                         : "\"eos_token_id\" must be token ids of at least 0 and less than %d",
                   whole ? room : model->vocab);
        return false;
    }
    checkpoint->end_tokens[checkpoint->end_token_count++] = (int)json_integer_value(value);
    return true;
}

static void json_release(void *root) { json_decref(root); }

// The end tokens of one file, if it is there and gives any.
static bool end_tokens_read(Ctx *ctx, const Model *model, Checkpoint *checkpoint, const char *path) {
    if (!file_exists(path)) return true;
    Source *source = file_read(ctx, path, CONFIG_CAP);
    if (!source) return false;
    Span span = {source, 0, 0, 0};
    json_error_t error;
    json_t *root = json_loadb(source->text, source->length, JSON_REJECT_DUPLICATES, &error);
    if (!root) {
        if (json_error_code(&error) == json_error_out_of_memory) ctx_out_of_memory(ctx);
        span.line = (uint32_t)(error.line > 0 ? error.line : 1);
        span.col = (uint32_t)(error.column > 0 ? error.column : 1);
        diag_error(ctx, E0726, span, "not valid JSON: %s", error.text);
        return false;
    }
    ctx_defer(ctx, json_release, root);
    bool ok = true;
    json_t *value = json_object_get(root, "eos_token_id");
    if (json_is_array(value)) {
        for (size_t i = 0; ok && i < json_array_size(value); i++)
            ok = end_token_add(ctx, model, checkpoint, span, json_array_get(value, i));
    } else if (value && !json_is_null(value))
        ok = end_token_add(ctx, model, checkpoint, span, value);
    ctx_done(ctx, root);
    return ok;
}

void checkpoint_close(Checkpoint *checkpoint) {
    if (!checkpoint) return;
    CheckpointInner *inner = checkpoint->inner;
    shards_close(inner->target);
    shards_close(inner->drafter);
    if (inner->map) munmap(inner->map, inner->map_bytes);
    *inner = (CheckpointInner){0};
}
static void release(void *guard) { checkpoint_close(*(Checkpoint **)guard); }

static bool checkpoint_read(Ctx *ctx, const Model *model, Checkpoint *checkpoint, const Slots *slots,
                            const char *folder) {
    CheckpointInner *inner = checkpoint->inner;
    char *dflash = file_join(ctx, folder, "dflash");
    inner->target = shards_open(ctx, folder);
    bool ok = inner->target && shards_bind(ctx, model, slots, inner->target, false, file_span(ctx, folder));
    if (model->has_drafter) {
        inner->drafter = shards_open(ctx, dflash);
        ok &= inner->drafter && shards_bind(ctx, model, slots, inner->drafter, true, file_span(ctx, dflash)) &&
              mask_embedding_bind(ctx, model, checkpoint, dflash);
    }
    if (model->tied_head) checkpoint->head = checkpoint->embed;
    ok &= end_tokens_read(ctx, model, checkpoint, file_join(ctx, folder, "generation_config.json"));
    if (!checkpoint->end_token_count)
        ok &= end_tokens_read(ctx, model, checkpoint, file_join(ctx, folder, "config.json"));
    return ok;
}

Checkpoint *checkpoint_open(Ctx *ctx, const Model *model, const char *folder) {
    Slots slots;
    Checkpoint *checkpoint = checkpoint_new(ctx, model, &slots), **guard = ARENA_NEW(ctx->arena, Checkpoint *);
    if (!checkpoint) return NULL;
    *guard = checkpoint;
    ctx_defer(ctx, release, guard);
    bool ok = checkpoint_read(ctx, model, checkpoint, &slots, folder);
    if (ok) *guard = NULL; // the caller's now
    ctx_done(ctx, guard);
    return ok ? checkpoint : NULL;
}
