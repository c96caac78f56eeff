// The demo model against what the training framework computed from the same files: logits, decoding with drafts, ids.
#include "demo.h"
#include "safetensors.h"
#include "tokenizer.h"

static char bundle[1000], gpu[1000];

typedef struct Logits {
    int *tokens;
    size_t count, vocab;
    float *want;
} Logits;

static void read_logits(Ctx *ctx, void *user) {
    Logits *l = user;
    Safetensors *file =
        safetensors_open(ctx, arena_printf(ctx->arena, "%s/tests/golden/demo/golden.safetensors", demo_root()));
    const Tensor *tokens = file ? safetensors_find(file, "tokens") : NULL,
                 *logits = file ? safetensors_find(file, "logits") : NULL;
    if (!tokens || !logits) return;
    l->count = (size_t)logits->shape[0];
    l->vocab = (size_t)logits->shape[1];
    l->tokens = malloc(tokens->bytes);
    l->want = malloc(logits->bytes);
    memcpy(l->tokens, tokens->data, tokens->bytes);
    memcpy(l->want, logits->data, logits->bytes);
    safetensors_close(file);
}

// Relative Frobenius error under 2e-3, and the same best token wherever the best two differ by more than the error
// there.
static void logits_agree_with_the_training_framework(void) {
    Logits l = {0};
    Ctx *ctx = ctx_new((Env){0});
    ctx_protect(ctx, read_logits, &l);
    ctx_free(ctx);
    CHECK(l.count >= 100);
    tr_session *s = demo_open(bundle, NULL, 2);
    CHECK(s && tr_vocab(s) == (int)l.vocab);
    float *got = malloc(l.count * l.vocab * sizeof *got);
    CHECK(tr_logits(s, l.tokens, l.count, got) == 0);
    double error = 0, norm = 0;
    size_t differ = 0, near = 0;
    for (size_t i = 0; i < l.count; i++) {
        const float *a = got + i * l.vocab, *b = l.want + i * l.vocab;
        size_t best_a = 0, best_b = 0;
        double most = 0;
        for (size_t k = 0; k < l.vocab; k++) {
            double d = fabs((double)a[k] - (double)b[k]);
            error += d * d;
            norm += (double)b[k] * (double)b[k];
            most = d > most ? d : most;
            if (a[k] > a[best_a]) best_a = k;
            if (b[k] > b[best_b]) best_b = k;
        }
        if (best_a == best_b) continue;
        if (b[best_b] - b[best_a] > 2 * most)
            differ++;
        else
            near++;
    }
    double relative = sqrt(error / norm);
    printf("# logits: relative error %.2e over %zu positions; best token differs at %zu near-ties\n", relative, l.count,
           near);
    CHECK(relative < 2e-3, "%.3e", relative);
    CHECK(differ == 0, "%zu", differ);
    free(got);
    free(l.tokens);
    free(l.want);
    tr_close(s);
}

// A GPU's Prog on the host executor rounds activations, caches and weights of attention to bf16, which changes logits a
// little, and as much however the attention is split.
static void rounding_as_a_gpu_does_changes_little(void) {
    Logits l = {0};
    Ctx *ctx = ctx_new((Env){0});
    ctx_protect(ctx, read_logits, &l);
    ctx_free(ctx);
    CHECK(l.count >= 64);
    static const char *const splits[] = {"1", "4"};
    for (int i = 0; i < 2; i++) {
        CHECK(demo_build_with(NULL, "h200", 1, gpu, &(Setting){"split", splits[i], ORIGIN_OPTION}));
        tr_session *s = demo_open(gpu, NULL, 2);
        CHECK(s);
        float *got = malloc(l.count * l.vocab * sizeof *got);
        CHECK(tr_logits(s, l.tokens, l.count, got) == 0);
        tr_close(s);
        double error = 0, norm = 0;
        size_t differ = 0;
        for (size_t n = 0; n < l.count; n++) {
            size_t best_a = 0, best_b = 0;
            for (size_t k = 0; k < l.vocab; k++) {
                const float *a = got + n * l.vocab, *b = l.want + n * l.vocab;
                double d = (double)a[k] - (double)b[k];
                error += d * d;
                norm += (double)b[k] * (double)b[k];
                if (a[k] > a[best_a]) best_a = k;
                if (b[k] > b[best_b]) best_b = k;
            }
            differ += best_a != best_b;
        }
        double relative = sqrt(error / norm);
        printf(
            "# logits of h200's Prog, attention in %s: relative difference %.2e over %zu positions; best token differs "
            "at %zu\n",
            splits[i], relative, l.count, differ);
        CHECK(relative > 1e-5 && relative < 1e-2, "%.3e", relative);
        free(got);
    }
    free(l.tokens);
    free(l.want);
}

