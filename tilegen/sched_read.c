#include "schedule.h"
#include "lua_box.h"
#include "text.h"
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

// What a schedule's run fills in. Found from Lua through the registry (see run_of).
typedef struct Run {
    Ctx *ctx;
    LuaBox *box;
    const Model *model;
    const Sku *sku;
    int tp;
    const Setting *settings;
    size_t setting_count;
    bool tuning, tuned, done;
    Sched *sched;
    LIST(Tunable) tunables;
    LIST(SchedStep) steps;
} Run;

static const char run_key;

static Run *run_of(lua_State *lua) {
    lua_rawgetp(lua, LUA_REGISTRYINDEX, &run_key);
    Run *run = lua_touserdata(lua, -1);
    lua_pop(lua, 1);
    return run;
}

// ---- model, sku, tp: tables that answer for their fields and nothing else ----

static int unknown_field(lua_State *lua) { // upvalue: the hidden table
    const char *key = luaL_tolstring(lua, 2, NULL), *names[64];
    size_t count = 0;
    lua_pushnil(lua);
    while (lua_next(lua, lua_upvalueindex(1)) && count < 64) {
        lua_pop(lua, 1);
        if (lua_type(lua, -1) == LUA_TSTRING) names[count++] = lua_tostring(lua, -1);
    }
    const char *near = text_nearest(key, names, count);
    if (near) box_fail(lua, E0206, key, "no field \"%s\" here; did you mean \"%s\"?", key, near);
    box_fail(lua, E0206, key, "no field \"%s\" here", key);
}

static int read_only(lua_State *lua) {
    box_fail(lua, E0207, luaL_tolstring(lua, 2, NULL), "model, sku and tunables are read, not written");
}

// Replaces the table at the top by a read-only view of it.
static void freeze(lua_State *lua) {
    lua_newtable(lua);
    lua_newtable(lua);
    lua_newtable(lua); // table, view, meta, fallback meta
    lua_pushvalue(lua, -4);
    lua_pushcclosure(lua, unknown_field, 1);
    lua_setfield(lua, -2, "__index");
    lua_setmetatable(lua, -4); // the hidden table answers unknown keys
    lua_pushvalue(lua, -3);
    lua_setfield(lua, -2, "__index");
    lua_pushcfunction(lua, read_only);
    lua_setfield(lua, -2, "__newindex");
    lua_setmetatable(lua, -2);
    lua_remove(lua, -2);
}

static void set_integer(lua_State *lua, const char *key, int64_t value) {
    lua_pushinteger(lua, value);
    lua_setfield(lua, -2, key);
}

static void push_attention(lua_State *lua, const Attention *a) {
    lua_newtable(lua);
    set_integer(lua, "heads", a->heads);
    set_integer(lua, "kv_heads", a->kv_heads);
    set_integer(lua, "qk_dim", a->qk_dim);
    set_integer(lua, "v_dim", a->v_dim);
    set_integer(lua, "window", a->window);
    set_integer(lua, "qkv_rows", a->heads * a->qk_dim + a->kv_heads * (a->qk_dim + a->v_dim));
    freeze(lua);
}

// A kind that the model has not reads as false, so that a schedule can ask.
static void set_attention(lua_State *lua, const char *key, const Attention *a) {
    if (a->heads)
        push_attention(lua, a);
    else
        lua_pushboolean(lua, 0);
    lua_setfield(lua, -2, key);
}

static void push_model(lua_State *lua, const Model *m) {
    lua_newtable(lua);
    lua_pushstring(lua, m->name);
    lua_setfield(lua, -2, "name");
    set_integer(lua, "hidden", m->hidden);
    set_integer(lua, "vocab", m->vocab);
    set_integer(lua, "layers", m->layer_count);
    set_integer(lua, "context", m->context);
    set_integer(lua, "dense_inner", m->dense_inner);
    set_attention(lua, "full", &m->attention[ATTENTION_FULL]);
    set_attention(lua, "window", &m->attention[ATTENTION_WINDOW]);
    if (m->experts.count) {
        lua_newtable(lua);
        set_integer(lua, "count", m->experts.count);
        set_integer(lua, "top_k", m->experts.top_k);
        set_integer(lua, "inner", m->experts.inner);
        freeze(lua);
    } else
        lua_pushboolean(lua, 0);
    lua_pushvalue(lua, -1);
    lua_setfield(lua, -3, "experts");
    lua_setfield(lua, -2, "moe");
    if (m->has_drafter) {
        const Attention *a = &m->drafter.attention;
        lua_newtable(lua);
        set_integer(lua, "layers", m->drafter.layers);
        set_integer(lua, "block", m->drafter.block);
        set_integer(lua, "inner", m->drafter.inner);
        set_integer(lua, "heads", a->heads);
        set_integer(lua, "kv_heads", a->kv_heads);
        set_integer(lua, "qkv_rows", a->heads * a->qk_dim + a->kv_heads * (a->qk_dim + a->v_dim));
        freeze(lua);
    } else
        lua_pushboolean(lua, 0);
    lua_setfield(lua, -2, "drafter");
    freeze(lua);
}

