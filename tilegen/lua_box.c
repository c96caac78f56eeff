#include "lua_box.h"
#include "text.h"
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// The count hook comes every PERIOD instructions. A single instruction may move as much as the largest block holds (a
// comparison of long strings, say), so instructions alone do not bound time: the CPU clock ends what takes absurdly
// long. A script that ends at all ends long before it, so results do not depend on the clock.
enum { PERIOD = 10, CLOCK_INSTRUCTIONS = 1000, CLOCK_CHURN = 1 << 20, CPU_SECONDS = 10, SHOWN = 400 };

static double cpu_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void *box_alloc(void *user, void *at, size_t old, size_t size) {
    LuaBox *box = user;
    if (!at) old = 0; // Lua passes a kind of object there
    if (size == 0) {
        free(at);
        box->used -= old;
        return NULL;
    }
    bool grows = size > old;
    // A quarter of the cap is as much as one string or array may have.
    if (grows && (size - old > box->cap - box->used || size > box->cap / 4)) {
        box->system_out = false;
        box->churn = CLOCK_CHURN; // a full collection follows
        return NULL;
    }
    void *out = realloc(at, size);
    if (!out) {
        if (grows) {
            box->system_out = true;
            return NULL;
        }
        out = at; // Lua relies on shrinking
    }
    box->used = box->used - old + size;
    box->churn += size;
    if (grows) box->system_out = false;
    return out;
}

LuaBox *box_of(lua_State *lua) { return *(LuaBox **)lua_getextraspace(lua); }

// ---- places in the source ----

typedef struct Token {
    size_t at, length; // of a string: its inside
    uint32_t line;
    char kind; // 'w': a name, number or string; else the character itself; 0: the end
} Token;

typedef struct Lexer {
    const char *text;
    size_t at, length;
    uint32_t line;
} Lexer;

// The length of "[[" or "[==[" at the lexer's place, or 0.
static size_t long_bracket(const Lexer *lexer) {
    size_t at = lexer->at + 1;
    while (at < lexer->length && lexer->text[at] == '=') at++;
    return at < lexer->length && lexer->text[at] == '[' ? at + 1 - lexer->at : 0;
}

static void skip_long(Lexer *lexer, size_t bracket) {
    for (lexer->at += bracket; lexer->at < lexer->length; lexer->at++) {
        if (lexer->text[lexer->at] == '\n') lexer->line++;
        if (lexer->text[lexer->at] != ']') continue;
        size_t at = lexer->at + 1;
        while (at < lexer->length && lexer->text[at] == '=') at++;
        if (at < lexer->length && lexer->text[at] == ']' && at + 1 - lexer->at == bracket) {
            lexer->at = at + 1;
            return;
        }
    }
}

static bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

// Lua's tokens, as far as finding words and brackets needs them. Broken text gives some tokens and then the end.
static Token token_next(Lexer *lexer) {
    const char *text = lexer->text;
    while (lexer->at < lexer->length) {
        char c = text[lexer->at];
        size_t bracket;
        if (c == '\n') {
            lexer->line++;
            lexer->at++;
        } else if (c == ' ' || c == '\t' || c == '\r') {
            lexer->at++;
        } else if (c == '-' && lexer->at + 1 < lexer->length && text[lexer->at + 1] == '-') {
            lexer->at += 2;
            if (lexer->at < lexer->length && text[lexer->at] == '[' && (bracket = long_bracket(lexer)))
                skip_long(lexer, bracket);
            else
                while (lexer->at < lexer->length && text[lexer->at] != '\n') lexer->at++;
        } else if (c == '[' && (bracket = long_bracket(lexer))) {
            Token token = {lexer->at + bracket, 0, lexer->line, 'w'};
            skip_long(lexer, bracket);
            token.length = lexer->at > token.at + bracket ? lexer->at - bracket - token.at : 0;
            return token;
        } else if (c == '"' || c == '\'') {
            Token token = {++lexer->at, 0, lexer->line, 'w'};
            while (lexer->at < lexer->length && text[lexer->at] != c && text[lexer->at] != '\n')
                lexer->at +=
                    text[lexer->at] == '\\' && lexer->at + 1 < lexer->length && text[lexer->at + 1] != '\n' ? 2 : 1;
            if (lexer->at > lexer->length) lexer->at = lexer->length;
            token.length = lexer->at - token.at;
            if (lexer->at < lexer->length && text[lexer->at] == c) lexer->at++;
            return token;
        } else if (is_word(c)) {
            Token token = {lexer->at, 0, lexer->line, 'w'};
            while (lexer->at < lexer->length && is_word(text[lexer->at])) lexer->at++;
            token.length = lexer->at - token.at;
            return token;
        } else
            return (Token){lexer->at++, 1, lexer->line, c};
    }
    return (Token){lexer->length, 0, lexer->line, 0};
}

