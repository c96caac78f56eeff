#include "bench_report.h"
#include <jansson.h>
#include <math.h>

const double bench_acceptances[BENCH_ACCEPTANCES] = {6.30, 5.56, 4.29};

// What shares are of: the larger of both, since nothing reads faster than the memory gives.
static double streaming(const BenchReport *r) { return fmax(r->streaming[0], r->streaming[1]); }
static double bytes_of_round(const BenchReport *r) { return r->phases.weights + r->phases.cache; }
static double rate(double bytes, double us) { return us > 0 ? bytes / us * 1e6 : 0; }

// ---- For people ----

static void print_phase(const BenchReport *r, const tr_phase *p, FILE *out) {
    fprintf(out, "%-34s %6.0f %9.1f %6.1f", p->name, p->times, p->us, p->us / r->phases.us * 100);
    if (p->bytes > 0) {
        fprintf(out, " %10.3f %8.0f", p->bytes * 1e-6, rate(p->bytes, p->us) * 1e-9);
        if (streaming(r) > 0)
            fprintf(out, " %6.1f", rate(p->bytes, p->us) / streaming(r) * 100);
        else
            fprintf(out, " %6s", "");
    } else
        fprintf(out, " %10s %8s %6s", "", "", "");
    fprintf(out, " %8.0f %8.2f %8.2f\n", p->tasks, p->wait_us, p->task_us);
}

static void print_phases(const BenchReport *r, FILE *out) {
    const tr_phases *all = &r->phases;
    fprintf(out,
            "\n%d other rounds, traced: %.3f ms a round. Time from the end of the steps before; a task's wait and "
            "time, on average\n",
            all->rounds, all->us * 1e-3);
    fprintf(out, "%-34s %6s %9s %6s %10s %8s %6s %8s %8s %8s\n", "op", "times", "us", "%", "MB", "GB/s", "% rate",
            "tasks", "wait us", "task us");
    for (int i = 0; i < all->op_count; i++) print_phase(r, &all->ops[i], out);
    fprintf(out, "%-34s %6s %9.1f %6.1f\n\n", "between ops", "", all->other_us, all->other_us / all->us * 100);
    for (int i = 0; i < all->sum_count; i++) print_phase(r, &all->sums[i], out);
}

static void print_text(const BenchReport *r, FILE *out) {
    const BenchTimes *t = &r->times;
    const BenchJob *job = r->job;
    fprintf(out, "%d rounds: median %.3f ms (5 %%: %.3f, 95 %%: %.3f), acceptance length %.2f, %.1f token/s\n",
            t->rounds, t->median, t->low, t->high, r->acceptance, r->acceptance / t->mean * 1e3);
    if (job->graph) fprintf(out, "the graph arm: %d kernels a round\n", r->figures.kernels[r->drafts]);
    if (job->alone)
        fprintf(out, "rank %d alone, context %d; its %.2f GB of weights were ready after %.2f s\n", job->rank,
                job->context, (double)r->figures.weights / 1e9, r->figures.weights_seconds);
    for (int i = 0; i < BENCH_ACCEPTANCES && job->alone && r->drafts; i++)
        fprintf(out, "%.0f token/s at acceptance length %.2f%s", bench_acceptances[i] / t->median * 1e3,
                bench_acceptances[i], i + 1 < BENCH_ACCEPTANCES ? ", " : "\n");
    if (streaming(r) > 0)
        fprintf(out, "the memory streams %.3f TB/s before the rounds, %.3f TB/s after them\n", r->streaming[0] / 1e12,
                r->streaming[1] / 1e12);
    if (!r->traced) return;
    const double bytes = bytes_of_round(r), got = rate(bytes, t->median * 1e3);
    fprintf(out, "a round reads %.5g GB of weights and %.3g GB of keys and values: %.4g TB/s", r->phases.weights / 1e9,
            r->phases.cache / 1e9, got / 1e12);
    if (streaming(r) > 0) fprintf(out, ", %.1f %% of the streaming rate", got / streaming(r) * 100);
    if (r->phases.experts > 0) fprintf(out, "; %.1f experts are active in a layer", r->phases.experts);
    fputc('\n', out);
    print_phases(r, out);
}

// ---- For programs ----

