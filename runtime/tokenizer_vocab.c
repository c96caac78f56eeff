#include "text.h"
#include "tokenizer_parts.h"
#include <stdlib.h>
#include <string.h>

enum { VOCAB_CAP = 1 << 22 };

bool reader_wrong(Reader *r, DiagCode code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    Text text = text_new(r->ctx->arena);
    text_vprintf(&text, format, args);
    va_end(args);
    for (char *s = text.at; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7F) *s = '?';
    diag_error(r->ctx, code, r->file, "%s", text.at);
    return false;
}

bool reader_flag(Reader *r, const json_t *object, const char *path, const char *key, bool *ok) {
    const json_t *value = json_object_get(object, key);
    if (!value || json_is_boolean(value)) return json_is_true(value);
    *ok = reader_wrong(r, E0801, "%s.%s is no boolean", path, key);
    return false;
}

bool reader_keys(Reader *r, const json_t *object, const char *path, const char *const *keys) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value) {
        bool known = json_is_null(value);
        for (const char *const *k = keys; *k && !known; k++) known = strcmp(*k, key) == 0;
        if (!known) return reader_wrong(r, E0802, "%s%s%.60s", path, *path ? "." : "", key);
    }
    return true;
}

// The bytes that a token's letters stand for. NULL when a letter stands for none.
static char *letters_bytes(Reader *r, const char *letters, size_t *length) {
    char *out = arena_alloc(r->ctx->arena, strlen(letters) + 1);
    *length = 0;
    for (const unsigned char *s = (const unsigned char *)letters; *s;) {
        unsigned letter = *s++; // valid UTF-8: jansson has seen to it
        if (letter >= 0xE0) return NULL;
        if (letter >= 0xC0) letter = (letter & 31) << 6 | (*s++ & 63);
        int byte = letter < 512 ? r->byte_of[letter] : -1;
        if (byte < 0) return NULL;
        out[(*length)++] = (char)byte;
    }
    return out;
}

// An id, or -1 after reporting.
static int id_of(Reader *r, const json_t *value, const char *token) {
    if (json_is_integer(value) && json_integer_value(value) >= 0 && json_integer_value(value) < VOCAB_CAP)
        return (int)json_integer_value(value);
    reader_wrong(r, E0803, "the id of token \"%.60s\" is no number from 0 to %d", token, VOCAB_CAP - 1);
    return -1;
}

static void text_index(Bpe *bpe, int id) {
    const TokenText *token = &bpe->tokens[id];
    size_t at = bpe_hash(token->bytes, token->length) & (bpe->text_room - 1);
    while (bpe->by_text[at] >= 0) at = (at + 1) & (bpe->text_room - 1);
    bpe->by_text[at] = id;
}

// Largest id + 1, or -1 after reporting.
static int vocab_size(Reader *r, const json_t *vocab, const json_t *added) {
    const char *letters;
    json_t *value;
    size_t index;
    int largest = -1;
    json_object_foreach((json_t *)(uintptr_t)vocab, letters, value) {
        int id = id_of(r, value, letters);
        if (id < 0) return -1;
        if (id > largest) largest = id;
    }
    json_array_foreach(added, index, value) {
        const char *content = json_string_value(json_object_get(value, "content"));
        if (!content || !*content) {
            reader_wrong(r, E0806, "added_tokens[%zu] has no text", index);
            return -1;
        }
        int id = id_of(r, json_object_get(value, "id"), content);
        if (id < 0) return -1;
        if (id > largest) largest = id;
    }
    return largest + 1;
}

