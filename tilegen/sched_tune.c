// tune, pow2, range, choice; on; check. A tunable has its default, then what `on` says for the architecture and for the
// SKU, then a tuning record's value, then -D's: the higher origin wins, in whatever order they come.
#include "sched_run.h"
#include "text.h"
#include <errno.h>
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

enum { VALUE_MAX = 1 << 30 };

// What pow2, range and choice give: lives in the Lua state, so that a loop of them stays under its cap.
typedef struct Range {
    size_t count;
    int64_t otherwise; // the default
    int64_t values[];
} Range;

static const char range_key, values_key; // in Lua's registry: the metatable of ranges; the table behind tune's result

static Range *push_range(lua_State *lua, size_t count) {
    Range *range = lua_newuserdatauv(lua, sizeof *range + count * sizeof *range->values, 0);
    *range = (Range){.count = 0};
    lua_rawgetp(lua, LUA_REGISTRYINDEX, &range_key);
    lua_setmetatable(lua, -2);
    return range;
}

static const Range *to_range(lua_State *lua, int index) {
    if (lua_type(lua, index) != LUA_TUSERDATA || !lua_getmetatable(lua, index)) return NULL;
    lua_rawgetp(lua, LUA_REGISTRYINDEX, &range_key);
    bool ours = lua_rawequal(lua, -1, -2);
    lua_pop(lua, 2);
    return ours ? lua_touserdata(lua, index) : NULL;
}

static void set_default(lua_State *lua, Range *range, int64_t otherwise, Span span) {
    for (size_t i = 0; i < range->count; i++)
        if (range->values[i] == otherwise) {
            range->otherwise = otherwise;
            return;
        }
    box_fail(lua, E0210, span, "the default %lld is not among the values", (long long)otherwise);
}

static int lua_pow2(lua_State *lua) {
    Span span = box_span(lua, NULL, "pow2");
    int64_t lo = box_integer(lua, 1, "the low end of pow2", 1, VALUE_MAX, E0210, span);
    int64_t hi = box_integer(lua, 2, "the high end of pow2", lo, VALUE_MAX, E0210, span);
    int64_t otherwise = box_integer(lua, 3, "the default of pow2", lo, hi, E0210, span);
    if (lo & (lo - 1)) box_fail(lua, E0210, span, "pow2 begins at a power of two, not at %lld", (long long)lo);
    Range *range = push_range(lua, 64);
    for (int64_t v = lo; v <= hi; v *= 2) range->values[range->count++] = v;
    set_default(lua, range, otherwise, span);
    return 1;
}

static int lua_range(lua_State *lua) {
    Span span = box_span(lua, NULL, "range");
    int64_t lo = box_integer(lua, 1, "the low end of range", -VALUE_MAX, VALUE_MAX, E0210, span);
    int64_t hi = box_integer(lua, 2, "the high end of range", lo, VALUE_MAX, E0210, span);
    int64_t otherwise = box_integer(lua, 3, "the default of range", lo, hi, E0210, span);
    int64_t step = lua_isnoneornil(lua, 4) ? 1 : box_integer(lua, 4, "the step of range", 1, VALUE_MAX, E0210, span);
    if ((hi - lo) / step >= MAX_VALUES) box_fail(lua, E0210, span, "a range of more than %d values", MAX_VALUES);
    Range *range = push_range(lua, (size_t)((hi - lo) / step) + 1);
    for (int64_t v = lo; v <= hi; v += step) range->values[range->count++] = v;
    set_default(lua, range, otherwise, span);
    return 1;
}

static int lua_choice(lua_State *lua) {
    Span span = box_span(lua, NULL, "choice");
    if (lua_type(lua, 1) != LUA_TTABLE) box_fail(lua, E0210, span, "choice wants a list: choice { 1, 2, 4 }");
    lua_Unsigned length = lua_rawlen(lua, 1);
    if (length < 1 || length > MAX_VALUES) box_fail(lua, E0210, span, "choice wants 1 to %d values", MAX_VALUES);
    if ((lua_Unsigned)box_sorted_keys(lua, 1) != length)
        box_fail(lua, E0210, span, "choice wants a plain list: choice { 1, 2, 4 }");
    lua_pop(lua, 1);
    lua_settop(lua, 2);
    Range *range = push_range(lua, (size_t)length);
    for (lua_Unsigned i = 0; i < length; i++) {
        lua_rawgeti(lua, 1, (lua_Integer)i + 1);
        int64_t value = box_integer(lua, -1, "each value of choice", -VALUE_MAX, VALUE_MAX, E0210, span);
        lua_pop(lua, 1);
        for (size_t k = 0; k < range->count; k++)
            if (range->values[k] == value) box_fail(lua, E0210, span, "%lld stands twice", (long long)value);
        range->values[range->count++] = value;
    }
    int64_t otherwise = lua_isnoneornil(lua, 2)
                            ? range->values[0]
                            : box_integer(lua, 2, "the default of choice", -VALUE_MAX, VALUE_MAX, E0210, span);
    set_default(lua, range, otherwise, span);
    return 1;
}

