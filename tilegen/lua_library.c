// What a script finds: the harmless part of Lua's library, in an order and with texts that are the same in every run.
#include "lua_box.h"
#include "text.h"
#include <lauxlib.h>
#include <lualib.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char absent_key, fields_key; // their addresses are keys that no script can make

// ---- texts ----

const char *box_show(lua_State *lua, int index) {
    Arena *arena = box_of(lua)->ctx->arena;
    int type = lua_type(lua, index);
    if (type == LUA_TSTRING) {
        size_t length;
        const char *text = lua_tolstring(lua, index, &length);
        return arena_printf(arena, "%.*s", length > 100 ? 100 : (int)length, text);
    }
    if (type == LUA_TBOOLEAN) return lua_toboolean(lua, index) ? "true" : "false";
    if (type == LUA_TNIL) return "nil";
    if (type == LUA_TNUMBER && lua_isinteger(lua, index))
        return arena_printf(arena, "%lld", (long long)lua_tointeger(lua, index));
    if (type == LUA_TNUMBER) return arena_printf(arena, "%.14g", lua_tonumber(lua, index));
    return lua_typename(lua, type);
}

// Numbers, strings, booleans: as Lua does. Others by their type alone: addresses differ from run to run.
static int safe_tostring(lua_State *lua) {
    luaL_checkany(lua, 1);
    int type = lua_type(lua, 1);
    if (type == LUA_TNUMBER || type == LUA_TSTRING || type == LUA_TBOOLEAN || type == LUA_TNIL)
        luaL_tolstring(lua, 1, NULL);
    else
        lua_pushstring(lua, lua_typename(lua, type));
    return 1;
}

// %d %x %f %g %s %%, with flags, a width and a precision of at most two digits each.
int box_format(lua_State *lua) {
    size_t length;
    const char *format = luaL_checklstring(lua, 1, &length), *end = format + length;
    int arg = 1, top = lua_gettop(lua); // the buffer has its own slot above
    luaL_Buffer buffer;
    luaL_buffinit(lua, &buffer);
    for (const char *s = format; s < end; s++) {
        if (*s != '%') {
            luaL_addchar(&buffer, *s);
            continue;
        }
        char spec[16] = "%", room[512]; // %+99.99f of the largest double has 410 characters
        size_t n = 1, digits = 0;
        for (s++; s < end && *s && strchr("-+ #0", *s) && n < 4; s++) spec[n++] = *s;
        for (; s < end && *s >= '0' && *s <= '9' && digits < 2; s++, digits++) spec[n++] = *s;
        if (s < end && *s == '.')
            for (spec[n++] = *s++, digits = 0; s < end && *s >= '0' && *s <= '9' && digits < 2; s++, digits++)
                spec[n++] = *s;
        if (s < end && *s != '%' && arg == top) luaL_argerror(lua, arg + 1, "no value");
        switch (s < end ? *s : 0) {
        case '%': luaL_addchar(&buffer, '%'); break;
        case 'd':
        case 'x': {
            lua_Integer value = luaL_checkinteger(lua, ++arg);
            spec[n++] = 'l', spec[n++] = 'l', spec[n] = *s;
            snprintf(room, sizeof room, spec, (long long)value);
            luaL_addstring(&buffer, room);
            break;
        }
        case 'f':
        case 'g':
            spec[n] = *s;
            snprintf(room, sizeof room, spec, luaL_checknumber(lua, ++arg));
            luaL_addstring(&buffer, room);
            break;
        case 's':
            if (n > 1) return luaL_error(lua, "format: %%s has no width here");
            lua_pushcfunction(lua, safe_tostring);
            lua_pushvalue(lua, ++arg);
            lua_call(lua, 1, 1);
            luaL_addvalue(&buffer);
            break;
        default: return luaL_error(lua, "format takes %%d, %%x, %%f, %%g, %%s and %%%%");
        }
    }
    luaL_pushresult(&buffer);
    return 1;
}

// ---- sorted keys ----

