// A Lua state for text that is not trusted: own allocator with a cap, instruction budget, no file, system, loading,
// error catching, coroutines, metatables or string patterns; `pairs` goes in sorted order; no table addresses in texts.
#ifndef TILEGEN_LUA_BOX_H
#define TILEGEN_LUA_BOX_H
#include "diag.h"
#include <lua.h>

typedef struct LuaBox {
    Ctx *ctx;
    lua_State *lua;
    const Source *source;
    size_t used, cap;
    bool system_out; // the system, not the cap, refused memory
} LuaBox;

// A state with the safe library; ctx_defer'ed. box_close ends it.
LuaBox *box_open(Ctx *ctx, const Source *source, size_t memory_cap, int instructions);
void box_close(LuaBox *box);

// Runs `body` (a C function with one light userdata argument) protected, then nothing else: errors are reported as
// `code` at the line that Lua names. False after reporting. Memory over the cap and the instruction budget are told as
// such.
bool box_run(LuaBox *box, lua_CFunction body, void *user, DiagCode code);
// Loads the source (text only) and leaves its function on the stack: inside a body of box_run.
void box_load(LuaBox *box, lua_State *lua);

LuaBox *box_of(lua_State *lua);
// The span of the line that calls the C function at hand, at `word` when the line has it.
Span box_span(lua_State *lua, const char *word);
// Reports at the caller's line and leaves the script.
__attribute__((format(printf, 4, 5))) _Noreturn void box_fail(lua_State *lua, DiagCode code, const char *word,
                                                              const char *format, ...);
// An integer at `index`; integral floats are fine. Fails with the name otherwise.
int64_t box_integer(lua_State *lua, int index, const char *what, int64_t lo, int64_t hi, DiagCode code);
// Pushes the keys of the table at `index` as a sorted sequence.
void box_sorted_keys(lua_State *lua, int index);
#endif
