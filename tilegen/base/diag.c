#include "diag.h"
#include "text.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

typedef enum Kind { KIND_ERROR, KIND_WARNING, KIND_NOTE, KIND_HELP } Kind;

typedef struct Diag {
    Kind kind;
    DiagCode code;
    Span span;
    const char *text;
} Diag;

// The list is on the heap, so that it survives arena_pop; texts and sources must be allocated outside a popped range.
struct Diags {
    Diag *at;
    size_t count, room, errors;
    bool out_of_memory;
};

enum { MAX_ERRORS = 64 }; // a broken input does not flood the terminal

const Span NO_SPAN = {0};

static const struct {
    const char *name, *title, *text;
} codes[] = {
    {"E0000", "", ""},
#define DIAG(code, title, text) {#code, title, text},
#include "diags.def"
#undef DIAG
};

static const char *const kind_names[] = {"error", "warning", "note", "help"};

Diags *diags_new(void) { return calloc(1, sizeof(Diags)); }

void diags_free(Diags *diags) {
    if (!diags) return;
    free(diags->at);
    free(diags);
}

void diags_out_of_memory(Diags *diags) {
    if (!diags->out_of_memory) diags->errors++;
    diags->out_of_memory = true;
}

Source *source_new(Ctx *ctx, const char *name, const char *text, size_t length) {
    Source *source = ARENA_NEW(ctx->arena, Source);
    *source = (Source){arena_text(ctx->arena, name), text, length};
    return source;
}

Span source_span(const Source *source, size_t offset, size_t length) {
    Span span = {source, 1, 1, (uint32_t)(length > UINT32_MAX ? UINT32_MAX : length)};
    if (offset > source->length) offset = source->length;
    for (size_t i = 0; i < offset; i++) {
        if (source->text[i] == '\n') {
            span.line++;
            span.col = 1;
        } else
            span.col++;
    }
    return span;
}

Span file_span(Ctx *ctx, const char *path) { return (Span){source_new(ctx, path, "", 0), 0, 0, 0}; }

static void diag_add(Ctx *ctx, Kind kind, DiagCode code, Span span, const char *format, va_list args) {
    Diags *diags = ctx->diags;
    if (kind == KIND_ERROR) diags->errors++;
    if (diags->errors > MAX_ERRORS) return;
    Text text = text_new(ctx->arena);
    text_vprintf(&text, format, args);
    if (diags->count == diags->room) {
        size_t room = diags->room ? diags->room * 2 : 16;
        Diag *grown = realloc(diags->at, room * sizeof *grown);
        if (!grown) ctx_out_of_memory(ctx);
        diags->at = grown;
        diags->room = room;
    }
    diags->at[diags->count++] = (Diag){kind, code, span, text.at};
}

#define DIAG_BODY(kind, code, span)                                                                                    \
    va_list args;                                                                                                      \
    va_start(args, format);                                                                                            \
    diag_add(ctx, kind, code, span, format, args);                                                                     \
    va_end(args)

void diag_error(Ctx *ctx, DiagCode code, Span span, const char *format, ...) { DIAG_BODY(KIND_ERROR, code, span); }
void diag_warning(Ctx *ctx, DiagCode code, Span span, const char *format, ...) { DIAG_BODY(KIND_WARNING, code, span); }
void diag_note(Ctx *ctx, Span span, const char *format, ...) { DIAG_BODY(KIND_NOTE, E0000, span); }
void diag_help(Ctx *ctx, const char *format, ...) { DIAG_BODY(KIND_HELP, E0000, NO_SPAN); }

size_t diag_errors(const Ctx *ctx) { return ctx->diags->errors; }
size_t diag_count(const Ctx *ctx) { return ctx->diags->count; }

DiagCode diag_code_at(const Ctx *ctx, size_t index) {
    for (size_t i = 0; i < ctx->diags->count; i++)
        if (ctx->diags->at[i].kind == KIND_ERROR && index-- == 0) return ctx->diags->at[i].code;
    return ctx->diags->out_of_memory && index == 0 ? E0001 : E0000;
}

void diag_forget(Ctx *ctx, size_t errors) {
    Diags *diags = ctx->diags;
    size_t seen = 0, i = 0;
    for (; i < diags->count; i++)
        if (diags->at[i].kind == KIND_ERROR && seen++ == errors) break;
    diags->count = i;
    diags->errors = errors < diags->errors ? errors : diags->errors;
}

// A byte of kind, two of code, the text with its end.
const void *diag_pack(Ctx *ctx, size_t *bytes) {
    Text out = text_new(ctx->arena);
    for (size_t i = 0; i < ctx->diags->count; i++) {
        const Diag *d = &ctx->diags->at[i];
        uint16_t code = (uint16_t)d->code;
        char head[3] = {(char)d->kind};
        memcpy(head + 1, &code, sizeof code);
        text_add(&out, head, sizeof head);
        if (d->span.source) text_printf(&out, "%s: ", d->span.source->name);
        text_add(&out, d->text, strlen(d->text) + 1);
    }
    *bytes = out.length;
    return out.at;
}

