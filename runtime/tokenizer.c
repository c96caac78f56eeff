#include "file.h"
#include "tokenizer_parts.h"
#include <string.h>

enum { TOKENIZER_FILE_CAP = 64 << 20, MAX_NESTING = 8 };

// Byte-level BPE writes bytes as letters: printable ones as themselves, the others from U+0100 on, in order.
static void letters_fill(int byte_of[512]) {
    int next = 256;
    for (int i = 0; i < 512; i++) byte_of[i] = -1;
    for (int b = 0; b < 256; b++) {
        bool itself = (b >= '!' && b <= '~') || (b >= 0xA1 && b != 0xAD);
        byte_of[itself ? b : next++] = b;
    }
}

static const char *type_of(const json_t *value) {
    const char *type = json_string_value(json_object_get(value, "type"));
    return type ? type : "";
}
static bool is_type(const json_t *value, const char *type) { return strcmp(type_of(value), type) == 0; }

static bool unknown_type(Reader *r, const char *path, const json_t *value) {
    return reader_wrong(r, E0802, "%s of the type \"%.40s\"", path, type_of(value));
}

// A part that is a Sequence of parts under `key`, or one part. Calls `read` with each.
static bool sequence_read(Reader *r, const char *path, const json_t *value, const char *key, int depth,
                          bool (*read)(Reader *r, const char *path, const json_t *value)) {
    if (!is_type(value, "Sequence")) return read(r, path, value);
    const char *keys[] = {"type", key, NULL};
    const json_t *list = json_object_get(value, key);
    size_t index;
    json_t *entry;
    if (!reader_keys(r, value, path, keys)) return false;
    if (!json_is_array(list)) return reader_wrong(r, E0801, "%s.%s is no list", path, key);
    if (depth == MAX_NESTING) return reader_wrong(r, E0802, "%s: nested too deeply", path);
    json_array_foreach(list, index, entry) {
        const char *inner = arena_printf(r->ctx->arena, "%s.%s[%zu]", path, key, index);
        if (!sequence_read(r, inner, entry, key, depth + 1, read)) return false;
    }
    return true;
}

// ---- Pre-tokenizers: all cut the text; ByteLevel comes last, since it changes the letters ----

static bool byte_level_read(Reader *r, const char *path, const json_t *value) {
    // The pattern that ByteLevel cuts by unless told not to: GPT-2's.
    static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    static const char *const keys[] = {"type", "add_prefix_space", "trim_offsets", "use_regex", NULL};
    bool ok = true, cuts = !json_object_get(value, "use_regex") || reader_flag(r, value, path, "use_regex", &ok);
    if (!reader_keys(r, value, path, keys)) return false;
    if (reader_flag(r, value, path, "add_prefix_space", &ok))
        return reader_wrong(r, E0802, "%s.add_prefix_space", path);
    return ok && (!cuts || split_add(r, gpt2, false, SPLIT_ISOLATED, false));
}

static bool split_read(Reader *r, const char *path, const json_t *value) {
    static const char *const keys[] = {"type", "pattern", "behavior", "invert", NULL};
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const json_t *pattern = json_object_get(value, "pattern");
    const char *regex = json_string_value(json_object_get(pattern, "Regex")),
               *literal = json_string_value(json_object_get(pattern, "String")),
               *behaviour = json_string_value(json_object_get(value, "behavior"));
    bool ok = true, invert = reader_flag(r, value, path, "invert", &ok);
    if (!ok || !reader_keys(r, value, path, keys)) return false;
    if (!regex == !literal || json_object_size(pattern) != 1)
        return reader_wrong(r, E0801, "%s.pattern is neither a Regex nor a String", path);
    for (size_t i = 0; behaviour && i < sizeof names / sizeof *names; i++)
        if (strcmp(behaviour, names[i]) == 0)
            return split_add(r, regex ? regex : literal, !regex, (Behaviour)i, invert);
    return reader_wrong(r, E0802, "%s.behavior \"%.40s\"", path, behaviour ? behaviour : "");
}

static bool digits_read(Reader *r, const char *path, const json_t *value) {
    static const char *const keys[] = {"type", "individual_digits", NULL};
    bool ok = true, each = reader_flag(r, value, path, "individual_digits", &ok);
    return ok && reader_keys(r, value, path, keys) &&
           split_add(r, "\\p{N}", false, each ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS, false);
}

static bool pre_tokenizer_read(Reader *r, const char *path, const json_t *value) {
    if (is_type(value, "ByteLevel")) return byte_level_read(r, path, value);
    if (is_type(value, "Split")) return split_read(r, path, value);
    if (is_type(value, "Digits")) return digits_read(r, path, value);
    return unknown_type(r, path, value);
}

// The last part of a possibly nested sequence.
static const json_t *last_of(const json_t *value, int depth) {
    const json_t *list = json_object_get(value, "pretokenizers");
    if (!is_type(value, "Sequence") || depth == MAX_NESTING) return value;
    return last_of(json_array_get(list, json_array_size(list) - 1), depth + 1);
}

// ByteLevel parts before the last part.
static size_t byte_levels(const json_t *value, int depth) {
    size_t index, count = is_type(value, "ByteLevel");
    json_t *entry;
    if (is_type(value, "Sequence") && depth < MAX_NESTING)
        json_array_foreach(json_object_get(value, "pretokenizers"), index, entry) count +=
            byte_levels(entry, depth + 1);
    return count;
}