static void push_sku(lua_State *lua, const Sku *sku) {
    lua_newtable(lua);
    lua_pushstring(lua, sku->name);
    lua_setfield(lua, -2, "name");
    lua_pushstring(lua, sku->arch);
    lua_setfield(lua, -2, "arch");
    set_integer(lua, "workers", sku->workers);
    set_integer(lua, "shared_memory", sku->shared_memory);
    set_integer(lua, "registers", sku->registers);
    set_integer(lua, "memory", sku->memory);
    freeze(lua);
}

// ---- tune, on, check ----

typedef LIST(int64_t) Values;
enum { MAX_VALUES = 4096, MAX_TUNABLES = 64 };

// pow2, range and choice give { values..., default = v }.
static void push_range(lua_State *lua, const int64_t *values, size_t count, int64_t otherwise, const char *what) {
    bool inside = false;
    lua_newtable(lua);
    for (size_t i = 0; i < count; i++) {
        lua_pushinteger(lua, values[i]);
        lua_rawseti(lua, -2, (lua_Integer)i + 1);
        inside |= values[i] == otherwise;
    }
    if (!inside) box_fail(lua, E0210, what, "the default %lld is not in its own range", (long long)otherwise);
    set_integer(lua, "default", otherwise);
}

static int lua_pow2(lua_State *lua) {
    int64_t lo = box_integer(lua, 1, "pow2", 1, (int64_t)1 << 40, E0210),
            hi = box_integer(lua, 2, "pow2", lo, (int64_t)1 << 40, E0210);
    int64_t otherwise = box_integer(lua, 3, "pow2", lo, hi, E0210), values[64];
    size_t count = 0;
    if (lo & (lo - 1)) box_fail(lua, E0210, "pow2", "pow2 begins at a power of two, not at %lld", (long long)lo);
    for (int64_t v = lo; v <= hi; v *= 2) values[count++] = v;
    push_range(lua, values, count, otherwise, "pow2");
    return 1;
}

static int lua_range(lua_State *lua) {
    int64_t lo = box_integer(lua, 1, "range", -(1 << 30), 1 << 30, E0210),
            hi = box_integer(lua, 2, "range", lo, 1 << 30, E0210);
    int64_t otherwise = box_integer(lua, 3, "range", lo, hi, E0210);
    int64_t step = lua_isnoneornil(lua, 4) ? 1 : box_integer(lua, 4, "range", 1, 1 << 30, E0210);
    if ((hi - lo) / step >= MAX_VALUES) box_fail(lua, E0210, "range", "a range of more than %d values", MAX_VALUES);
    Run *run = run_of(lua);
    int64_t *values = ARENA_ARRAY(run->ctx->arena, int64_t, MAX_VALUES);
    size_t count = 0;
    for (int64_t v = lo; v <= hi; v += step) values[count++] = v;
    push_range(lua, values, count, otherwise, "range");
    return 1;
}

static int lua_choice(lua_State *lua) {
    if (lua_type(lua, 1) != LUA_TTABLE) box_fail(lua, E0210, "choice", "choice wants a list: choice { 1, 2, 4 }");
    Run *run = run_of(lua);
    lua_Unsigned length = lua_rawlen(lua, 1);
    if (length < 1 || length > MAX_VALUES) box_fail(lua, E0210, "choice", "choice wants 1 to %d values", MAX_VALUES);
    int64_t *values = ARENA_ARRAY(run->ctx->arena, int64_t, length);
    for (lua_Unsigned i = 0; i < length; i++) {
        lua_rawgeti(lua, 1, (lua_Integer)i + 1);
        values[i] = box_integer(lua, -1, "choice", -((int64_t)1 << 40), (int64_t)1 << 40, E0210);
        lua_pop(lua, 1);
    }
    int64_t otherwise = lua_isnoneornil(lua, 2)
                            ? values[0]
                            : box_integer(lua, 2, "choice", -((int64_t)1 << 40), (int64_t)1 << 40, E0210);
    push_range(lua, values, (size_t)length, otherwise, "choice");
    return 1;
}

