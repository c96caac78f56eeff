#include "text.h"
#include "tokenizer_parts.h"
#include <string.h>

// ---- Patterns ----

// Patterns are written for Oniguruma (Ruby's syntax). Here they become PCRE2's: \s is spelt out, since PCRE2 counts
// U+180E as a space and Oniguruma does not; what the two read differently and no tokenizer needs is refused.
#define SPACES "\\p{Z}\\t-\\r\\x{85}"

typedef struct Translator {
    const char *at;
    Text out;
    const char *wrong; // what is refused, or NULL
} Translator;

static void copy(Translator *tr, size_t count) {
    text_add(&tr->out, tr->at, count);
    tr->at += count;
}

// \p{Name}: general categories are the same in both. Scripts are looked up by the property Script, as Oniguruma does;
// PCRE2 alone would take the extensions too.
static void property(Translator *tr) {
    const char *name = tr->at + 3 + (tr->at[3] == '^'), *end = strchr(name, '}');
    size_t length = end ? (size_t)(end - name) : 0;
    if (!length || length > 40) {
        tr->wrong = "a property without a name";
        return;
    }
    copy(tr, (size_t)(name - tr->at));
    if (length > 2) text_add(&tr->out, "sc:", 3);
    copy(tr, length + 1);
}

static void escape(Translator *tr, bool in_class) {
    char c = tr->at[1];
    if (c == 's') {
        text_printf(&tr->out, in_class ? SPACES : "[" SPACES "]");
        tr->at += 2;
    } else if (c == 'S' && !in_class) {
        text_printf(&tr->out, "[^" SPACES "]");
        tr->at += 2;
    } else if ((c == 'p' || c == 'P') && tr->at[2] == '{') {
        property(tr);
    } else if (c == 'x' && tr->at[2] == '{') {
        copy(tr, 3); // the digits and the closing brace are copied as they are
        while (*tr->at && *tr->at != '}') copy(tr, 1);
        if (*tr->at) copy(tr, 1);
    } else if ((c >= 'A' && c <= 'Z' && c != 'D' && c != 'A') || (c && strchr("bwvhkgouycpx", c))) {
        tr->wrong = arena_printf(tr->out.arena, "\\%c", c);
    } else
        copy(tr, c ? 2 : 1);
}

static void class(Translator *tr) {
    copy(tr, 1);
    if (*tr->at == '^') copy(tr, 1);
    if (*tr->at == ']') tr->wrong = "an empty class, or one that begins with ]";
    while (*tr->at && *tr->at != ']' && !tr->wrong) {
        if (*tr->at == '\\')
            escape(tr, true);
        else if (*tr->at == '[')
            tr->wrong = "a class inside a class";
        else if (tr->at[0] == '&' && tr->at[1] == '&')
            tr->wrong = "&& inside a class";
        else
            copy(tr, 1);
    }
    if (*tr->at && !tr->wrong) copy(tr, 1);
}

// Plain groups, look-around and (?i: ...). Other options and kinds differ between the two or are of no use here.
static void group(Translator *tr) {
    static const char *const kinds[] = {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:", "(?-i:"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strncmp(tr->at, kinds[i], strlen(kinds[i])) == 0) {
            copy(tr, strlen(kinds[i]));
            return;
        }
    if (tr->at[1] == '?' || tr->at[1] == '*')
        tr->wrong = "a group of an unusual kind";
    else
        copy(tr, 1);
}

// An interval: {n,m}. After it + and (without a comma) ? mean something else; so does a missing lower bound.
static void interval(Translator *tr) {
    size_t digits = strspn(tr->at + 1, "0123456789"), length = 1 + digits;
    bool comma = tr->at[length] == ',';
    if (comma) length += 1 + strspn(tr->at + length + 1, "0123456789");
    char after = tr->at[length] == '}' ? tr->at[length + 1] : 0;
    if (tr->at[length] != '}' || !digits || after == '+' || (after == '?' && !comma))
        tr->wrong = "a brace that is no plain interval";
    else
        copy(tr, length + 1);
}

static char *translate(Reader *r, const char *pattern) {
    Translator tr = {pattern, text_new(r->ctx->arena), NULL};
    while (*tr.at && !tr.wrong) {
        switch (*tr.at) {
        case '\\': escape(&tr, false); break;
        case '[': class(&tr); break;
        case '(': group(&tr); break;
        case '{': interval(&tr); break;
        default: copy(&tr, 1);
        }
    }
    if (!tr.wrong) return tr.out.at;
    reader_wrong(r, E0805, "split pattern: %s at byte %zu is not supported", tr.wrong, (size_t)(tr.at - pattern));
    return NULL;
}

static void context_free(void *context) { pcre2_compile_context_free(context); }

bool split_add(Reader *r, const char *pattern, bool literal, Behaviour behaviour, bool invert) {
    enum { LONGEST = 16384 };
    Tokenizer *t = r->t;
    if (!*pattern) return reader_wrong(r, E0805, "an empty split pattern");
    if (strlen(pattern) > LONGEST) return reader_wrong(r, E0805, "a split pattern of more than %d bytes", LONGEST);
    if (t->split_count == MAX_SPLITS) return reader_wrong(r, E0802, "more than %d split patterns", MAX_SPLITS);
    const char *text = literal ? pattern : translate(r, pattern);
    if (!text) return false;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context) ctx_out_of_memory(r->ctx);
    ctx_defer(r->ctx, context_free, context);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(context, 100);
    uint32_t options = PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
    int error;
    PCRE2_SIZE offset;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, options, &error, &offset, context);
    if (code) {                                      // from here on tokenizer_free releases it
        pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); // where there is no JIT, matching interprets
        t->splits[t->split_count++] = (Split){code, behaviour, invert};
    }
    ctx_done(r->ctx, context);
    if (code) return true;
    if (error == PCRE2_ERROR_HEAP_FAILED) ctx_out_of_memory(r->ctx);
    PCRE2_UCHAR message[200];
    pcre2_get_error_message(error, message, sizeof message);
    return reader_wrong(r, E0805, "the split pattern does not compile: %s", (const char *)message);
}

