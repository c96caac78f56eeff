#include "gpu_graph_plan.h"
#include <limits.h>
#include <string.h>

uint32_t graph_skips(int kind) {
    return (kind == ROUND_DRAFT ? 0u : (uint32_t)GATE_SKIP_DRAFT) |
           (kind == ROUND_PLAIN ? (uint32_t)GATE_SKIP_CONTEXT : 0u);
}

// ---- What a step reads and writes ----

// The smallest box around all that a step touches of a buffer.
typedef struct Box {
    bool used, all_layers;
    int lo[REGION_RANK], hi[REGION_RANK];
} Box;
typedef struct Use {
    Box *reads, *writes; // [buffers]
} Use;

static void box_add(Box *boxes, const Region *r) {
    Box *box = &boxes[r->buffer];
    for (int i = 0; i < REGION_RANK; i++) {
        bool range = r->at[i].kind == INDEX_RANGE;
        int lo = range ? r->at[i].lo : 0, hi = range ? r->at[i].hi : INT_MAX;
        if (range && lo == 0 && hi == 0) hi = 1; // no such dimension
        box->lo[i] = box->used && box->lo[i] < lo ? box->lo[i] : lo;
        box->hi[i] = box->used && box->hi[i] > hi ? box->hi[i] : hi;
    }
    box->used = true;
    box->all_layers |= r->all_layers;
}

static void task_add(Use *use, const Task *task) {
    for (int i = 0; i < task->read_count; i++) box_add(use->reads, &task->reads[i]);
    for (int i = 0; i < task->write_count; i++) box_add(use->writes, &task->writes[i]);
}

// Of all steps of a body.
static Use *uses_of(Ctx *ctx, const Prog *prog, const Body *body) {
    Use *uses = ARENA_ARRAY(ctx->arena, Use, body->step_count);
    for (int s = 0; s < body->step_count; s++) {
        uses[s].reads = ARENA_ARRAY(ctx->arena, Box, prog->buffer_count);
        uses[s].writes = ARENA_ARRAY(ctx->arena, Box, prog->buffer_count);
        for (int i = 0; i < body->steps[s].cover_count; i++) box_add(uses[s].writes, &body->steps[s].covers[i]);
    }
    for (int q = 0; q < prog->workers * ROLE_COUNT; q++)
        for (int i = 0; i < body->queues[q].count; i++)
            if (body->queues[q].entries[i].kind == ENTRY_TASK)
                task_add(&uses[body->queues[q].entries[i].task.step], &body->queues[q].entries[i].task);
    for (int p = 0; p < body->pool_count; p++)
        for (int i = 0; i < body->pools[p].item_count; i++)
            task_add(&uses[body->pools[p].items[i].step], &body->pools[p].items[i]);
    return uses;
}

static bool boxes_meet(const Box *a, const Box *b, bool layered, bool same_layer) {
    if (!a->used || !b->used || (layered && !same_layer && !a->all_layers && !b->all_layers)) return false;
    for (int i = 0; i < REGION_RANK; i++)
        if (a->hi[i] <= b->lo[i] || b->hi[i] <= a->lo[i]) return false;
    return true;
}

static bool uses_conflict(const Prog *prog, const Use *a, const Use *b, bool same_layer) {
    for (int i = 0; i < prog->buffer_count; i++) {
        bool layered = prog->buffers[i].layers > 0;
        if (boxes_meet(&a->writes[i], &b->reads[i], layered, same_layer) ||
            boxes_meet(&a->writes[i], &b->writes[i], layered, same_layer) ||
            boxes_meet(&a->reads[i], &b->writes[i], layered, same_layer))
            return true;
    }
    return false;
}

// ---- Steps to kernels ----

// For two steps of bodies, numbered body after body: 1 where they conflict on one layer, 2 on different ones.
typedef struct Conflicts {
    int *first; // [bodies]
    int steps;
    uint8_t *at; // [steps][steps]
} Conflicts;

