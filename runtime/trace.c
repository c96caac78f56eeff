#include "trace.h"
#include "file.h"
#include "text.h"
#include <string.h>

typedef struct Cell { // a step of an instance in one round
    uint64_t ready, ended, busy;
    int tasks;
} Cell;

typedef struct OpTime {
    double time, busy; // ns on the way from end to end; ns of its tasks over all workers
    long instances, tasks;
} OpTime;

typedef struct Tracing {
    int instances, *first; // [instances + 1]: of an instance's steps
    const Body **bodies;   // [instances]
    Cell *cells;           // of one round
    OpTime ops[OP_COUNT];
    double total;
    int rounds;
} Tracing;

// Clears the cells and fills them with the records of the round (begin, end]. How many steps have records.
static int cells_fill(Tracing *t, const EngineTrace *records, size_t count, uint64_t begin, uint64_t end) {
    int seen = 0;
    memset(t->cells, 0, (size_t)t->first[t->instances] * sizeof *t->cells);
    for (size_t i = 0; i < count; i++) {
        const EngineTrace *r = &records[i];
        if (r->ended <= begin || r->ended > end || r->instance >= (uint32_t)t->instances ||
            r->step >= (uint32_t)t->bodies[r->instance]->step_count)
            continue;
        Cell *cell = &t->cells[t->first[r->instance] + (int)r->step];
        seen += cell->tasks == 0;
        if (cell->tasks == 0 || r->ready < cell->ready) cell->ready = r->ready;
        if (r->ended > cell->ended) cell->ended = r->ended;
        cell->busy += r->ended - r->begun;
        cell->tasks++;
    }
    return seen;
}

static void round_add(Tracing *t, uint64_t begin, uint64_t end) {
    uint64_t latest = begin;
    for (int i = 0; i < t->instances; i++) {
        const Body *body = t->bodies[i];
        for (int s = 0; s < body->step_count; s++) {
            const Cell *cell = &t->cells[t->first[i] + s];
            if (cell->tasks == 0) continue;
            OpTime *op = &t->ops[body->steps[s].op];
            op->instances++;
            op->tasks += cell->tasks;
            op->busy += (double)cell->busy;
            if (cell->ended <= latest) continue;
            op->time += (double)(cell->ended - latest);
            latest = cell->ended;
        }
    }
    t->total += (double)(end - begin);
    t->rounds++;
}

static char *print(Ctx *ctx, const Tracing *t) {
    Text text = text_new(ctx->arena);
    double rounds = t->rounds, sum = 0;
    text_printf(&text, "{\n  \"rounds\": %d,\n  \"us_a_round\": %.2f,\n  \"ops\": [", t->rounds,
                t->total / rounds * 1e-3);
    bool done[OP_COUNT] = {false};
    for (int n = 0; n < OP_COUNT; n++) {
        int best = -1;
        for (int op = 0; op < OP_COUNT; op++)
            if (!done[op] && t->ops[op].tasks && (best < 0 || t->ops[op].time > t->ops[best].time)) best = op;
        if (best < 0) break;
        const OpTime *op = &t->ops[best];
        done[best] = true;
        sum += op->time;
        text_printf(&text,
                    "%s\n    {\"op\": \"%s\", \"steps\": %.1f, \"tasks\": %.1f, \"us\": %.2f, \"share\": %.4f, "
                    "\"worker_us\": %.2f}",
                    n ? "," : "", op_name((OpId)best), (double)op->instances / rounds, (double)op->tasks / rounds,
                    op->time / rounds * 1e-3, op->time / t->total, op->busy / rounds * 1e-3);
    }
    text_printf(&text, "\n  ],\n  \"other_us\": %.2f\n}\n", (t->total - sum) / rounds * 1e-3);
    return text.at;
}

char *trace_summary(Ctx *ctx, const Prog *prog, const EngineTrace *records, size_t count, const TraceRounds *rounds) {
    Tracing t = {.instances = prog_instances(prog)};
    t.first = ARENA_ARRAY(ctx->arena, int, t.instances + 1);
    t.bodies = ARENA_ARRAY(ctx->arena, const Body *, t.instances);
    for (int i = 0, layer; i < t.instances; i++) {
        t.bodies[i] = &prog->bodies[prog_instance(prog, i, &layer)->body];
        t.first[i + 1] = t.first[i] + t.bodies[i]->step_count;
    }
    t.cells = ARENA_ARRAY(ctx->arena, Cell, t.first[t.instances] + 1);
    uint64_t from = UINT64_MAX, to = 0;
    for (size_t i = 0; i < count; i++) {
        if (records[i].ended && records[i].ended < from) from = records[i].ended;
        if (records[i].ended > to) to = records[i].ended;
    }
    // A worker's room may end inside a round: rounds with as many steps as the fullest one are whole.
    int *seen = ARENA_ARRAY(ctx->arena, int, rounds->count + 1), most = 1;
    for (int pass = 0; pass < 2; pass++)
        for (int i = 1; i < rounds->count; i++) {
            uint64_t begin = rounds->ends[i - 1], end = rounds->ends[i];
            if (!rounds->decoded[i] || end <= from || begin >= to || (pass && seen[i] < most)) continue;
            seen[i] = cells_fill(&t, records, count, begin, end);
            if (pass) round_add(&t, begin, end);
            if (seen[i] > most) most = seen[i];
        }
    if (t.rounds) return print(ctx, &t);
    diag_error(ctx, E0917, NO_SPAN, "the trace holds no whole round of decoding");
    diag_help(ctx, "the kernel keeps a few thousand tasks a worker: take more --rounds");
    return NULL;
}

bool trace_write(Ctx *ctx, const Prog *prog, const EngineTrace *records, size_t count, const TraceRounds *rounds,
                 const char *path) {
    char *text = trace_summary(ctx, prog, records, count, rounds);
    return text && file_write(ctx, path, text, strlen(text));
}
