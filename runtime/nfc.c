#include "tokenizer_parts.h"
#include <string.h>
#include <utf8proc.h>

enum { CLASSES = 256, MAX_EXPANSION = 4 }; // one code point decomposes into at most four

// Marks of one base character, ordered by combining class; equal classes keep their order. Counted, so that a million
// marks on one letter take no longer than a million letters.
static void marks_sort(utf8proc_int32_t *marks, utf8proc_int32_t *scratch, size_t count) {
    size_t at[CLASSES + 1] = {0};
    bool sorted = true;
    int last = 0;
    for (size_t i = 0; i < count && sorted; i++) {
        int class = utf8proc_get_property(marks[i])->combining_class;
        sorted = class >= last;
        last = class;
    }
    if (sorted) return;
    for (size_t i = 0; i < count; i++) at[utf8proc_get_property(marks[i])->combining_class + 1]++;
    for (int c = 0; c < CLASSES; c++) at[c + 1] += at[c];
    for (size_t i = 0; i < count; i++) scratch[at[utf8proc_get_property(marks[i])->combining_class]++] = marks[i];
    memcpy(marks, scratch, count * sizeof *marks);
}

const char *nfc_text(Arena *arena, const char *text, size_t length, size_t *out_length) {
    size_t count = 0, room = 0;
    for (size_t i = 0; i < length; i++) room += ((unsigned char)text[i] & 0xC0) != 0x80;
    utf8proc_int32_t *points = arena_array(arena, room * MAX_EXPANSION + 1, sizeof *points),
                     *scratch = arena_array(arena, room * MAX_EXPANSION + 1, sizeof *scratch);
    for (size_t at = 0; at < length;) {
        utf8proc_int32_t point;
        int boundary = 0;
        at += (size_t)utf8proc_iterate((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)(length - at), &point);
        count += (size_t)utf8proc_decompose_char(point, points + count, MAX_EXPANSION,
                                                 UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &boundary);
    }
    for (size_t i = 0, end; i < count; i = end) {
        end = i + 1;
        if (utf8proc_get_property(points[i])->combining_class == 0) continue;
        while (end < count && utf8proc_get_property(points[end])->combining_class != 0) end++;
        marks_sort(points + i, scratch, end - i);
    }
    utf8proc_ssize_t composed =
        utf8proc_normalize_utf32(points, (utf8proc_ssize_t)count, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    char *out = arena_alloc(arena, (size_t)composed * 4 + 1);
    *out_length = 0;
    for (utf8proc_ssize_t i = 0; i < composed; i++)
        *out_length += (size_t)utf8proc_encode_char(points[i], (utf8proc_uint8_t *)out + *out_length);
    return out;
}