typedef struct Key {
    int kind; // 0 number, 1 text, 2 boolean
    bool integer;
    lua_Integer whole; // also of a boolean
    double real;
    const char *text; // kept alive by the table
    size_t length;
} Key;

static int compare_keys(const void *left, const void *right) {
    const Key *a = left, *b = right;
    if (a->kind != b->kind) return a->kind - b->kind;
    if (a->kind == 1) {
        int order = memcmp(a->text, b->text, a->length < b->length ? a->length : b->length);
        return order ? order : (a->length > b->length) - (a->length < b->length);
    }
    if (a->integer && b->integer) return (a->whole > b->whole) - (a->whole < b->whole);
    return (a->real > b->real) - (a->real < b->real);
}

lua_Integer box_sorted_keys(lua_State *lua, int index) {
    index = lua_absindex(lua, index);
    luaL_checkstack(lua, 10, NULL);
    lua_pushvalue(lua, index);
    int table = lua_gettop(lua);
    if (lua_getmetatable(lua, index) && lua_rawgetp(lua, -1, &fields_key) == LUA_TTABLE) lua_replace(lua, table);
    lua_settop(lua, table);
    size_t count = 0, room = 0;
    for (lua_pushnil(lua); lua_next(lua, table); lua_pop(lua, 1)) room++;
    Key *keys = lua_newuserdatauv(lua, room * sizeof *keys + 1, 0);
    lua_pushnil(lua);
    while (lua_next(lua, table)) {
        bool absent = lua_touserdata(lua, -1) == &absent_key;
        lua_pop(lua, 1);
        if (absent) continue;
        Key key = {.kind = 0};
        switch (lua_type(lua, -1)) {
        case LUA_TNUMBER:
            key.integer = lua_isinteger(lua, -1);
            key.whole = key.integer ? lua_tointeger(lua, -1) : 0;
            key.real = lua_tonumber(lua, -1);
            break;
        case LUA_TSTRING:
            key.kind = 1;
            key.text = lua_tolstring(lua, -1, &key.length);
            break;
        case LUA_TBOOLEAN:
            key.kind = 2;
            key.integer = true;
            key.whole = lua_toboolean(lua, -1);
            break;
        default: luaL_error(lua, "a key that is a %s has no place in an order", luaL_typename(lua, -1));
        }
        keys[count++] = key;
    }
    if (count) qsort(keys, count, sizeof *keys, compare_keys);
    lua_createtable(lua, (int)(count > 1 << 20 ? 0 : count), 0);
    for (size_t i = 0; i < count; i++) {
        if (keys[i].kind == 1)
            lua_pushlstring(lua, keys[i].text, keys[i].length);
        else if (keys[i].kind == 2)
            lua_pushboolean(lua, (int)keys[i].whole);
        else if (keys[i].integer)
            lua_pushinteger(lua, keys[i].whole);
        else
            lua_pushnumber(lua, keys[i].real);
        lua_rawseti(lua, -2, (lua_Integer)i + 1);
    }
    lua_replace(lua, table);
    lua_settop(lua, table);
    return (lua_Integer)count;
}

static int pairs_next(lua_State *lua) { // upvalues: table, keys, position
    lua_Integer at = lua_tointeger(lua, lua_upvalueindex(3)) + 1;
    lua_pushinteger(lua, at);
    lua_replace(lua, lua_upvalueindex(3));
    lua_rawgeti(lua, lua_upvalueindex(2), at);
    if (lua_isnil(lua, -1)) return 1;
    lua_pushvalue(lua, -1);
    lua_gettable(lua, lua_upvalueindex(1));
    return 2;
}

static int safe_pairs(lua_State *lua) {
    luaL_checktype(lua, 1, LUA_TTABLE);
    lua_settop(lua, 1);
    box_sorted_keys(lua, 1);
    lua_pushinteger(lua, 0);
    lua_pushcclosure(lua, pairs_next, 3);
    return 1;
}