static Conflicts conflicts_of(Ctx *ctx, const Prog *prog) {
    Conflicts c = {.first = ARENA_ARRAY(ctx->arena, int, prog->body_count)};
    for (int b = 0; b < prog->body_count; b++) c.first[b] = c.steps, c.steps += prog->bodies[b].step_count;
    Use *uses = ARENA_ARRAY(ctx->arena, Use, c.steps);
    for (int b = 0; b < prog->body_count; b++)
        memcpy(uses + c.first[b], uses_of(ctx, prog, &prog->bodies[b]),
               (size_t)prog->bodies[b].step_count * sizeof *uses);
    c.at = ARENA_ARRAY(ctx->arena, uint8_t, c.steps * c.steps);
    for (int a = 0; a < c.steps; a++)
        for (int b = 0; b < c.steps; b++)
            c.at[a * c.steps + b] = (uint8_t)(uses_conflict(prog, &uses[a], &uses[b], true) |
                                              uses_conflict(prog, &uses[a], &uses[b], false) << 1);
    return c;
}

typedef struct Placed { // a step of the round
    int instance, step, layer, global, kernel;
} Placed;

static GraphPart *part_in(GraphKernel *kernel, int instance) {
    for (int i = 0; i < kernel->count; i++)
        if (kernel->parts[i].instance == instance) return &kernel->parts[i];
    if (kernel->count == NODE_INSTANCES) return NULL;
    kernel->parts[kernel->count].instance = instance;
    return &kernel->parts[kernel->count++];
}

static bool skipped(const RoundItem *item, uint32_t skips) {
    return (item->segment == SEGMENT_DRAFT && skips & GATE_SKIP_DRAFT) ||
           (item->segment == SEGMENT_CONTEXT && skips & GATE_SKIP_CONTEXT);
}

static void place(Ctx *ctx, const Prog *prog, const Conflicts *c, int kind, GraphPlan *plan) {
    int instances = prog_instances(prog), count = 0, most = 0;
    for (int i = 0, layer; i < instances; i++) most += prog->bodies[prog_instance(prog, i, &layer)->body].step_count;
    Placed *placed = ARENA_ARRAY(ctx->arena, Placed, most + 1);
    GraphKernel *kernels = ARENA_ARRAY(ctx->arena, GraphKernel, most + 1);
    for (int i = 0; i < instances; i++) {
        int layer, first = count;
        const RoundItem *item = prog_instance(prog, i, &layer);
        const Body *body = &prog->bodies[item->body];
        if (skipped(item, graph_skips(kind))) continue;
        for (int s = 0; s < body->step_count; s++) {
            Placed *p = &placed[count++];
            *p = (Placed){i, s, layer, c->first[item->body] + s, 0};
            for (const Placed *a = placed; a < p; a++)
                if (c->at[a->global * c->steps + p->global] & (a->layer == layer ? 1 : 2) && a->kernel >= p->kernel)
                    p->kernel = a->kernel + 1;
            GraphPart *part;
            while (!(part = part_in(&kernels[p->kernel], i))) p->kernel++;
            part->steps |= 1ull << s;
            kernels[p->kernel].caches |= body->steps[s].op == OP_ATTENTION || body->steps[s].op == OP_DRAFT_ATTENTION;
            for (int k = 0; k < body->pool_count; k++)
                for (int n = 0; n < body->pools[k].item_count; n++)
                    if (body->pools[k].items[n].step == s &&
                        placed[first + body->pools[k].publisher].kernel >= p->kernel - 1)
                        part->late |= 1ull << s;
            if (p->kernel >= plan->count[kind]) plan->count[kind] = p->kernel + 1;
        }
    }
    plan->kernels[kind] = kernels;
}

// ---- Tables ----