static void decoding_gives_the_same_tokens_rounds_and_accepted_lengths(void) {
    json_t *root = demo_json("decode.json"), *cases = json_object_get(root, "cases"), *entry;
    size_t index;
    tr_session *s = demo_open(bundle, NULL, 2);
    CHECK(root && s && json_array_size(cases) >= 6);
    json_array_foreach(cases, index, entry) {
        int prompt[512], output[512], accepted[512];
        size_t prompts = demo_ids(json_object_get(entry, "prompt"), prompt, 512),
               outputs = demo_ids(json_object_get(entry, "output"), output, 512);
        size_t rounds = demo_ids(json_object_get(entry, "accepted"), accepted, 512);
        tr_result r;
        CHECK(tr_generate(s, &(tr_request){.tokens = prompt, .token_count = prompts, .max_tokens = (int)outputs}, &r) ==
              0);
        CHECK(r.count == outputs, "case %zu: %zu tokens, not %zu", index, r.count, outputs);
        for (size_t i = 0; i < outputs; i++)
            CHECK(r.tokens[i] == output[i], "case %zu: token %zu is %d, not %d", index, i, r.tokens[i], output[i]);
        long want[TR_MAX_BLOCK + 1] = {0};
        for (size_t i = 0; i < rounds; i++) want[accepted[i]]++;
        CHECK(r.rounds == (int)rounds, "case %zu: %d rounds, not %zu", index, r.rounds, rounds);
        for (int n = 1; n <= TR_MAX_BLOCK; n++)
            CHECK(r.histogram[n] == want[n], "case %zu: %ld rounds of %d, not %ld", index, r.histogram[n], n, want[n]);
    }
    json_decref(root);
    tr_close(s);
}

typedef struct Encode {
    json_t *cases;
    char why[300];
} Encode;

static void encode_body(Ctx *ctx, void *user) {
    Encode *e = user;
    size_t index;
    json_t *entry;
    snprintf(e->why, sizeof e->why, "tokenizer.json cannot be read");
    Tokenizer *t = tokenizer_open(ctx, arena_printf(ctx->arena, "%s/models/demo/tokenizer.json", demo_root()));
    if (!t) return;
    json_array_foreach(e->cases, index, entry) {
        json_t *text = json_object_get(entry, "text"), *ids = json_object_get(entry, "ids");
        int *got;
        size_t count, at = 0;
        tokenizer_encode(ctx, t, json_string_value(text), json_string_length(text), true, &got, &count);
        bool same = count == json_array_size(ids);
        for (size_t i = 0; same && i < count; i++) same = got[i] == (int)json_integer_value(json_array_get(ids, i));
        snprintf(e->why, sizeof e->why, "case %zu: ids differ", index);
        if (!same) return;
        const char *bytes = json_string_value(text);
        for (size_t i = 0; i < count; i++) {
            size_t length;
            const char *piece = tokenizer_bytes(t, got[i], true, &length);
            if (at + length > json_string_length(text) || memcmp(bytes + at, piece, length) != 0) return;
            at += length;
        }
        if (at != json_string_length(text)) return;
    }
    // Any bytes come back as they were.
    uint64_t seed = 20261124;
    static const char letters[] = "ab \n\t<|\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x98\x80\xC3\xFF";
    for (int i = 0; i < 3000; i++) {
        char bytes[64];
        int *got;
        size_t length = check_random(&seed) % 64, count, at = 0;
        for (size_t k = 0; k < length; k++) {
            uint64_t any = check_random(&seed);
            bytes[k] = i % 2 ? (char)any : letters[any % (sizeof letters - 1)];
        }
        tokenizer_encode(ctx, t, bytes, length, false, &got, &count);
        snprintf(e->why, sizeof e->why, "random bytes %d do not come back", i);
        for (size_t k = 0; k < count; k++) {
            size_t n;
            const char *piece = tokenizer_bytes(t, got[k], true, &n);
            if (at + n > length || memcmp(bytes + at, piece, n) != 0) return;
            at += n;
        }
        if (at != length) return;
    }
    tokenizer_free(t);
    e->why[0] = 0;
}

static void ids_are_those_of_hugging_face_tokenizers(void) {
    json_t *root = demo_json("encode.json");
    Encode e = {.cases = json_object_get(root, "cases")};
    CHECK(root && json_array_size(e.cases) >= 150);
    Ctx *ctx = ctx_new((Env){0});
    bool ok = ctx_protect(ctx, encode_body, &e);
    diag_print(ctx, stderr, DIAG_TEXT);
    ctx_free(ctx);
    CHECK(ok && !e.why[0], "%s", e.why);
    json_decref(root);
}

int main(void) {
    snprintf(bundle, sizeof bundle, "%s/demo.bundle", demo_tmp());
    snprintf(gpu, sizeof gpu, "%s/gpu.bundle", demo_tmp());
    if (!demo_build(NULL, "host", 1, bundle)) return printf("not ok build\n"), 1;
    RUN(logits_agree_with_the_training_framework);
    RUN(rounding_as_a_gpu_does_changes_little);
    RUN(decoding_gives_the_same_tokens_rounds_and_accepted_lengths);
    RUN(ids_are_those_of_hugging_face_tokenizers);
    return check_done();
}