bool vocab_read(Reader *r, const json_t *model, const json_t *added) {
    json_t *vocab = json_object_get(model, "vocab"), *value;
    Arena *arena = r->ctx->arena;
    Bpe *bpe = &r->t->bpe;
    const char *letters;
    if (!json_is_object(vocab)) return reader_wrong(r, E0801, "model.vocab is no map");
    bpe->vocab = vocab_size(r, vocab, added);
    if (bpe->vocab < 0) return false;
    bpe->tokens = ARENA_ARRAY(arena, TokenText, bpe->vocab + 1);
    for (bpe->text_room = 16; bpe->text_room < 2 * (size_t)bpe->vocab;) bpe->text_room *= 2;
    bpe->by_text = ARENA_ARRAY(arena, int, bpe->text_room);
    memset(bpe->by_text, -1, bpe->text_room * sizeof *bpe->by_text);
    json_object_foreach(vocab, letters, value) {
        TokenText *token = &bpe->tokens[json_integer_value(value)];
        if (token->known)
            return reader_wrong(r, E0803, "the id %d stands for two tokens", (int)json_integer_value(value));
        token->known = true;
        token->bytes = letters_bytes(r, letters, &token->length);
        if (token->bytes && token->length) {
            text_index(bpe, (int)json_integer_value(value));
        } else { // no text leads to it, and it is written as it stands
            token->bytes = arena_text(arena, letters);
            token->length = strlen(letters);
        }
    }
    for (int b = 0; b < 256; b++) {
        char byte = (char)b;
        bpe->byte_id[b] = bpe_find(bpe, &byte, 1);
        if (bpe->byte_id[b] < 0) {
            reader_wrong(r, E0803, "no token for the byte 0x%02x", b);
            diag_help(r->ctx, "a byte-level vocabulary has all 256 bytes");
            return false;
        }
    }
    return true;
}

static bool merge_add(Reader *r, size_t index, const char *left, const char *right) {
    Bpe *bpe = &r->t->bpe;
    size_t a, b;
    const char *p = letters_bytes(r, left, &a), *q = letters_bytes(r, right, &b);
    Merge m = {-1, -1, (int)index, -1};
    if (p && q && a && b) {
        char *both = arena_alloc(r->ctx->arena, a + b);
        memcpy(both, p, a);
        memcpy(both + a, q, b);
        m = (Merge){bpe_find(bpe, p, a), bpe_find(bpe, q, b), (int)index, bpe_find(bpe, both, a + b)};
    }
    if (m.left < 0 || m.right < 0 || m.id < 0)
        return reader_wrong(r, E0804,
                            "model.merges[%zu]: \"%.60s\", \"%.60s\" or both together are not in the vocabulary", index,
                            left, right);
    int key[2] = {m.left, m.right};
    size_t at = bpe_hash(key, sizeof key) & (bpe->merge_room - 1);
    while (bpe->merges[at].left >= 0 && (bpe->merges[at].left != m.left || bpe->merges[at].right != m.right))
        at = (at + 1) & (bpe->merge_room - 1);
    bpe->merges[at] = m; // of two for the same pair the last one counts
    return true;
}

bool merges_read(Reader *r, const json_t *merges) {
    Bpe *bpe = &r->t->bpe;
    size_t index, count = json_array_size(merges);
    json_t *value;
    if (!json_is_array(merges)) return reader_wrong(r, E0801, "model.merges is no list");
    for (bpe->merge_room = 16; bpe->merge_room < 2 * count + 2;) bpe->merge_room *= 2;
    bpe->merges = ARENA_ARRAY(r->ctx->arena, Merge, bpe->merge_room);
    for (size_t i = 0; i < bpe->merge_room; i++) bpe->merges[i].left = -1;
    json_array_foreach(merges, index, value) {
        const char *both = json_string_value(value), *space = both ? strchr(both, ' ') : NULL;
        const char *left = json_string_value(json_array_get(value, 0)),
                   *right = json_string_value(json_array_get(value, 1));
        if (both && strncmp(both, "#version", 8) == 0) continue;
        if (space && !strchr(space + 1, ' ')) {
            left = arena_copy(r->ctx->arena, both, (size_t)(space - both));
            right = space + 1;
        } else if (both || json_array_size(value) != 2)
            left = NULL;
        if (!left || !right)
            return reader_wrong(r, E0801, "model.merges[%zu] is neither \"a b\" nor [\"a\", \"b\"]", index);
        if (!merge_add(r, index, left, right)) return false;
    }
    return true;
}

typedef struct AddedToken {
    const TokenText *token;
    int id;
} AddedToken;

