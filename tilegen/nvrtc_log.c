#include "nvrtc_log.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 10, MOST_NOTES = 4 };

typedef struct Line {
    const char *at;
    size_t length;
} Line;

typedef struct Reader {
    Ctx *ctx;
    const char *at;
    const Source *const *sources;
    size_t source_count, errors, warnings;
} Reader;

// False at the end. Trailing spaces do not belong to a line.
static bool line_next(Reader *r, Line *line) {
    if (!*r->at) return false;
    const char *end = strchr(r->at, '\n');
    size_t length = end ? (size_t)(end - r->at) : strlen(r->at);
    *line = (Line){r->at, length};
    r->at += length + (end ? 1 : 0);
    while (line->length && isspace((unsigned char)line->at[line->length - 1])) line->length--;
    return true;
}

static const char *line_find(Line line, const char *what) { return memmem(line.at, line.length, what, strlen(what)); }

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

// The source called name[0, length), whose folders do not count.
static const Source *source_of(const Reader *r, const char *name, size_t length) {
    for (size_t i = length; i-- > 0;)
        if (name[i] == '/') {
            name += i + 1;
            length -= i + 1;
            break;
        }
    for (size_t i = 0; i < r->source_count; i++) {
        const char *own = base_name(r->sources[i]->name);
        if (strlen(own) == length && memcmp(own, name, length) == 0) return r->sources[i];
    }
    return NULL;
}

// A place in a source: the name at it if there is one, else one byte; without a column the line's text.
static Span place(const Source *source, unsigned number, size_t col) {
    const char *at = source->text, *end = at + source->length;
    for (unsigned line = 1; line < number; line++) {
        const char *next = memchr(at, '\n', (size_t)(end - at));
        if (!next) return (Span){source, 0, 0, 0};
        at = next + 1;
    }
    const char *stop = memchr(at, '\n', (size_t)(end - at));
    size_t width = (size_t)((stop ? stop : end) - at), length = 0;
    if (!col) {
        while (col < width && isspace((unsigned char)at[col])) col++;
        return (Span){source, number, (uint32_t)col + 1, (uint32_t)(width - col)};
    }
    for (size_t i = col - 1; i < width && (isalnum((unsigned char)at[i]) || at[i] == '_'); i++) length++;
    return (Span){source, number, (uint32_t)col, (uint32_t)(length ? length : 1)};
}

typedef enum Weight { WEIGHT_NONE, WEIGHT_WARNING, WEIGHT_ERROR } Weight;

// "error: text", "error #20-D: text", "catastrophic error: text", "warning #177-D: text" at `at`; *text is set.
static Weight weight_of(const char *at, const char *end, Line *text) {
    static const struct {
        const char *word;
        Weight weight;
    } words[] = {{"error", WEIGHT_ERROR},
                 {"catastrophic error", WEIGHT_ERROR},
                 {"internal error", WEIGHT_ERROR},
                 {"warning", WEIGHT_WARNING}};
    for (int i = 0; i < 4; i++) {
        size_t length = strlen(words[i].word);
        if ((size_t)(end - at) <= length || memcmp(at, words[i].word, length) != 0) continue;
        const char *colon = memchr(at, ':', (size_t)(end - at));
        if (!colon || (at[length] != ':' && at[length] != ' ')) continue;
        *text = (Line){colon + 1, (size_t)(end - colon - 1)};
        while (text->length && *text->at == ' ') text->at++, text->length--;
        return words[i].weight;
    }
    return WEIGHT_NONE;
}

// True when it is shown, and notes may follow.
static bool say(Reader *r, Weight weight, DiagCode code, Span span, Line text) {
    if (weight == WEIGHT_WARNING) {
        if (++r->warnings > MOST) return false;
        diag_warning(r->ctx, E0457, span, "%.*s", (int)text.length, text.at);
        return true;
    }
    if (++r->errors > MOST) return false;
    diag_error(r->ctx, code, span, "%.*s", (int)text.length, text.at);
    return true;
}

