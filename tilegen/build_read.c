#include "lua_box.h"
#include "schedule.h"
#include "text.h"
#include <lauxlib.h>
#include <string.h>

typedef struct Run {
    Ctx *ctx;
    LuaBox *box;
    LIST(Sku) skus;
    LIST(Target) targets;
} Run;

static const char run_key;
static Run *run_of(lua_State *lua) {
    lua_rawgetp(lua, LUA_REGISTRYINDEX, &run_key);
    Run *run = lua_touserdata(lua, -1);
    lua_pop(lua, 1);
    return run;
}

// The table at 1 has no keys but these.
static void only(lua_State *lua, const char *const *keys, size_t count) {
    if (lua_type(lua, 1) != LUA_TTABLE) box_fail(lua, E0302, NULL, "a table of fields is wanted here");
    box_sorted_keys(lua, 1);
    lua_Unsigned length = lua_rawlen(lua, -1);
    for (lua_Unsigned i = 1; i <= length; i++) {
        lua_rawgeti(lua, -1, (lua_Integer)i);
        const char *key = luaL_tolstring(lua, -1, NULL);
        size_t k = 0;
        while (k < count && strcmp(keys[k], key) != 0) k++;
        if (k == count) {
            const char *near = text_nearest(key, keys, count);
            if (near) box_fail(lua, E0302, key, "unknown field \"%s\"; did you mean \"%s\"?", key, near);
            box_fail(lua, E0302, key, "unknown field \"%s\"", key);
        }
        lua_pop(lua, 2);
    }
    lua_settop(lua, 1);
}

static const char *text_field(lua_State *lua, const char *key) {
    if (lua_getfield(lua, 1, key) != LUA_TSTRING) box_fail(lua, E0302, key, "%s wants a text", key);
    const char *out = arena_text(run_of(lua)->ctx->arena, lua_tostring(lua, -1));
    lua_pop(lua, 1);
    return out;
}

static double real_field(lua_State *lua, const char *key, double lo, double hi) {
    lua_getfield(lua, 1, key);
    double value = lua_tonumber(lua, -1);
    if (lua_type(lua, -1) != LUA_TNUMBER || !(value >= lo && value <= hi))
        box_fail(lua, E0302, key, "%s wants a number from %g to %g", key, lo, hi);
    lua_pop(lua, 1);
    return value;
}

static int64_t integer_field(lua_State *lua, const char *key, int64_t lo, int64_t hi, int64_t otherwise) {
    if (lua_getfield(lua, 1, key) == LUA_TNIL && otherwise >= 0) {
        lua_pop(lua, 1);
        return otherwise;
    }
    int64_t value = box_integer(lua, -1, key, lo, hi, E0302);
    lua_pop(lua, 1);
    return value;
}

static int sku_fields(lua_State *lua) {
    static const char *const keys[] = {"arch",   "workers", "shared_memory", "registers",
                                       "memory", "l2",      "bandwidth",     "clock"};
    Run *run = run_of(lua);
    only(lua, keys, sizeof keys / sizeof *keys);
    const char *name = arena_text(run->ctx->arena, lua_tostring(lua, lua_upvalueindex(1)));
    for (size_t i = 0; i < run->skus.count; i++)
        if (strcmp(run->skus.at[i].name, name) == 0)
            box_fail(lua, E0302, name, "the SKU \"%s\" stands here twice", name);
    Sku sku = {.name = name, .arch = text_field(lua, "arch"), .span = box_span(lua, name)};
    bool host = strcmp(sku.arch, "host") == 0;
    if (!host && strcmp(sku.arch, "sm_90a") != 0)
        box_fail(lua, E0302, "arch", "arch is \"host\" or \"sm_90a\", not \"%s\"", sku.arch);
    sku.workers = (int)integer_field(lua, "workers", 1, 1024, -1);
    sku.shared_memory = (int)integer_field(lua, "shared_memory", 0, 1 << 20, host ? 0 : -1);
    sku.registers = (int)integer_field(lua, "registers", 0, 1 << 20, host ? 0 : -1);
    sku.memory = integer_field(lua, "memory", 0, (int64_t)1 << 50, host ? 0 : -1);
    sku.l2 = integer_field(lua, "l2", 0, (int64_t)1 << 40, 0);
    sku.bandwidth = host ? 0 : real_field(lua, "bandwidth", 1, 1e15);
    sku.clock = host ? 0 : real_field(lua, "clock", 1, 1e12);
    LIST_ADD(run->ctx->arena, &run->skus, sku);
    return 0;
}

