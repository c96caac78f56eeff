#include "trace.h"
#include <string.h>

int trace_room(const Prog *prog, int rounds) {
    int64_t most = 0, items = 0;
    for (int w = 0; w < prog->workers; w++) {
        int64_t entries = 0;
        for (int i = 0, layer; i < prog_instances(prog); i++) {
            const Body *body = &prog->bodies[prog_instance(prog, i, &layer)->body];
            const Queue *queue = prog_queue(prog, body, w, ROLE_COMPUTE);
            for (int e = 0; e < queue->count; e++) entries += queue->entries[e].kind == ENTRY_TASK;
        }
        if (entries > most) most = entries;
    }
    for (int i = 0, layer; i < prog_instances(prog); i++) {
        const Body *body = &prog->bodies[prog_instance(prog, i, &layer)->body];
        for (int p = 0; p < body->pool_count; p++)
            items += 2 * ((int64_t)body->pools[p].keys * body->pools[p].item_count / prog->workers + 1);
    }
    return (int)((most + items) * rounds);
}

typedef struct Cell { // a step of an instance in one round
    uint64_t ended, waits, work;
    int tasks;
} Cell;

typedef struct Tracing {
    const Prog *prog;
    int instances, *first; // [instances + 1]: of an instance's steps
    const Body **bodies;   // [instances]
    Segment *segments;     // [instances]
    Cell *cells;           // of one round
    long layers;           // with experts, over all rounds
    TraceSums *sums;
} Tracing;

// Clears the cells and fills them with the tasks of the round that were posted in [begin, end): all of it, since its
// gate opens behind the stamp of the round before. A task that was skipped never began: that word is an older task's.
static void cells_fill(Tracing *t, const TraceRecords *records, uint64_t begin, uint64_t end) {
    memset(t->cells, 0, (size_t)t->first[t->instances] * sizeof *t->cells);
    for (size_t i = 0; i < (size_t)records->workers * (size_t)records->room; i++) {
        const EngineTrace *r = &records->at[i];
        const uint32_t step = r->step & 0xFFFF;
        if (r->posted < begin || r->posted >= end || r->ready < r->posted || r->begun < r->posted ||
            r->ended < r->begun || r->instance >= (uint32_t)t->instances ||
            step >= (uint32_t)t->bodies[r->instance]->step_count)
            continue;
        Cell *cell = &t->cells[t->first[r->instance] + (int)step];
        if (r->ended > cell->ended) cell->ended = r->ended < end ? r->ended : end;
        cell->waits += r->ready - r->posted;
        cell->work += r->ended - r->begun;
        cell->tasks += (int)(r->step >> 16) + 1;
    }
}

static int tiles_of_key(const Body *body, int step) {
    int tiles = 0;
    for (int p = 0; p < body->pool_count; p++)
        for (int i = 0; i < body->pools[p].item_count; i++) tiles += body->pools[p].items[i].step == step;
    return tiles;
}

static void round_add(Tracing *t, uint64_t begin, uint64_t end) {
    uint64_t latest = begin;
    bool seen = false;
    for (int i = 0; i < t->instances; i++) {
        const Body *body = t->bodies[i];
        for (int s = 0; s < body->step_count; s++) {
            const Cell *cell = &t->cells[t->first[i] + s];
            if (cell->tasks == 0) continue;
            TraceOp *op = &t->sums->of[t->segments[i]][body->steps[s].op];
            seen = true;
            op->steps++;
            op->tasks += cell->tasks;
            op->waits += (double)cell->waits;
            op->work += (double)cell->work;
            if (body->steps[s].op == OP_EXPERTS_UP && tiles_of_key(body, s)) {
                t->sums->experts += (double)cell->tasks / tiles_of_key(body, s);
                t->layers++;
            }
            if (cell->ended <= latest) continue;
            op->time += (double)(cell->ended - latest);
            latest = cell->ended;
        }
    }
    if (!seen) return;
    t->sums->total += (double)(end - begin);
    t->sums->rounds++;
}

// What was posted at this time or later is kept of every worker.
static uint64_t kept_since(const TraceRecords *records) {
    uint64_t since = 0;
    for (int w = 0; w < records->workers; w++) {
        const EngineTrace *of = records->at + (size_t)w * (size_t)records->room;
        uint64_t oldest = UINT64_MAX;
        for (int i = 0; i < records->room; i++)
            if (of[i].posted < oldest) oldest = of[i].posted;
        if (oldest > since) since = oldest;
    }
    return since;
}

bool trace_sums(Ctx *ctx, const Prog *prog, const TraceRecords *records, const TraceRounds *rounds, TraceSums *out) {
    *out = (TraceSums){0};
    Tracing t = {.prog = prog, .instances = prog_instances(prog), .sums = out};
    t.first = ARENA_ARRAY(ctx->arena, int, t.instances + 1);
    t.bodies = ARENA_ARRAY(ctx->arena, const Body *, t.instances);
    t.segments = ARENA_ARRAY(ctx->arena, Segment, t.instances);
    for (int i = 0, layer; i < t.instances; i++) {
        const RoundItem *item = prog_instance(prog, i, &layer);
        t.bodies[i] = &prog->bodies[item->body];
        t.segments[i] = item->segment;
        t.first[i + 1] = t.first[i] + t.bodies[i]->step_count;
    }
    t.cells = ARENA_ARRAY(ctx->arena, Cell, t.first[t.instances] + 1);
    uint64_t since = kept_since(records);
    for (int i = 1; i < rounds->count; i++) {
        uint64_t begin = rounds->ends[i - 1], end = rounds->ends[i];
        if (!rounds->decoded[i] || begin < since || end <= begin) continue;
        cells_fill(&t, records, begin, end);
        round_add(&t, begin, end);
    }
    if (t.layers) out->experts /= (double)t.layers;
    if (out->rounds) return true;
    diag_error(ctx, E0917, NO_SPAN, "the trace holds no whole round of decoding");
    diag_help(ctx, "take more --rounds");
    return false;
}
