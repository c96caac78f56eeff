// Text that grows at its end. It lives in an arena; `at` is always a C string.
#ifndef TILEGEN_TEXT_H
#define TILEGEN_TEXT_H
#include "arena.h"
#include <stdarg.h>

typedef struct Text {
    Arena *arena;
    char *at;
    size_t length, room;
} Text;

Text text_new(Arena *arena);
void text_add(Text *text, const char *bytes, size_t length);
__attribute__((format(printf, 2, 3))) void text_printf(Text *text, const char *format, ...);
void text_vprintf(Text *text, const char *format, va_list args);
// `bytes` as the inside of a JSON string (without the quotes); invalid UTF-8 becomes U+FFFD.
void text_json(Text *text, const char *bytes, size_t length);

// The candidate nearest to `word` by edit distance, or NULL when none is near enough to suggest.
const char *text_nearest(const char *word, const char *const *candidates, size_t count);
#endif
