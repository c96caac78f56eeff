#include "text.h"
#include <stdio.h>
#include <string.h>

Text text_new(Arena *arena) {
    Text text = {arena, arena_alloc(arena, 64), 0, 64};
    return text;
}

static void text_reserve(Text *text, size_t more) {
    if (text->room - text->length > more) return;
    size_t room = text->room * 2 > text->length + more + 1 ? text->room * 2 : text->length + more + 1;
    char *at = arena_alloc(text->arena, room);
    memcpy(at, text->at, text->length + 1);
    text->at = at;
    text->room = room;
}

void text_add(Text *text, const char *bytes, size_t length) {
    text_reserve(text, length);
    if (length) memcpy(text->at + text->length, bytes, length);
    text->length += length;
    text->at[text->length] = 0;
}

void text_vprintf(Text *text, const char *format, va_list args) {
    va_list again;
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    if (length > 0) {
        text_reserve(text, (size_t)length);
        vsnprintf(text->at + text->length, (size_t)length + 1, format, again);
        text->length += (size_t)length;
    }
    va_end(again);
}

void text_printf(Text *text, const char *format, ...) {
    va_list args;
    va_start(args, format);
    text_vprintf(text, format, args);
    va_end(args);
}

// Length of the valid UTF-8 sequence at `s` (RFC 3629), or 0.
static size_t utf8_length(const unsigned char *s, size_t left) {
    if (s[0] < 0x80) return 1;
    size_t need = s[0] >= 0xC2 && s[0] < 0xE0   ? 2
                  : s[0] >= 0xE0 && s[0] < 0xF0 ? 3
                  : s[0] >= 0xF0 && s[0] < 0xF5 ? 4
                                                : 0;
    if (!need || need > left) return 0;
    for (size_t i = 1; i < need; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) || (s[0] == 0xF0 && s[1] < 0x90) ||
        (s[0] == 0xF4 && s[1] > 0x8F))
        return 0;
    return need;
}

void text_json(Text *text, const char *bytes, size_t length) {
    const unsigned char *s = (const unsigned char *)bytes;
    for (size_t i = 0; i < length;) {
        size_t n = utf8_length(s + i, length - i);
        if (n == 0) {
            text_add(text, "\xEF\xBF\xBD", 3);
            i++;
        } else if (s[i] == '"' || s[i] == '\\') {
            text_printf(text, "\\%c", s[i++]);
        } else if (s[i] == '\n') {
            text_add(text, "\\n", 2);
            i++;
        } else if (s[i] < 0x20 || s[i] == 0x7F) {
            text_printf(text, "\\u%04x", s[i++]);
        } else {
            text_add(text, bytes + i, n);
            i += n;
        }
    }
}

// Levenshtein distance over the first 63 bytes of each word.
static size_t edit_distance(const char *a, const char *b) {
    size_t n = strnlen(a, 63), m = strnlen(b, 63), row[64];
    for (size_t j = 0; j <= m; j++) row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t above = row[j], best = diagonal + (a[i - 1] != b[j - 1]);
            if (above + 1 < best) best = above + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
            diagonal = above;
        }
    }
    return row[m];
}

const char *text_nearest(const char *word, const char *const *candidates, size_t count) {
    const char *best = NULL;
    size_t limit = strlen(word) / 3 + 2, distance = limit;
    for (size_t i = 0; i < count; i++) {
        size_t d = edit_distance(word, candidates[i]);
        if (d < distance) {
            distance = d;
            best = candidates[i];
        }
    }
    return best;
}
