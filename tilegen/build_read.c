#include "lua_box.h"
#include "schedule.h"
#include "text.h"
#include "../templates/abi.h"
#include <lauxlib.h>
#include <string.h>

bool sku_is_host(const Sku *sku) { return strcmp(sku->arch, "host") == 0; }

int sku_page_memory(const Sku *sku) {
    return sku->shared_memory > ENGINE_SHARED_FIXED ? sku->shared_memory - ENGINE_SHARED_FIXED : 0;
}

enum { MAX_ENTRIES = 4096 };

typedef struct BuildRun {
    Ctx *ctx;
    LuaBox *box;
    LIST(Sku) skus;
    LIST(Target) targets;
} BuildRun;

static BuildRun *build_run(lua_State *lua) { return box_of(lua)->user; }

// The table at 1, of `name`, has no keys but these.
static void only(lua_State *lua, const char *what, const char *name, const char *const *keys, size_t count) {
    if (lua_type(lua, 1) != LUA_TTABLE) {
        box_error(lua, E0302, box_span(lua, NULL, name), "%s \"%s\" wants a table of fields", what, name);
        diag_help(build_run(lua)->ctx, "%s \"%s\" { %s = ... }", what, name, keys[0]);
        box_leave(lua);
    }
    lua_settop(lua, 1);
    lua_Integer length = box_sorted_keys(lua, 1);
    for (lua_Integer i = 1; i <= length; i++) {
        lua_rawgeti(lua, 2, i);
        const char *key = box_show(lua, -1);
        size_t k = lua_type(lua, -1) == LUA_TSTRING ? 0 : count;
        while (k < count && strcmp(keys[k], key) != 0) k++;
        if (k == count) box_unknown(lua, E0302, box_span(lua, name, key), "field", key, keys, count);
        lua_pop(lua, 1);
    }
    lua_settop(lua, 1);
}

static const char *text_field(lua_State *lua, const char *name, const char *key) {
    size_t length = 0;
    const char *text = lua_getfield(lua, 1, key) == LUA_TSTRING ? lua_tolstring(lua, -1, &length) : "";
    if (length == 0 || length > 1024 || strlen(text) != length)
        box_fail(lua, E0302, box_span(lua, name, key), "%s of \"%s\" wants a text, not %s", key, name,
                 length ? "one of this kind" : box_show(lua, -1));
    const char *out = arena_text(build_run(lua)->ctx->arena, text);
    lua_pop(lua, 1);
    return out;
}

static double real_field(lua_State *lua, const char *name, const char *key, double lo, double hi) {
    lua_getfield(lua, 1, key);
    double value = lua_type(lua, -1) == LUA_TNUMBER ? lua_tonumber(lua, -1) : lo - 1;
    if (!(value >= lo && value <= hi))
        box_fail(lua, E0302, box_span(lua, name, key), "%s of \"%s\" wants a number from %g to %g, not %s", key, name,
                 lo, hi, box_show(lua, -1));
    lua_pop(lua, 1);
    return value;
}

// `otherwise` when it is not given; negative: it must be.
static int64_t integer_field(lua_State *lua, const char *name, const char *key, int64_t lo, int64_t hi,
                             int64_t otherwise) {
    if (lua_getfield(lua, 1, key) != LUA_TNIL || otherwise < 0)
        otherwise = box_integer(lua, -1, key, lo, hi, E0302, box_span(lua, name, key));
    lua_pop(lua, 1);
    return otherwise;
}