// Offset of the first byte of the line, or the source's length.
static size_t line_start(const Source *source, int line) {
    size_t at = 0;
    for (int i = 1; i < line; i++) {
        const char *next = at < source->length ? memchr(source->text + at, '\n', source->length - at) : NULL;
        if (!next) return source->length;
        at = (size_t)(next + 1 - source->text);
    }
    return at;
}

static Span line_span(const Source *source, int line) {
    if (line <= 0) return (Span){source, 0, 0, 0};
    size_t start = line_start(source, line), end = start, from = start;
    while (end < source->length && source->text[end] != '\n') end++;
    while (from < end && (source->text[from] == ' ' || source->text[from] == '\t')) from++;
    while (end > from && (source->text[end - 1] == ' ' || source->text[end - 1] == '\r')) end--;
    return (Span){source, (uint32_t)line, (uint32_t)(from - start) + 1, (uint32_t)(end > from ? end - from : 1)};
}

// `word` among the tokens of the statement that begins on `line`: to the end of the line and on while brackets are
// open.
static Span word_span(const Source *source, int line, const char *anchor, const char *word, bool one_line) {
    Span fallback = line_span(source, line);
    if (line <= 0 || !word || !*word) return fallback;
    size_t word_length = strlen(word), anchor_length = anchor ? strlen(anchor) : 0;
    Lexer lexer = {source->text, line_start(source, line), source->length, (uint32_t)line};
    Span found = {0};
    for (int depth = 0;;) {
        Token token = token_next(&lexer);
        bool later = token.line > (uint32_t)line;
        if (!token.kind || (later && (depth == 0 || one_line))) return found.line ? found : fallback;
        if (token.kind == '(' || token.kind == '{' || token.kind == '[') depth++;
        if ((token.kind == ')' || token.kind == '}' || token.kind == ']') && depth > 0) depth--;
        bool punctuation = token.kind != 'w' && word_length == 1 && token.kind == *word;
        if (token.kind != 'w' && !punctuation) continue;
        const char *text = source->text + token.at;
        if (anchor) {
            if (token.length == anchor_length && memcmp(text, anchor, anchor_length) == 0) anchor = NULL;
            continue;
        }
        if (token.length != word_length || memcmp(text, word, word_length) != 0) continue;
        if (found.line) return fallback; // which of the two?
        size_t start = line_start(source, (int)token.line);
        found = (Span){source, token.line, (uint32_t)(token.at - start) + 1, (uint32_t)token.length};
        if (!punctuation) return found;
    }
}

Span box_span(lua_State *lua, const char *anchor, const char *word) {
    lua_Debug debug;
    for (int level = 0; lua_getstack(lua, level, &debug); level++) {
        lua_getinfo(lua, "l", &debug);
        if (debug.currentline > 0) return word_span(box_of(lua)->source, debug.currentline, anchor, word, false);
    }
    return line_span(box_of(lua)->source, box_of(lua)->line);
}

// ---- reports ----

// Bytes of the UTF-8 sequence at `s`, 0 when it is none.
static size_t utf8_length(const unsigned char *s) {
    size_t length = s[0] < 0x80                   ? 1
                    : s[0] >= 0xC2 && s[0] < 0xE0 ? 2
                    : (s[0] & 0xF0) == 0xE0       ? 3
                    : s[0] >= 0xF0 && s[0] < 0xF5 ? 4
                                                  : 0;
    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    if (length == 3 && ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] >= 0xA0))) return 0;
    if (length == 4 && ((s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] >= 0x90))) return 0;
    return length;
}

