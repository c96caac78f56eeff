#include "lua_box.h"
#include "text.h"
#include <lauxlib.h>
#include <lualib.h>
#include <stdlib.h>
#include <string.h>

static void *box_alloc(void *user, void *at, size_t old, size_t size) {
    LuaBox *box = user;
    if (!at) old = 0;
    if (size == 0) {
        free(at);
        box->used -= old;
        return NULL;
    }
    if (size > old && box->used + (size - old) > box->cap) return NULL;
    void *out = realloc(at, size);
    if (!out) {
        box->system_out = size > old; // shrinking never fails for Lua
        return size <= old ? at : NULL;
    }
    box->used += size - old;
    return out;
}

LuaBox *box_of(lua_State *lua) { return *(LuaBox **)lua_getextraspace(lua); }

static void budget_spent(lua_State *lua, lua_Debug *debug) {
    lua_sethook(lua, budget_spent, LUA_MASKCOUNT, 1); // not to be outlived by whatever runs next
    lua_getinfo(lua, "Sl", debug);
    lua_pushfstring(lua, "schedule:%d: the script does not end: its instruction budget is spent", debug->currentline);
    lua_error(lua);
}

// Numbers, strings, booleans: as Lua does. Others by their type alone: addresses differ from run to run.
static int safe_tostring(lua_State *lua) {
    int type = lua_type(lua, 1);
    if (type == LUA_TNUMBER || type == LUA_TSTRING || type == LUA_TBOOLEAN || type == LUA_TNIL)
        luaL_tolstring(lua, 1, NULL);
    else
        lua_pushstring(lua, lua_typename(lua, type));
    return 1;
}

