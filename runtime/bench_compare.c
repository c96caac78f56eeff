#include "bench_compare.h"
#include <stdlib.h>
#include <string.h>

enum { TURNS = 5, WARM_UP = 2, ARMS = 2, ENVIRONMENT = 3, VERIFY = 4 }; // WARM_UP: rounds of a turn that do not count
static const char *const names[ARMS] = {[TR_ENGINE] = "engine", [TR_GRAPH] = "graph"};

typedef struct Arm {
    double *ms; // of all turns' rounds
    int count;
    double median, low, high; // low, high: of the turns' medians
} Arm;

typedef struct Compare {
    tr_session *session;
    const BenchJob *job;
    const tr_request *request;
    Arm arms[ARMS];
    int *tokens; // of the first turn
    size_t count;
    bool equal;
    size_t differs; // the first token that does
} Compare;

static int by_value(const void *a, const void *b) {
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}
static double median_of(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, by_value);
    return count ? values[count / 2] : 0;
}

// Both arms start from the same state, so every turn is to give the same tokens.
static void tokens_compare(Compare *c, const tr_result *r) {
    size_t count = r->count < c->count ? r->count : c->count;
    for (size_t i = 0; i < count && c->equal; i++)
        if (r->tokens[i] != c->tokens[i]) c->equal = false, c->differs = i;
    if (c->equal && r->count != c->count) c->equal = false, c->differs = count;
}

static int turn(Compare *c, tr_arm number, bool first) {
    Arm *arm = &c->arms[number];
    tr_result r;
    int code = tr_use(c->session, number);
    if (code == 0) code = tr_generate(c->session, c->request, &r);
    if (code) return code;
    if (first) {
        c->tokens = malloc((r.count + 1) * sizeof *c->tokens);
        if (!c->tokens) return ENVIRONMENT;
        memcpy(c->tokens, r.tokens, r.count * sizeof *c->tokens);
        c->count = r.count;
    } else
        tokens_compare(c, &r);
    double *mine = arm->ms + arm->count;
    int rounds = r.rounds < c->job->rounds ? r.rounds : c->job->rounds, skip = rounds > 2 * WARM_UP ? WARM_UP : 0;
    for (int i = skip; i < rounds; i++) arm->ms[arm->count++] = r.round_seconds[i] * 1e3;
    double median = median_of(mine, rounds - skip);
    if (arm->low == 0 || median < arm->low) arm->low = median;
    if (median > arm->high) arm->high = median;
    return 0;
}

static void print_json(const Compare *c, const tr_figures *f, FILE *out) {
    fprintf(out, "{\"turns\": %d, \"rounds_a_turn\": %d, \"drafting\": %s, \"context\": %d, \"arms\": {", TURNS,
            c->job->rounds, c->job->no_draft || !tr_has_drafter(c->session) ? "false" : "true", c->job->context);
    for (int i = 0; i < ARMS; i++)
        fprintf(out,
                "%s\"%s\": {\"ms\": {\"median\": %.4f, \"lowest_turn\": %.4f, \"highest_turn\": %.4f}, \"rounds\": %d}",
                i ? ", " : "", names[i], c->arms[i].median, c->arms[i].low, c->arms[i].high, c->arms[i].count);
    fprintf(out,
            "}, \"graph_kernels_a_round\": %d, \"graph_over_engine\": %.4f, \"tokens\": %zu, \"tokens_equal\": %s}\n",
            f->kernels[c->job->no_draft || !tr_has_drafter(c->session) ? 0 : 1],
            c->arms[TR_GRAPH].median / c->arms[TR_ENGINE].median, c->count, c->equal ? "true" : "false");
}

static void print_text(const Compare *c, const tr_figures *f, FILE *out) {
    bool drafts = !c->job->no_draft && tr_has_drafter(c->session);
    double engine = c->arms[TR_ENGINE].median, graph = c->arms[TR_GRAPH].median;
    fprintf(out, "%d turns of each arm, interleaved, %d rounds each%s\n", TURNS, c->job->rounds,
            drafts ? "" : ", without drafting");
    for (int i = 0; i < ARMS; i++) {
        const Arm *arm = &c->arms[i];
        fprintf(out, "%-7s median %.4f ms a round (medians of its turns: %.4f to %.4f)", names[i], arm->median,
                arm->low, arm->high);
        if (i == TR_GRAPH) fprintf(out, ", %d kernels a round", f->kernels[drafts ? 1 : 0]);
        fputc('\n', out);
    }
    fprintf(out, "graph / engine %.3f: the engine is %.1f %% %s\n", graph / engine,
            100 * (graph > engine ? graph / engine - 1 : 1 - graph / engine), graph > engine ? "faster" : "slower");
    if (c->equal) fprintf(out, "tokens equal: %zu of each turn\n", c->count);
}

int bench_compare(tr_session *session, const BenchJob *job) {
    BenchPrompt prompt;
    tr_request request = bench_request(session, job, job->rounds, prompt);
    Compare c = {.session = session, .job = job, .request = &request, .equal = true};
    int code = 0;
    for (int i = 0; i < ARMS; i++)
        if (!(c.arms[i].ms = calloc((size_t)(TURNS * job->rounds), sizeof(double)))) code = ENVIRONMENT;
    for (int i = 0; i < TURNS && code == 0; i++)
        for (int arm = 0; arm < ARMS && code == 0; arm++) code = turn(&c, (tr_arm)arm, i + arm == 0);
    if (code == 0) {
        tr_figures figures = tr_session_figures(session);
        for (int i = 0; i < ARMS; i++) c.arms[i].median = median_of(c.arms[i].ms, c.arms[i].count);
        if (job->text) print_text(&c, &figures, job->text);
        if (job->json) print_json(&c, &figures, job->json);
        if (!c.equal) {
            fprintf(stderr, "error[E0920]: the arms' tokens differ from token %zu on\nhelp: tilegen explain E0920\n",
                    c.differs);
            code = VERIFY;
        }
    }
    for (int i = 0; i < ARMS; i++) free(c.arms[i].ms);
    free(c.tokens);
    return code;
}