static int target_fields(lua_State *lua) {
    static const char *const keys[] = {"model", "schedule", "sku", "tp"};
    Run *run = run_of(lua);
    only(lua, keys, sizeof keys / sizeof *keys);
    const char *name = arena_text(run->ctx->arena, lua_tostring(lua, lua_upvalueindex(1)));
    for (size_t i = 0; i < run->targets.count; i++)
        if (strcmp(run->targets.at[i].name, name) == 0)
            box_fail(lua, E0302, name, "the target \"%s\" stands here twice", name);
    Target target = {.name = name,
                     .model = text_field(lua, "model"),
                     .schedule = text_field(lua, "schedule"),
                     .sku = text_field(lua, "sku"),
                     .tp = (int)integer_field(lua, "tp", 1, 8, 1),
                     .span = box_span(lua, name)};
    LIST_ADD(run->ctx->arena, &run->targets, target);
    return 0;
}

static int named(lua_State *lua, lua_CFunction fields, const char *what) {
    if (lua_type(lua, 1) != LUA_TSTRING) box_fail(lua, E0302, what, "%s wants a name: %s \"name\" {...}", what, what);
    lua_pushvalue(lua, 1);
    lua_pushcclosure(lua, fields, 1);
    return 1;
}
static int lua_sku(lua_State *lua) { return named(lua, sku_fields, "sku"); }
static int lua_target(lua_State *lua) { return named(lua, target_fields, "target"); }

static int build_body(lua_State *lua) {
    Run *run = lua_touserdata(lua, 1);
    lua_pushlightuserdata(lua, run);
    lua_rawsetp(lua, LUA_REGISTRYINDEX, &run_key);
    lua_pushcfunction(lua, lua_sku);
    lua_setglobal(lua, "sku");
    lua_pushcfunction(lua, lua_target);
    lua_setglobal(lua, "target");
    box_load(run->box, lua);
    lua_call(lua, 0, 0);
    return 0;
}

Build *build_read(Ctx *ctx, Source *source, const char *folder) {
    Run *run = ARENA_NEW(ctx->arena, Run);
    run->ctx = ctx;
    run->box = box_open(ctx, source, SCHED_MEMORY_CAP, SCHED_INSTRUCTIONS);
    bool ok = box_run(run->box, build_body, run, E0301);
    box_close(run->box);
    if (!ok) return NULL;
    Build *build = ARENA_NEW(ctx->arena, Build);
    *build =
        (Build){run->skus.at, run->skus.count, run->targets.at, run->targets.count, arena_text(ctx->arena, folder)};
    for (size_t i = 0; i < build->target_count; i++)
        if (!build_sku(ctx, build, build->targets[i].sku, build->targets[i].span)) return NULL;
    return build;
}

const Sku *build_sku(Ctx *ctx, const Build *build, const char *name, Span span) {
    const char **names = ARENA_ARRAY(ctx->arena, const char *, build->sku_count + 1);
    for (size_t i = 0; i < build->sku_count; i++) {
        names[i] = build->skus[i].name;
        if (strcmp(names[i], name) == 0) return &build->skus[i];
    }
    const char *near = text_nearest(name, names, build->sku_count);
    diag_error(ctx, E0303, span, "no SKU \"%s\"", name);
    if (near)
        diag_help(ctx, "did you mean \"%s\"?", near);
    else
        diag_help(ctx, "`tilegen sku list` shows them");
    return NULL;
}

const Target *build_target(Ctx *ctx, const Build *build, const char *name, Span span) {
    const char **names = ARENA_ARRAY(ctx->arena, const char *, build->target_count + 1);
    for (size_t i = 0; i < build->target_count; i++) {
        names[i] = build->targets[i].name;
        if (strcmp(names[i], name) == 0) return &build->targets[i];
    }
    const char *near = text_nearest(name, names, build->target_count);
    diag_error(ctx, E0304, span, "no target \"%s\" in build.lua", name);
    if (near) diag_help(ctx, "did you mean \"%s\"?", near);
    return NULL;
}