static int added_order(const void *a, const void *b) {
    const TokenText *x = ((const AddedToken *)a)->token, *y = ((const AddedToken *)b)->token;
    unsigned char first = (unsigned char)x->bytes[0], other = (unsigned char)y->bytes[0];
    if (first != other) return first < other ? -1 : 1;
    if (x->length != y->length) return x->length > y->length ? -1 : 1;
    return memcmp(x->bytes, y->bytes, x->length);
}

static bool added_sort(Reader *r, Added *out, AddedToken *list, int count) {
    qsort(list, (size_t)count, sizeof *list, added_order);
    out->ids = ARENA_ARRAY(r->ctx->arena, int, count + 1);
    for (int i = 0; i < count; i++) {
        if (i && added_order(&list[i - 1], &list[i]) == 0)
            return reader_wrong(r, E0806, "added token \"%.60s\" stands twice", list[i].token->bytes);
        out->ids[i] = list[i].id;
        out->from[(unsigned char)list[i].token->bytes[0] + 1]++;
    }
    for (int b = 0; b < 256; b++) out->from[b + 1] += out->from[b];
    return true;
}

static bool added_one(Reader *r, const json_t *value, size_t index, bool *given, AddedToken *out, bool *normalized) {
    static const char *const keys[] = {"id",     "content",    "single_word", "lstrip",
                                       "rstrip", "normalized", "special",     NULL};
    static const char *const refused[] = {"single_word", "lstrip", "rstrip"};
    bool ok = true;
    char path[48];
    snprintf(path, sizeof path, "added_tokens[%zu]", index);
    if (!reader_keys(r, value, path, keys)) return false;
    const char *content = json_string_value(json_object_get(value, "content"));
    for (size_t f = 0; f < 3; f++)
        if (reader_flag(r, value, path, refused[f], &ok))
            return reader_wrong(r, E0802, "%s (\"%.60s\"): %s", path, content, refused[f]);
    bool special = reader_flag(r, value, path, "special", &ok);
    *normalized = reader_flag(r, value, path, "normalized", &ok);
    for (const char *s = content; *normalized && r->t->nfc && *s; s++)
        if ((unsigned char)*s >= 0x80)
            return reader_wrong(r, E0802, "%s (\"%.60s\"): normalized, with letters that NFC may change", path,
                                content);
    int id = (int)json_integer_value(json_object_get(value, "id"));
    TokenText *token = &r->t->bpe.tokens[id];
    if (given[id]) return reader_wrong(r, E0806, "%s (\"%.60s\"): its id %d is taken", path, content, id);
    *token = (TokenText){arena_text(r->ctx->arena, content), strlen(content), true, special};
    given[id] = true;
    *out = (AddedToken){token, id};
    return ok;
}

bool added_read(Reader *r, const json_t *model, const json_t *added) {
    json_t *vocab = json_object_get(model, "vocab"), *value;
    size_t index, count = json_array_size(added);
    int counts[2] = {0};
    bool *given = ARENA_ARRAY(r->ctx->arena, bool, r->t->bpe.vocab + 1);
    AddedToken *lists[2] = {ARENA_ARRAY(r->ctx->arena, AddedToken, count + 1),
                            ARENA_ARRAY(r->ctx->arena, AddedToken, count + 1)};
    json_array_foreach(added, index, value) {
        const char *content = json_string_value(json_object_get(value, "content"));
        const json_t *id = json_object_get(value, "id"), *there = json_object_get(vocab, content);
        AddedToken one;
        bool normalized = false;
        if (there ? json_integer_value(there) != json_integer_value(id)
                  : r->t->bpe.tokens[json_integer_value(id)].known && !given[json_integer_value(id)])
            return reader_wrong(r, E0806, "added_tokens[%zu] (\"%.60s\"): the vocabulary has another id or token",
                                index, content);
        if (!added_one(r, value, index, given, &one, &normalized)) return false;
        lists[normalized][counts[normalized]++] = one;
    }
    return added_sort(r, &r->t->raw, lists[0], counts[0]) && added_sort(r, &r->t->normal, lists[1], counts[1]);
}
