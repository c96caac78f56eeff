// Diagnostics: what is wrong, where, and what would be right.
//
//     models/x.yaml:12:9: error[E0104]: unknown key "windw"
//        12 |   windw: 128
//           |   ^^^^^
//     help: did you mean "window"?
//
// Codes are stable and listed in diag/*.def, with the long text that `tilegen explain E0104` prints.
// Diagnostics are collected in the Ctx and printed by main; libraries never print.
#ifndef TILEGEN_DIAG_H
#define TILEGEN_DIAG_H
#include "ctx.h"
#include <stdint.h>
#include <stdio.h>

typedef enum DiagCode {
    E0000 = 0, // none
#define DIAG(code, title, text) code,
#include "diags.def"
#undef DIAG
    DIAG_CODE_COUNT
} DiagCode;

// A source text, kept for the caret line. `text` must outlive the Ctx's diagnostics (put it in the arena).
typedef struct Source {
    const char *name; // as the user wrote it
    const char *text;
    size_t length;
} Source;

// A place in a source; line and col count from 1, col in bytes. line 0: the file as a whole. source NULL: no place.
typedef struct Span {
    const Source *source;
    uint32_t line, col, length;
} Span;

extern const Span NO_SPAN;

Source *source_new(Ctx *ctx, const char *name, const char *text, size_t length);
// The span of `length` bytes at byte `offset` of the source.
Span source_span(const Source *source, size_t offset, size_t length);
// A span that names a file only.
Span file_span(Ctx *ctx, const char *path);

Diags *diags_new(void);
void diags_free(Diags *diags);
void diags_out_of_memory(Diags *diags);

__attribute__((format(printf, 4, 5))) void diag_error(Ctx *ctx, DiagCode code, Span span, const char *format, ...);
__attribute__((format(printf, 4, 5))) void diag_warning(Ctx *ctx, DiagCode code, Span span, const char *format, ...);
// Belong to the newest error or warning.
__attribute__((format(printf, 3, 4))) void diag_note(Ctx *ctx, Span span, const char *format, ...);
__attribute__((format(printf, 2, 3))) void diag_help(Ctx *ctx, const char *format, ...);

size_t diag_errors(const Ctx *ctx);
// Everything reported so far: errors, warnings, notes, helps.
size_t diag_count(const Ctx *ctx);
// Code of error number `index`, E0000 past the end.
DiagCode diag_code_at(const Ctx *ctx, size_t index);
// Forgets everything reported after the first `errors` errors and their notes.
void diag_forget(Ctx *ctx, size_t errors);

// Everything reported, as bytes for another process; in the arena. And what came from one: its texts behind `who`.
const void *diag_pack(Ctx *ctx, size_t *bytes);
void diag_unpack(Ctx *ctx, const void *data, size_t bytes, const char *who);

typedef enum DiagStyle { DIAG_TEXT, DIAG_COLOUR, DIAG_JSON } DiagStyle;
// Prints all diagnostics (JSON: one array) and forgets them.
void diag_print(Ctx *ctx, FILE *out, DiagStyle style);

const char *diag_code_name(DiagCode code);  // "E0104"
const char *diag_code_title(DiagCode code); // one line
const char *diag_code_text(DiagCode code);  // a paragraph
DiagCode diag_code_from(const char *name);  // E0000 when there is none
#endif
