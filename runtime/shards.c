#include "shards.h"
#include "file.h"
#include "safetensors_dtype.h"
#include <dirent.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { INDEX_CAP = 256 << 20 };

typedef struct Shard {
    const char *name; // inside the folder
    Safetensors *file;
    Span span;
} Shard;

typedef struct Place {
    const Tensor *tensor;
    size_t shard;
} Place;

struct Shards {
    Shard *shards;
    size_t shard_count;
    Place *places;
    size_t count;
};

// What the index says of one tensor.
typedef struct Named {
    const char *tensor, *shard;
} Named;

static int place_by_name(const void *a, const void *b) {
    return strcmp(((const Place *)a)->tensor->name, ((const Place *)b)->tensor->name);
}
static int named_by_shard(const void *a, const void *b) {
    const Named *x = a, *y = b;
    int order = strcmp(x->shard, y->shard);
    return order ? order : strcmp(x->tensor, y->tensor);
}

void shards_close(Shards *shards) {
    if (!shards) return;
    for (size_t i = 0; i < shards->shard_count; i++) safetensors_close(shards->shards[i].file);
}
static void release(void *guard) { shards_close(*(Shards **)guard); }
static void json_release(void *root) { json_decref(root); }

size_t shards_count(const Shards *shards) { return shards->count; }
const Tensor *shards_at(const Shards *shards, size_t index) { return shards->places[index].tensor; }
Span shards_span(const Shards *shards, size_t index) { return shards->shards[shards->places[index].shard].span; }

long shards_find(const Shards *shards, const char *name) {
    Tensor tensor = {.name = name};
    Place key = {&tensor, 0}, *found = NULL;
    if (shards->count) found = bsearch(&key, shards->places, shards->count, sizeof key, place_by_name);
    return found ? (long)(found - shards->places) : -1;
}

static bool index_wrong(Ctx *ctx, Span span, const char *what) {
    diag_error(ctx, E0707, span, "%s", what);
    return false;
}

// The weight_map as a list sorted by shard and tensor.
static bool index_list(Ctx *ctx, Span span, const json_t *root, Named **named, size_t *count) {
    json_t *map = json_object_get(root, "weight_map"), *value;
    if (!json_is_object(map) || !json_object_size(map)) return index_wrong(ctx, span, "no map \"weight_map\"");
    const char *key;
    *named = ARENA_ARRAY(ctx->arena, Named, json_object_size(map));
    *count = 0;
    json_object_foreach(map, key, value) {
        const char *file = json_string_value(value);
        if (!file || !*file || strchr(file, '/') || file[0] == '.') {
            diag_error(ctx, E0707, span, "weight_map: \"%s\" is given no file name of the same folder",
                       safetensors_shown(ctx, key));
            return false;
        }
        (*named)[(*count)++] = (Named){arena_text(ctx->arena, key), arena_text(ctx->arena, file)};
    }
    qsort(*named, *count, sizeof **named, named_by_shard);
    return true;
}

static bool index_read(Ctx *ctx, const char *path, Named **named, size_t *count) {
    Source *source = file_read(ctx, path, INDEX_CAP);
    if (!source) return false;
    Span span = {source, 0, 0, 0};
    json_error_t error;
    json_t *root = json_loadb(source->text, source->length, JSON_REJECT_DUPLICATES, &error);
    if (!root) {
        if (json_error_code(&error) == json_error_out_of_memory) ctx_out_of_memory(ctx);
        span.line = (uint32_t)(error.line > 0 ? error.line : 1);
        span.col = (uint32_t)(error.column > 0 ? error.column : 1);
        return index_wrong(ctx, span, arena_printf(ctx->arena, "not valid JSON: %s", error.text));
    }
    ctx_defer(ctx, json_release, root);
    bool ok = index_list(ctx, span, root, named, count);
    ctx_done(ctx, root);
    return ok;
}

static bool shard_add(Ctx *ctx, Shards *shards, const char *folder, const char *name, bool from_index) {
    char *path = file_join(ctx, folder, name);
    Span span = file_span(ctx, path);
    if (from_index && !file_exists(path)) {
        diag_error(ctx, E0002, span, "the index names this shard, and it is not there");
        diag_help(ctx, "fetch the missing file; it stands beside the index");
        return false;
    }
    Safetensors *file = safetensors_open(ctx, path);
    if (!file) return false;
    shards->shards[shards->shard_count++] = (Shard){name, file, span};
    return true;
}