// ---- tunables ----

static Tunable *tunable_find(SchedRun *run, const char *name) {
    for (size_t i = 0; i < run->tunables.count; i++)
        if (strcmp(run->tunables.at[i].name, name) == 0) return &run->tunables.at[i];
    return NULL;
}

static bool tunable_allows(const Tunable *t, int64_t value) {
    for (size_t i = 0; i < t->value_count; i++)
        if (t->values[i] == value) return true;
    return false;
}

static void help_values(Ctx *ctx, const Tunable *t) {
    Text text = text_new(ctx->arena);
    for (size_t i = 0; i < t->value_count && i < 12; i++)
        text_printf(&text, "%s%lld", i ? ", " : "", (long long)t->values[i]);
    if (t->value_count > 12) text_printf(&text, ", ... %lld", (long long)t->values[t->value_count - 1]);
    diag_help(ctx, "%s may be %s", t->name, text.at);
}

_Noreturn static void unknown_tunable(lua_State *lua, SchedRun *run, Span span, const char *what, const char *name) {
    const char *names[MAX_TUNABLES];
    for (size_t i = 0; i < run->tunables.count; i++) names[i] = run->tunables.at[i].name;
    box_unknown(lua, E0212, span, what, name, names, run->tunables.count);
}

// The settings of one origin, in their order. They come from outside: a span shows the declaration that they miss.
static void apply_settings(lua_State *lua, SchedRun *run, Origin origin) {
    const char *from = origin == ORIGIN_OPTION ? "-D" : "the tuning record's";
    for (size_t i = 0; i < run->setting_count; i++) {
        const Setting *s = &run->settings[i];
        if (s->origin != origin) continue;
        Tunable *t = tunable_find(run, s->name);
        if (!t)
            unknown_tunable(lua, run, NO_SPAN, origin == ORIGIN_OPTION ? "tunable in -D" : "tunable in a tuning record",
                            s->name);
        char *end;
        errno = 0;
        long long value = strtoll(s->value, &end, 10);
        if (*end || end == s->value || errno || !tunable_allows(t, value)) {
            box_error(lua, E0211, t->span, "%s %s = %s is none of the declared values", from, s->name, s->value);
            help_values(run->ctx, t);
            box_leave(lua);
        }
        t->value = value;
        t->origin = origin;
    }
}