typedef struct Making {
    Ctx *ctx;
    const Prog *prog;
    const EngineTables *t;
    const EngineEntry *entries;
    const EngineQueue *queues;
    EnginePool *pools; // the bundle's, then POOL_STEPS of each
    LIST(EngineEntry) out_entries;
    LIST(EngineQueue) out_queues;
    LIST(const GraphKernel *) made; // with queues of their own
} Making;

static const void *at(const EngineTables *t, uint32_t offset) { return (const uint8_t *)t + offset; }

// An entry of the bundle's that belongs to the part; a pool's entry once for each of its steps.
static void entry_add(Making *m, const GraphPart *part, const EngineEntry *entry) {
    EngineEntry e = *entry;
    e.wait_count = e.signal_count = 0;
    if (e.kind != ENGINE_POOL) {
        if (part->steps >> e.body_step & 1) LIST_ADD(m->ctx->arena, &m->out_entries, e);
        return;
    }
    const EnginePool *pool = &m->pools[entry->pool];
    for (uint32_t i = 0; i < pool->items; i++) {
        uint16_t step = m->entries[pool->item + i].body_step;
        if (!(part->steps >> step & 1)) continue;
        e.pool = (uint16_t)(m->t->pool_count + entry->pool * POOL_STEPS + i);
        e.lo = part->late >> step & 1;
        e.body_step = step;
        LIST_ADD(m->ctx->arena, &m->out_entries, e);
    }
}

static int body_of(const Making *m, int instance) {
    int layer;
    return prog_instance(m->prog, instance, &layer)->body;
}

static bool alike(const Making *m, const GraphKernel *a, const GraphKernel *b) {
    bool same = a->count == b->count;
    for (int i = 0; same && i < a->count; i++)
        same = a->parts[i].steps == b->parts[i].steps && a->parts[i].late == b->parts[i].late &&
               body_of(m, a->parts[i].instance) == body_of(m, b->parts[i].instance);
    return same;
}

// What the kernel's blocks will need of the tables, so that they can ask for it at once.
static void needs_add(Making *m, GraphKernel *kernel) {
    const EngineEntry *first = m->out_entries.at + kernel->entry;
    for (uint32_t i = 0; i < m->out_entries.count - kernel->entry; i++) {
        bool known = false;
        for (uint32_t k = 0; k < kernel->step_count; k++) known |= kernel->step[k] == first[i].step;
        if (!known && kernel->step_count < NODE_STEPS) kernel->step[kernel->step_count++] = first[i].step;
        if (first[i].kind != ENGINE_POOL) continue;
        known = false;
        for (uint32_t k = 0; k < kernel->pools; k++) known |= kernel->pool[k] == first[i].pool;
        if (known || kernel->pools == NODE_LINES / 4) continue; // three lines of the pool, one of its template
        kernel->pool[kernel->pools++] = first[i].pool;
        if (kernel->step_count < NODE_STEPS)
            kernel->step[kernel->step_count++] = m->out_entries.at[m->pools[first[i].pool].item].step;
    }
}

