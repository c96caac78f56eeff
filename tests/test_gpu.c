// The engine kernel on a GPU, against the host executor: skipped, and counted as skipped, where there is none. It needs
// build/demo-SKU.bundle for the GPU at hand, and build/few/demo-SKU.bundle, built with --workers; GPU_ROUNDS sets the
// rounds of the soak, GPU_RANKS=2 takes build/demo-SKU-tp2.bundle on two GPUs, with the same Prog on the host.
#include "demo.h"
#include "tokenizer.h"
#include "with_gpu.h"
#include <unistd.h>

enum { TOKENS = 64, PROMPTS = 50 };
static char bundle[1000], few[1000];
static tr_session *gpu, *host;

typedef struct Answer {
    int tokens[TOKENS];
    size_t count;
    int rounds;
} Answer;

static char *prompts[64];
static int *prompt_ids[64];
static size_t prompt_lengths[64];
static int prompt_count;

static tr_session *open_gpu(const char *path) {
    char folder[1000];
    snprintf(folder, sizeof folder, "%s/models/demo", demo_root());
    tr_session *s;
    if (tr_open(&(tr_options){.bundle = path, .weights = folder, .nccl = getenv("TILERUN_NCCL")}, &s) == 0) return s;
    tr_print_errors(s, stderr, false);
    tr_close(s);
    return NULL;
}

static void encode_body(Ctx *ctx, void *user) {
    (void)user;
    Tokenizer *tokenizer = tokenizer_open(ctx, file_join(ctx, demo_root(), "models/demo/tokenizer.json"));
    for (int i = 0; tokenizer && i < prompt_count; i++) {
        int *ids;
        tokenizer_encode(ctx, tokenizer, prompts[i], strlen(prompts[i]), true, &ids, &prompt_lengths[i]);
        prompt_ids[i] = malloc(prompt_lengths[i] * sizeof(int));
        memcpy(prompt_ids[i], ids, prompt_lengths[i] * sizeof(int));
    }
    tokenizer_free(tokenizer);
}

static bool answer(tr_session *s, int prompt, double temperature, bool no_draft, Answer *out) {
    tr_result r;
    tr_request request = {.prompt = prompts[prompt],
                          .prompt_length = strlen(prompts[prompt]),
                          .max_tokens = TOKENS,
                          .temperature = temperature,
                          .top_p = temperature > 0.9 ? 0.95 : 0,
                          .top_k = temperature > 0 && prompt % 2 ? 40 : 0,
                          .seed = (uint64_t)prompt,
                          .no_draft = no_draft};
    if (tr_generate(s, &request, &r) != 0) {
        tr_print_errors(s, stderr, false);
        return false;
    }
    memcpy(out->tokens, r.tokens, r.count * sizeof *r.tokens);
    out->count = r.count;
    out->rounds = r.rounds;
    return true;
}

static bool same(const Answer *a, const Answer *b) {
    return a->count == b->count && memcmp(a->tokens, b->tokens, a->count * sizeof *a->tokens) == 0;
}

// The two best logits of the host at the first token that differs: how near the tie was.
static double margin(int prompt, const Answer *h, size_t at) {
    static float logits[1024 * 2048];
    int ids[1024];
    size_t count = prompt_lengths[prompt];
    memcpy(ids, prompt_ids[prompt], count * sizeof *ids);
    for (size_t i = 0; i < at; i++) ids[count++] = h->tokens[i];
    if (tr_logits(host, ids, count, logits) != 0) return -1;
    const float *row = logits + (count - 1) * (size_t)tr_vocab(host);
    double best = -1e30, second = -1e30;
    for (int i = 0; i < tr_vocab(host); i++) {
        if (row[i] > best)
            second = best, best = row[i];
        else if (row[i] > second)
            second = row[i];
    }
    return best - second;
}

