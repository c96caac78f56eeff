#include "bench.h"
#include "bench_report.h"
#include <stdlib.h>
#include <string.h>

enum { PROMPT = BENCH_PROMPT, SLACK = 64, ENVIRONMENT = 3, TRACED_LEAST = 12, TRACED_MOST = 64 };

// Rounds that are traced; of these the last ones are kept.
static int traced_rounds(const BenchJob *job) {
    return job->rounds < TRACED_LEAST ? TRACED_LEAST : job->rounds < TRACED_MOST ? job->rounds : TRACED_MOST;
}

int bench_positions(const BenchJob *job) {
    int rounds = job->rounds > TRACED_LEAST ? job->rounds : TRACED_LEAST;
    return job->context + rounds * TR_MAX_BLOCK + SLACK;
}

static int by_value(const void *a, const void *b) {
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

static bool times_of(const tr_result *r, int rounds, BenchTimes *out) {
    double *sorted = malloc((size_t)(rounds + 1) * sizeof *sorted), sum = 0;
    if (!sorted) return false;
    memcpy(sorted, r->round_seconds, (size_t)rounds * sizeof *sorted);
    qsort(sorted, (size_t)rounds, sizeof *sorted, by_value);
    for (int i = 0; i < rounds; i++) sum += sorted[i];
    *out = (BenchTimes){sorted[rounds / 2] * 1e3, sorted[rounds / 20] * 1e3, sorted[rounds - 1 - rounds / 20] * 1e3,
                        sum / rounds * 1e3, rounds};
    free(sorted);
    return true;
}

tr_request bench_request(const tr_session *session, const BenchJob *job, int rounds, BenchPrompt prompt) {
    bool drafts = !job->no_draft && tr_has_drafter(session);
    for (int i = 0; i < PROMPT; i++) prompt[i] = (i * 37 + 5) % tr_vocab(session);
    return (tr_request){.tokens = prompt,
                        .token_count = PROMPT,
                        .start = job->made ? job->context - PROMPT : 0,
                        .max_tokens = rounds * (drafts ? TR_MAX_BLOCK : 1) + 1,
                        .temperature = job->temperature,
                        .top_k = job->top_k,
                        .top_p = job->top_p,
                        .seed = job->seed,
                        .no_draft = job->no_draft,
                        .ignore_end = true,
                        .accept = job->made && drafts && !(job->accept > 0) ? bench_acceptances[0] : job->accept};
}

// A run of its own, so that keeping records slows down no round that is timed.
static int trace(tr_session *session, const BenchJob *job, BenchReport *report) {
    BenchPrompt prompt;
    tr_request request = bench_request(session, job, traced_rounds(job), prompt);
    tr_result r;
    int code = tr_trace(session, true);
    if (code == 0) code = tr_generate(session, &request, &r);
    // The streaming rate first: what the trace says is only read, and lives until the next request.
    if (code == 0) code = tr_stream(session, &report->streaming[1]);
    if (code == 0) code = tr_traced(session, report->start, &report->phases);
    report->traced = code == 0;
    return code;
}

int bench_run(tr_session *session, const BenchJob *job) {
    BenchPrompt prompt;
    BenchReport report = {.job = job,
                          .gpu = tr_on_gpu(session),
                          .drafts = !job->no_draft && tr_has_drafter(session),
                          .figures = tr_session_figures(session)};
    tr_request request = bench_request(session, job, job->rounds, prompt);
    tr_result r;
    int code = job->trace && !report.gpu ? tr_trace(session, true) : 0; // says that the host keeps none
    if (code == 0) code = tr_stream(session, &report.streaming[0]);
    if (code == 0) code = tr_generate(session, &request, &r);
    if (code) return code;
    if (!times_of(&r, r.rounds < job->rounds ? r.rounds : job->rounds, &report.times)) return ENVIRONMENT;
    report.acceptance = r.acceptance;
    report.first_token = r.first_token_seconds;
    report.start = request.start + PROMPT + r.acceptance * report.times.rounds / 2;
    if (job->graph)
        code = tr_stream(session, &report.streaming[1]); // its kernels keep no records
    else if (report.gpu)
        code = trace(session, job, &report);
    if (!bench_report(&report)) return ENVIRONMENT;
    return code;
}