int64_t box_integer(lua_State *lua, int index, const char *what, int64_t lo, int64_t hi, DiagCode code, Span span) {
    int exact = 0;
    lua_Integer value = lua_type(lua, index) == LUA_TNUMBER ? lua_tointegerx(lua, index, &exact) : 0;
    if (exact && value >= lo && value <= hi) return value;
    bool quoted = lua_type(lua, index) == LUA_TSTRING;
    box_fail(lua, code, span, "%s wants a whole number from %lld to %lld, not %s%s%s", what, (long long)lo,
             (long long)hi, quoted ? "\"" : "", lua_isnone(lua, index) ? "nothing" : box_show(lua, index),
             quoted ? "\"" : "");
}

// ---- frozen tables and sealed globals ----

void box_push_absent(lua_State *lua) { lua_pushlightuserdata(lua, (void *)(uintptr_t)&absent_key); }

// The text keys of the table at `index`, sorted. The texts live as long as the table.
static const char **field_names(lua_State *lua, int index, size_t *count) {
    index = lua_absindex(lua, index);
    lua_Integer length = box_sorted_keys(lua, index);
    const char **names = ARENA_ARRAY(box_of(lua)->ctx->arena, const char *, length + 1);
    *count = 0;
    for (lua_Integer i = 1; i <= length; i++) {
        lua_rawgeti(lua, -1, i);
        if (lua_type(lua, -1) == LUA_TSTRING) names[(*count)++] = lua_tostring(lua, -1);
        lua_pop(lua, 1);
    }
    lua_pop(lua, 1);
    return names;
}

static int frozen_get(lua_State *lua) { // upvalues: fields, code
    lua_pushvalue(lua, 2);
    if (lua_rawget(lua, lua_upvalueindex(1)) != LUA_TNIL) {
        if (lua_touserdata(lua, -1) == &absent_key) lua_pushnil(lua);
        return 1;
    }
    size_t count;
    const char *key = box_show(lua, 2), **names = field_names(lua, lua_upvalueindex(1), &count);
    DiagCode code = (DiagCode)lua_tointeger(lua, lua_upvalueindex(2));
    box_unknown(lua, code, box_span(lua, NULL, key), code == E0212 ? "tunable" : "field", key, names, count);
}

static int frozen_set(lua_State *lua) {
    const char *key = box_show(lua, 2);
    box_error(lua, E0207, box_span(lua, NULL, key), "\"%s\" is read, not written", key);
    diag_help(box_of(lua)->ctx, "keep another value in a local variable");
    box_leave(lua);
}

void box_freeze(lua_State *lua, DiagCode unknown_code) {
    luaL_checkstack(lua, 6, NULL);
    lua_createtable(lua, 0, 0);
    lua_createtable(lua, 0, 3);
    lua_pushvalue(lua, -3);
    lua_rawsetp(lua, -2, &fields_key);
    lua_pushvalue(lua, -3);
    lua_pushinteger(lua, unknown_code);
    lua_pushcclosure(lua, frozen_get, 2);
    lua_setfield(lua, -2, "__index");
    lua_pushcfunction(lua, frozen_set);
    lua_setfield(lua, -2, "__newindex");
    lua_setmetatable(lua, -2);
    lua_remove(lua, -2);
}

// A name that nobody defined. Upvalue: the defined ones.
static int global_unknown(lua_State *lua) {
    static const char *const system[] = {
        "io",       "os",     "require",        "load",      "loadstring",   "loadfile",     "dofile", "debug",
        "package",  "pcall",  "xpcall",         "coroutine", "setmetatable", "getmetatable", "rawget", "rawset",
        "rawequal", "rawlen", "collectgarbage", "utf8",      "_G",           "next"};
    Ctx *ctx = box_of(lua)->ctx;
    const char *name = box_show(lua, 2);
    Span span = box_span(lua, NULL, name);
    const char *help = strcmp(name, "print") == 0 ? "check(false, \"%d\", value) shows a value" : NULL;
    for (size_t i = 0; i < sizeof system / sizeof *system; i++)
        if (strcmp(name, system[i]) == 0)
            help = "scripts are data with arithmetic: no files, system, loading or metatables";
    if (help) {
        box_error(lua, E0208, span, "scripts have no \"%s\"", name);
        diag_help(ctx, "%s", help);
        box_leave(lua);
    }
    size_t count;
    const char **names = field_names(lua, lua_upvalueindex(1), &count);
    box_unknown(lua, E0208, span, "name", name, names, count);
}