bool sched_name(const char *name, size_t length) {
    if (length < 1 || length > 64 || strlen(name) != length) return false;
    for (size_t i = 0; i < length; i++) {
        char c = name[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
        if (!letter && (i == 0 || c < '0' || c > '9')) return false;
    }
    return true;
}

static int lua_tune(lua_State *lua) {
    SchedRun *run = sched_run(lua);
    Span span = box_span(lua, NULL, "tune");
    if (lua_type(lua, 1) != LUA_TTABLE)
        box_fail(lua, E0210, span, "tune wants a table: tune { tile = pow2(32, 256, 64) }");
    if (run->tuned) box_fail(lua, E0210, span, "tunables are declared once");
    run->tuned = true;
    lua_settop(lua, 1);
    lua_Integer count = box_sorted_keys(lua, 1);
    if (count > MAX_TUNABLES) box_fail(lua, E0210, span, "more than %d tunables", MAX_TUNABLES);
    for (lua_Integer i = 1; i <= count; i++) {
        lua_rawgeti(lua, 2, i);
        size_t length = 0;
        const char *name = lua_type(lua, -1) == LUA_TSTRING ? lua_tolstring(lua, -1, &length) : "";
        if (!sched_name(name, length))
            box_fail(lua, E0210, span, "a tunable's name is letters, digits and _, not \"%s\"", box_show(lua, -1));
        Tunable t = {.name = arena_text(run->ctx->arena, name), .span = box_span(lua, "tune", name)};
        lua_gettable(lua, 1);
        const Range *range = to_range(lua, -1);
        if (!range) {
            box_error(lua, E0210, t.span, "%s wants a range of values, not %s", t.name, box_show(lua, -1));
            diag_help(run->ctx, "%s = pow2(lo, hi, default), range(lo, hi, default) or choice { default, ... }",
                      t.name);
            box_leave(lua);
        }
        int64_t *values = ARENA_ARRAY(run->ctx->arena, int64_t, range->count);
        memcpy(values, range->values, range->count * sizeof *values);
        t.values = values;
        t.value_count = range->count;
        t.value = range->otherwise;
        lua_pop(lua, 1);
        LIST_ADD(run->ctx->arena, &run->tunables, t);
    }
    apply_settings(lua, run, ORIGIN_RECORD);
    apply_settings(lua, run, ORIGIN_OPTION);
    lua_newtable(lua);
    for (size_t i = 0; i < run->tunables.count; i++) {
        lua_pushinteger(lua, run->tunables.at[i].value);
        lua_setfield(lua, -2, run->tunables.at[i].name);
    }
    lua_pushvalue(lua, -1);
    lua_rawsetp(lua, LUA_REGISTRYINDEX, &values_key); // `on` changes them there
    box_freeze(lua, E0212);
    return 1;
}

// on "h200" { tile = 128 }: upvalue 1 is the name. Values are checked for every SKU, not for the one at hand alone.
static int on_values(lua_State *lua) {
    SchedRun *run = sched_run(lua);
    const char *where = lua_tostring(lua, lua_upvalueindex(1));
    Span span = box_span(lua, NULL, where);
    if (lua_type(lua, 1) != LUA_TTABLE) box_fail(lua, E0210, span, "on \"%s\" wants a table of tunables", where);
    sched_count_call(lua, span);
    bool sku = strcmp(where, run->sku->name) == 0, here = sku || strcmp(where, run->sku->arch) == 0;
    Origin origin = sku ? ORIGIN_SKU : ORIGIN_ARCH;
    lua_settop(lua, 1);
    lua_Integer count = box_sorted_keys(lua, 1);
    lua_rawgetp(lua, LUA_REGISTRYINDEX, &values_key);
    for (lua_Integer i = 1; i <= count; i++) {
        lua_rawgeti(lua, 2, i);
        const char *name = box_show(lua, -1);
        Tunable *t = lua_type(lua, -1) == LUA_TSTRING ? tunable_find(run, name) : NULL;
        Span at = box_span(lua, where, name);
        if (!t) unknown_tunable(lua, run, at, "tunable", name);
        lua_gettable(lua, 1);
        int64_t value = box_integer(lua, -1, t->name, -VALUE_MAX, VALUE_MAX, E0211, at);
        lua_pop(lua, 1);
        if (!tunable_allows(t, value)) {
            box_error(lua, E0211, at, "%s = %lld is none of the declared values", t->name, (long long)value);
            help_values(run->ctx, t);
            box_leave(lua);
        }
        if (!here || t->origin > origin) continue;
        t->value = value;
        t->origin = origin;
        lua_pushinteger(lua, value);
        lua_setfield(lua, 3, t->name);
    }
    return 0;
}

static int lua_on(lua_State *lua) {
    size_t length = 0;
    const char *name = lua_type(lua, 1) == LUA_TSTRING ? lua_tolstring(lua, 1, &length) : "";
    Span span = box_span(lua, NULL, length ? name : "on");
    if (length == 0 || length > 64 || strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") != length) {
        box_error(lua, E0210, span, "on wants the name of an architecture or SKU, not %s",
                  lua_isnone(lua, 1) ? "nothing" : box_show(lua, 1));
        diag_help(sched_run(lua)->ctx, "on \"h200\" { tile = 128 }; names are small letters, digits, _ and -");
        box_leave(lua);
    }
    if (!sched_run(lua)->tuned) box_fail(lua, E0210, span, "on \"%s\" comes before tune { ... }", name);
    lua_pushvalue(lua, 1);
    lua_pushcclosure(lua, on_values, 1);
    return 1;
}

static int lua_check(lua_State *lua) {
    SchedRun *run = sched_run(lua);
    luaL_checkany(lua, 1);
    if (lua_toboolean(lua, 1) || run->sched->failed_check) return 0;
    const char *text = "a check of the schedule failed";
    int count = lua_gettop(lua);
    if (count >= 2) {
        luaL_checkstack(lua, count, NULL);
        lua_pushcfunction(lua, box_format);
        for (int i = 2; i <= count; i++) lua_pushvalue(lua, i);
        lua_call(lua, count - 1, 1);
        text = box_clean(run->ctx, lua_tostring(lua, -1));
    }
    if (!run->tuning) box_fail(lua, E0213, box_span(lua, NULL, "check"), "%s", text);
    run->sched->failed_check = text;
    return 0;
}

void sched_tune(lua_State *lua) {
    static const luaL_Reg functions[] = {{"tune", lua_tune},     {"pow2", lua_pow2}, {"range", lua_range},
                                         {"choice", lua_choice}, {"on", lua_on},     {"check", lua_check}};
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        lua_pushcfunction(lua, functions[i].func);
        lua_setglobal(lua, functions[i].name);
    }
    lua_newtable(lua);
    lua_rawsetp(lua, LUA_REGISTRYINDEX, &range_key);
}
