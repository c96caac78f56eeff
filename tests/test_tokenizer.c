// Tokenizers: ids of Hugging Face's tokenizers, text given back byte by byte, and what is refused.
#include "damage.h"
#include "file.h"
#include "tokenizer.h"
#include <jansson.h>

static const char *golden(const char *name) {
    const char *root = getenv("ROOT") ? getenv("ROOT") : ".";
    return arena_printf(ctx->arena, "%s/tests/golden/tokenizer/%s", root, name);
}

static json_t *golden_json(const char *name) {
    json_error_t error;
    json_t *root = json_load_file(golden(name), JSON_ALLOW_NUL, &error);
    CHECK(root, "%s: %s", name, error.text);
    return root;
}

static Tokenizer *tokenizer_of(const char *name) {
    FRESH();
    Tokenizer *t = tokenizer_open(ctx, golden(name));
    CHECK_SILENT();
    CHECK(t);
    return t;
}

static const char *decode(const Tokenizer *t, const int *ids, size_t count, size_t *length) {
    size_t room = 1, n;
    for (size_t i = 0; i < count; i++) {
        tokenizer_bytes(t, ids[i], true, &n);
        room += n;
    }
    char *out = arena_alloc(ctx->arena, room);
    *length = 0;
    for (size_t i = 0; i < count; i++) {
        const char *bytes = tokenizer_bytes(t, ids[i], true, &n);
        memcpy(out + *length, bytes, n);
        *length += n;
    }
    return out;
}

static void same_ids(const Tokenizer *t, const json_t *cases, size_t at_least) {
    size_t index;
    json_t *one;
    CHECK(json_array_size(cases) >= at_least);
    json_array_foreach(cases, index, one) {
        const json_t *text = json_object_get(one, "text"), *want = json_object_get(one, "ids"),
                     *decoded = json_object_get(one, "decoded");
        int *ids;
        size_t count, length;
        tokenizer_encode(ctx, t, json_string_value(text), json_string_length(text), true, &ids, &count);
        CHECK_SILENT();
        bool same = count == json_array_size(want);
        for (size_t i = 0; i < count && same; i++) same = ids[i] == json_integer_value(json_array_get(want, i));
        if (!same) {
            printf("# got");
            for (size_t i = 0; i < count; i++) printf(" %d", ids[i]);
            printf("\n# want %s\n", json_dumps(want, 0));
        }
        CHECK(same, "case %zu \"%s\"", index, json_string_value(text));
        if (!decoded) continue;
        const char *back = decode(t, ids, count, &length);
        CHECK(length == json_string_length(decoded) && memcmp(back, json_string_value(decoded), length) == 0,
              "case %zu", index);
    }
}

static void golden_ids(const char *name, const char *ids) {
    const Tokenizer *t = tokenizer_of(name);
    json_t *cases = golden_json(ids);
    same_ids(t, cases, 150);
    json_decref(cases);
}
static void ids_of_gpt(void) { golden_ids("gpt.json", "gpt.ids.json"); }
static void ids_of_qwen_with_nfc(void) { golden_ids("qwen.json", "qwen.ids.json"); }
static void ids_of_llama_with_ignored_merges(void) { golden_ids("llama.json", "llama.ids.json"); }

// The file as JSON text, with the value at `key` replaced.
static Source *changed(const char *name, const char *key, json_t *value) {
    json_t *root = golden_json(name);
    json_object_set_new(root, key, value);
    char *text = json_dumps(root, JSON_COMPACT);
    Source *source = source_new(ctx, "changed.json", arena_text(ctx->arena, text), strlen(text));
    free(text);
    json_decref(root);
    return source;
}

static void ids_of_every_kind_of_split(void) {
    FRESH();
    json_t *kinds = golden_json("splits.json"), *kind;
    size_t index;
    CHECK(json_array_size(kinds) >= 27);
    json_array_foreach(kinds, index, kind) {
        FRESH();
        json_t *pre = json_object_get(kind, "pre_tokenizer");
        Tokenizer *t = tokenizer_read(ctx, changed("gpt.json", "pre_tokenizer", json_incref(pre)));
        CHECK_SILENT();
        CHECK(t, "kind %zu", index);
        same_ids(t, json_object_get(kind, "cases"), 50);
    }
    json_decref(kinds);
}