static Tunable *tunable_find(Run *run, const char *name) {
    for (size_t i = 0; i < run->tunables.count; i++)
        if (strcmp(run->tunables.at[i].name, name) == 0) return &run->tunables.at[i];
    return NULL;
}

static bool tunable_allows(const Tunable *t, int64_t value) {
    for (size_t i = 0; i < t->value_count; i++)
        if (t->values[i] == value) return true;
    return false;
}

static const char *tunable_range(Run *run, const Tunable *t) {
    Text text = text_new(run->ctx->arena);
    for (size_t i = 0; i < t->value_count && i < 12; i++)
        text_printf(&text, "%s%lld", i ? ", " : "", (long long)t->values[i]);
    if (t->value_count > 12) text_printf(&text, ", ... %lld", (long long)t->values[t->value_count - 1]);
    return text.at;
}

// The settings from outside, in their order: records first, then -D.
static bool apply_settings(Run *run, Origin origin) {
    for (size_t i = 0; i < run->setting_count; i++) {
        const Setting *s = &run->settings[i];
        if (s->origin != origin) continue;
        Tunable *t = tunable_find(run, s->name);
        if (!t) {
            const char *names[MAX_TUNABLES];
            for (size_t k = 0; k < run->tunables.count; k++) names[k] = run->tunables.at[k].name;
            const char *near = text_nearest(s->name, names, run->tunables.count);
            diag_error(run->ctx, E0212, NO_SPAN, "-D %s: the schedule has no such tunable", s->name);
            if (near) diag_help(run->ctx, "did you mean \"%s\"?", near);
            return false;
        }
        char *end;
        long long value = strtoll(s->value, &end, 10);
        if (*end || end == s->value || !tunable_allows(t, value)) {
            diag_error(run->ctx, E0211, t->span, "%s = %s is outside the declared range", s->name, s->value);
            diag_help(run->ctx, "it may be %s", tunable_range(run, t));
            return false;
        }
        t->value = value;
        t->origin = origin;
    }
    return true;
}

static int tunable_get(lua_State *lua) {
    Run *run = run_of(lua);
    const char *key = luaL_tolstring(lua, 2, NULL);
    Tunable *t = tunable_find(run, key);
    if (!t) box_fail(lua, E0212, key, "no tunable \"%s\"", key);
    lua_pushinteger(lua, t->value);
    return 1;
}

static int lua_tune(lua_State *lua) {
    Run *run = run_of(lua);
    if (lua_type(lua, 1) != LUA_TTABLE)
        box_fail(lua, E0210, "tune", "tune wants a table: tune { tile = pow2(32, 256, 64) }");
    if (run->tuned) box_fail(lua, E0210, "tune", "tunables are declared once");
    run->tuned = true;
    box_sorted_keys(lua, 1);
    lua_Unsigned count = lua_rawlen(lua, -1);
    if (count > MAX_TUNABLES) box_fail(lua, E0210, "tune", "more than %d tunables", MAX_TUNABLES);
    for (lua_Unsigned i = 1; i <= count; i++) {
        lua_rawgeti(lua, 2, (lua_Integer)i);
        if (lua_type(lua, -1) != LUA_TSTRING) box_fail(lua, E0210, "tune", "tunables have names: tune { tile = ... }");
        Tunable t = {.name = arena_text(run->ctx->arena, lua_tostring(lua, -1))};
        lua_gettable(lua, 1);
        if (lua_type(lua, -1) != LUA_TTABLE || lua_getfield(lua, -1, "default") != LUA_TNUMBER)
            box_fail(lua, E0210, t.name, "%s wants pow2(...), range(...) or choice {...}", t.name);
        t.value = lua_tointeger(lua, -1);
        lua_pop(lua, 1);
        t.value_count = lua_rawlen(lua, -1);
        int64_t *values = ARENA_ARRAY(run->ctx->arena, int64_t, t.value_count + 1);
        for (size_t k = 0; k < t.value_count; k++) {
            lua_rawgeti(lua, -1, (lua_Integer)k + 1);
            values[k] = lua_tointeger(lua, -1);
            lua_pop(lua, 1);
        }
        t.values = values;
        t.span = box_span(lua, t.name);
        lua_pop(lua, 1);
        LIST_ADD(run->ctx->arena, &run->tunables, t);
    }
    if (!apply_settings(run, ORIGIN_RECORD) || !apply_settings(run, ORIGIN_OPTION)) {
        run->done = true; // reported: stop without a second message
        return luaL_error(lua, "settings");
    }
    lua_newtable(lua);
    lua_newtable(lua);
    lua_pushcfunction(lua, tunable_get);
    lua_setfield(lua, -2, "__index");
    lua_pushcfunction(lua, read_only);
    lua_setfield(lua, -2, "__newindex");
    lua_setmetatable(lua, -2);
    return 1;
}