// Queues of its own, unless another kernel has the same. A worker's entries lie together, at a fixed pitch.
static void queues_add(Making *m, GraphKernel *kernel) {
    uint32_t workers = m->t->workers, queues = workers * ROLE_COUNT;
    for (size_t i = 0; i < m->made.count; i++)
        if (alike(m, m->made.at[i], kernel)) {
            GraphPart parts[NODE_INSTANCES];
            memcpy(parts, kernel->parts, sizeof parts);
            *kernel = *m->made.at[i];
            memcpy(kernel->parts, parts, sizeof parts);
            return;
        }
    size_t base = m->out_queues.count;
    kernel->queue_at = (uint32_t)(base * sizeof(EngineQueue));
    kernel->entry = (uint32_t)m->out_entries.count;
    for (uint32_t i = 0; i < (uint32_t)kernel->count * queues; i++)
        LIST_ADD(m->ctx->arena, &m->out_queues, (EngineQueue){0, 0});
    for (int pass = 0; pass < 2; pass++) { // the pitch, then the entries
        m->out_entries.count = kernel->entry;
        for (uint32_t w = 0; w < workers; w++) {
            size_t begin = m->out_entries.count;
            for (int i = 0; i < kernel->count; i++)
                for (uint32_t r = 0; r < ROLE_COUNT; r++) {
                    const EngineQueue *from =
                        &m->queues[((uint32_t)body_of(m, kernel->parts[i].instance) * workers + w) * ROLE_COUNT + r];
                    EngineQueue queue = {.first = (uint32_t)m->out_entries.count};
                    for (uint32_t k = 0; k < from->count; k++)
                        entry_add(m, &kernel->parts[i], &m->entries[from->first + k]);
                    queue.count = (uint32_t)m->out_entries.count - queue.first;
                    m->out_queues.at[base + (uint32_t)i * queues + w * ROLE_COUNT + r] = queue;
                }
            uint32_t count = (uint32_t)(m->out_entries.count - begin);
            if (pass == 0 && count > kernel->entries) kernel->entries = count;
            for (; pass == 1 && count < kernel->entries; count++)
                LIST_ADD(m->ctx->arena, &m->out_entries, (EngineEntry){.step = m->out_entries.at[kernel->entry].step});
        }
    }
    needs_add(m, kernel);
    LIST_ADD(m->ctx->arena, &m->made, kernel);
}

static void pools_make(Making *m) {
    const EnginePool *given = at(m->t, m->t->pool_at);
    uint32_t count = m->t->pool_count;
    m->pools = ARENA_ARRAY(m->ctx->arena, EnginePool, count * (1 + POOL_STEPS) + 1);
    for (uint32_t i = 0; i < count; i++) {
        m->pools[i] = given[i];
        m->pools[i].credits = 0;
        for (uint32_t s = 0; s < given[i].items; s++) {
            EnginePool *one = &m->pools[count + i * POOL_STEPS + s];
            *one = m->pools[i];
            one->item += s;
            one->items = 1;
        }
    }
}

GraphPlan *graph_plan(Ctx *ctx, const Prog *prog, const EngineTables *tables) {
    GraphPlan *plan = ARENA_NEW(ctx->arena, GraphPlan);
    Making m = {.ctx = ctx,
                .prog = prog,
                .t = tables,
                .entries = at(tables, tables->entry_at),
                .queues = at(tables, tables->queue_at)};
    Conflicts conflicts = conflicts_of(ctx, prog);
    pools_make(&m);
    for (uint32_t i = 0; i < tables->entry_count; i++) { // pools point at them
        EngineEntry e = m.entries[i];
        e.wait_count = e.signal_count = 0;
        LIST_ADD(ctx->arena, &m.out_entries, e);
    }
    for (int kind = 0; kind < ROUND_KINDS; kind++) {
        place(ctx, prog, &conflicts, kind, plan);
        for (int i = 0; i < plan->count[kind]; i++) queues_add(&m, &plan->kernels[kind][i]);
    }
    plan->claims = tables->pool_count * (1 + POOL_STEPS);
    size_t queue_bytes = m.out_queues.count * sizeof(EngineQueue),
           entry_bytes = m.out_entries.count * sizeof(EngineEntry), pool_bytes = plan->claims * sizeof(EnginePool);
    plan->entry_at = (uint32_t)((queue_bytes + 15) / 16 * 16);
    plan->pool_at = plan->entry_at + (uint32_t)entry_bytes;
    plan->bytes = plan->pool_at + pool_bytes;
    plan->tables = arena_alloc(ctx->arena, plan->bytes);
    memcpy(plan->tables, m.out_queues.at, queue_bytes);
    memcpy(plan->tables + plan->entry_at, m.out_entries.at, entry_bytes);
    if (pool_bytes) memcpy(plan->tables + plan->pool_at, m.pools, pool_bytes);
    return plan;
}
