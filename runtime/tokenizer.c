#include "file.h"
#include "text.h"
#include "tokenizer_parts.h"
#include <jansson.h>
#include <string.h>

enum { VOCAB_CAP = 1 << 22, TOKENIZER_FILE_CAP = 64 << 20 };

// Byte-level BPE writes bytes as letters: printable ones as themselves, the others from U+0100 on, in order.
static int byte_of_letter(uint32_t letter) {
    uint32_t next = 256;
    if ((letter >= '!' && letter <= '~') || (letter >= 0xA1 && letter <= 0xFF && letter != 0xAD)) return (int)letter;
    for (uint32_t b = 0; b < 256; b++) {
        bool itself = (b >= '!' && b <= '~') || (b >= 0xA1 && b != 0xAD);
        if (!itself && next++ == letter) return (int)b;
    }
    return -1;
}

typedef struct Reader {
    Ctx *ctx;
    Tokenizer *t;
    Span file;
    int letters[512]; // byte of each letter, -1: none
    bool failed;
} Reader;

__attribute__((format(printf, 3, 4))) static bool bad(Reader *r, DiagCode code, const char *format, ...) {
    va_list args;
    if (r->failed) return false;
    va_start(args, format);
    Text text = text_new(r->ctx->arena);
    text_vprintf(&text, format, args);
    va_end(args);
    diag_error(r->ctx, code, r->file, "%s", text.at);
    r->failed = true;
    return false;
}

// The bytes that a token's letters stand for. NULL when a letter stands for none.
static char *token_bytes(Reader *r, const char *letters, size_t *length) {
    char *out = arena_alloc(r->ctx->arena, strlen(letters) + 1);
    *length = 0;
    for (const unsigned char *s = (const unsigned char *)letters; *s;) {
        uint32_t letter = *s++;
        if (letter >= 0xC0 && letter < 0xE0 && *s) letter = (letter & 31) << 6 | (*s++ & 63);
        int byte = letter < 512 ? r->letters[letter] : -1;
        if (byte < 0) return NULL;
        out[(*length)++] = (char)byte;
    }
    return out;
}

static const char *type_of(json_t *value) {
    const char *type = json_string_value(json_object_get(value, "type"));
    return type ? type : "";
}

static bool add_token(Reader *r, int id, const char *bytes, size_t length, bool added, bool special) {
    TokenText *token = &r->t->bpe.tokens[id];
    if (token->known && !added) return bad(r, E0801, "the id %d stands for two tokens", id);
    *token = (TokenText){bytes, length, true, special, added};
    return true;
}

static bool read_vocab(Reader *r, json_t *model, json_t *added) {
    json_t *vocab = json_object_get(model, "vocab"), *value;
    Bpe *bpe = &r->t->bpe;
    const char *letters;
    size_t index;
    json_int_t largest = -1;
    if (!json_is_object(vocab)) return bad(r, E0801, "model.vocab is missing");
    json_object_foreach(vocab, letters, value) {
        if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) >= VOCAB_CAP)
            return bad(r, E0801, "token \"%.40s\" has no id", letters);
        if (json_integer_value(value) > largest) largest = json_integer_value(value);
    }
    json_array_foreach(added, index, value) {
        json_t *id = json_object_get(value, "id");
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= VOCAB_CAP ||
            !json_is_string(json_object_get(value, "content")))
            return bad(r, E0801, "added token %zu has no id and content", index);
        if (json_integer_value(id) > largest) largest = json_integer_value(id);
    }
    bpe->vocab = (int)largest + 1;
    bpe->tokens = ARENA_ARRAY(r->ctx->arena, TokenText, bpe->vocab + 1);
    json_object_foreach(vocab, letters, value) {
        size_t length;
        char *bytes = token_bytes(r, letters, &length);
        bool is_added = false;
        json_t *entry;
        if (!bytes) {
            json_array_foreach(added, index, entry) is_added |=
                strcmp(json_string_value(json_object_get(entry, "content")), letters) == 0;
            if (!is_added)
                return bad(r, E0802, "token \"%.40s\" is no text of byte letters: not a byte-level vocabulary",
                           letters);
            continue;
        }
        if (!add_token(r, (int)json_integer_value(value), bytes, length, false, false)) return false;
    }
    for (bpe->text_room = 16; bpe->text_room < 2 * (size_t)bpe->vocab;) bpe->text_room *= 2;
    bpe->by_text = ARENA_ARRAY(r->ctx->arena, int, bpe->text_room);
    memset(bpe->by_text, -1, bpe->text_room * sizeof *bpe->by_text);
    for (int id = 0; id < bpe->vocab; id++) {
        const TokenText *token = &bpe->tokens[id];
        if (!token->known || bpe_find(bpe, token->bytes, token->length) >= 0) continue;
        size_t at = bpe_hash(token->bytes, token->length) & (bpe->text_room - 1);
        while (bpe->by_text[at] >= 0) at = (at + 1) & (bpe->text_room - 1);
        bpe->by_text[at] = id;
    }
    for (int b = 0; b < 256; b++) {
        char byte = (char)b;
        bpe->byte_id[b] = bpe_find(bpe, &byte, 1);
        if (bpe->byte_id[b] < 0) return bad(r, E0802, "the vocabulary has no token for byte %d", b);
    }
    return true;
}