// on "h200" { tile = 128 }: upvalue 1 is the name.
static int on_values(lua_State *lua) {
    Run *run = run_of(lua);
    const char *where = lua_tostring(lua, lua_upvalueindex(1));
    if (lua_type(lua, 1) != LUA_TTABLE) box_fail(lua, E0210, "on", "on \"%s\" wants a table of tunables", where);
    bool arch = strcmp(where, run->sku->arch) == 0, sku = strcmp(where, run->sku->name) == 0;
    Origin origin = sku ? ORIGIN_SKU : ORIGIN_ARCH;
    box_sorted_keys(lua, 1);
    lua_Unsigned count = lua_rawlen(lua, -1);
    for (lua_Unsigned i = 1; i <= count; i++) {
        lua_rawgeti(lua, 2, (lua_Integer)i);
        const char *name = luaL_tolstring(lua, -1, NULL);
        Tunable *t = tunable_find(run, name);
        if (!t) {
            const char *names[MAX_TUNABLES];
            for (size_t k = 0; k < run->tunables.count; k++) names[k] = run->tunables.at[k].name;
            const char *near = text_nearest(name, names, run->tunables.count);
            if (near) box_fail(lua, E0212, name, "no tunable \"%s\"; did you mean \"%s\"?", name, near);
            box_fail(lua, E0212, name, "no tunable \"%s\"; `on` comes after `tune`", name);
        }
        lua_pop(lua, 1);
        lua_gettable(lua, 1);
        int64_t value = box_integer(lua, -1, t->name, -((int64_t)1 << 40), (int64_t)1 << 40, E0211);
        lua_pop(lua, 1);
        if (!tunable_allows(t, value))
            box_fail(lua, E0211, t->name, "%s = %lld is outside the declared range: %s", t->name, (long long)value,
                     tunable_range(run, t));
        if ((arch || sku) && t->origin <= origin) {
            t->value = value;
            t->origin = origin;
        }
    }
    return 0;
}

static int lua_on(lua_State *lua) {
    if (lua_type(lua, 1) != LUA_TSTRING)
        box_fail(lua, E0210, "on", "on wants the name of an architecture or SKU: on \"h200\" {...}");
    lua_pushvalue(lua, 1);
    lua_pushcclosure(lua, on_values, 1);
    return 1;
}

static int lua_check(lua_State *lua) {
    Run *run = run_of(lua);
    if (lua_toboolean(lua, 1)) return 0;
    int count = lua_gettop(lua);
    const char *text = "a check of the schedule failed";
    if (count >= 2) {
        lua_getglobal(lua, "string");
        lua_getfield(lua, -1, "format");
        for (int i = 2; i <= count; i++) lua_pushvalue(lua, i);
        lua_call(lua, count - 1, 1);
        text = arena_text(run->ctx->arena, lua_tostring(lua, -1));
    }
    if (!run->tuning) box_fail(lua, E0213, "check", "%s", text);
    if (!run->sched->failed_check) run->sched->failed_check = text;
    return 0;
}

// ---- op, kernel ----

static int find_word(const char *const *words, int count, const char *word) {
    for (int i = 0; i < count; i++)
        if (strcmp(words[i], word) == 0) return i;
    return -1;
}

_Noreturn static void unknown(lua_State *lua, DiagCode code, const char *what, const char *word,
                              const char *const *words, size_t count) {
    const char *near = text_nearest(word, words, count);
    if (near) box_fail(lua, code, word, "unknown %s \"%s\"; did you mean \"%s\"?", what, word, near);
    box_fail(lua, code, word, "unknown %s \"%s\"", what, word);
}