const char *box_clean(Ctx *ctx, const char *text) {
    size_t length = strnlen(text, SHOWN + 1);
    bool cut = length > SHOWN;
    char *out = arena_array(ctx->arena, SHOWN + 4, 1), *to = out;
    for (const unsigned char *s = (const unsigned char *)text; *s && to < out + SHOWN - 4;) {
        size_t n = utf8_length(s);
        bool c1 = n == 2 && s[0] == 0xC2 && s[1] < 0xA0; // control characters too
        if (n == 0 || c1 || (n == 1 && (*s < 0x20 || *s == 0x7F))) {
            *to++ = n == 1 ? ' ' : '?';
            s += c1 ? 2 : 1;
        } else {
            memcpy(to, s, n);
            to += n;
            s += n;
        }
    }
    strcpy(to, cut ? "..." : "");
    return out;
}

static char reported; // its address, as an error value, says that the diagnostic is already made

static void report(Ctx *ctx, DiagCode code, Span span, const char *format, va_list args) {
    Text text = text_new(ctx->arena);
    text_vprintf(&text, format, args);
    diag_error(ctx, code, span, "%s", box_clean(ctx, text.at ? text.at : ""));
}

void box_error(lua_State *lua, DiagCode code, Span span, const char *format, ...) {
    va_list args;
    va_start(args, format);
    report(box_of(lua)->ctx, code, span, format, args);
    va_end(args);
}

void box_leave(lua_State *lua) {
    lua_pushlightuserdata(lua, &reported);
    lua_error(lua);
    abort(); // lua_error does not return
}

void box_fail(lua_State *lua, DiagCode code, Span span, const char *format, ...) {
    va_list args;
    va_start(args, format);
    report(box_of(lua)->ctx, code, span, format, args);
    va_end(args);
    box_leave(lua);
}

void box_unknown(lua_State *lua, DiagCode code, Span span, const char *what, const char *word, const char *const *known,
                 size_t count) {
    Ctx *ctx = box_of(lua)->ctx;
    box_error(lua, code, span, "unknown %s \"%s\"", what, word);
    const char *near = strlen(word) <= 64 ? text_nearest(word, known, count) : NULL;
    if (near) {
        diag_help(ctx, "did you mean \"%s\"?", near);
    } else if (count) {
        Text text = text_new(ctx->arena);
        for (size_t i = 0; i < count; i++) text_printf(&text, "%s%s", i ? ", " : "", known[i]);
        diag_help(ctx, "there is %s", box_clean(ctx, text.at));
    }
    box_leave(lua);
}

// The word that Lua's message speaks of: the last 'word' in it.
static const char *quoted_word(Ctx *ctx, const char *message) {
    const char *end = strrchr(message, '\'');
    if (!end || end == message) return NULL;
    const char *start = end - 1;
    while (start > message && *start != '\'') start--;
    return *start == '\'' && end - start > 1 ? arena_printf(ctx->arena, "%.*s", (int)(end - start - 1), start + 1)
                                             : NULL;
}

static const char chunk_name[] = "schedule";

// "schedule:3: attempt to index a nil value (global 'x')" -> a diagnostic at x in line 3.
static void report_lua(LuaBox *box, const char *message, DiagCode code) {
    int line = 0, used = 0;
    size_t prefix = sizeof chunk_name - 1;
    if (strncmp(message, chunk_name, prefix) == 0 && sscanf(message + prefix, ":%d: %n", &line, &used) == 1 && used)
        message += prefix + (size_t)used;
    int last = 1; // error("...") can name any line, and the parser the one after the end
    for (size_t i = 0; i + 1 < box->source->length; i++) last += box->source->text[i] == '\n';
    if ((line <= 0 || line > last) && box->line) line = box->line;
    if (line > last) line = last;
    message = box_clean(box->ctx, message);
    diag_error(box->ctx, code, word_span(box->source, line, NULL, quoted_word(box->ctx, message), true), "%s", message);
}