// "NAME(LINE): error: text", then lines up to an empty one: the source line with a caret under it, and remarks.
static bool compiler_message(Reader *r, Line line) {
    const char *end = line.at + line.length, *open = line.at;
    Weight weight = WEIGHT_NONE;
    Line text;
    unsigned number = 0;
    while ((open = memchr(open, '(', (size_t)(end - open)))) {
        char *after;
        unsigned long value = strtoul(open + 1, &after, 10);
        if (after > open + 1 && end - after > 3 && strncmp(after, "): ", 3) == 0 && value < 1u << 30)
            weight = weight_of(after + 3, end, &text), number = (unsigned)value;
        if (weight) break;
        open++;
    }
    if (!weight) return false;
    const Source *source = source_of(r, line.at, (size_t)(open - line.at));
    Line remarks[MOST_NOTES + 1], next;
    size_t count = 0, col = 0;
    while (line_next(r, &next) && next.length) {
        size_t lead = 0;
        while (lead < next.length && isspace((unsigned char)next.at[lead])) lead++;
        if (lead + 1 == next.length && next.at[lead] == '^') { // lines are shown behind two spaces
            col = lead >= 2 ? lead - 1 : 1;
            if (count) count--; // the one before it was the source line
        } else if (count <= MOST_NOTES)
            remarks[count++] = (Line){next.at + lead, next.length - lead};
    }
    if (!source) text = (Line){line.at, line.length}; // a place that is none of ours is told in words
    if (!say(r, weight, E0453, source ? place(source, number, col) : NO_SPAN, text)) return true;
    for (size_t i = 0; i < count && i < MOST_NOTES; i++)
        diag_note(r->ctx, NO_SPAN, "%.*s", (int)remarks[i].length, remarks[i].at);
    return true;
}

// "ptxas ...; error   : text", "ptxas fatal   : text", "ptxas info    : (C7508) Potential Performance Loss: text".
static void assembler_message(Reader *r, Line line) {
    static const char *const words[] = {"error   : ", "fatal   : "};
    for (int i = 0; i < 2; i++) {
        const char *at = line_find(line, words[i]);
        if (!at) continue;
        // The last line only says that there were errors.
        if (r->errors && line_find(line, "aborted due to errors")) return;
        say(r, WEIGHT_ERROR, E0453, NO_SPAN, line);
        return;
    }
    const char *loss = line_find(line, "Potential Performance Loss: "), *warning = line_find(line, "warning : ");
    if (loss)
        say(r, WEIGHT_ERROR, E0456, NO_SPAN, line);
    else if (warning)
        say(r, WEIGHT_WARNING, E0457, NO_SPAN, line);
}

size_t nvrtc_log_report(Ctx *ctx, const char *log, const Source *const *sources, size_t count) {
    Reader r = {.ctx = ctx, .at = log, .sources = sources, .source_count = count};
    for (Line line, text; line_next(&r, &line);) {
        if (compiler_message(&r, line)) continue;
        if (line.length >= 5 && memcmp(line.at, "ptxas", 5) == 0) {
            assembler_message(&r, line);
            continue;
        }
        const char *ends = line_find(line, "At end of source: ");
        if (ends != line.at) continue;
        const char *from = line.at + strlen("At end of source: ");
        Weight weight = weight_of(from, line.at + line.length, &text);
        if (weight) say(&r, weight, E0453, NO_SPAN, line);
    }
    if (r.errors > MOST) diag_note(ctx, NO_SPAN, "and %zu more errors of the CUDA compiler", r.errors - MOST);
    return r.errors;
}

// The number before `unit`, or 0.
static int number_before(Line line, const char *unit) {
    const char *at = line_find(line, unit);
    if (!at) return 0;
    while (at > line.at && isdigit((unsigned char)at[-1])) at--;
    long value = strtol(at, NULL, 10);
    return value > 0 && value < 1 << 30 ? (int)value : 0;
}

static void raise_to(int *most, int value) {
    if (value > *most) *most = value;
}

Resources nvrtc_log_resources(const char *log) {
    Resources out = {0};
    Reader r = {.at = log};
    for (Line line; line_next(&r, &line);) {
        if (line_find(line, " bytes stack frame")) {
            out.functions++;
            raise_to(&out.stack, number_before(line, " bytes stack frame"));
            out.spill_stores += number_before(line, " bytes spill stores");
            out.spill_loads += number_before(line, " bytes spill loads");
        } else if (line_find(line, ": Used ")) {
            raise_to(&out.registers, number_before(line, " registers"));
            raise_to(&out.barriers, number_before(line, " barriers"));
            raise_to(&out.shared, number_before(line, " bytes smem"));
            raise_to(&out.stack, number_before(line, " bytes cumulative stack size"));
        }
    }
    return out;
}