static int sku_fields(lua_State *lua) { // upvalue: the name
    static const char *const keys[] = {"arch",   "workers", "shared_memory", "registers",
                                       "memory", "l2",      "bandwidth",     "clock"};
    BuildRun *run = build_run(lua);
    const char *name = arena_text(run->ctx->arena, lua_tostring(lua, lua_upvalueindex(1)));
    Span span = box_span(lua, NULL, name);
    only(lua, "sku", name, keys, sizeof keys / sizeof *keys);
    for (size_t i = 0; i < run->skus.count; i++)
        if (strcmp(run->skus.at[i].name, name) == 0) {
            box_error(lua, E0302, span, "the SKU \"%s\" stands here twice", name);
            diag_note(run->ctx, run->skus.at[i].span, "here it stands first");
            box_leave(lua);
        }
    if (run->skus.count >= MAX_ENTRIES) box_fail(lua, E0302, span, "more than %d SKUs", MAX_ENTRIES);
    Sku sku = {.name = name, .arch = text_field(lua, name, "arch"), .span = span};
    bool host = strcmp(sku.arch, "host") == 0;
    if (!host && strcmp(sku.arch, "sm_90a") != 0)
        box_fail(lua, E0302, box_span(lua, name, sku.arch), "arch is \"host\" or \"sm_90a\", not \"%s\"", sku.arch);
    sku.workers = (int)integer_field(lua, name, "workers", 1, 1024, -1);
    sku.shared_memory = (int)integer_field(lua, name, "shared_memory", 0, 1 << 20, host ? 0 : -1);
    sku.registers = (int)integer_field(lua, name, "registers", 0, 1 << 20, host ? 0 : -1);
    sku.memory = integer_field(lua, name, "memory", 0, (int64_t)1 << 50, host ? 0 : -1);
    sku.l2 = integer_field(lua, name, "l2", 0, (int64_t)1 << 40, 0);
    sku.bandwidth = host ? 0 : real_field(lua, name, "bandwidth", 1, 1e15);
    sku.clock = host ? 0 : real_field(lua, name, "clock", 1, 1e12);
    LIST_ADD(run->ctx->arena, &run->skus, sku);
    return 0;
}

// The file name that a target's bundle gets: slashes turned into dashes.
static bool same_bundle(const char *a, const char *b) {
    for (; *a && *b; a++, b++)
        if (*a != *b && !((*a == '/' || *a == '-') && (*b == '/' || *b == '-'))) return false;
    return *a == *b;
}

static int target_fields(lua_State *lua) { // upvalue: the name
    static const char *const keys[] = {"model", "schedule", "sku", "tp"};
    BuildRun *run = build_run(lua);
    const char *name = arena_text(run->ctx->arena, lua_tostring(lua, lua_upvalueindex(1)));
    Span span = box_span(lua, NULL, name);
    only(lua, "target", name, keys, sizeof keys / sizeof *keys);
    for (size_t i = 0; i < run->targets.count; i++) {
        const Target *other = &run->targets.at[i];
        if (!same_bundle(other->name, name)) continue;
        if (strcmp(other->name, name) == 0)
            box_error(lua, E0302, span, "the target \"%s\" stands here twice", name);
        else
            box_error(lua, E0302, span, "the bundles of \"%s\" and \"%s\" would have one file name", name, other->name);
        diag_note(run->ctx, other->span, "here it stands first");
        box_leave(lua);
    }
    if (run->targets.count >= MAX_ENTRIES) box_fail(lua, E0302, span, "more than %d targets", MAX_ENTRIES);
    Target target = {.name = name,
                     .model = text_field(lua, name, "model"),
                     .schedule = text_field(lua, name, "schedule"),
                     .sku = text_field(lua, name, "sku"),
                     .tp = (int)integer_field(lua, name, "tp", 1, 8, 1),
                     .span = span};
    if (target.tp & (target.tp - 1))
        box_fail(lua, E0302, box_span(lua, name, "tp"), "tp is 1, 2, 4 or 8, not %d", target.tp);
    LIST_ADD(run->ctx->arena, &run->targets, target);
    return 0;
}