static bool pre_tokenizers_read(Reader *r, const json_t *value) {
    if (!sequence_read(r, "pre_tokenizer", value, "pretokenizers", 0, pre_tokenizer_read)) return false;
    if (is_type(last_of(value, 0), "ByteLevel") && byte_levels(value, 0) == 1) return true;
    return reader_wrong(r, E0802, "pre_tokenizer: ByteLevel must stand last, and once");
}

// ---- The other parts ----

static bool normalizer_read(Reader *r, const char *path, const json_t *value) {
    if (!is_type(value, "NFC")) return unknown_type(r, path, value);
    return r->t->nfc = true;
}

static bool decoder_read(Reader *r, const char *path, const json_t *value) {
    return is_type(value, "ByteLevel") || unknown_type(r, path, value);
}

// single: an optional special token, then the sequence.
static bool template_read(Reader *r, const char *path, const json_t *value) {
    const json_t *single = json_object_get(value, "single");
    size_t count = json_array_size(single);
    const json_t *token = count == 2 ? json_object_get(json_array_get(single, 0), "SpecialToken") : NULL;
    const char *sequence = json_string_value(
                   json_object_get(json_object_get(json_array_get(single, count - 1), "Sequence"), "id")),
               *name = json_string_value(json_object_get(token, "id"));
    if (!sequence || (count != 1 && !name))
        return reader_wrong(r, E0802, "%s.single is something else than at most one special token and the text", path);
    if (!name) return true;
    const json_t *ids = json_object_get(json_object_get(json_object_get(value, "special_tokens"), name), "ids");
    const json_t *id = json_array_get(ids, 0);
    if (json_array_size(ids) != 1 || !json_is_integer(id) || json_integer_value(id) < 0 ||
        json_integer_value(id) >= r->t->bpe.vocab || !r->t->bpe.tokens[json_integer_value(id)].known)
        return reader_wrong(r, E0801, "%s.special_tokens: \"%.60s\" has no id of the vocabulary", path, name);
    if (r->t->bos >= 0) return reader_wrong(r, E0802, "%s: a second template", path);
    r->t->bos = (int)json_integer_value(id);
    return true;
}

static bool post_processor_read(Reader *r, const char *path, const json_t *value) {
    if (is_type(value, "ByteLevel")) return true; // it changes offsets alone
    return is_type(value, "TemplateProcessing") ? template_read(r, path, value) : unknown_type(r, path, value);
}

static bool model_fields_read(Reader *r, const json_t *model) {
    static const char *const keys[] = {"type",
                                       "vocab",
                                       "merges",
                                       "dropout",
                                       "unk_token",
                                       "continuing_subword_prefix",
                                       "fuse_unk",
                                       "byte_fallback",
                                       "end_of_word_suffix",
                                       "ignore_merges",
                                       NULL};
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    bool ok = true;
    if (!is_type(model, "BPE")) return unknown_type(r, "model", model);
    if (!reader_keys(r, model, "model", keys)) return false;
    const json_t *dropout = json_object_get(model, "dropout");
    if (dropout && !json_is_null(dropout) && json_number_value(dropout) != 0)
        return reader_wrong(r, E0802, "model.dropout");
    for (size_t i = 0; i < 2; i++) {
        const char *affix = json_string_value(json_object_get(model, affixes[i]));
        if (affix && *affix) return reader_wrong(r, E0802, "model.%s", affixes[i]);
    }
    // unk_token, fuse_unk and byte_fallback are for letters without a token, and there are none.
    r->t->bpe.ignore_merges = reader_flag(r, model, "model", "ignore_merges", &ok);
    return ok;
}

static bool tokenizer_parts_read(Reader *r, const json_t *root) {
    static const char *const keys[] = {"version",       "added_tokens",   "model",   "normalizer",
                                       "pre_tokenizer", "post_processor", "decoder", NULL};
    const json_t *model = json_object_get(root, "model"), *added = json_object_get(root, "added_tokens"),
                 *normalizer = json_object_get(root, "normalizer"), *post = json_object_get(root, "post_processor");
    if (!json_is_object(root)) return reader_wrong(r, E0801, "a JSON object is wanted here");
    if (!reader_keys(r, root, "", keys) || !model_fields_read(r, model)) return false;
    if (added && !json_is_array(added)) return reader_wrong(r, E0801, "added_tokens is no list");
    return (!normalizer || json_is_null(normalizer) ||
            sequence_read(r, "normalizer", normalizer, "normalizers", 0, normalizer_read)) &&
           vocab_read(r, model, added) && merges_read(r, json_object_get(model, "merges")) &&
           added_read(r, model, added) && pre_tokenizers_read(r, json_object_get(root, "pre_tokenizer")) &&
           (!post || json_is_null(post) ||
            sequence_read(r, "post_processor", post, "processors", 0, post_processor_read)) &&
           sequence_read(r, "decoder", json_object_get(root, "decoder"), "decoders", 0, decoder_read);
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
    r->ctx = ctx;
    r->t = ARENA_NEW(ctx->arena, Tokenizer);
    r->t->bos = -1;
    r->file = (Span){source, 0, 0, 0};
    letters_fill(r->byte_of);
    // The tokenizer stays registered until the ctx goes: freeing it twice is harmless.
    ctx_defer(ctx, release, r->t);
    bool ok = tokenizer_parts_read(r, root);
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
    for (int i = 0; t && i < t->split_count; i++) pcre2_code_free(t->splits[i].code);
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