static void report_cap(LuaBox *box) {
    bool mega = box->cap >= (size_t)1 << 20;
    diag_error(box->ctx, E0202, line_span(box->source, box->line), "the script wants more than its %zu %s of memory",
               mega ? box->cap >> 20 : box->cap >> 10, mega ? "MB" : "KB");
}

static void hook(lua_State *lua, lua_Debug *debug) {
    LuaBox *box = box_of(lua);
    if (debug->event == LUA_HOOKLINE) {
        box->line = debug->currentline;
    } else if (debug->event == LUA_HOOKRET) {
        lua_Debug caller;
        if (!lua_getstack(lua, 1, &caller)) return;
        lua_getinfo(lua, "l", &caller);
        if (caller.currentline > 0) box->line = caller.currentline;
    } else {
        box->left -= PERIOD;
        box->unclocked += PERIOD;
        if (box->unclocked >= CLOCK_INSTRUCTIONS || box->churn >= CLOCK_CHURN) {
            box->unclocked = 0;
            box->churn = 0;
            if (cpu_clock() > box->deadline) box->left = 0;
        }
        if (box->left > 0) return;
        lua_getinfo(lua, "l", debug);
        box_fail(lua, E0203, line_span(box->source, debug->currentline), "the script does not end");
    }
}

// ---- the state ----

static void box_release(void *user) {
    LuaBox *box = user;
    if (box->lua) lua_close(box->lua);
    box->lua = NULL;
}

LuaBox *box_open(Ctx *ctx, const Source *source, BoxLimits limits) {
    LuaBox *box = ARENA_NEW(ctx->arena, LuaBox);
    *box = (LuaBox){.ctx = ctx, .source = source, .cap = limits.memory, .left = limits.instructions};
    box->lua = lua_newstate(box_alloc, box);
    if (box->lua) {
        ctx_defer(ctx, box_release, box);
        *(LuaBox **)lua_getextraspace(box->lua) = box;
        lua_pushcfunction(box->lua, box_library);
        if (lua_pcall(box->lua, 0, 0, 0) == LUA_OK) return box;
    }
    if (box->system_out) ctx_out_of_memory(ctx);
    report_cap(box);
    if (box->lua) ctx_done(ctx, box);
    return NULL;
}

void box_close(LuaBox *box) { ctx_done(box->ctx, box); }

static char no_memory; // as `reported`, for the loader's lack of memory

void box_load(LuaBox *box, lua_State *lua) {
    const Source *source = box->source;
    if (source->length && source->text[0] == LUA_SIGNATURE[0])
        box_fail(lua, E0204, (Span){source, 1, 1, 1}, "this is bytecode; only text is run");
    int status = luaL_loadbufferx(lua, source->text, source->length, "=schedule", "t");
    if (status == LUA_ERRMEM) lua_pushlightuserdata(lua, &no_memory);
    if (status != LUA_OK) lua_error(lua);
}

bool box_run(LuaBox *box, lua_CFunction body, void *user, DiagCode code) {
    lua_State *lua = box->lua;
    box->user = user;
    box->deadline = cpu_clock() + CPU_SECONDS;
    lua_sethook(lua, hook, LUA_MASKCOUNT | LUA_MASKLINE | LUA_MASKRET, PERIOD);
    lua_pushcfunction(lua, body);
    int status = lua_pcall(lua, 0, 0, 0);
    lua_sethook(lua, NULL, 0, 0);
    if (status == LUA_OK) return true;
    const void *marker = lua_touserdata(lua, -1);
    if (status == LUA_ERRMEM || marker == &no_memory) {
        if (box->system_out) ctx_out_of_memory(box->ctx);
        report_cap(box);
    } else if (marker != &reported) {
        bool text = lua_type(lua, -1) == LUA_TSTRING;
        report_lua(box, text ? lua_tostring(lua, -1) : "the script raised an error that is not a text", code);
    }
    return false;
}