// sku "name" and target "name": names become file names and options, so they are tame.
static int named(lua_State *lua, lua_CFunction fields, const char *what, const char *others) {
    size_t length = 0;
    const char *name = lua_type(lua, 1) == LUA_TSTRING ? lua_tolstring(lua, 1, &length) : "";
    bool fine = length >= 1 && length <= 100 && strlen(name) == length && name[0] != '.' && name[0] != '-' &&
                name[0] != '/' && name[length - 1] != '/' && !strstr(name, "//") && !strstr(name, "/.");
    for (const char *s = name; *s; s++) {
        bool plain = (*s >= 'a' && *s <= 'z') || (*s >= '0' && *s <= '9') || *s == '_' || *s == '-';
        fine = fine && (plain || strchr(others, *s));
    }
    if (!fine) {
        box_error(lua, E0302, box_span(lua, NULL, length ? name : what), "%s wants a name, not \"%s\"", what,
                  lua_isnone(lua, 1) ? "nothing" : box_show(lua, 1));
        diag_help(build_run(lua)->ctx, "%s \"name\" {...}; names are small letters, digits, _ and -%s", what,
                  *others ? ", . and / between them" : "");
        box_leave(lua);
    }
    lua_pushvalue(lua, 1);
    lua_pushcclosure(lua, fields, 1);
    return 1;
}
static int lua_sku(lua_State *lua) { return named(lua, sku_fields, "sku", ""); }
static int lua_target(lua_State *lua) { return named(lua, target_fields, "target", "./"); }

static int build_body(lua_State *lua) {
    lua_pushcfunction(lua, lua_sku);
    lua_setglobal(lua, "sku");
    lua_pushcfunction(lua, lua_target);
    lua_setglobal(lua, "target");
    box_seal_globals(lua);
    box_load(build_run(lua)->box, lua);
    lua_call(lua, 0, 0);
    return 0;
}

Build *build_read(Ctx *ctx, Source *source, const char *folder) {
    BuildRun *run = ARENA_NEW(ctx->arena, BuildRun);
    *run = (BuildRun){.ctx = ctx};
    run->box = box_open(ctx, source, (BoxLimits){SCHED_MEMORY_CAP, SCHED_INSTRUCTIONS});
    if (!run->box) return NULL;
    bool ok = box_run(run->box, build_body, run, E0301);
    box_close(run->box);
    if (!ok) return NULL;
    Build *build = ARENA_NEW(ctx->arena, Build);
    *build =
        (Build){run->skus.at, run->skus.count, run->targets.at, run->targets.count, arena_text(ctx->arena, folder)};
    for (size_t i = 0; i < build->target_count; i++)
        ok &= !!build_sku(ctx, build, build->targets[i].sku, build->targets[i].span);
    return ok ? build : NULL;
}

static void help_nearest(Ctx *ctx, const char *word, const char *const *names, size_t count, const char *otherwise) {
    const char *near = strlen(word) <= 200 ? text_nearest(word, names, count) : NULL;
    if (near)
        diag_help(ctx, "did you mean \"%s\"?", near);
    else
        diag_help(ctx, "%s", otherwise);
}

const Sku *build_sku(Ctx *ctx, const Build *build, const char *name, Span span) {
    const char **names = ARENA_ARRAY(ctx->arena, const char *, build->sku_count + 1);
    for (size_t i = 0; i < build->sku_count; i++) {
        names[i] = build->skus[i].name;
        if (strcmp(names[i], name) == 0) return &build->skus[i];
    }
    diag_error(ctx, E0303, span, "no SKU \"%s\"", box_clean(ctx, name));
    help_nearest(ctx, name, names, build->sku_count, "`tilegen sku list` shows them");
    return NULL;
}

const Target *build_target(Ctx *ctx, const Build *build, const char *name, Span span) {
    const char **names = ARENA_ARRAY(ctx->arena, const char *, build->target_count + 1);
    for (size_t i = 0; i < build->target_count; i++) {
        names[i] = build->targets[i].name;
        if (strcmp(names[i], name) == 0) return &build->targets[i];
    }
    diag_error(ctx, E0304, span, "no target \"%s\" in build.lua", box_clean(ctx, name));
    help_nearest(ctx, name, names, build->target_count, "build.lua lists them: target \"name\" {...}");
    return NULL;
}