static void the_first_token(void) {
    CHECK(tokenizer_bos(tokenizer_of("llama.json")) == 641);
    CHECK(tokenizer_bos(tokenizer_of("gpt.json")) == -1);
}
static void the_size_of_the_vocabulary(void) {
    CHECK(tokenizer_vocab(tokenizer_of("gpt.json")) == 640);
    CHECK(tokenizer_vocab(tokenizer_of("qwen.json")) == 645);
    CHECK(tokenizer_vocab(tokenizer_of("llama.json")) == 644);
}

// Text without its special tokens is plain text; other added tokens stay tokens.
static void special_tokens_as_plain_text(void) {
    const Tokenizer *t = tokenizer_of("qwen.json");
    static const char text[] = "x<|end|><tool>";
    int *ids;
    size_t count, length;
    tokenizer_encode(ctx, t, text, sizeof text - 1, false, &ids, &count);
    CHECK(count > 3 && ids[count - 1] == 642);
    for (size_t i = 0; i < count; i++) CHECK(ids[i] != 640 && ids[i] != 641);
    CHECK_TEXT(decode(t, ids, count, &length), text);
    tokenizer_encode(ctx, t, text, sizeof text - 1, true, &ids, &count);
    CHECK(count == 3 && ids[1] == 640 && ids[2] == 642);
}

static void special_tokens_give_no_text(void) {
    const Tokenizer *t = tokenizer_of("qwen.json");
    size_t length;
    CHECK_TEXT(tokenizer_bytes(t, 640, true, &length), "<|end|>");
    tokenizer_bytes(t, 640, false, &length);
    CHECK(length == 0);
    tokenizer_bytes(t, 642, false, &length);
    CHECK(length == 6);
    tokenizer_bytes(t, 645, true, &length);
    CHECK(length == 0, "past the end");
    tokenizer_bytes(t, -1, true, &length);
    CHECK(length == 0);
}

// Bytes at random, and pieces of text among them.
static size_t random_bytes(uint64_t *state, char *out, size_t room) {
    static const char *const parts[] = {
        " ",       "\n",    "harbour",      "\xE2\x82\xAC", "\xF0\x9F\x98\x80", "\xCC\x81", "a",
        "<|end|>", "12345", "\xED\xA0\x80", "\xC0\x80",     "\xF4\x90\x80\x80", "\xE2\x82", "'ll"};
    size_t length = 0, wanted = check_random(state) % room;
    while (length < wanted) {
        const char *part = parts[check_random(state) % (sizeof parts / sizeof *parts)];
        size_t n = strlen(part);
        if (check_random(state) % 3 == 0)
            out[length++] = (char)check_random(state);
        else if (length + n <= wanted) {
            memcpy(out + length, part, n);
            length += n;
        } else
            break;
    }
    return length;
}

static void bytes_come_back(const char *name) {
    uint64_t state = 5;
    for (int round = 0; round < 3000; round++) {
        static const Tokenizer *t;
        if (round % 100 == 0) t = tokenizer_of(name);
        char text[300];
        size_t length = random_bytes(&state, text, sizeof text), count, n;
        int *ids;
        tokenizer_encode(ctx, t, text, length, round % 2, &ids, &count);
        CHECK_SILENT();
        const char *back = decode(t, ids, count, &n);
        CHECK(n == length && memcmp(back, text, n) == 0, "round %d", round);
    }
}
static void gpt_gives_bytes_back(void) { bytes_come_back("gpt.json"); }
static void llama_gives_bytes_back(void) { bytes_come_back("llama.json"); }

// One byte of an unfinished letter a token: what is written is whole letters, and all of it in the end.
static void streamed_text_has_whole_letters(void) {
    uint64_t state = 9;
    const Tokenizer *t = tokenizer_of("gpt.json");
    for (int round = 0; round < 500; round++) {
        char text[300], out[4000];
        size_t length = random_bytes(&state, text, sizeof text), count, written = 0;
        int *ids;
        tokenizer_encode(ctx, t, text, length, false, &ids, &count);
        TextStream stream = {0};
        for (size_t i = 0; i < count; i++)
            written += tokenizer_stream(t, &stream, ids[i], out + written, sizeof out - written);
        written += tokenizer_stream_end(&stream, out + written, sizeof out - written);
        CHECK(written == length && memcmp(out, text, length) == 0, "round %d", round);
    }
    static const char smile[] = "\xF0\x9F\x98\x80";
    TextStream stream = {0};
    char out[16];
    for (int i = 0; i < 4; i++) {
        int *ids;
        size_t count;
        tokenizer_encode(ctx, t, smile + i, 1, false, &ids, &count);
        CHECK(count == 1);
        CHECK(tokenizer_stream(t, &stream, ids[0], out, sizeof out) == (i == 3 ? 4 : 0), "byte %d", i);
    }
    CHECK(memcmp(out, smile, 4) == 0);
}

