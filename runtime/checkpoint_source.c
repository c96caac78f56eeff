#include "checkpoint_source.h"
#include "file.h"
#include "mask_file.h"
#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LISTED = 20 };

static void root_free(void *root) { json_decref(root); }

// A JSON file of the folder, ctx_defer'ed. NULL after reporting.
static json_t *json_open(Ctx *ctx, const char *path) {
    Source *source = file_read(ctx, path, 256 << 20);
    if (!source) return NULL;
    json_error_t error;
    json_t *root = json_loadb(source->text, source->length, JSON_REJECT_DUPLICATES, &error);
    if (!root) {
        if (json_error_code(&error) == json_error_out_of_memory) ctx_out_of_memory(ctx);
        Span span = {source, (uint32_t)(error.line > 0 ? error.line : 1),
                     (uint32_t)(error.column > 0 ? error.column : 1), 1};
        diag_error(ctx, E0702, span, "not valid JSON: %s", error.text);
        return NULL;
    }
    ctx_defer(ctx, root_free, root);
    return root;
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

typedef LIST(char *) Names;

static bool has(const Names *names, const char *name) {
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->at[i], name) == 0) return true;
    return false;
}

static void close_shards(void *user) {
    TensorSource *source = user;
    for (size_t i = 0; i < source->shard_count; i++) safetensors_close(source->shards[i]);
    source->shard_count = 0;
}

// Shard names of the index; NULL index: every *.safetensors, sorted.
static bool shard_names(Ctx *ctx, const char *folder, json_t *map, Names *names) {
    const char *tensor;
    json_t *shard;
    if (map) {
        json_object_foreach(map, tensor, shard) {
            const char *name = json_string_value(shard);
            if (!name || strchr(name, '/') || strlen(name) > 200) {
                diag_error(ctx, E0707, file_span(ctx, folder), "the index has no file name for tensor %s", tensor);
                return false;
            }
            if (!has(names, name)) LIST_ADD(ctx->arena, names, arena_text(ctx->arena, name));
        }
    } else {
        DIR *dir = opendir(folder);
        for (struct dirent *entry; dir && (entry = readdir(dir));) {
            size_t length = strlen(entry->d_name);
            if (length > 12 && strcmp(entry->d_name + length - 12, ".safetensors") == 0)
                LIST_ADD(ctx->arena, names, arena_text(ctx->arena, entry->d_name));
        }
        if (dir) closedir(dir);
    }
    qsort(names->at, names->count, sizeof *names->at, by_text);
    if (names->count) return true;
    diag_error(ctx, E0702, file_span(ctx, folder), "no *.safetensors here");
    return false;
}

// Every tensor of the index is in the shard that it names.
static bool index_holds(Ctx *ctx, const TensorSource *source, const Names *names, json_t *map, const char *path) {
    const char *tensor;
    json_t *shard;
    json_object_foreach(map, tensor, shard) {
        size_t i = 0;
        while (i < names->count && strcmp(names->at[i], json_string_value(shard)) != 0) i++;
        if (i < names->count && safetensors_find(source->shards[i], tensor)) continue;
        diag_error(ctx, E0707, file_span(ctx, path), "tensor %s is not in %s, as the index says", tensor,
                   json_string_value(shard));
        return false;
    }
    return true;
}

TensorSource *source_open(Ctx *ctx, const char *folder) {
    TensorSource *source = ARENA_NEW(ctx->arena, TensorSource);
    *source = (TensorSource){.ctx = ctx, .folder = arena_text(ctx->arena, folder)};
    char *index_path = file_join(ctx, folder, "model.safetensors.index.json");
    json_t *index = NULL, *map = NULL;
    if (file_exists(index_path)) {
        if (!(index = json_open(ctx, index_path))) return NULL;
        map = json_object_get(index, "weight_map");
        if (!json_is_object(map)) {
            diag_error(ctx, E0707, file_span(ctx, index_path), "the index has no weight_map");
            return NULL;
        }
    }
    Names names = {0};
    bool ok = shard_names(ctx, folder, map, &names);
    source->shards = ARENA_ARRAY(ctx->arena, Safetensors *, names.count + 1);
    source->used = ARENA_ARRAY(ctx->arena, bool *, names.count + 1);
    for (size_t i = 0; ok && i < names.count; i++) {
        Safetensors *shard = safetensors_open(ctx, file_join(ctx, folder, names.at[i]));
        size_t count;
        if (!shard) {
            ok = false;
            break;
        }
        source->shards[source->shard_count++] = shard;
        safetensors_tensors(shard, &count);
        source->used[i] = ARENA_ARRAY(ctx->arena, bool, count + 1);
    }
    ok = ok && (!map || index_holds(ctx, source, &names, map, index_path));
    if (index) ctx_done(ctx, index);
    if (ok) return source;
    close_shards(source);
    return NULL;
}

TensorSource *source_synthetic(Ctx *ctx, uint64_t seed) {
    TensorSource *source = ARENA_NEW(ctx->arena, TensorSource);
    *source = (TensorSource){.ctx = ctx, .seed = seed};
    return source;
}

