// Drafting never changes a token: prompts of tests/golden/demo/prompts.json at three temperatures, 50 of them on degree
// 1 and 16 on degree 2, with other numbers of threads, with sums over ranks in two steps, through a GPU-shaped Prog
// with load queues and split attention, and beyond the window.
#include "demo.h"

typedef struct Answer {
    int tokens[64];
    size_t count, prompt;
    double acceptance;
} Answer;

enum { TOKENS = 16 };
static char one[1000], two[1000], steps[1000], gpu[1000];

static bool answer(tr_session *s, const char *prompt, double temperature, bool no_draft, Answer *out) {
    tr_result r;
    tr_request request = {.prompt = prompt,
                          .prompt_length = strlen(prompt),
                          .max_tokens = TOKENS,
                          .temperature = temperature,
                          .top_p = temperature > 0.9 ? 0.95 : 0,
                          .seed = 7,
                          .no_draft = no_draft};
    if (tr_generate(s, &request, &r) != 0) return false;
    memcpy(out->tokens, r.tokens, r.count * sizeof *r.tokens);
    out->count = r.count;
    out->prompt = r.prompt_tokens;
    out->acceptance = r.acceptance;
    return true;
}

static bool same(const Answer *a, const Answer *b) {
    return a->count == b->count && memcmp(a->tokens, b->tokens, a->count * sizeof *a->tokens) == 0;
}

// All prompts with `first` (drafting) against `second` (drafting or not); counts pairs in *checked, accepted tokens in
// *mean.
static int differing(tr_session *first, tr_session *second, bool second_drafts, size_t limit, int *checked,
                     double *mean) {
    static const double temperatures[] = {0, 0.7, 1.0};
    json_t *root = demo_json("prompts.json"), *entry;
    size_t index;
    int bad = 0;
    *checked = 0;
    *mean = 0;
    json_array_foreach(root, index, entry) {
        if (index >= limit) break;
        const char *text = json_string_value(json_object_get(entry, "text"));
        for (int t = 0; t < 3; t++) {
            Answer a = {0}, b = {0};
            bool ok = answer(first, text, temperatures[t], false, &a) &&
                      answer(second, text, temperatures[t], !second_drafts, &b);
            bad += !ok || !same(&a, &b);
            *mean += a.acceptance;
            ++*checked;
        }
    }
    json_decref(root);
    *mean /= *checked ? *checked : 1;
    return bad;
}

static void compare(const char *bundle_a, int threads_a, const char *bundle_b, int threads_b, bool b_drafts,
                    size_t limit, const char *name, int *bad, int *checked) {
    tr_session *a = demo_open(bundle_a, NULL, threads_a), *b = demo_open(bundle_b, NULL, threads_b);
    double mean = 0;
    *bad = a && b ? differing(a, b, b_drafts, limit, checked, &mean) : 1;
    printf("# %s: %d of %d answers identical, mean acceptance length %.2f\n", name, *checked - *bad, *checked, mean);
    tr_close(a);
    tr_close(b);
}

static void drafting_changes_nothing_at_degree_1(void) {
    int bad, checked = 0;
    compare(one, 2, one, 2, false, 50, "degree 1, drafting against none", &bad, &checked);
    CHECK(bad == 0 && checked >= 150, "%d of %d", bad, checked);
}
static void drafting_changes_nothing_at_degree_2(void) {
    int bad, checked = 0;
    compare(two, 2, two, 2, false, 16, "degree 2, drafting against none", &bad, &checked);
    CHECK(bad == 0 && checked >= 48, "%d of %d", bad, checked);
}
static void sums_in_two_steps_change_nothing(void) {
    int bad, checked = 0;
    compare(two, 2, steps, 2, true, 4, "degree 2, sums in one shot against two steps", &bad, &checked);
    CHECK(bad == 0 && checked >= 12, "%d of %d", bad, checked);
}
static void threads_change_nothing(void) {
    int bad, checked = 0;
    compare(one, 1, one, 5, true, 4, "1 thread against 5", &bad, &checked);
    CHECK(bad == 0 && checked >= 12, "%d of %d", bad, checked);
}
static void drafting_changes_nothing_in_a_gpu_shaped_prog(void) {
    int bad, checked = 0;
    compare(gpu, 2, gpu, 1, false, 4,
            "h200's Prog, 132 workers with loads, attention in 4 parts, drafting against none", &bad, &checked);
    CHECK(bad == 0 && checked >= 12, "%d of %d", bad, checked);
}

// Four prompts after one another, so that the window of 128 positions is full before the first token.
static void drafting_changes_nothing_beyond_the_window(void) {
    json_t *root = demo_json("prompts.json");
    tr_session *s = demo_open(one, NULL, 2);
    CHECK(s);
    for (size_t first = 0; first < 12; first += 4) {
        char text[2000] = "";
        for (size_t i = first; i < first + 4; i++)
            strcat(text, json_string_value(json_object_get(json_array_get(root, i), "text")));
        for (int warm = 0; warm < 2; warm++) {
            Answer drafted, plain;
            CHECK(answer(s, text, warm, false, &drafted) && answer(s, text, warm, true, &plain));
            CHECK(drafted.prompt > 128 && same(&drafted, &plain), "prompt %zu, %zu tokens", first, drafted.prompt);
        }
    }
    json_decref(root);
    tr_close(s);
}

static void seeds_and_temperatures_change_something(void) {
    tr_session *s = demo_open(one, NULL, 2);
    CHECK(s);
    Answer greedy, warm;
    CHECK(answer(s, "def main():\n", 0, false, &greedy) && answer(s, "def main():\n", 1.0, false, &warm));
    CHECK(!same(&greedy, &warm));
    tr_close(s);
}

int main(void) {
    snprintf(one, sizeof one, "%s/one.bundle", demo_tmp());
    snprintf(two, sizeof two, "%s/two.bundle", demo_tmp());
    snprintf(steps, sizeof steps, "%s/steps.bundle", demo_tmp());
    snprintf(gpu, sizeof gpu, "%s/gpu.bundle", demo_tmp());
    if (!demo_build(NULL, "host", 1, one) || !demo_build(NULL, "host", 2, two) ||
        !demo_build_with(NULL, "host", 2, steps, &(Setting){"reduce_steps", "2", ORIGIN_OPTION}) ||
        !demo_build_with(NULL, "h200", 1, gpu, &(Setting){"split", "4", ORIGIN_OPTION}))
        return printf("not ok build\n"), 1;
    RUN(drafting_changes_nothing_at_degree_1);
    RUN(drafting_changes_nothing_at_degree_2);
    RUN(sums_in_two_steps_change_nothing);
    RUN(threads_change_nothing);
    RUN(drafting_changes_nothing_in_a_gpu_shaped_prog);
    RUN(drafting_changes_nothing_beyond_the_window);
    RUN(seeds_and_temperatures_change_something);
    return check_done();
}
