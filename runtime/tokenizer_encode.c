#include "tokenizer_parts.h"
#include <string.h>
#include <utf8proc.h>

typedef struct Encoder {
    Ctx *ctx;
    const Tokenizer *t;
    Splitter *splitter;
    bool special;
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

static void id_add(Encoder *e, int id) {
    reserve(e, 1);
    e->ids[e->count++] = id;
}

static void piece(void *user, const char *text, size_t length) {
    Encoder *e = user;
    reserve(e, length); // no piece has more ids than bytes
    ArenaMark mark = arena_push(e->ctx->arena);
    e->count += bpe_encode(e->ctx->arena, &e->t->bpe, text, length, e->ids + e->count);
    arena_pop(e->ctx->arena, mark);
}

// The longest added token that begins at `text`, or -1.
static int added_at(const Encoder *e, const Added *added, const char *text, size_t left) {
    unsigned char first = (unsigned char)text[0];
    for (int i = added->from[first]; i < added->from[first + 1]; i++) {
        const TokenText *token = &e->t->bpe.tokens[added->ids[i]];
        if (token->special && !e->special) continue;
        if (token->length <= left && memcmp(token->bytes, text, token->length) == 0) return added->ids[i];
    }
    return -1;
}

// Cuts at added tokens and gives the text between them to `rest`.
static void added_cut(Encoder *e, const Added *added, const char *text, size_t length,
                      void (*rest)(Encoder *e, const char *text, size_t length)) {
    size_t start = 0, at = 0;
    while (at < length) {
        int id = added_at(e, added, text + at, length - at);
        if (id < 0) {
            at++;
            continue;
        }
        if (at > start) rest(e, text + start, at - start);
        id_add(e, id);
        at += e->t->bpe.tokens[id].length;
        start = at;
    }
    if (length > start) rest(e, text + start, length - start);
}

static void split_text(Encoder *e, const char *text, size_t length) { splitter_run(e->splitter, text, length); }

// Valid UTF-8, normalised where the tokenizer says so.
static void valid_text(Encoder *e, const char *text, size_t length) {
    bool ascii = true;
    for (size_t i = 0; i < length && ascii; i++) ascii = (unsigned char)text[i] < 0x80;
    if (e->t->nfc && !ascii) text = nfc_text(e->ctx->arena, text, length, &length);
    added_cut(e, &e->t->normal, text, length, split_text);
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
        id_add(e, e->t->bpe.byte_id[(uint8_t)text[at]]);
        start = ++at;
    }
    if (at > start) valid_text(e, text + start, at - start);
}

static void splitter_release(void *splitter) { splitter_close(splitter); }

void tokenizer_encode(Ctx *ctx, const Tokenizer *t, const char *text, size_t length, bool special, int **ids,
                      size_t *count) {
    Encoder e = {.ctx = ctx, .t = t, .special = special, .splitter = ARENA_NEW(ctx->arena, Splitter)};
    splitter_open(e.splitter, ctx, t);
    ctx_defer(ctx, splitter_release, e.splitter);
    e.splitter->piece = piece;
    e.splitter->user = &e;
    reserve(&e, length / 4 + 16);
    added_cut(&e, &t->raw, text, length, plain_text);
    ctx_done(ctx, e.splitter);
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
        // A byte that cannot go on with what is held begins anew: it may open a sequence of its own.
        if (stream->count && ((unsigned char)bytes[i] & 0xC0) != 0x80)
            written += tokenizer_stream_end(stream, out + written, room - written);
        stream->held[stream->count++] = bytes[i];
        if (!wanted(stream)) written += tokenizer_stream_end(stream, out + written, room - written);
    }
    return written;
}
