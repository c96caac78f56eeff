// A Lua state for text that is not trusted: own allocator with a cap, instruction budget, no file, system, loading,
// error catching, coroutines, metatables or string patterns; `pairs` goes in sorted order; no table addresses in texts.
//
// Lua leaves C functions by longjmp, and so does an arena without memory: what a body of box_run holds lives in the
// arena or in the Lua state. Arena memory is not under the cap, so a function that a script can call in a loop takes
// none, or counts its calls.
#ifndef TILEGEN_LUA_BOX_H
#define TILEGEN_LUA_BOX_H
#include "diag.h"
#include <lua.h>

typedef struct BoxLimits {
    size_t memory; // bytes
    int64_t instructions;
} BoxLimits;

typedef struct LuaBox {
    Ctx *ctx;
    lua_State *lua;
    const Source *source;
    void *user; // of box_run
    size_t used, cap;
    size_t churn;      // bytes asked for since the clock was last looked at
    int64_t left;      // instructions
    int64_t unclocked; // instructions since the clock was last looked at
    double deadline;   // of the thread's CPU clock, seconds
    int line;          // that is being run; 0 before the first
    bool system_out;   // the system, not the cap, was the last to refuse memory
} LuaBox;

// A state with the safe library; ctx_defer'ed. NULL after reporting that the cap is too small for it.
LuaBox *box_open(Ctx *ctx, const Source *source, BoxLimits limits);
void box_close(LuaBox *box);

// Runs `body` with box->user = user, protected, then nothing else. False after reporting: what Lua says as `code` at
// the line that it names, the cap as E0202, the budget as E0203, bytecode as E0204.
bool box_run(LuaBox *box, lua_CFunction body, void *user, DiagCode code);
// Loads the source (text only) and leaves its function on the stack: inside a body of box_run.
void box_load(LuaBox *box, lua_State *lua);
LuaBox *box_of(lua_State *lua);

// The place of `word` (a name or the inside of a string) in the statement of the script that calls the C function at
// hand, after `anchor` if that is given; the line when there is none.
Span box_span(lua_State *lua, const char *anchor, const char *word);

// box_error reports (help lines may follow), box_leave leaves the script after a report, box_fail does both.
__attribute__((format(printf, 4, 5))) void box_error(lua_State *lua, DiagCode code, Span span, const char *format, ...);
_Noreturn void box_leave(lua_State *lua);
__attribute__((format(printf, 4, 5))) _Noreturn void box_fail(lua_State *lua, DiagCode code, Span span,
                                                              const char *format, ...);
// unknown WHAT "WORD", with the nearest known word as help, or all of them.
_Noreturn void box_unknown(lua_State *lua, DiagCode code, Span span, const char *what, const char *word,
                           const char *const *known, size_t count);
// `text` without control characters and broken UTF-8, cut after 400 bytes; in the arena.
const char *box_clean(Ctx *ctx, const char *text);

// ---- lua_library.c ----

// Installs the safe library; inside a protected call.
int box_library(lua_State *lua);
// string.format with plain conversions.
int box_format(lua_State *lua);
// Makes the global names defined so far read-only, and an unknown name an error (E0207, E0208).
void box_seal_globals(lua_State *lua);
// A value that a frozen table answers with nil, although it knows the field.
void box_push_absent(lua_State *lua);
// Replaces the table at the top by a read-only view of it; asking for another field is `unknown_code`.
void box_freeze(lua_State *lua, DiagCode unknown_code);
// Pushes the keys of the table at `index` as a sorted sequence: numbers, then texts, then booleans. Its length.
lua_Integer box_sorted_keys(lua_State *lua, int index);
// A key or value for a message: a text itself, a number's digits, or the name of its type. Never an address.
const char *box_show(lua_State *lua, int index);
// An integer at `index`; integral floats are fine. Fails with `what` at `span` otherwise.
int64_t box_integer(lua_State *lua, int index, const char *what, int64_t lo, int64_t hi, DiagCode code, Span span);
#endif