// ---- Cutting ----

void splitter_open(Splitter *s, Ctx *ctx, const Tokenizer *t) {
    bool ok = true;
    s->ctx = ctx;
    s->t = t;
    s->context = pcre2_match_context_create(NULL);
    s->stack = pcre2_jit_stack_create(32 << 10, 1 << 20, NULL);
    for (int i = 0; i < t->split_count; i++) ok &= (s->match[i] = pcre2_match_data_create(1, NULL)) != NULL;
    if (!ok || !s->context) {
        splitter_close(s);
        ctx_out_of_memory(ctx);
    }
    if (s->stack) pcre2_jit_stack_assign(s->context, NULL, s->stack);
    pcre2_set_heap_limit(s->context, 64 << 10); // KiB
}

void splitter_close(Splitter *s) {
    for (int i = 0; i < MAX_SPLITS; i++) pcre2_match_data_free(s->match[i]);
    pcre2_match_context_free(s->context);
    pcre2_jit_stack_free(s->stack);
    memset(s->match, 0, sizeof s->match);
    s->context = NULL;
    s->stack = NULL;
}

// Ranges in, pieces out: what is joined to the range before or after it waits here.
typedef struct Cutter {
    Splitter *s;
    int level;
    const char *text;
    size_t from, to; // waiting
    bool waits, last_was_match;
} Cutter;

static void run_level(Splitter *s, int level, const char *text, size_t length);

static void flush(Cutter *c) {
    if (c->waits && c->to > c->from) run_level(c->s, c->level + 1, c->text + c->from, c->to - c->from);
    c->waits = false;
}

// The next range in order. Each behaviour says when it is joined to the one that waits.
static void range(Cutter *c, size_t from, size_t to, bool match) {
    const Split *split = &c->s->t->splits[c->level];
    match ^= split->invert;
    bool join = false;
    switch (split->behaviour) {
    case SPLIT_ISOLATED: break;
    case SPLIT_REMOVED:
        if (match) return;
        break;
    case SPLIT_MERGED_WITH_PREVIOUS: join = match && !c->last_was_match; break;
    case SPLIT_MERGED_WITH_NEXT: join = c->last_was_match && !match; break;
    case SPLIT_CONTIGUOUS: join = match == c->last_was_match; break;
    }
    c->last_was_match = match;
    if (join && c->waits) {
        c->to = to;
        return;
    }
    flush(c);
    c->from = from;
    c->to = to;
    c->waits = true;
}

static int match_at(Splitter *s, int level, const char *text, size_t length, size_t from) {
    pcre2_code *code = s->t->splits[level].code;
    // Steps that any sane pattern stays far under; a costlier text ends the splitting instead of hanging.
    pcre2_set_match_limit(s->context, (uint32_t)(length < 50000000 ? 1000000 + 32 * length : 1601000000));
    int found = pcre2_match(code, (PCRE2_SPTR)text, length, from, PCRE2_NO_UTF_CHECK, s->match[level], s->context);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT)
        found = pcre2_match(code, (PCRE2_SPTR)text, length, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, s->match[level],
                            s->context);
    if (found >= 0 || found == PCRE2_ERROR_NOMATCH) return found;
    if (found == PCRE2_ERROR_NOMEMORY) ctx_out_of_memory(s->ctx);
    if (!s->told) {
        PCRE2_UCHAR message[200];
        pcre2_get_error_message(found, message, sizeof message);
        diag_error(s->ctx, E0811, NO_SPAN, "splitting the text: %s; its last %zu bytes are one piece",
                   (const char *)message, length - from);
        s->told = true;
    }
    return found;
}

static size_t next_letter(const char *text, size_t length, size_t at) {
    do at++;
    while (at < length && ((unsigned char)text[at] & 0xC0) == 0x80);
    return at;
}

static void run_level(Splitter *s, int level, const char *text, size_t length) {
    if (level == s->t->split_count) {
        s->piece(s->user, text, length);
        return;
    }
    Cutter cutter = {.s = s, .level = level, .text = text};
    size_t end = 0, from = 0; // end of the last match, begin of the next search
    bool any = false;
    while (from <= length && match_at(s, level, text, length, from) >= 0) {
        const PCRE2_SIZE *found = pcre2_get_ovector_pointer(s->match[level]);
        size_t begin = found[0], stop = found[1];
        if (begin == stop && any && begin == end) { // no empty match right after another match
            from = next_letter(text, length, from);
            continue;
        }
        if (begin > end) range(&cutter, end, begin, false);
        if (stop < begin) stop = begin;
        range(&cutter, begin, stop, true);
        end = from = stop;
        any = true;
    }
    if (end < length) range(&cutter, end, length, false);
    flush(&cutter);
}

void splitter_run(Splitter *s, const char *text, size_t length) { run_level(s, 0, text, length); }