static int word_option(lua_State *lua, const char *key, const char *const *words, int count) {
    if (lua_type(lua, -1) != LUA_TSTRING) box_fail(lua, E0221, key, "%s wants a word in quotes", key);
    int found = find_word(words, count, lua_tostring(lua, -1));
    if (found < 0) unknown(lua, E0221, key, lua_tostring(lua, -1), words, (size_t)count);
    return found;
}

static const char *const option_names[] = {"tile", "split", "workers", "claim", "per", "via"};
static const char option_letters[] = "tswcpv";
static const char *const claims[] = {"static", "dynamic"}, *const pers[] = {"all", "tile", "expert", "token"},
                         *const vias[] = {"counter", "data"};

static int op_values(lua_State *lua) { // upvalue 1: the op
    OpId op = (OpId)lua_tointeger(lua, lua_upvalueindex(1));
    if (lua_type(lua, 1) != LUA_TTABLE)
        box_fail(lua, E0220, op_name(op), "op \"%s\" wants a table of options", op_name(op));
    Run *run = run_of(lua);
    SchedStep step = {.op = op, .span = box_span(lua, op_name(op))};
    box_sorted_keys(lua, 1);
    lua_Unsigned count = lua_rawlen(lua, -1);
    for (lua_Unsigned i = 1; i <= count; i++) {
        lua_rawgeti(lua, 2, (lua_Integer)i);
        const char *key = luaL_tolstring(lua, -1, NULL);
        int option = find_word(option_names, 6, key);
        if (option < 0) unknown(lua, E0222, "option", key, option_names, 6);
        if (!strchr(op_options(op), option_letters[option]))
            box_fail(lua, E0223, key, "%s has no option %s", op_name(op), key);
        lua_pop(lua, 1);
        lua_gettable(lua, 1);
        switch (option_letters[option]) {
        case 't': step.tile = (int)box_integer(lua, -1, key, 1, 1 << 24, E0221); break;
        case 's': step.split = (int)box_integer(lua, -1, key, 1, 64, E0221); break;
        case 'w': step.workers = (int)box_integer(lua, -1, key, 1, 1024, E0221); break;
        case 'c': step.claim = (Claim)word_option(lua, key, claims, 2); break;
        case 'v': step.via = (Via)word_option(lua, key, vias, 2); break;
        default: step.per = (Per)word_option(lua, key, pers, 4); break;
        }
        lua_pop(lua, 1);
    }
    if (step.per == PER_EXPERT && op != OP_EXPERTS_UP)
        box_fail(lua, E0223, "per", "per = \"expert\" is for experts_up");
    if (step.per == PER_TOKEN && op != OP_EXPERTS_DOWN)
        box_fail(lua, E0223, "per", "per = \"token\" is for experts_down");
    LIST_ADD(run->ctx->arena, &run->steps, step);
    lua_pushlightuserdata(lua, (void *)(uintptr_t)run->steps.count); // index + 1, for `steps`
    return 1;
}

static int lua_op(lua_State *lua) {
    if (lua_type(lua, 1) != LUA_TSTRING) box_fail(lua, E0220, "op", "op wants a name: op \"qkv\" { tile = 64 }");
    const char *name = lua_tostring(lua, 1);
    int op = op_from(name);
    if (op < 0) {
        const char *names[OP_COUNT];
        for (int i = 0; i < OP_COUNT; i++) names[i] = op_name((OpId)i);
        unknown(lua, E0220, "op", name, names, OP_COUNT);
    }
    lua_pushinteger(lua, op);
    lua_pushcclosure(lua, op_values, 1);
    return 1;
}

