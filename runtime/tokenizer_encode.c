#include "tokenizer_parts.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

typedef struct Encoder {
    Ctx *ctx;
    const Tokenizer *t;
    pcre2_match_context *limits;
    int *ids;
    size_t count, room;
} Encoder;

static void reserve(Encoder *e, size_t more) {
    if (e->room - e->count >= more) return;
    size_t room = (e->count + more) * 2;
    int *grown = ARENA_ARRAY(e->ctx->arena, int, room);
    if (e->count) memcpy(grown, e->ids, e->count * sizeof *grown);
    e->ids = grown;
    e->room = room;
}

static void piece(Encoder *e, const char *text, size_t length) {
    reserve(e, length);
    ArenaMark mark = arena_push(e->ctx->arena);
    e->count += bpe_encode(e->ctx->arena, &e->t->bpe, text, length, e->ids + e->count);
    arena_pop(e->ctx->arena, mark);
}

// Cuts by split pattern number `level`, then by those after it; what lies between two matches is a piece too.
static void split(Encoder *e, int level, const char *text, size_t length) {
    if (level == e->t->split_count) {
        piece(e, text, length);
        return;
    }
    size_t at = 0;
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    if (!match) ctx_out_of_memory(e->ctx);
    ctx_defer(e->ctx, (void (*)(void *))pcre2_match_data_free, match);
    for (size_t from = 0; from < length;) {
        int found =
            pcre2_match(e->t->splits[level], (PCRE2_SPTR)text, length, from, PCRE2_NO_UTF_CHECK, match, e->limits);
        if (found < 0) break; // none left, or over the match limit: the rest is one piece
        PCRE2_SIZE *range = pcre2_get_ovector_pointer(match);
        if (range[1] == range[0]) { // an empty match moves on by a character
            from = range[1] + 1;
            while (from < length && ((unsigned char)text[from] & 0xC0) == 0x80) from++;
            continue;
        }
        if (range[0] > at) split(e, level + 1, text + at, range[0] - at);
        split(e, level + 1, text + range[0], range[1] - range[0]);
        at = from = range[1];
    }
    if (at < length) split(e, level + 1, text + at, length - at);
    ctx_done(e->ctx, match);
}

// Valid UTF-8, normalised where the tokenizer says so.
static void valid_text(Encoder *e, const char *text, size_t length) {
    bool ascii = true;
    for (size_t i = 0; i < length && ascii; i++) ascii = (unsigned char)text[i] < 0x80;
    if (!e->t->nfc || ascii) {
        split(e, 0, text, length);
        return;
    }
    utf8proc_uint8_t *normal = NULL;
    utf8proc_ssize_t bytes = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)length, &normal,
                                          UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (bytes < 0) ctx_out_of_memory(e->ctx);
    ctx_defer(e->ctx, free, normal);
    split(e, 0, (const char *)normal, (size_t)bytes);
    ctx_done(e->ctx, normal);
}

// Text without added tokens: runs of valid UTF-8, and single bytes where it is not.
static void plain_text(Encoder *e, const char *text, size_t length) {
    size_t start = 0, at = 0;
    while (at < length) {
        utf8proc_int32_t letter;
        utf8proc_ssize_t bytes =
            utf8proc_iterate((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)(length - at), &letter);
        if (bytes > 0) {
            at += (size_t)bytes;
            continue;
        }
        if (at > start) valid_text(e, text + start, at - start);
        piece(e, text + at, 1);
        start = ++at;
    }
    if (at > start) valid_text(e, text + start, at - start);
}

// The longest added token that begins at `text`, or -1.
static int added_at(const Tokenizer *t, const char *text, size_t left, bool special) {
    int best = -1;
    for (size_t i = 0; i < t->added_count; i++) {
        const TokenText *token = &t->bpe.tokens[t->added[i]];
        if ((token->special && !special) || token->length > left || token->bytes[0] != text[0]) continue;
        if (memcmp(token->bytes, text, token->length) == 0 && (best < 0 || token->length > t->bpe.tokens[best].length))
            best = t->added[i];
    }
    return best;
}

static void limits_free(void *limits) { pcre2_match_context_free(limits); }

void tokenizer_encode(Ctx *ctx, const Tokenizer *t, const char *text, size_t length, bool special, int **ids,
                      size_t *count) {
    Encoder e = {.ctx = ctx, .t = t};
    // Patterns come with the file: a hostile one must not hang.
    if (!(e.limits = pcre2_match_context_create(NULL))) ctx_out_of_memory(ctx);
    ctx_defer(ctx, limits_free, e.limits);
    pcre2_set_match_limit(e.limits, 2000000);
    pcre2_set_depth_limit(e.limits, 20000);
    reserve(&e, length + 1); // no piece has more ids than bytes; NFC may add some, see reserve
    size_t start = 0, at = 0;
    while (at < length) {
        int added = added_at(t, text + at, length - at, special);
        if (added < 0) {
            at++;
            continue;
        }
        if (at > start) plain_text(&e, text + start, at - start);
        reserve(&e, 1);
        e.ids[e.count++] = added;
        at += t->bpe.tokens[added].length;
        start = at;
    }
    if (at > start) plain_text(&e, text + start, at - start);
    ctx_done(ctx, e.limits);
    *ids = e.ids;
    *count = e.count;
}

// Bytes still wanted by the UTF-8 sequence that `held` begins; 0 when it is complete or can never be.
static size_t wanted(const TextStream *s) {
    unsigned char c = (unsigned char)s->held[0];
    size_t need = c >= 0xF0 && c < 0xF5 ? 4 : c >= 0xE0 && c < 0xF0 ? 3 : c >= 0xC2 && c < 0xE0 ? 2 : 1;
    for (size_t i = 1; i < s->count; i++)
        if (((unsigned char)s->held[i] & 0xC0) != 0x80) return 0;
    return s->count < need ? need - s->count : 0;
}

size_t tokenizer_stream_end(TextStream *stream, char *out, size_t room) {
    size_t count = stream->count < room ? stream->count : room;
    memcpy(out, stream->held, count);
    stream->count = 0;
    return count;
}

size_t tokenizer_stream(const Tokenizer *t, TextStream *stream, int id, char *out, size_t room) {
    size_t length, written = 0;
    const char *bytes = tokenizer_bytes(t, id, false, &length);
    for (size_t i = 0; i < length; i++) {
        stream->held[stream->count++] = bytes[i];
        if (!wanted(stream)) written += tokenizer_stream_end(stream, out + written, room - written);
    }
    return written;
}
