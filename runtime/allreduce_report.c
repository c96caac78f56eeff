#include "allreduce.h"
#include <jansson.h>

static const char *form_of(const AllReduceWay *way) { return way->two_steps ? "two steps" : "one shot"; }

// The fastest way of a size, of those whose words are bf16, as NCCL's are; -1: none.
static int best_of(const AllReduceTimes *t, int size) {
    int best = -1;
    for (int i = 0; i < t->way_count; i++)
        if (!t->ways[i].floats && !t->ways[i].meets && t->us[size][i] > 0 &&
            (best < 0 || t->us[size][i] < t->us[size][best]))
            best = i;
    return best;
}

// Of NCCL: in a graph, where there is one. 0: not timed.
static double nccl_of(const AllReduceTimes *t, int size) {
    return t->nccl[NCCL_GRAPHED][size] > 0 ? t->nccl[NCCL_GRAPHED][size] : t->nccl[NCCL_LAUNCHED][size];
}
static double ratio_of(const AllReduceTimes *t, int size) {
    return best_of(t, size) < 0 ? 0 : nccl_of(t, size) / t->us[size][best_of(t, size)];
}

// Nothing where there is no value of any size.
static void print_row(FILE *out, const char *name, const double *values) {
    bool any = false;
    for (int s = 0; s < ALLREDUCE_SIZES; s++) any |= values[s] > 0;
    if (!any) return;
    fprintf(out, "\n%-46s", name);
    for (int s = 0; s < ALLREDUCE_SIZES; s++)
        if (values[s] > 0)
            fprintf(out, " %6.2f", values[s]);
        else
            fprintf(out, " %6s", "-");
}

static void print_text(const AllReduceTimes *t, FILE *out) {
    double values[ALLREDUCE_SIZES];
    fprintf(out, "all-reduce between %d GPUs (%s), %d blocks each, us: medians of %d", t->ranks, t->device, t->blocks,
            ALLREDUCE_TURNS);
    if (t->nccl_version)
        fprintf(out, "; ncclAllReduce of NCCL %d.%d.%d, %d in a row", t->nccl_version / 10000,
                t->nccl_version / 100 % 100, t->nccl_version % 100, NCCL_CALLS);
    fprintf(out, "\n%-46s", "KB of bf16");
    for (int s = 0; s < ALLREDUCE_SIZES; s++) fprintf(out, " %6d", allreduce_sizes[s]);
    for (int i = 0; i < t->way_count; i++) {
        const AllReduceWay *way = &t->ways[i];
        char name[64];
        snprintf(name, sizeof name, "%s, %s, %s, %d a thread%s", form_of(way), way->word, way->ready, way->quads,
                 way->meets ? ", meets" : "");
        for (int s = 0; s < ALLREDUCE_SIZES; s++) values[s] = t->us[s][i];
        print_row(out, name, values);
    }
    for (int s = 0; s < ALLREDUCE_SIZES; s++) values[s] = best_of(t, s) < 0 ? 0 : t->us[s][best_of(t, s)];
    print_row(out, "best of bf16", values);
    print_row(out, "NCCL, in a graph", t->nccl[NCCL_GRAPHED]);
    print_row(out, "NCCL, launched", t->nccl[NCCL_LAUNCHED]);
    for (int s = 0; s < ALLREDUCE_SIZES; s++) values[s] = ratio_of(t, s);
    print_row(out, "times as fast", values);
    fputc('\n', out);
}

static bool print_json(const AllReduceTimes *t, FILE *out) {
    json_t *sizes = json_array();
    for (int s = 0; s < ALLREDUCE_SIZES; s++) {
        json_t *ways = json_array();
        for (int i = 0; i < t->way_count; i++) {
            const AllReduceWay *way = &t->ways[i];
            if (t->us[s][i] > 0)
                json_array_append_new(ways, json_pack("{s:s, s:s, s:s, s:i, s:b, s:f}", "form", form_of(way), "word",
                                                      way->word, "ready", way->ready, "quads", way->quads, "meets",
                                                      way->meets, "us", t->us[s][i]));
        }
        int best = best_of(t, s);
        json_t *size = json_pack("{s:i, s:f, s:o}", "bytes", allreduce_sizes[s] << 10, "us",
                                 best < 0 ? 0.0 : t->us[s][best], "ways", ways);
        if (nccl_of(t, s) > 0) {
            json_object_set_new(size, "nccl_us", json_real(nccl_of(t, s)));
            json_object_set_new(size, "nccl_graph", json_boolean(t->nccl[NCCL_GRAPHED][s] > 0));
            json_object_set_new(size, "ratio", json_real(ratio_of(t, s)));
        }
        json_array_append_new(sizes, size);
    }
    json_t *all = json_pack("{s:i, s:s, s:i, s:i, s:o}", "gpus", t->ranks, "device", t->device, "blocks", t->blocks,
                            "nccl", t->nccl_version, "sizes", sizes);
    bool written = all && json_dumpf(all, out, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) == 0 && fputc('\n', out) >= 0;
    json_decref(all);
    return written;
}

bool allreduce_report(const AllReduceTimes *times, const AllReduceJob *job) {
    if (job->text) print_text(times, job->text), fflush(job->text);
    return !job->json || (print_json(times, job->json) && fflush(job->json) == 0);
}
