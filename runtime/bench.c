#include "bench.h"
#include <stdlib.h>
#include <string.h>

enum { PROMPT = BENCH_PROMPT, SLACK = 64, ENVIRONMENT = 3 };
static const double acceptances[] = {6.30, 5.56, 4.29}; // coding, mathematics, agent: as DFlash publishes them
enum { ACCEPTANCES = sizeof acceptances / sizeof *acceptances };

int bench_positions(const BenchJob *job) { return job->context + job->rounds * TR_MAX_BLOCK + SLACK; }

typedef struct Times { // of a round, milliseconds
    double median, low, high, mean;
    int rounds;
} Times;

static int by_value(const void *a, const void *b) {
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

static bool times_of(const tr_result *r, int rounds, Times *out) {
    double *sorted = malloc((size_t)(rounds + 1) * sizeof *sorted), sum = 0;
    if (!sorted) return false;
    memcpy(sorted, r->round_seconds, (size_t)rounds * sizeof *sorted);
    qsort(sorted, (size_t)rounds, sizeof *sorted, by_value);
    for (int i = 0; i < rounds; i++) sum += sorted[i];
    *out = (Times){sorted[rounds / 2] * 1e3, sorted[rounds / 20] * 1e3, sorted[rounds - 1 - rounds / 20] * 1e3,
                   sum / rounds * 1e3, rounds};
    free(sorted);
    return true;
}

// Which of the graph arm's two kinds of round is timed.
static int drafting(const BenchJob *job, const tr_figures *f) { return !job->no_draft && f->kernels[1] > 0; }

static void print_json(const BenchJob *job, const tr_result *r, const tr_figures *f, const Times *t, FILE *out) {
    fprintf(out,
            "{\"rounds\": %d, \"clock\": \"%s\", \"ms\": {\"median\": %.4f, \"p5\": %.4f, \"p95\": %.4f}, "
            "\"first_token_ms\": %.3f, \"acceptance\": %.4f, \"tokens_per_second\": %.1f",
            t->rounds, r->gpu ? "gpu" : "host", t->median, t->low, t->high, r->first_token_seconds * 1e3, r->acceptance,
            r->acceptance / t->mean * 1e3);
    if (job->graph) fprintf(out, ", \"arm\": \"graph\", \"kernels_a_round\": %d", f->kernels[drafting(job, f)]);
    if (r->gpu)
        fprintf(out, ", \"weights\": {\"bytes\": %llu, \"seconds\": %.3f}", (unsigned long long)f->weights,
                f->weights_seconds);
    if (job->alone) {
        fprintf(out,
                ", \"rank\": %d, \"context\": %d, \"streaming_bytes_per_second\": %.4g, \"tokens_per_second_at\": {",
                job->rank, job->context, f->streaming);
        for (int i = 0; i < ACCEPTANCES && !job->no_draft; i++)
            fprintf(out, "%s\"%.2f\": %.1f", i ? ", " : "", acceptances[i], acceptances[i] / t->median * 1e3);
        fprintf(out, "}");
    }
    fprintf(out, "}\n");
}

static void print_text(const BenchJob *job, const tr_result *r, const tr_figures *f, const Times *t, FILE *out) {
    fprintf(out, "%d rounds: median %.3f ms (5 %%: %.3f, 95 %%: %.3f), acceptance length %.2f, %.1f token/s\n",
            t->rounds, t->median, t->low, t->high, r->acceptance, r->acceptance / t->mean * 1e3);
    if (job->graph) fprintf(out, "the graph arm: %d kernels a round\n", f->kernels[drafting(job, f)]);
    if (!job->alone) return;
    fprintf(out, "rank %d alone, context %d; its %.2f GB of weights were ready after %.2f s\n", job->rank, job->context,
            (double)f->weights / 1e9, f->weights_seconds);
    for (int i = 0; i < ACCEPTANCES && !job->no_draft; i++)
        fprintf(out, "%s%.0f token/s at acceptance length %.2f", i ? ", " : "", acceptances[i] / t->median * 1e3,
                acceptances[i]);
    if (!job->no_draft) fputc('\n', out);
    if (f->streaming > 0) fprintf(out, "the memory streams %.3f TB/s\n", f->streaming / 1e12);
}

tr_request bench_request(const tr_session *session, const BenchJob *job, BenchPrompt prompt) {
    bool drafts = !job->no_draft && tr_has_drafter(session);
    for (int i = 0; i < PROMPT; i++) prompt[i] = (i * 37 + 5) % tr_vocab(session);
    return (tr_request){.tokens = prompt,
                        .token_count = PROMPT,
                        .start = job->alone ? job->context - PROMPT : 0,
                        .max_tokens = job->rounds * (drafts ? TR_MAX_BLOCK : 1) + 1,
                        .temperature = job->temperature,
                        .top_k = job->top_k,
                        .top_p = job->top_p,
                        .seed = job->seed,
                        .no_draft = job->no_draft,
                        .ignore_end = true,
                        .accept = job->alone && drafts && !(job->accept > 0) ? acceptances[0] : job->accept};
}

int bench_run(tr_session *session, const BenchJob *job, FILE *out) {
    BenchPrompt prompt;
    tr_request request = bench_request(session, job, prompt);
    tr_result r;
    Times times;
    int code = tr_generate(session, &request, &r);
    if (code) return code;
    if (!times_of(&r, r.rounds < job->rounds ? r.rounds : job->rounds, &times)) return ENVIRONMENT;
    tr_figures figures = tr_session_figures(session);
    (job->json ? print_json : print_text)(job, &r, &figures, &times, out);
    return job->trace ? tr_trace_file(session, job->trace) : 0;
}