static bool read_added(Reader *r, json_t *added) {
    static const char *const flags[] = {"lstrip", "rstrip", "single_word"};
    size_t index;
    json_t *value;
    r->t->added = ARENA_ARRAY(r->ctx->arena, int, json_array_size(added) + 1);
    json_array_foreach(added, index, value) {
        const char *content = json_string_value(json_object_get(value, "content"));
        for (int f = 0; f < 3; f++)
            if (json_is_true(json_object_get(value, flags[f])))
                return bad(r, E0802, "added token \"%.40s\" has %s", content, flags[f]);
        int id = (int)json_integer_value(json_object_get(value, "id"));
        if (!content[0]) return bad(r, E0801, "an added token is empty");
        if (!add_token(r, id, arena_text(r->ctx->arena, content), strlen(content), true,
                       json_is_true(json_object_get(value, "special"))))
            return false;
        r->t->added[r->t->added_count++] = id;
    }
    return true;
}

static bool read_merges(Reader *r, json_t *merges) {
    Bpe *bpe = &r->t->bpe;
    size_t index, count = json_array_size(merges);
    json_t *value;
    if (!json_is_array(merges)) return bad(r, E0801, "model.merges is missing");
    for (bpe->merge_room = 16; bpe->merge_room < 2 * count + 2;) bpe->merge_room *= 2;
    bpe->merges = ARENA_ARRAY(r->ctx->arena, Merge, bpe->merge_room);
    for (size_t i = 0; i < bpe->merge_room; i++) bpe->merges[i].left = -1;
    json_array_foreach(merges, index, value) {
        const char *left = json_string_value(json_array_get(value, 0)),
                   *right = json_string_value(json_array_get(value, 1));
        if (json_is_string(value)) { // "left right"
            const char *text = json_string_value(value), *space = strchr(text, ' ');
            if (space) {
                left = arena_copy(r->ctx->arena, text, (size_t)(space - text));
                right = space + 1;
            }
        }
        size_t a, b;
        char *p = left ? token_bytes(r, left, &a) : NULL, *q = right ? token_bytes(r, right, &b) : NULL;
        if (!p || !q || !a || !b) return bad(r, E0801, "merge %zu is no pair of tokens", index);
        char *both = arena_alloc(r->ctx->arena, a + b + 1);
        memcpy(both, p, a);
        memcpy(both + a, q, b);
        Merge m = {bpe_find(bpe, p, a), bpe_find(bpe, q, b), (int)index, bpe_find(bpe, both, a + b)};
        if (m.left < 0 || m.right < 0 || m.id < 0)
            return bad(r, E0801, "merge %zu names a token that is not in the vocabulary", index);
        if (bpe_merge(bpe, m.left, m.right)) continue; // the first one counts
        int key[2] = {m.left, m.right};
        size_t at = bpe_hash(key, sizeof key) & (bpe->merge_room - 1);
        while (bpe->merges[at].left >= 0) at = (at + 1) & (bpe->merge_room - 1);
        bpe->merges[at] = m;
    }
    return true;
}

static bool add_split(Reader *r, const char *pattern) {
    int error;
    PCRE2_SIZE offset;
    if (r->t->split_count == MAX_SPLITS) return bad(r, E0802, "more than %d split patterns", MAX_SPLITS);
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &error, &offset, NULL);
    if (!code) {
        PCRE2_UCHAR text[200];
        pcre2_get_error_message(error, text, sizeof text);
        return bad(r, E0802, "the split pattern does not compile: %s at byte %zu", (char *)text, (size_t)offset);
    }
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); // where there is no JIT, matching interprets
    r->t->splits[r->t->split_count++] = code;
    return true;
}

static bool read_pre_tokenizer(Reader *r, json_t *value) {
    // The pattern that ByteLevel splits with when told to (GPT-2's).
    static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    const char *type = type_of(value);
    size_t index;
    json_t *entry;
    if (strcmp(type, "Sequence") == 0) {
        json_array_foreach(json_object_get(value, "pretokenizers"), index,
                           entry) if (!read_pre_tokenizer(r, entry)) return false;
        return true;
    }
    if (strcmp(type, "ByteLevel") == 0) {
        if (json_is_true(json_object_get(value, "add_prefix_space")))
            return bad(r, E0802, "pre_tokenizer ByteLevel with add_prefix_space");
        return json_is_false(json_object_get(value, "use_regex")) || add_split(r, gpt2);
    }
    if (strcmp(type, "Split") != 0) return bad(r, E0802, "pre_tokenizer \"%.40s\"", type);
    const char *pattern = json_string_value(json_object_get(json_object_get(value, "pattern"), "Regex"));
    const char *behaviour = json_string_value(json_object_get(value, "behavior"));
    if (!pattern || !behaviour || strcmp(behaviour, "Isolated") != 0 || json_is_true(json_object_get(value, "invert")))
        return bad(r, E0802, "a Split that is not a Regex with behavior Isolated");
    return add_split(r, pattern);
}