// ---- Synthetic tensors: a counter-based generator keyed by seed, name and index ----

static uint64_t mix(uint64_t z) {
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

// Roughly normal: a sum of four uniform numbers, mean 0, deviation 1.
static float noise(uint64_t key, uint64_t index) {
    uint64_t bits = mix(key + index * 0x9E3779B97F4A7C15u);
    float sum = 0;
    for (int i = 0; i < 4; i++) sum += (float)(bits >> 16 * i & 0xFFFF) / 65536.0f - 0.5f;
    return sum * 1.7320508f;
}

static bool ends_with(const char *text, const char *tail) {
    size_t n = strlen(text), m = strlen(tail);
    return n >= m && strcmp(text + n - m, tail) == 0;
}

static const uint8_t *make_tensor(TensorSource *s, const char *name, const char *dtype, int rank, int64_t d0,
                                  int64_t d1) {
    int64_t count = rank == 1 ? d0 : d0 * d1, width = strcmp(dtype, "F32") == 0    ? 4
                                                      : strcmp(dtype, "BF16") == 0 ? 2
                                                                                   : 1;
    uint8_t *out = arena_alloc(s->ctx->arena, (size_t)(count * width));
    uint64_t key = s->seed * 0x2545F4914F6CDD1Du + 1;
    for (const char *c = name; *c; c++) key = mix(key + (uint8_t)*c);
    bool norm = ends_with(name, "norm.weight"), bias = ends_with(name, "correction_bias");
    float deviation = rank == 2 ? 1.0f / sqrtf((float)d1) : bias ? 0.02f : 0.5f;
    if (ends_with(name, "embed_tokens.weight")) deviation = 0.6f;
    if (ends_with(name, "mlp.gate.weight") || ends_with(name, "lm_head.weight"))
        deviation *= 3; // choices that are not near ties
    for (int64_t i = 0; i < count; i++) {
        float value = norm ? 1 + 0.1f * noise(key, (uint64_t)i) : deviation * noise(key, (uint64_t)i);
        if (ends_with(name, "weight_scale_inv"))
            value = 0.008f * (1 + 0.2f * noise(key, (uint64_t)i)); // see the fp8 codes
        if (width == 4) memcpy(out + 4 * i, &value, 4);
        if (width == 2) {
            uint16_t half = float_to_bf16(value);
            memcpy(out + 2 * i, &half, 2);
        }
        if (width > 1) continue;
        uint64_t bits = mix(key + (uint64_t)i * 0x9E3779B97F4A7C15u);
        if (ends_with(name, "weight_scale")) { // e2m1 codes at random have a deviation of 2.9
            int exponent = (int)lrintf(-log2f(2.9f * sqrtf(32.0f * (float)d1)));
            out[i] = (uint8_t)(127 + exponent + (int)(bits % 3) - 1);
        } else if (strcmp(dtype, "F8_E4M3") == 0) { // exponents -2..3, deviation about 5; 5 * 0.008 = 1/sqrt(625)
            out[i] = (uint8_t)((bits >> 8 & 0x80) | (5 + bits % 6) << 3 | (bits >> 20 & 7));
        } else
            out[i] = (uint8_t)bits;
    }
    TensorOut made = {arena_text(s->ctx->arena, name), dtype, rank, {d0, d1}, out, (size_t)(count * width)};
    LIST_ADD(s->ctx->arena, &s->made, made);
    return out;
}

// ---- Asking for tensors ----

static bool scales_fine(const Tensor *tensor, const char *name) {
    bool bytes = strcmp(tensor->dtype, "U8") == 0;
    if (!ends_with(name, "_scale") && !ends_with(name, "_scale_inv")) return true;
    uint8_t nan = 0;
    if (bytes) {
        for (size_t i = 0; i < tensor->bytes; i++) nan |= tensor->data[i] == 255;
        return !nan;
    }
    for (size_t i = 0; i + 4 <= tensor->bytes; i += 4) {
        float value;
        memcpy(&value, tensor->data + i, 4);
        if (!isfinite(value)) return false;
    }
    return true;
}

const uint8_t *source_tensor(TensorSource *s, const char *name, const char *dtype, int rank, int64_t d0, int64_t d1) {
    if (!s->folder) return make_tensor(s, name, dtype, rank, d0, d1);
    const Tensor *found = NULL;
    for (size_t i = 0; i < s->shard_count && !found; i++) {
        size_t count;
        found = safetensors_find(s->shards[i], name);
        if (found) s->used[i][found - safetensors_tensors(s->shards[i], &count)] = true;
    }
    if (!found) {
        s->missing_count++;
        if (s->missing.count < LISTED) LIST_ADD(s->ctx->arena, &s->missing, arena_text(s->ctx->arena, name));
        return NULL;
    }
    Span span = file_span(s->ctx, s->folder);
    bool shape = found->rank == rank && found->shape[0] == d0 && (rank == 1 || found->shape[1] == d1);
    if (strcmp(found->dtype, dtype) != 0 || !shape) {
        s->failed = true;
        char want[64];
        snprintf(want, sizeof want, rank == 1 ? "[%lld]" : "[%lld, %lld]", (long long)d0, (long long)d1);
        diag_error(s->ctx, E0705, span, "tensor %s is %s [%lld%s%.0lld] of rank %d; the model description wants %s %s",
                   name, found->dtype, (long long)found->shape[0], found->rank > 1 ? ", " : "",
                   found->rank > 1 ? (long long)found->shape[1] : 0LL, found->rank, dtype, want);
        diag_help(s->ctx, "compare the description with the checkpoint's config.json: tilegen import %s", s->folder);
        return NULL;
    }
    if (!scales_fine(found, name)) {
        s->failed = true;
        diag_error(s->ctx, E0706, span, "tensor %s holds a scale that is NaN or infinite", name);
        return NULL;
    }
    return found->data;
}

float *source_mask(TensorSource *s, int hidden, int mask_token) {
    if (!s->folder) return NULL;
    char *path = file_join(s->ctx, s->folder, "mask_embedding.pt");
    for (size_t i = 0; i < s->shard_count; i++)
        if (safetensors_find(s->shards[i], "mask_embedding")) return NULL;
    if (!file_exists(path)) return NULL;
    float *out = mask_file_read(s->ctx, path, hidden, mask_token);
    if (!out) {
        s->failed = true;
        out = ARENA_ARRAY(s->ctx->arena, float, hidden);
    }
    return out;
}

// Published layers that decoding does not use: the multi-token-prediction layers.
static bool known_unused(const char *name, const Model *model) {
    int layer;
    if (strncmp(name, "model.mtp", 9) == 0 || strncmp(name, "mtp", 3) == 0) return true;
    return model->family == FAMILY_MIMO_V2 && sscanf(name, "model.layers.%d.", &layer) == 1 &&
           layer >= model->layer_count && strstr(name, "mtp");
}

bool source_complete(TensorSource *s, const Model *model) {
    Ctx *ctx = s->ctx;
    Span span = file_span(ctx, s->folder);
    if (s->missing_count) {
        diag_error(ctx, E0703, span, "%zu tensors of the model are missing", s->missing_count);
        for (size_t i = 0; i < s->missing.count; i++) diag_note(ctx, NO_SPAN, "missing: %s", s->missing.at[i]);
        if (s->missing_count > s->missing.count)
            diag_note(ctx, NO_SPAN, "and %zu more", s->missing_count - s->missing.count);
    }
    size_t unexpected = 0, count;
    for (size_t i = 0; i < s->shard_count; i++) {
        const Tensor *tensors = safetensors_tensors(s->shards[i], &count);
        for (size_t t = 0; t < count; t++) unexpected += !s->used[i][t] && !known_unused(tensors[t].name, model);
    }
    if (unexpected) {
        size_t listed = 0;
        diag_error(ctx, E0704, span, "%zu tensors are not part of the model described", unexpected);
        for (size_t i = 0; i < s->shard_count; i++) {
            const Tensor *tensors = safetensors_tensors(s->shards[i], &count);
            for (size_t t = 0; t < count; t++)
                if (!s->used[i][t] && !known_unused(tensors[t].name, model) && listed++ < LISTED)
                    diag_note(ctx, NO_SPAN, "unexpected: %s", tensors[t].name);
        }
        if (unexpected > LISTED) diag_note(ctx, NO_SPAN, "and %zu more", unexpected - LISTED);
    }
    return !s->missing_count && !unexpected && !s->failed;
}

bool source_write(const TensorSource *s, const char *path) {
    return safetensors_write(s->ctx, path, s->made.at, s->made.count);
}

SourcePair *source_pair(Ctx *ctx, TensorSource *target, TensorSource *drafter) {
    SourcePair *pair = ARENA_NEW(ctx->arena, SourcePair);
    *pair = (SourcePair){target, drafter};
    return pair;
}

void source_pair_close(SourcePair *pair) {
    if (pair->target) close_shards(pair->target);
    if (pair->drafter) close_shards(pair->drafter);
}

bool source_end_tokens(Ctx *ctx, const char *folder, int vocab, int tokens[16], int *count) {
    static const char *const files[] = {"generation_config.json", "config.json"};
    *count = 0;
    for (int f = 0; f < 2 && *count == 0; f++) {
        char *path = file_join(ctx, folder, files[f]);
        if (!file_exists(path)) continue;
        json_t *root = json_open(ctx, path);
        if (!root) return false;
        json_t *eos = json_object_get(root, "eos_token_id");
        size_t length = json_is_array(eos) ? json_array_size(eos) : eos && !json_is_null(eos) ? 1 : 0;
        for (size_t i = 0; i < length; i++) {
            json_t *one = json_is_array(eos) ? json_array_get(eos, i) : eos;
            if (json_is_integer(one) && json_integer_value(one) >= 0 && json_integer_value(one) < vocab &&
                *count < 16) {
                tokens[(*count)++] = (int)json_integer_value(one);
                continue;
            }
            diag_error(ctx, E0702, file_span(ctx, path), "eos_token_id is a token id or a list of at most 16");
            ctx_done(ctx, root);
            return false;
        }
        ctx_done(ctx, root);
    }
    return true;
}
