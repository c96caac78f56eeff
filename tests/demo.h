// What the tests of the demo model share: a bundle built in memory's place, sessions, JSON files.
#ifndef DEMO_H
#define DEMO_H
#include "bundle.h"
#include "check.h"
#include "file.h"
#include "tilerun.h"
#include <jansson.h>

static inline const char *demo_root(void) { return getenv("ROOT") ? getenv("ROOT") : "."; }
static inline const char *demo_tmp(void) { return getenv("TEST_TMP") ? getenv("TEST_TMP") : "/tmp"; }

typedef struct DemoBuild {
    const char *model, *sku, *path;
    int tp;
    const Setting *settings;
    size_t setting_count;
    bool done;
} DemoBuild;

static inline void demo_build_body(Ctx *ctx, void *user) {
    DemoBuild *b = user;
    Source *lua = file_read(ctx, file_join(ctx, demo_root(), "build.lua"), SCHED_FILE_CAP);
    Build *build = lua ? build_read(ctx, lua, demo_root()) : NULL;
    const Sku *sku = build ? build_sku(ctx, build, b->sku, NO_SPAN) : NULL;
    if (!sku) return;
    Job job = {.name = "test",
               .model = b->model,
               .schedule = file_join(ctx, demo_root(), "schedules/decode.lua"),
               .sku = sku,
               .tp = b->tp,
               .settings = b->settings,
               .setting_count = b->setting_count,
               .prove = true};
    Compiled *compiled = compile(ctx, &job, PASS_PROG);
    b->done = compiled && bundle_write(ctx, compiled, b->path);
}

// Builds models/demo.yaml, or another description, into `path`; `setting` as -D has it, or NULL.
static inline bool demo_build_with(const char *model, const char *sku, int tp, const char *path,
                                   const Setting *setting) {
    char yaml[1000];
    snprintf(yaml, sizeof yaml, "%s/models/demo.yaml", demo_root());
    DemoBuild b = {model ? model : yaml, sku, path, tp, setting, setting != NULL, false};
    Ctx *ctx = ctx_new((Env){0});
    ctx_protect(ctx, demo_build_body, &b);
    diag_print(ctx, stderr, DIAG_TEXT);
    ctx_free(ctx);
    return b.done;
}

static inline bool demo_build(const char *model, const char *sku, int tp, const char *path) {
    return demo_build_with(model, sku, tp, path, NULL);
}

// A session of the demo checkpoint, or of `weights`. NULL after printing what is wrong.
static inline tr_session *demo_open(const char *bundle, const char *weights, int threads) {
    char folder[1000];
    snprintf(folder, sizeof folder, "%s/models/demo", demo_root());
    tr_session *s;
    int code = tr_open(
        &(tr_options){.bundle = bundle, .weights = weights ? weights : folder, .threads = threads, .host = true}, &s);
    if (code == 0) return s;
    tr_print_errors(s, stderr, false);
    tr_close(s);
    return NULL;
}

static inline json_t *demo_json(const char *name) {
    char path[1000];
    json_error_t error;
    snprintf(path, sizeof path, "%s/tests/golden/demo/%s", demo_root(), name);
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (!root) fprintf(stderr, "%s: %s\n", path, error.text);
    return root;
}

// Ids of a JSON list; returns how many.
static inline size_t demo_ids(json_t *list, int *out, size_t room) {
    size_t n = json_array_size(list) < room ? json_array_size(list) : room;
    for (size_t i = 0; i < n; i++) out[i] = (int)json_integer_value(json_array_get(list, i));
    return n;
}
#endif