static void read_roles(lua_State *lua, Run *run) {
    const char *names[ROLE_COUNT];
    for (int i = 0; i < ROLE_COUNT; i++) names[i] = role_name((Role)i);
    if (lua_type(lua, -1) != LUA_TTABLE)
        box_fail(lua, E0224, "roles", "roles wants a table: roles = { compute = { warps = 8 } }");
    lua_pushnil(lua);
    while (lua_next(lua, -2)) {
        lua_pushvalue(lua, -2);
        const char *name = lua_type(lua, -1) == LUA_TSTRING ? lua_tostring(lua, -1) : "?";
        int role = find_word(names, ROLE_COUNT, name);
        if (role < 0) unknown(lua, E0224, "role", name, names, ROLE_COUNT);
        SchedRole *r = &run->sched->roles[role];
        *r = (SchedRole){true, 1, 0, box_span(lua, name)};
        if (lua_type(lua, -2) != LUA_TTABLE)
            box_fail(lua, E0224, name, "%s wants a table: { warps = 8, registers = 224 }", name);
        lua_pushnil(lua);
        while (lua_next(lua, -3)) {
            const char *key = lua_type(lua, -2) == LUA_TSTRING ? lua_tostring(lua, -2) : "?";
            static const char *const keys[] = {"warps", "registers"};
            int k = find_word(keys, 2, key);
            if (k < 0) unknown(lua, E0222, "key", key, keys, 2);
            if (k == 0)
                r->warps = (int)box_integer(lua, -1, key, 1, 32, E0221);
            else
                r->registers = (int)box_integer(lua, -1, key, 24, 256, E0221);
            lua_pop(lua, 1);
        }
        lua_pop(lua, 2);
    }
    if (!run->sched->roles[ROLE_COMPUTE].used) box_fail(lua, E0224, "roles", "a kernel needs the role compute");
}

static void read_pages(lua_State *lua, Run *run) {
    static const char *const keys[] = {"bytes", "count"};
    if (lua_type(lua, -1) != LUA_TTABLE)
        box_fail(lua, E0221, "pages", "pages wants a table: pages = { bytes = 16384, count = 8 }");
    lua_pushnil(lua);
    while (lua_next(lua, -2)) {
        const char *key = lua_type(lua, -2) == LUA_TSTRING ? lua_tostring(lua, -2) : "?";
        int k = find_word(keys, 2, key);
        if (k < 0) unknown(lua, E0222, "key", key, keys, 2);
        if (k == 0)
            run->sched->page_bytes = (int)box_integer(lua, -1, key, 1, 1 << 20, E0221);
        else
            run->sched->page_count = (int)box_integer(lua, -1, key, 1, 256, E0221);
        lua_pop(lua, 1);
    }
    if (!run->sched->page_bytes || !run->sched->page_count)
        box_fail(lua, E0221, "pages", "pages needs bytes and count");
}

static void read_steps(lua_State *lua, Run *run) {
    if (lua_type(lua, -1) != LUA_TTABLE)
        box_fail(lua, E0220, "steps", "steps wants a list: steps = { op \"qkv\" {...}, ... }");
    bool seen[OP_COUNT] = {false};
    SchedStep *steps = ARENA_ARRAY(run->ctx->arena, SchedStep, run->steps.count + 1);
    lua_Unsigned count = lua_rawlen(lua, -1);
    lua_pushnil(lua);
    for (lua_Unsigned keys = 0; lua_next(lua, -2); lua_pop(lua, 1))
        if (++keys > count) box_fail(lua, E0220, "steps", "steps is a list of op \"...\" {...} without names");
    for (lua_Unsigned i = 0; i < count; i++) {
        lua_rawgeti(lua, -1, (lua_Integer)i + 1);
        size_t index = lua_type(lua, -1) == LUA_TLIGHTUSERDATA ? (size_t)(uintptr_t)lua_touserdata(lua, -1) : 0;
        if (index < 1 || index > run->steps.count)
            box_fail(lua, E0220, "steps", "entry %llu of steps is not op \"...\" {...}", (unsigned long long)i + 1);
        lua_pop(lua, 1);
        const SchedStep *step = &run->steps.at[index - 1];
        if (seen[step->op]) {
            diag_error(run->ctx, E0220, step->span, "op \"%s\" stands in the steps twice", op_name(step->op));
            run->done = true;
            luaL_error(lua, "twice");
        }
        seen[step->op] = true;
        steps[run->sched->step_count++] = *step;
    }
    run->sched->steps = steps;
}

static Dtype read_dtype(lua_State *lua, const char *key) {
    static const char *const names[] = {"f32", "bf16"};
    return word_option(lua, key, names, 2) ? DTYPE_BF16 : DTYPE_F32;
}