// Every tensor of every shard, sorted; no name twice.
static bool places_make(Ctx *ctx, Shards *shards) {
    for (size_t s = 0, n; s < shards->shard_count; s++, shards->count += n)
        safetensors_tensors(shards->shards[s].file, &n);
    shards->places = ARENA_ARRAY(ctx->arena, Place, shards->count + 1);
    size_t at = 0;
    for (size_t s = 0, n; s < shards->shard_count; s++) {
        const Tensor *tensors = safetensors_tensors(shards->shards[s].file, &n);
        for (size_t i = 0; i < n; i++) shards->places[at++] = (Place){&tensors[i], s};
    }
    qsort(shards->places, shards->count, sizeof *shards->places, place_by_name);
    for (size_t i = 1; i < shards->count; i++)
        if (place_by_name(&shards->places[i - 1], &shards->places[i]) == 0) {
            diag_error(ctx, E0722, shards_span(shards, i), "tensor \"%s\" is in %s too",
                       safetensors_shown(ctx, shards_at(shards, i)->name), shards_span(shards, i - 1).source->name);
            return false;
        }
    return true;
}

// The index names each tensor of the shards, in its file, and no others.
static bool index_matches(Ctx *ctx, Shards *shards, Span index, const Named *named, size_t count) {
    bool *seen = ARENA_ARRAY(ctx->arena, bool, shards->count + 1);
    size_t errors = diag_errors(ctx), wrong = 0;
    for (size_t i = 0; i < count && wrong < 20; i++) {
        const char *shown = safetensors_shown(ctx, named[i].tensor);
        long at = shards_find(shards, named[i].tensor);
        if (at < 0) {
            diag_error(ctx, E0723, index, "tensor \"%s\" should be in %s, and no shard has it", shown, named[i].shard);
            wrong++;
            continue;
        }
        seen[at] = true;
        const char *holder = shards->shards[shards->places[at].shard].name;
        if (strcmp(holder, named[i].shard) != 0) {
            diag_error(ctx, E0722, index, "tensor \"%s\" should be in %s and is in %s", shown, named[i].shard, holder);
            wrong++;
        }
    }
    for (size_t i = 0; i < shards->count && wrong < 20; i++) {
        if (seen[i]) continue;
        diag_error(ctx, E0724, shards_span(shards, i), "tensor \"%s\" is not in the index",
                   safetensors_shown(ctx, shards_at(shards, i)->name));
        wrong++;
    }
    return diag_errors(ctx) == errors;
}

// The one safetensors file of a folder without an index: model.safetensors, or the only *.safetensors. NULL without.
static const char *single_name(Ctx *ctx, const char *folder) {
    if (file_exists(file_join(ctx, folder, "model.safetensors"))) return "model.safetensors";
    char name[256] = "";
    size_t count = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        const char *dot = strrchr(entry->d_name, '.');
        if (!dot || dot == entry->d_name || strcmp(dot, ".safetensors") != 0) continue;
        snprintf(name, sizeof name, "%s", entry->d_name);
        count++;
    }
    if (dir) closedir(dir);
    return count == 1 ? arena_text(ctx->arena, name) : NULL;
}

Shards *shards_open(Ctx *ctx, const char *folder) {
    char *index = file_join(ctx, folder, "model.safetensors.index.json");
    bool has_index = file_exists(index);
    const char *single = has_index ? NULL : single_name(ctx, folder);
    Named *named = NULL;
    size_t count = 1;
    if (!has_index && !single) {
        diag_error(ctx, E0702, file_span(ctx, folder), "neither model.safetensors nor its index is here");
        diag_help(ctx, "give the folder that holds config.json and the *.safetensors files");
        return NULL;
    }
    if (has_index && !index_read(ctx, index, &named, &count)) return NULL;
    Shards *shards = ARENA_NEW(ctx->arena, Shards), **guard = ARENA_NEW(ctx->arena, Shards *);
    shards->shards = ARENA_ARRAY(ctx->arena, Shard, count);
    *guard = shards;
    ctx_defer(ctx, release, guard);
    bool ok = true;
    if (single) ok = shard_add(ctx, shards, folder, single, false);
    for (size_t i = 0; has_index && i < count; i++)
        if (i == 0 || strcmp(named[i].shard, named[i - 1].shard) != 0)
            ok &= shard_add(ctx, shards, folder, named[i].shard, true);
    if (ok) ok = places_make(ctx, shards);
    if (ok && has_index) ok = index_matches(ctx, shards, file_span(ctx, index), named, count);
    if (ok) *guard = NULL; // the caller's now
    ctx_done(ctx, guard);
    return ok ? shards : NULL;
}