static int compare_keys(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

void box_sorted_keys(lua_State *lua, int index) {
    index = lua_absindex(lua, index);
    lua_Integer numbers = 0, words = 0;
    lua_newtable(lua);
    int out = lua_gettop(lua);
    lua_newtable(lua);
    int strings = out + 1;
    // Numbers first, ascending; then strings by their bytes. Other keys do not occur: tables of a schedule are data.
    lua_pushnil(lua);
    while (lua_next(lua, index)) {
        lua_pop(lua, 1);
        lua_pushvalue(lua, -1);
        if (lua_type(lua, -1) == LUA_TNUMBER) {
            lua_Integer i = ++numbers;
            for (; i > 1; i--) {
                lua_rawgeti(lua, out, i - 1);
                bool after = lua_compare(lua, -1, -2, LUA_OPLT);
                if (after) {
                    lua_pop(lua, 1);
                    break;
                }
                lua_rawseti(lua, out, i);
            }
            lua_rawseti(lua, out, i);
        } else if (lua_type(lua, -1) == LUA_TSTRING)
            lua_rawseti(lua, strings, ++words);
        else
            lua_pop(lua, 1);
    }
    if (words) {
        const char **sorted = lua_newuserdatauv(lua, (size_t)words * sizeof *sorted, 0);
        for (lua_Integer i = 0; i < words; i++) {
            lua_rawgeti(lua, strings, i + 1);
            sorted[i] = lua_tostring(lua, -1); // kept alive by the table
            lua_pop(lua, 1);
        }
        qsort(sorted, (size_t)words, sizeof *sorted, compare_keys);
        for (lua_Integer i = 0; i < words; i++) {
            lua_pushstring(lua, sorted[i]);
            lua_rawseti(lua, out, numbers + 1 + i);
        }
    }
    lua_settop(lua, out);
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

// string.format with plain conversions: no %q, no %p, no widths that make a megabyte of spaces.
static int safe_format(lua_State *lua) {
    const char *format = luaL_checkstring(lua, 1);
    int arg = 1;
    luaL_Buffer buffer;
    luaL_buffinit(lua, &buffer);
    for (const char *s = format; *s; s++) {
        if (*s != '%') {
            luaL_addchar(&buffer, *s);
            continue;
        }
        char spec[16] = "%", room[400];
        size_t n = 1;
        for (s++; *s && strchr("-+ 0123456789.", *s) && n < 6; s++) spec[n++] = *s;
        switch (*s) {
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
            luaL_checkany(lua, ++arg);
            lua_pushcfunction(lua, safe_tostring);
            lua_pushvalue(lua, arg);
            lua_call(lua, 1, 1);
            luaL_addvalue(&buffer);
            break;
        default: return luaL_error(lua, "format takes %%d, %%x, %%f, %%g, %%s and %%%%");
        }
    }
    luaL_pushresult(&buffer);
    return 1;
}

static void keep(lua_State *lua, const char *library, const char *const *names) {
    lua_newtable(lua);
    lua_getglobal(lua, library);
    for (; *names; names++) {
        lua_getfield(lua, -1, *names);
        lua_setfield(lua, -3, *names);
    }
    lua_pop(lua, 1);
    lua_setglobal(lua, library);
}

static int open_library(lua_State *lua) {
    static const char *const string_names[] = {"upper", "lower", "sub", "len", "byte", "char", "reverse", NULL};
    static const char *const math_names[] = {"abs",        "ceil",       "floor", "max",       "min",  "sqrt",
                                             "log",        "exp",        "fmod",  "tointeger", "type", "huge",
                                             "maxinteger", "mininteger", "pi",    NULL};
    static const char *const table_names[] = {"insert", "remove", "concat", "unpack", NULL};
    static const char *const base_names[] = {"assert", "error", "ipairs", "next", "select", "tonumber", "type", NULL};
    luaL_requiref(lua, "_G", luaopen_base, 1);
    luaL_requiref(lua, "string", luaopen_string, 1);
    luaL_requiref(lua, "math", luaopen_math, 1);
    luaL_requiref(lua, "table", luaopen_table, 1);
    lua_settop(lua, 0);
    keep(lua, "string", string_names);
    keep(lua, "math", math_names);
    keep(lua, "table", table_names);
    lua_getglobal(lua, "string");
    lua_pushcfunction(lua, safe_format);
    lua_setfield(lua, -2, "format");
    // ("x"):upper() goes through the metatable of strings: it gets the kept functions and nothing else.
    lua_pushstring(lua, "");
    lua_newtable(lua);
    lua_getglobal(lua, "string");
    lua_setfield(lua, -2, "__index");
    lua_setmetatable(lua, -2);
    lua_settop(lua, 0);
    // A fresh global table: nothing of the base library but what is named.
    lua_newtable(lua);
    lua_pushglobaltable(lua);
    for (const char *const *name = base_names; *name; name++) {
        lua_getfield(lua, 2, *name);
        lua_setfield(lua, 1, *name);
    }
    static const char *const libraries[] = {"string", "math", "table"};
    for (int i = 0; i < 3; i++) {
        lua_getfield(lua, 2, libraries[i]);
        lua_setfield(lua, 1, libraries[i]);
    }
    lua_pushcfunction(lua, safe_tostring);
    lua_setfield(lua, 1, "tostring");
    lua_pushcfunction(lua, safe_pairs);
    lua_setfield(lua, 1, "pairs");
    lua_pushvalue(lua, 1);
    lua_rawseti(lua, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
    lua_pushnil(lua);
    lua_setfield(lua, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    return 0;
}

static void box_release(void *user) {
    LuaBox *box = user;
    if (box->lua) lua_close(box->lua);
    box->lua = NULL;
}

LuaBox *box_open(Ctx *ctx, const Source *source, size_t memory_cap, int instructions) {
    LuaBox *box = ARENA_NEW(ctx->arena, LuaBox);
    *box = (LuaBox){.ctx = ctx, .source = source, .cap = memory_cap};
    box->lua = lua_newstate(box_alloc, box);
    if (!box->lua) ctx_out_of_memory(ctx);
    ctx_defer(ctx, box_release, box);
    *(LuaBox **)lua_getextraspace(box->lua) = box;
    lua_pushcfunction(box->lua, open_library);
    if (lua_pcall(box->lua, 0, 0, 0) != LUA_OK) ctx_out_of_memory(ctx);
    lua_sethook(box->lua, budget_spent, LUA_MASKCOUNT, instructions);
    return box;
}

void box_close(LuaBox *box) { ctx_done(box->ctx, box); }

Span box_span(lua_State *lua, const char *word) {
    LuaBox *box = box_of(lua);
    const Source *source = box->source;
    lua_Debug debug;
    int line = 0;
    for (int level = 0; level < 20 && lua_getstack(lua, level, &debug); level++) {
        lua_getinfo(lua, "Sl", &debug);
        if (debug.currentline <= 0) continue;
        line = debug.currentline;
        break;
    }
    if (!line) return (Span){source, 0, 0, 0};
    const char *at = source->text, *end = source->text + source->length;
    for (int i = 1; i < line; i++) {
        const char *next = memchr(at, '\n', (size_t)(end - at));
        if (!next) break;
        at = next + 1;
    }
    size_t length = strcspn(at, "\n"), indent = strspn(at, " \t");
    const char *found = word ? strstr(at, word) : NULL;
    if (found && (size_t)(found - at) < length)
        return (Span){source, (uint32_t)line, (uint32_t)(found - at) + 1, (uint32_t)strlen(word)};
    if (indent >= length) indent = 0;
    return (Span){source, (uint32_t)line, (uint32_t)indent + 1, (uint32_t)(length > indent ? length - indent : 1)};
}

static char reported; // its address, as an error value, says that the diagnostic is already made

void box_fail(lua_State *lua, DiagCode code, const char *word, const char *format, ...) {
    LuaBox *box = box_of(lua);
    va_list args;
    va_start(args, format);
    Text text = text_new(box->ctx->arena);
    text_vprintf(&text, format, args);
    va_end(args);
    diag_error(box->ctx, code, box_span(lua, word), "%s", text.at);
    lua_pushlightuserdata(lua, &reported);
    lua_error(lua);
    abort(); // lua_error does not return
}

int64_t box_integer(lua_State *lua, int index, const char *what, int64_t lo, int64_t hi, DiagCode code) {
    int exact;
    lua_Integer value = lua_tointegerx(lua, index, &exact);
    if (lua_type(lua, index) != LUA_TNUMBER || !exact || value < lo || value > hi)
        box_fail(lua, code, what, "%s wants a whole number from %lld to %lld", what, (long long)lo, (long long)hi);
    return value;
}

void box_load(LuaBox *box, lua_State *lua) {
    char *name = arena_printf(box->ctx->arena, "=%s", "schedule");
    if (luaL_loadbufferx(lua, box->source->text, box->source->length, name, "t") != LUA_OK) lua_error(lua);
}

// "schedule:3: text" -> a diagnostic at line 3.
static void report(LuaBox *box, const char *message, DiagCode code) {
    unsigned line = 0;
    int used = 0;
    if (sscanf(message, "schedule:%u: %n", &line, &used) == 1 && used) message += used;
    Span span = {box->source, line, 0, 0};
    if (line) {
        size_t offset = 0;
        for (unsigned i = 1; i < line && offset < box->source->length; i++)
            offset += strcspn(box->source->text + offset, "\n") + 1;
        size_t indent = strspn(box->source->text + offset, " \t"),
               length = strcspn(box->source->text + offset + indent, "\n");
        span.col = (uint32_t)indent + 1;
        span.length = (uint32_t)(length ? length : 1);
    }
    diag_error(box->ctx, code, span, "%s", message);
}

bool box_run(LuaBox *box, lua_CFunction body, void *user, DiagCode code) {
    lua_State *lua = box->lua;
    lua_pushcfunction(lua, body);
    lua_pushlightuserdata(lua, user);
    int status = lua_pcall(lua, 1, 0, 0);
    if (status == LUA_OK) return true;
    if (box->system_out) ctx_out_of_memory(box->ctx);
    if (status == LUA_ERRMEM) {
        diag_error(box->ctx, code, (Span){box->source, 1, 1, 1}, "the script wants more than its %zu MB of memory",
                   box->cap >> 20);
    } else if (lua_touserdata(lua, -1) != &reported) {
        const char *message = lua_tostring(lua, -1);
        report(box, message ? message : "the script raised an error that is no text", code);
    }
    lua_settop(lua, 0);
    return false;
}