static int kernel_values(lua_State *lua) { // upvalue 1: the name
    static const char *const keys[] = {"rows", "activations", "cache", "roles", "pages", "steps"};
    Run *run = run_of(lua);
    Sched *s = run->sched;
    if (lua_type(lua, 1) != LUA_TTABLE) box_fail(lua, E0225, "kernel", "kernel \"...\" wants a table");
    if (s->name) box_fail(lua, E0225, "kernel", "a schedule describes one kernel");
    s->name = arena_text(run->ctx->arena, lua_tostring(lua, lua_upvalueindex(1)));
    lua_settop(lua, 1);
    box_sorted_keys(lua, 1);
    lua_Unsigned count = lua_rawlen(lua, 2);
    for (lua_Unsigned i = 1; i <= count; i++) {
        lua_rawgeti(lua, 2, (lua_Integer)i);
        const char *key = luaL_tolstring(lua, -1, NULL);
        int k = find_word(keys, 6, key);
        if (k < 0) unknown(lua, E0222, "key", key, keys, 6);
        lua_settop(lua, 2);
        lua_getfield(lua, 1, keys[k]);
        switch (k) {
        case 0: s->rows = (int)box_integer(lua, -1, "rows", 1, MAX_ROWS, E0221); break;
        case 1: s->activations = read_dtype(lua, "activations"); break;
        case 2: s->cache = read_dtype(lua, "cache"); break;
        case 3: read_roles(lua, run); break;
        case 4: read_pages(lua, run); break;
        default: read_steps(lua, run); break;
        }
        lua_settop(lua, 2);
    }
    lua_pushlightuserdata(lua, s);
    return 1;
}

static int lua_kernel(lua_State *lua) {
    if (lua_type(lua, 1) != LUA_TSTRING) box_fail(lua, E0225, "kernel", "kernel wants a name: kernel \"decode\" {...}");
    lua_pushvalue(lua, 1);
    lua_pushcclosure(lua, kernel_values, 1);
    return 1;
}

static int schedule_body(lua_State *lua) {
    Run *run = lua_touserdata(lua, 1);
    lua_pushlightuserdata(lua, run);
    lua_rawsetp(lua, LUA_REGISTRYINDEX, &run_key);
    static const struct {
        const char *name;
        lua_CFunction function;
    } functions[] = {{"tune", lua_tune}, {"pow2", lua_pow2},   {"range", lua_range}, {"choice", lua_choice},
                     {"on", lua_on},     {"check", lua_check}, {"op", lua_op},       {"kernel", lua_kernel}};
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        lua_pushcfunction(lua, functions[i].function);
        lua_setglobal(lua, functions[i].name);
    }
    push_model(lua, run->model);
    lua_setglobal(lua, "model");
    push_sku(lua, run->sku);
    lua_setglobal(lua, "sku");
    lua_pushinteger(lua, run->tp);
    lua_setglobal(lua, "tp");
    box_load(run->box, lua);
    lua_call(lua, 0, 1);
    if (lua_touserdata(lua, -1) != run->sched) {
        diag_error(run->ctx, E0225, (Span){run->box->source, 0, 0, 0}, "the schedule returns no kernel");
        diag_help(run->ctx, "end it with: return kernel \"decode\" { ... }");
        run->done = true;
        return luaL_error(lua, "kernel");
    }
    return 0;
}

Sched *sched_read(Ctx *ctx, Source *source, const Model *model, const Sku *sku, int tp, const Setting *settings,
                  size_t setting_count, bool tuning) {
    Run *run = ARENA_NEW(ctx->arena, Run);
    *run = (Run){.ctx = ctx,
                 .model = model,
                 .sku = sku,
                 .tp = tp,
                 .settings = settings,
                 .setting_count = setting_count,
                 .tuning = tuning};
    run->sched = ARENA_NEW(ctx->arena, Sched);
    *run->sched = (Sched){.rows = MAX_ROWS, .activations = DTYPE_F32, .cache = DTYPE_BF16, .source = source};
    size_t errors = diag_errors(ctx);
    run->box = box_open(ctx, source, SCHED_MEMORY_CAP, SCHED_INSTRUCTIONS);
    bool ok = box_run(run->box, schedule_body, run, E0201);
    box_close(run->box);
    if (!ok) {
        if (run->done) diag_forget(ctx, errors + 1); // what Lua said after the diagnostic proper
        return NULL;
    }
    if (!run->tuned && setting_count) {
        diag_error(ctx, E0212, NO_SPAN, "-D %s: the schedule declares no tunables", settings[0].name);
        return NULL;
    }
    Sched *s = run->sched;
    if (!s->roles[ROLE_COMPUTE].used) s->roles[ROLE_COMPUTE] = (SchedRole){true, 1, 0, NO_SPAN};
    s->tunables = run->tunables.at;
    s->tunable_count = run->tunables.count;
    return s;
}