static int global_set(lua_State *lua) { // upvalue: the defined ones
    lua_pushvalue(lua, 2);
    if (lua_rawget(lua, lua_upvalueindex(1)) != LUA_TNIL) return frozen_set(lua);
    lua_settop(lua, 3);
    lua_rawset(lua, 1);
    return 0;
}

void box_seal_globals(lua_State *lua) {
    luaL_checkstack(lua, 6, NULL);
    lua_rawgeti(lua, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS); // defined
    lua_createtable(lua, 0, 1);
    lua_pushvalue(lua, -2);
    lua_pushcclosure(lua, global_unknown, 1);
    lua_setfield(lua, -2, "__index");
    lua_setmetatable(lua, -2);
    lua_createtable(lua, 0, 0); // what the script itself defines
    lua_createtable(lua, 0, 2);
    lua_pushvalue(lua, -3);
    lua_setfield(lua, -2, "__index");
    lua_pushvalue(lua, -3);
    lua_pushcclosure(lua, global_set, 1);
    lua_setfield(lua, -2, "__newindex");
    lua_setmetatable(lua, -2);
    lua_rawseti(lua, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
    lua_pop(lua, 1);
}

// ---- the library ----

static void keep(lua_State *lua, const char *library, const char *const *names) { // into the table at 1
    lua_newtable(lua);
    lua_getglobal(lua, library);
    for (; *names; names++) {
        lua_getfield(lua, -1, *names);
        lua_setfield(lua, -3, *names);
    }
    lua_pop(lua, 1);
    if (strcmp(library, "string") == 0) {
        lua_pushcfunction(lua, box_format);
        lua_setfield(lua, -2, "format");
    }
    box_freeze(lua, E0206);
    lua_setfield(lua, 1, library);
}

int box_library(lua_State *lua) {
    // Out: patterns and rep (their time is in no instruction count), next (the order of a hash), sort and random (a
    // seed from the clock).
    static const char *const string_names[] = {"upper", "lower", "sub", "len", "byte", "char", "reverse", NULL};
    static const char *const math_names[] = {"abs",        "ceil",       "floor", "max",       "min",  "sqrt",
                                             "log",        "exp",        "fmod",  "tointeger", "type", "huge",
                                             "maxinteger", "mininteger", "pi",    NULL};
    static const char *const table_names[] = {"insert", "remove", "concat", "unpack", NULL};
    static const char *const base_names[] = {"assert", "error", "ipairs", "select", "tonumber", "type", NULL};
    luaL_requiref(lua, "_G", luaopen_base, 1);
    luaL_requiref(lua, "string", luaopen_string, 1);
    luaL_requiref(lua, "math", luaopen_math, 1);
    luaL_requiref(lua, "table", luaopen_table, 1);
    lua_settop(lua, 0);
    // A fresh global table: nothing but what is named.
    lua_newtable(lua);
    keep(lua, "string", string_names);
    keep(lua, "math", math_names);
    keep(lua, "table", table_names);
    for (const char *const *name = base_names; *name; name++) {
        lua_getglobal(lua, *name);
        lua_setfield(lua, 1, *name);
    }
    lua_pushcfunction(lua, safe_tostring);
    lua_setfield(lua, 1, "tostring");
    lua_pushcfunction(lua, safe_pairs);
    lua_setfield(lua, 1, "pairs");
    // ("x"):upper() goes through the metatable of strings: it gets the kept functions and nothing else.
    lua_pushliteral(lua, "");
    lua_newtable(lua);
    lua_getfield(lua, 1, "string");
    lua_setfield(lua, -2, "__index");
    lua_setmetatable(lua, -2);
    lua_settop(lua, 1);
    lua_rawseti(lua, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
    lua_pushnil(lua);
    lua_setfield(lua, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    return 0;
}