static json_t *phase_json(const BenchReport *r, const tr_phase *p) {
    json_t *of = json_pack("{s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "name", p->name, "times", p->times, "tasks",
                           p->tasks, "us", p->us, "share", p->us / r->phases.us, "wait_us", p->wait_us, "task_us",
                           p->task_us, "bytes", p->bytes);
    if (p->bytes > 0) json_object_set_new(of, "bytes_per_second", json_real(rate(p->bytes, p->us)));
    if (p->bytes > 0 && streaming(r) > 0)
        json_object_set_new(of, "share_of_streaming", json_real(rate(p->bytes, p->us) / streaming(r)));
    return of;
}

static json_t *phases_json(const BenchReport *r) {
    json_t *ops = json_array(), *sums = json_array();
    for (int i = 0; i < r->phases.op_count; i++) json_array_append_new(ops, phase_json(r, &r->phases.ops[i]));
    for (int i = 0; i < r->phases.sum_count; i++) json_array_append_new(sums, phase_json(r, &r->phases.sums[i]));
    return json_pack("{s:i, s:f, s:f, s:o, s:o}", "rounds", r->phases.rounds, "us_a_round", r->phases.us, "other_us",
                     r->phases.other_us, "ops", ops, "sums", sums);
}

static void alone_json(const BenchReport *r, json_t *out) {
    json_object_set_new(out, "rank", json_integer(r->job->rank));
    json_object_set_new(out, "context", json_integer(r->job->context));
    if (!r->drafts) return;
    json_t *at = json_object();
    for (int i = 0; i < BENCH_ACCEPTANCES; i++) {
        char length[16];
        snprintf(length, sizeof length, "%.2f", bench_acceptances[i]);
        json_object_set_new(at, length, json_real(bench_acceptances[i] / r->times.median * 1e3));
    }
    json_object_set_new(out, "tokens_per_second_at", at);
}

static void gpu_json(const BenchReport *r, json_t *out) {
    json_object_set_new(
        out, "weights",
        json_pack("{s:I, s:f}", "bytes", (json_int_t)r->figures.weights, "seconds", r->figures.weights_seconds));
    if (streaming(r) > 0)
        json_object_set_new(out, "streaming",
                            json_pack("{s:f, s:f, s:f}", "before", r->streaming[0], "after", r->streaming[1],
                                      "bytes_per_second", streaming(r)));
    if (!r->traced) return;
    const double bytes = bytes_of_round(r), got = rate(bytes, r->times.median * 1e3);
    json_object_set_new(
        out, "bytes",
        json_pack("{s:f, s:f, s:f}", "round", bytes, "weights", r->phases.weights, "cache", r->phases.cache));
    json_object_set_new(out, "bytes_per_second", json_real(got));
    if (streaming(r) > 0) json_object_set_new(out, "share_of_streaming", json_real(got / streaming(r)));
    if (r->phases.experts > 0) json_object_set_new(out, "experts_active", json_real(r->phases.experts));
    json_object_set_new(out, "phases", phases_json(r));
}

static json_t *report_json(const BenchReport *r) {
    const BenchTimes *t = &r->times;
    json_t *out = json_pack("{s:i, s:s, s:{s:f, s:f, s:f, s:f}, s:f, s:f, s:f}", "rounds", t->rounds, "clock",
                            r->gpu ? "gpu" : "host", "ms", "median", t->median, "p5", t->low, "p95", t->high, "mean",
                            t->mean, "first_token_ms", r->first_token * 1e3, "acceptance", r->acceptance,
                            "tokens_per_second", r->acceptance / t->mean * 1e3);
    if (r->job->graph) {
        json_object_set_new(out, "arm", json_string("graph"));
        json_object_set_new(out, "kernels_a_round", json_integer(r->figures.kernels[r->drafts]));
    }
    if (r->job->alone) alone_json(r, out);
    if (r->gpu) gpu_json(r, out);
    return out;
}

static bool json_write(json_t *json, FILE *out) {
    if (!json) return false;
    json_dumpf(json, out, JSON_REAL_PRECISION(9)); // an error stays in the stream
    fputc('\n', out);
    json_decref(json);
    return true;
}

bool bench_report(const BenchReport *r) {
    if (r->job->text) print_text(r, r->job->text);
    return (!r->job->json || json_write(report_json(r), r->job->json)) &&
           (!r->job->trace || !r->traced || json_write(phases_json(r), r->job->trace));
}