// A million letters without a split: the merge queue keeps this short. A quadratic loop would take hours.
static void one_piece_of_a_million_letters(void) {
    static const char *const units[] = {"a", " ", "ab", "e\xCC\x81", "\xCC\xA3\xCC\x87", "1"};
    static const char *const names[] = {"gpt.json", "qwen.json"};
    for (size_t n = 0; n < 2; n++)
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            const Tokenizer *t = tokenizer_of(names[n]);
            size_t unit = strlen(units[u]), length = 1000000 / unit * unit, count, back;
            char *text = arena_alloc(ctx->arena, length);
            for (size_t i = 0; i < length; i++) text[i] = units[u][i % unit];
            int *ids;
            tokenizer_encode(ctx, t, text, length, false, &ids, &count);
            CHECK_SILENT();
            const char *again = decode(t, ids, count, &back);
            if (n == 0) CHECK(back == length && memcmp(again, text, length) == 0);
            CHECK(back > 0 && count > 1000);
        }
}

// A pattern that tries every way to part the text is stopped; the bytes are kept.
static void a_costly_pattern_is_stopped(void) {
    FRESH();
    json_t *pre = json_pack("{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, {s:s, s:b, s:b}]}", "type", "Sequence", "pretokenizers",
                            "type", "Split", "pattern", "Regex", "(?:a|aa|aaa)+(?:a|aa)+(?=[!?])", "behavior",
                            "Isolated", "invert", 0, "type", "ByteLevel", "add_prefix_space", 0, "use_regex", 0);
    Tokenizer *t = tokenizer_read(ctx, changed("gpt.json", "pre_tokenizer", pre));
    CHECK_SILENT();
    char text[200];
    memset(text, 'a', sizeof text);
    int *ids;
    size_t count, length;
    tokenizer_encode(ctx, t, text, sizeof text, false, &ids, &count);
    CHECK_ERROR(E0811, "limit");
    const char *back = decode(t, ids, count, &length);
    CHECK(length == sizeof text && memcmp(back, text, length) == 0);
}

// ---- What is refused ----

static void refused_source(Source *source, DiagCode code, const char *part) {
    CHECK(!tokenizer_read(ctx, source));
    CHECK_ERROR(code, part);
}
// gpt.json with `key` set to this JSON.
static void refused(const char *key, const char *json, DiagCode code, const char *part) {
    FRESH();
    json_error_t error;
    json_t *value = json_loads(json, JSON_DECODE_ANY, &error);
    CHECK(value, "%s: %s", json, error.text);
    refused_source(changed("gpt.json", key, value), code, part);
}
// The same inside model.
static void refused_model(const char *key, const char *json, DiagCode code, const char *part) {
    FRESH();
    json_error_t error;
    json_t *root = golden_json("gpt.json"), *model = json_incref(json_object_get(root, "model"));
    json_t *value = json_loads(json, JSON_DECODE_ANY, &error);
    CHECK(value, "%s: %s", json, error.text);
    json_object_set_new(model, key, value);
    json_decref(root);
    refused_source(changed("gpt.json", "model", model), code, part);
}
static void refused_pattern(const char *pattern, const char *part) {
    FRESH();
    json_t *pre = json_pack("{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, {s:s, s:b, s:b}]}", "type", "Sequence", "pretokenizers",
                            "type", "Split", "pattern", "Regex", pattern, "behavior", "Isolated", "invert", 0, "type",
                            "ByteLevel", "add_prefix_space", 0, "use_regex", 0);
    refused_source(changed("gpt.json", "pre_tokenizer", pre), E0805, part);
}
#define BYTE_LEVEL                "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": false}"
#define TOKEN(id, content, flags) "{\"id\": " id ", \"content\": \"" content "\"" flags "}"

