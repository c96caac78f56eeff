// The Prog of the demo model for the h200, for the driver without a GPU (fake_cuda.h).
#ifndef FAKE_MODEL_H
#define FAKE_MODEL_H
#include "demo.h"
#include "tasks.h"

static bool fake_wide = true; // several ranks: the wider model

// The demo model, a little wider: more blocks of inputs on each of two ranks.
static const char *fake_pair_model(Ctx *c) {
    static const char *const changes[][2] = {
        {"hidden: 384", "hidden: 512"}, {"  inner: 128", "  inner: 256"}, {"  inner: 768", "  inner: 1024"}};
    Source *demo = file_read(c, file_join(c, demo_root(), "models/demo.yaml"), MODEL_FILE_CAP);
    char *text = arena_copy(c->arena, demo->text, demo->length + 1), *path = file_join(c, demo_tmp(), "pair.yaml");
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        char *at = strstr(text, changes[i][0]);
        CHECK(at);
        text = arena_printf(c->arena, "%.*s%s%s", (int)(at - text), text, changes[i][1], at + strlen(changes[i][0]));
    }
    CHECK(file_write(c, path, text, strlen(text)));
    return path;
}

static Compiled *fake_compiled(Ctx *c, int ranks) {
    Source *lua = file_read(c, file_join(c, demo_root(), "build.lua"), SCHED_FILE_CAP);
    Build *build = lua ? build_read(c, lua, demo_root()) : NULL;
    const Sku *sku = build ? build_sku(c, build, "h200", NO_SPAN) : NULL;
    Job job = {.name = "test",
               .model = ranks > 1 && fake_wide ? fake_pair_model(c) : file_join(c, demo_root(), "models/demo.yaml"),
               .schedule = file_join(c, demo_root(), "schedules/decode.lua"),
               .sku = sku,
               .tp = ranks,
               .home = demo_root()};
    Compiled *compiled = sku ? compile(c, &job, PASS_PROG) : NULL;
    CHECK(compiled);
    return compiled;
}
#endif