static bool read_normalizer(Reader *r, json_t *value) {
    if (!value || json_is_null(value)) return true;
    if (strcmp(type_of(value), "NFC") == 0) return r->t->nfc = true;
    if (strcmp(type_of(value), "Sequence") == 0 && json_array_size(json_object_get(value, "normalizers")) == 0)
        return true;
    return bad(r, E0802, "normalizer \"%.40s\"", type_of(value));
}

// The special token before the text of a single sequence.
static bool read_post_processor(Reader *r, json_t *value) {
    size_t index;
    json_t *entry;
    const char *type = value && !json_is_null(value) ? type_of(value) : "ByteLevel";
    if (strcmp(type, "ByteLevel") == 0) return true;
    if (strcmp(type, "Sequence") == 0) {
        json_array_foreach(json_object_get(value, "processors"), index,
                           entry) if (!read_post_processor(r, entry)) return false;
        return true;
    }
    if (strcmp(type, "TemplateProcessing") != 0) return bad(r, E0802, "post_processor \"%.40s\"", type);
    json_t *first = json_array_get(json_object_get(value, "single"), 0),
           *token = json_object_get(first, "SpecialToken");
    const char *name = json_string_value(json_object_get(token, "id"));
    if (!name) return true;
    json_t *ids = json_object_get(json_object_get(json_object_get(value, "special_tokens"), name), "ids");
    json_int_t id = json_integer_value(json_array_get(ids, 0));
    if (json_array_size(ids) != 1 || id < 0 || id >= r->t->bpe.vocab)
        return bad(r, E0801, "the special token \"%.40s\" has no id", name);
    r->t->bos = (int)id;
    return true;
}

static bool read_all(Reader *r, json_t *root) {
    json_t *model = json_object_get(root, "model"), *added = json_object_get(root, "added_tokens");
    const char *type = type_of(model);
    if (strcmp(type, "BPE") != 0) return bad(r, E0802, "model \"%.40s\"; byte-level BPE is supported", type);
    if (json_number_value(json_object_get(model, "dropout")) > 0) return bad(r, E0802, "model.dropout");
    if (json_is_true(json_object_get(model, "byte_fallback"))) return bad(r, E0802, "model.byte_fallback");
    r->t->bpe.ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    if (added && !json_is_array(added)) return bad(r, E0801, "added_tokens is no list");
    return read_vocab(r, model, added) && read_added(r, added) && read_merges(r, json_object_get(model, "merges")) &&
           read_normalizer(r, json_object_get(root, "normalizer")) &&
           read_pre_tokenizer(r, json_object_get(root, "pre_tokenizer")) &&
           read_post_processor(r, json_object_get(root, "post_processor"));
}

static void root_free(void *root) { json_decref(root); }
static void release(void *tokenizer) { tokenizer_free(tokenizer); }

Tokenizer *tokenizer_read(Ctx *ctx, Source *source) {
    json_error_t error;
    json_t *root = json_loadb(source->text, source->length, JSON_REJECT_DUPLICATES, &error);
    if (!root) {
        if (json_error_code(&error) == json_error_out_of_memory) ctx_out_of_memory(ctx);
        Span span = {source, (uint32_t)(error.line > 0 ? error.line : 1),
                     (uint32_t)(error.column > 0 ? error.column : 1), 1};
        diag_error(ctx, E0801, span, "not valid JSON: %s", error.text);
        return NULL;
    }
    ctx_defer(ctx, root_free, root);
    Reader *r = ARENA_NEW(ctx->arena, Reader);
    *r = (Reader){.ctx = ctx, .t = ARENA_NEW(ctx->arena, Tokenizer), .file = {source, 0, 0, 0}};
    r->t->bos = -1;
    for (uint32_t letter = 0; letter < 512; letter++) r->letters[letter] = byte_of_letter(letter);
    ctx_defer(ctx, release, r->t);
    bool ok = read_all(r, root);
    ctx_done(ctx, root);
    if (ok) return r->t;
    ctx_done(ctx, r->t);
    return NULL;
}

Tokenizer *tokenizer_open(Ctx *ctx, const char *path) {
    Source *source = file_read(ctx, path, TOKENIZER_FILE_CAP);
    return source ? tokenizer_read(ctx, source) : NULL;
}

void tokenizer_free(Tokenizer *t) {
    for (int i = 0; t && i < t->split_count; i++) pcre2_code_free(t->splits[i]);
    if (t) t->split_count = 0;
}

int tokenizer_vocab(const Tokenizer *t) { return t->bpe.vocab; }
int tokenizer_bos(const Tokenizer *t) { return t->bos; }

const char *tokenizer_bytes(const Tokenizer *t, int id, bool special, size_t *length) {
    *length = 0;
    if (id < 0 || id >= t->bpe.vocab || (t->bpe.tokens[id].special && !special)) return "";
    *length = t->bpe.tokens[id].length;
    return t->bpe.tokens[id].bytes ? t->bpe.tokens[id].bytes : "";
}