static void no_file(void) {
    FRESH();
    CHECK(!tokenizer_open(ctx, temp_path("none.json")));
    CHECK_ERROR(E0002, "none.json");
}
static void not_json(void) {
    FRESH();
    refused_source(source_new(ctx, "x.json", "{\n \"a\": ?}", 10), E0801, "x.json:2:7: error[E0801]: not valid JSON");
}
static void not_an_object(void) {
    FRESH();
    refused_source(source_new(ctx, "x.json", "[]", 2), E0801, "a JSON object is wanted");
}
static void unknown_field(void) { refused("mystery", "1", E0802, ": mystery"); }
static void truncation(void) { refused("truncation", "{\"max_length\": 8}", E0802, ": truncation"); }
static void padding(void) { refused("padding", "{\"strategy\": {\"Fixed\": 8}}", E0802, ": padding"); }
static void unknown_field_of_the_model(void) { refused_model("mystery", "1", E0802, "model.mystery"); }
static void dropout(void) { refused_model("dropout", "0.1", E0802, "model.dropout"); }
static void subword_prefix(void) { refused_model("continuing_subword_prefix", "\"##\"", E0802, "subword_prefix"); }
static void word_suffix(void) { refused_model("end_of_word_suffix", "\"</w>\"", E0802, "end_of_word_suffix"); }
static void unigram(void) { refused_model("type", "\"Unigram\"", E0802, "model of the type \"Unigram\""); }
static void ignore_merges_as_text(void) { refused_model("ignore_merges", "\"yes\"", E0801, "model.ignore_merges"); }
static void no_vocabulary(void) { refused_model("vocab", "[]", E0801, "model.vocab"); }
static void vocabulary_without_bytes(void) {
    refused_model("vocab", "{\"a\": 0, \"<|end|>\": 1}", E0803, "the byte 0x00");
}
static void vocabulary_of_text_ids(void) { refused_model("vocab", "{\"a\": \"0\"}", E0803, "token \"a\""); }
static void negative_id(void) { refused_model("vocab", "{\"a\": -1}", E0803, "token \"a\""); }
static void enormous_id(void) { refused_model("vocab", "{\"a\": 4194304}", E0803, "token \"a\""); }
static void two_tokens_of_one_id(void) { refused_model("vocab", "{\"a\": 1, \"b\": 1}", E0803, "the id 1"); }
static void byte_without_a_token(void) {
    FRESH();
    json_t *root = golden_json("gpt.json"), *model = json_incref(json_object_get(root, "model"));
    json_object_del(json_object_get(model, "vocab"), "\xC4\xA0"); // the letter of the space
    json_object_set_new(model, "merges", json_array());
    json_decref(root);
    refused_source(changed("gpt.json", "model", model), E0803, "the byte 0x20");
}
static void merges_missing(void) { refused_model("merges", "{}", E0801, "model.merges"); }
static void merge_of_one(void) { refused_model("merges", "[\"ab\"]", E0801, "merges[0]"); }
static void merge_of_three(void) { refused_model("merges", "[\"a b c\"]", E0801, "merges[0]"); }
static void merge_of_three_in_a_list(void) { refused_model("merges", "[[\"a\", \"b\", \"c\"]]", E0801, "merges[0]"); }
static void merge_of_unknown_tokens(void) {
    refused_model("merges", "[\"t h\", \"qqq q\"]", E0804, "merges[1]: \"qqq\"");
}
static void merge_without_a_result(void) { refused_model("merges", "[\"q q\"]", E0804, "merges[0]"); }
static void added_token_without_text(void) { refused("added_tokens", "[{\"id\": 3}]", E0806, "added_tokens[0]"); }
static void added_token_without_id(void) { refused("added_tokens", "[{\"content\": \"x\"}]", E0803, "\"x\""); }
static void added_token_that_strips(void) {
    refused("added_tokens", "[" TOKEN("700", "<m>", ", \"lstrip\": true") "]", E0802, "lstrip");
}
static void added_token_that_strips_right(void) {
    refused("added_tokens", "[" TOKEN("700", "<m>", ", \"rstrip\": true") "]", E0802, "rstrip");
}
static void added_token_of_a_single_word(void) {
    refused("added_tokens", "[" TOKEN("700", "<m>", ", \"single_word\": true") "]", E0802, "single_word");
}
static void added_token_with_the_id_of_another(void) {
    refused("added_tokens", "[" TOKEN("300", "<m>", "") "]", E0806, "the vocabulary has another");
}
static void added_tokens_of_one_id(void) {
    refused("added_tokens", "[" TOKEN("700", "<m>", "") "," TOKEN("700", "<n>", "") "]", E0806, "id 700 is taken");
}
static void added_token_twice(void) {
    refused("added_tokens", "[" TOKEN("700", "<m>", "") "," TOKEN("701", "<m>", "") "]", E0806, "stands twice");
}
static void lowercase(void) {
    refused("normalizer", "{\"type\": \"Lowercase\"}", E0802, "normalizer of the type \"Lowercase\"");
}
static void nfkc_inside_a_sequence(void) {
    refused("normalizer", "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}, {\"type\": \"NFKC\"}]}",
            E0802, "normalizer.normalizers[1] of the type \"NFKC\"");
}
static void whitespace_pre_tokenizer(void) {
    refused("pre_tokenizer", "{\"type\": \"Whitespace\"}", E0802, "\"Whitespace\"");
}
static void no_pre_tokenizer(void) { refused("pre_tokenizer", "null", E0802, "pre_tokenizer"); }
static void no_byte_level(void) {
    refused("pre_tokenizer", "{\"type\": \"Digits\", \"individual_digits\": true}", E0802, "ByteLevel must stand last");
}
static void byte_level_first(void) {
    refused("pre_tokenizer", "{\"type\": \"Sequence\", \"pretokenizers\": [" BYTE_LEVEL ", {\"type\": \"Digits\"}]}",
            E0802, "ByteLevel must stand last");
}
static void byte_level_twice(void) {
    refused("pre_tokenizer", "{\"type\": \"Sequence\", \"pretokenizers\": [" BYTE_LEVEL ", " BYTE_LEVEL "]}", E0802,
            "and once");
}
static void prefix_space(void) {
    refused("pre_tokenizer", "{\"type\": \"ByteLevel\", \"add_prefix_space\": true}", E0802, "add_prefix_space");
}
static void split_of_unknown_behaviour(void) {
    refused("pre_tokenizer", "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"a\"}, \"behavior\": \"Odd\"}", E0802,
            "behavior \"Odd\"");
}
static void split_without_pattern(void) {
    refused("pre_tokenizer", "{\"type\": \"Split\", \"behavior\": \"Isolated\"}", E0801, "pattern");
}
static void other_decoder(void) {
    refused("decoder", "{\"type\": \"Metaspace\"}", E0802, "decoder of the type \"Metaspace\"");
}
static void no_decoder(void) { refused("decoder", "null", E0802, "decoder"); }
static void roberta(void) {
    refused("post_processor", "{\"type\": \"RobertaProcessing\"}", E0802, "RobertaProcessing");
}
static void template_with_an_end(void) {
    refused("post_processor",
            "{\"type\": \"TemplateProcessing\", \"single\": [{\"Sequence\": {\"id\": \"A\"}}, "
            "{\"SpecialToken\": {\"id\": \"<|end|>\"}}], \"special_tokens\": {}}",
            E0802, "post_processor.single");
}
static void template_of_an_unknown_token(void) {
    refused("post_processor",
            "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<|end|>\"}}, "
            "{\"Sequence\": {\"id\": \"A\"}}], \"special_tokens\": {\"<|end|>\": {\"ids\": [9999]}}}",
            E0801, "post_processor.special_tokens");
}
static void pattern_unclosed(void) { refused_pattern("(a", "does not compile"); }
static void pattern_empty(void) { refused_pattern("", "an empty split pattern"); }
static void pattern_of_hexadecimal_digits(void) { refused_pattern("\\h+", "\\h at byte 0"); }
static void pattern_with_a_meet_of_classes(void) { refused_pattern("[a-z&&[^b]]", "&&"); }
static void pattern_with_a_nested_class(void) { refused_pattern("x[a[bc]]", "a class inside a class at byte 3"); }
static void pattern_with_options(void) { refused_pattern("(?m:.)", "group of an unusual kind"); }
static void pattern_with_a_verb(void) { refused_pattern("(*LIMIT_MATCH=1)a", "group of an unusual kind"); }
static void pattern_with_a_possessive_interval(void) { refused_pattern("a{2}+", "interval"); }
static void pattern_of_word_letters(void) { refused_pattern("\\w+", "\\w at byte 0"); }
static void pattern_of_a_named_class(void) { refused_pattern("[[:alpha:]]", "a class inside a class"); }
static void pattern_of_an_unknown_script(void) { refused_pattern("\\p{Klingon}", "does not compile"); }
static void pattern_of_a_property_of_letters(void) { refused_pattern("\\p{Alphabetic}", "does not compile"); }
static void pattern_with_a_back_reference_by_name(void) { refused_pattern("(a)\\k<1>", "\\k"); }