void diag_unpack(Ctx *ctx, const void *data, size_t bytes, const char *who) {
    const char *at = data, *end = at + bytes;
    while (end - at > 3 && memchr(at + 3, 0, (size_t)(end - at) - 3)) {
        uint16_t code;
        memcpy(&code, at + 1, sizeof code);
        if (code >= DIAG_CODE_COUNT || *at < KIND_ERROR || *at > KIND_HELP) return;
        switch ((Kind)*at) {
        case KIND_ERROR: diag_error(ctx, (DiagCode)code, NO_SPAN, "%s: %s", who, at + 3); break;
        case KIND_WARNING: diag_warning(ctx, (DiagCode)code, NO_SPAN, "%s: %s", who, at + 3); break;
        case KIND_NOTE: diag_note(ctx, NO_SPAN, "%s", at + 3); break;
        default: diag_help(ctx, "%s", at + 3);
        }
        at += strlen(at + 3) + 4;
    }
}

// The source line and a caret under the span; a long line is cut around the column.
static void print_caret(FILE *out, Span span, bool colour) {
    if (!span.source || !span.line || !span.source->length) return;
    const char *text = span.source->text, *end = text + span.source->length;
    for (uint32_t line = 1; line < span.line && text < end; line++) {
        const char *next = memchr(text, '\n', (size_t)(end - text));
        if (!next) return;
        text = next + 1;
    }
    const char *stop = text < end ? memchr(text, '\n', (size_t)(end - text)) : NULL;
    size_t length = (size_t)((stop ? stop : end) - text), col = span.col ? span.col - 1 : 0, from = 0;
    if (col > length) col = length;
    if (col > 100) from = col - 60;
    size_t shown = length - from > 140 ? 140 : length - from;
    fprintf(out, "%5u | ", span.line);
    for (size_t i = from; i < from + shown; i++) {
        unsigned char c = (unsigned char)text[i];
        fputc(c < 0x20 || c == 0x7F ? ' ' : c, out);
    }
    fprintf(out, "\n      | ");
    for (size_t i = from; i < col; i++)
        if (((unsigned char)text[i] & 0xC0) != 0x80) fputc(' ', out);
    size_t carets = span.length ? span.length : 1;
    if (col + carets > from + shown) carets = from + shown > col ? from + shown - col : 1;
    if (colour) fputs("\033[1;32m", out);
    for (size_t i = 0; i < carets; i++) fputc('^', out);
    if (colour) fputs("\033[0m", out);
    fputc('\n', out);
}

static void print_text(FILE *out, const Diag *diag, bool colour) {
    static const char *const colours[] = {"\033[1;31m", "\033[1;35m", "\033[1;36m", "\033[1;32m"};
    if (diag->span.source) {
        fprintf(out, "%s:", diag->span.source->name);
        if (diag->span.line) fprintf(out, "%u:%u:", diag->span.line, diag->span.col);
        fputc(' ', out);
    }
    if (colour) fputs(colours[diag->kind], out);
    fputs(kind_names[diag->kind], out);
    if (diag->kind <= KIND_WARNING) fprintf(out, "[%s]", codes[diag->code].name);
    if (colour) fputs("\033[0m", out);
    fprintf(out, ": %s\n", diag->text);
    print_caret(out, diag->span, colour);
}

static void print_json_string(FILE *out, const char *bytes) {
    fputc('"', out);
    for (const unsigned char *s = (const unsigned char *)bytes; *s; s++) {
        if (*s == '"' || *s == '\\')
            fprintf(out, "\\%c", *s);
        else if (*s < 0x20)
            fprintf(out, "\\u%04x", *s);
        else
            fputc(*s, out);
    }
    fputc('"', out);
}

static void print_json(FILE *out, const Diag *diag) {
    fprintf(out, "{\"kind\": \"%s\", ", kind_names[diag->kind]);
    if (diag->kind <= KIND_WARNING) fprintf(out, "\"code\": \"%s\", ", codes[diag->code].name);
    if (diag->span.source) {
        fputs("\"file\": ", out);
        print_json_string(out, diag->span.source->name);
        fprintf(out, ", \"line\": %u, \"col\": %u, \"length\": %u, ", diag->span.line, diag->span.col,
                diag->span.length);
    }
    fputs("\"text\": ", out);
    print_json_string(out, diag->text);
    fputc('}', out);
}

void diag_print(Ctx *ctx, FILE *out, DiagStyle style) {
    Diags *diags = ctx->diags;
    if (style == DIAG_JSON) fputs("[", out);
    for (size_t i = 0; i < diags->count; i++) {
        if (style == DIAG_JSON) {
            fputs(i ? ",\n " : "", out);
            print_json(out, &diags->at[i]);
        } else
            print_text(out, &diags->at[i], style == DIAG_COLOUR);
    }
    if (diags->out_of_memory) {
        Diag oom = {KIND_ERROR, E0001, NO_SPAN, "out of memory"};
        if (style == DIAG_JSON) {
            fputs(diags->count ? ",\n " : "", out);
            print_json(out, &oom);
        } else
            print_text(out, &oom, style == DIAG_COLOUR);
    }
    if (style == DIAG_JSON)
        fputs("]\n", out);
    else if (diags->errors > MAX_ERRORS)
        fprintf(out, "and %zu more errors\n", diags->errors - MAX_ERRORS);
    diags->count = diags->errors = 0;
    diags->out_of_memory = false;
}

const char *diag_code_name(DiagCode code) { return codes[code].name; }
const char *diag_code_title(DiagCode code) { return codes[code].title; }
const char *diag_code_text(DiagCode code) { return codes[code].text; }

DiagCode diag_code_from(const char *name) {
    for (int i = 1; i < DIAG_CODE_COUNT; i++)
        if (strcmp(codes[i].name, name) == 0) return (DiagCode)i;
    return E0000;
}