static void text_as_on_the_host(void) {
    int equal = 0;
    for (int i = 0; i < PROMPTS; i++) {
        Answer a = {0}, b = {0};
        CHECK(answer(gpu, i, 0, false, &a) && answer(host, i, 0, false, &b));
        if (same(&a, &b)) {
            equal++;
            continue;
        }
        size_t at = 0;
        while (at < a.count && at < b.count && a.tokens[at] == b.tokens[at]) at++;
        printf("# prompt %d differs at token %zu, where the host's two best logits are %.4f apart\n", i, at,
               margin(i, &b, at));
    }
    printf("# greedy text of %d tokens as on the host executor: %d of %d prompts\n", TOKENS, equal, PROMPTS);
    CHECK(equal >= 45, "%d of %d", equal, PROMPTS);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void logits_as_on_the_host(void) {
    int ids[192];
    size_t count = sizeof ids / sizeof *ids, vocab = (size_t)tr_vocab(host);
    size_t got = 0;
    for (int p = 0; p < prompt_count && got < count; p++)
        for (size_t i = 0; i < prompt_lengths[p] && got < count; i++) ids[got++] = prompt_ids[p][i];
    count = got;
    float *a = malloc(count * vocab * sizeof *a), *b = malloc(count * vocab * sizeof *b);
    CHECK(tr_logits(gpu, ids, count, a) == 0 && tr_logits(host, ids, count, b) == 0);
    double difference = 0, norm = 0, each[192];
    int best = 0;
    for (size_t r = 0; r < count; r++) {
        size_t at_a = 0, at_b = 0;
        double own = 0, own_norm = 0;
        for (size_t i = 0; i < vocab; i++) {
            double d = (double)a[r * vocab + i] - (double)b[r * vocab + i];
            own += d * d;
            own_norm += (double)b[r * vocab + i] * (double)b[r * vocab + i];
            if (a[r * vocab + i] > a[r * vocab + at_a]) at_a = i;
            if (b[r * vocab + i] > b[r * vocab + at_b]) at_b = i;
        }
        best += at_a == at_b;
        difference += own;
        norm += own_norm;
        each[r] = sqrt(own / own_norm);
    }
    double relative = sqrt(difference / norm);
    printf("# logits of %zu positions against the host executor: relative error %.2e, same best token at %d\n", count,
           relative, best);
    qsort(each, count, sizeof *each, by_value);
    printf("# of a position: median %.2e, 95th percentile %.2e, worst %.2e\n", each[count / 2], each[count * 95 / 100],
           each[count - 1]);
    free(a);
    free(b);
    CHECK(relative < 2e-3, "%g", relative);
}

static void drafting_changes_nothing(void) {
    static const double temperatures[] = {0, 0.7, 1.0};
    int equal = 0, checked = 0;
    for (int i = 0; i < PROMPTS; i++)
        for (int t = 0; t < 3; t++) {
            Answer a = {0}, b = {0};
            checked++;
            equal +=
                answer(gpu, i, temperatures[t], false, &a) && answer(gpu, i, temperatures[t], true, &b) && same(&a, &b);
        }
    printf("# drafting against none: %d of %d answers identical\n", equal, checked);
    CHECK(equal == checked && checked == 150, "%d of %d", equal, checked);
}

static void a_hundred_runs_are_one(void) {
    Answer first = {0};
    int equal = 0;
    for (int i = 0; i < 100; i++) {
        Answer a = {0};
        CHECK(answer(gpu, 3, 0.7, false, &a));
        if (i == 0) first = a;
        equal += same(&a, &first);
    }
    CHECK(equal == 100, "%d of 100", equal);
}

// The last test: a GPU holds one resident kernel of a process.
static void fewer_workers_change_nothing(void) {
    static Answer all[20];
    if (!*few || access(few, R_OK) != 0) SKIP("no bundle for fewer workers");
    for (int i = 0; i < 20; i++) CHECK(answer(gpu, i, i % 2 ? 1.0 : 0, false, &all[i]));
    tr_close(gpu);
    gpu = open_gpu(few);
    CHECK(gpu);
    int equal = 0;
    for (int i = 0; i < 20; i++) {
        Answer a = {0};
        equal += answer(gpu, i, i % 2 ? 1.0 : 0, false, &a) && same(&a, &all[i]);
    }
    CHECK(equal == 20, "%d of 20", equal);
}

// All prompts over and over, against the first pass.
static void soak(void) {
    long want = getenv("GPU_ROUNDS") ? atol(getenv("GPU_ROUNDS")) : 2000, rounds = 0;
    static Answer first[64];
    for (long pass = 0; rounds < want; pass++)
        for (int i = 0; i < prompt_count && rounds < want; i++) {
            Answer a = {0};
            CHECK(answer(gpu, i, i % 3 == 2 ? 0.7 : 0, i % 4 == 3, &a), "after %ld rounds", rounds);
            rounds += a.rounds;
            if (pass == 0) first[i] = a;
            CHECK(same(&a, &first[i]), "prompt %d, pass %ld, after %ld rounds", i, pass, rounds);
        }
    printf("# soak: %ld rounds, every token as in the first pass\n", rounds);
}

int main(void) {
    const char *build = getenv("BUILD") ? getenv("BUILD") : "build", *sku = gpu_sku_apart();
    const char *ranks = getenv("GPU_RANKS");
    if (!sku) {
        printf("skip gpu: no GPU that build.lua knows\n");
        return 0;
    }
    snprintf(bundle, sizeof bundle, "%s/demo-%s%s%s.bundle", build, sku, ranks ? "-tp" : "", ranks ? ranks : "");
    if (!ranks) snprintf(few, sizeof few, "%s/few/demo-%s.bundle", build, sku);
    json_t *root = demo_json("prompts.json"), *entry;
    size_t index;
    json_array_foreach(root, index, entry) if (index < 64) prompts[prompt_count++] =
        strdup(json_string_value(json_object_get(entry, "text")));
    Ctx *ctx = ctx_new((Env){0});
    ctx_protect(ctx, encode_body, NULL);
    ctx_free(ctx);
    gpu = open_gpu(bundle);
    host = demo_open(bundle, NULL, 0);
    if (!gpu || !host) {
        printf("not ok gpu: cannot open %s\n", bundle);
        return 1;
    }
    RUN(text_as_on_the_host);
    RUN(logits_as_on_the_host);
    RUN(drafting_changes_nothing);
    RUN(a_hundred_runs_are_one);
    RUN(soak);
    RUN(fewer_workers_change_nothing);
    tr_close(gpu);
    tr_close(host);
    return check_done();
}