static void legacy_merges_and_version_line(void) {
    FRESH();
    json_t *root = golden_json("gpt.json"), *model = json_incref(json_object_get(root, "model")), *pair,
           *legacy = json_array();
    size_t index;
    json_array_append_new(legacy, json_string("#version: 0.2"));
    json_array_foreach(json_object_get(model, "merges"), index, pair) json_array_append_new(
        legacy, json_string(arena_printf(ctx->arena, "%s %s", json_string_value(json_array_get(pair, 0)),
                                         json_string_value(json_array_get(pair, 1)))));
    CHECK(json_array_size(legacy) > 300);
    json_object_set_new(model, "merges", legacy);
    json_decref(root);
    Tokenizer *t = tokenizer_read(ctx, changed("gpt.json", "model", model));
    CHECK_SILENT();
    json_t *cases = golden_json("gpt.ids.json");
    same_ids(t, cases, 150);
    json_decref(cases);
}

int main(void) {
    RUN(ids_of_gpt);
    RUN(ids_of_qwen_with_nfc);
    RUN(ids_of_llama_with_ignored_merges);
    RUN(ids_of_every_kind_of_split);
    RUN(legacy_merges_and_version_line);
    RUN(the_first_token);
    RUN(the_size_of_the_vocabulary);
    RUN(special_tokens_as_plain_text);
    RUN(special_tokens_give_no_text);
    RUN(gpt_gives_bytes_back);
    RUN(llama_gives_bytes_back);
    RUN(streamed_text_has_whole_letters);
    RUN(one_piece_of_a_million_letters);
    RUN(a_costly_pattern_is_stopped);
    RUN(no_file);
    RUN(not_json);
    RUN(not_an_object);
    RUN(unknown_field);
    RUN(truncation);
    RUN(padding);
    RUN(unknown_field_of_the_model);
    RUN(dropout);
    RUN(subword_prefix);
    RUN(word_suffix);
    RUN(unigram);
    RUN(ignore_merges_as_text);
    RUN(no_vocabulary);
    RUN(vocabulary_without_bytes);
    RUN(vocabulary_of_text_ids);
    RUN(negative_id);
    RUN(enormous_id);
    RUN(two_tokens_of_one_id);
    RUN(byte_without_a_token);
    RUN(merges_missing);
    RUN(merge_of_one);
    RUN(merge_of_three);
    RUN(merge_of_three_in_a_list);
    RUN(merge_of_unknown_tokens);
    RUN(merge_without_a_result);
    RUN(added_token_without_text);
    RUN(added_token_without_id);
    RUN(added_token_that_strips);
    RUN(added_token_that_strips_right);
    RUN(added_token_of_a_single_word);
    RUN(added_token_with_the_id_of_another);
    RUN(added_tokens_of_one_id);
    RUN(added_token_twice);
    RUN(lowercase);
    RUN(nfkc_inside_a_sequence);
    RUN(whitespace_pre_tokenizer);
    RUN(no_pre_tokenizer);
    RUN(no_byte_level);
    RUN(byte_level_first);
    RUN(byte_level_twice);
    RUN(prefix_space);
    RUN(split_of_unknown_behaviour);
    RUN(split_without_pattern);
    RUN(other_decoder);
    RUN(no_decoder);
    RUN(roberta);
    RUN(template_with_an_end);
    RUN(template_of_an_unknown_token);
    RUN(pattern_unclosed);
    RUN(pattern_empty);
    RUN(pattern_of_hexadecimal_digits);
    RUN(pattern_with_a_meet_of_classes);
    RUN(pattern_with_a_nested_class);
    RUN(pattern_with_options);
    RUN(pattern_with_a_verb);
    RUN(pattern_with_a_possessive_interval);
    RUN(pattern_of_word_letters);
    RUN(pattern_of_a_named_class);
    RUN(pattern_of_an_unknown_script);
    RUN(pattern_of_a_property_of_letters);
    RUN(pattern_with_a_back_reference_by_name);
    ctx_free(ctx);
    return check_done();
}
