#include "tasks.h"
#include "geometry.h"
#include "steps.h"
#include <string.h>

typedef struct Tables {
    Ctx *ctx;
    const Compiled *c;
    const KernelSteps *steps;
    int *offset; // [counters]: first group
    LIST(EngineEntry) entries;
    LIST(EngineWait) waits;
    LIST(EngineSignal) signals;
    LIST(EnginePool) pools;
    int groups;
} Tables;

static uint32_t group_flags(Index index) {
    return index.kind == INDEX_KEY ? GROUP_KEY : index.kind == INDEX_TOKEN ? GROUP_TOKEN : 0;
}

static void add_waits(Tables *t, const Task *task, EngineEntry *e) {
    e->wait = (uint32_t)t->waits.count;
    e->wait_count = (uint16_t)task->wait_count;
    for (int i = 0; i < task->wait_count; i++) {
        const Wait *w = &task->waits[i];
        uint32_t group = (uint32_t)t->offset[w->counter] + (w->group.kind == INDEX_RANGE ? (uint32_t)w->group.lo : 0);
        EngineWait wait = {group | (uint32_t)w->lag << LAG_SHIFT | group_flags(w->group), w->need};
        LIST_ADD(t->ctx->arena, &t->waits, wait);
    }
}

static void add_signals(Tables *t, const Task *task, EngineEntry *e) {
    e->signal = (uint32_t)t->signals.count;
    e->signal_count = (uint16_t)task->signal_count;
    for (int i = 0; i < task->signal_count; i++) {
        const Signal *s = &task->signals[i];
        uint32_t group = (uint32_t)t->offset[s->counter] + (s->group.kind == INDEX_RANGE ? (uint32_t)s->group.lo : 0);
        EngineSignal signal = {group | group_flags(s->group) | (s->all_ranks ? GROUP_ALL_RANKS : 0),
                               (uint32_t)s->amount};
        LIST_ADD(t->ctx->arena, &t->signals, signal);
    }
}

// The pages of a task follow each other round the ring: the kernel is told the first alone.
static bool pages_follow(const Prog *prog, const Task *task) {
    for (int k = 1; k < task->page_count; k++)
        if (task->pages[k] != (task->pages[k - 1] + 1) % prog->page_count) return false;
    return true;
}

static bool add_task(Tables *t, int body, const Task *task, uint8_t kind) {
    EngineEntry e = {.step = (uint16_t)(t->steps->first[body] + task->step),
                     .kind = kind,
                     .page = (uint8_t)(task->page_count ? task->pages[0] : 0),
                     .lo = task->lo,
                     .hi = task->hi,
                     .part = (uint16_t)task->part,
                     .chunks = (uint16_t)(task->ring ? 0 : task->page_count),
                     .body_step = (uint16_t)task->step};
    if (!pages_follow(t->c->prog, task)) {
        diag_error(t->ctx, E0442, task->span, "pages of a task that do not follow each other");
        diag_help(t->ctx, "the engine kernel takes pages in rising order, round the ring");
        return false;
    }
    add_waits(t, task, &e);
    add_signals(t, task, &e);
    LIST_ADD(t->ctx->arena, &t->entries, e);
    return true;
}

static void credit_add(Tables *t, EnginePool *pool, EngineSignal signal) {
    for (uint32_t i = 0; i < pool->credits; i++) {
        EngineSignal *s = &t->signals.at[pool->credit + i];
        if (s->group != signal.group) continue;
        s->amount += signal.amount;
        return;
    }
    LIST_ADD(t->ctx->arena, &t->signals, signal);
    pool->credits++;
}

static bool same_waits(const Tables *t, const EngineEntry *a, const EngineEntry *b) {
    return a->wait_count == b->wait_count && (a->wait_count == 0 || memcmp(t->waits.at + a->wait, t->waits.at + b->wait,
                                                                           a->wait_count * sizeof(EngineWait)) == 0);
}
static bool same_signals(const Tables *t, const EngineEntry *a, const EngineEntry *b) {
    return a->signal_count == b->signal_count &&
           (a->signal_count == 0 ||
            memcmp(t->signals.at + a->signal, t->signals.at + b->signal, a->signal_count * sizeof(EngineSignal)) == 0);
}

// A template for each step of a pool, its first tile: the kernel makes the others of it. `pool` is the number of tiles.
static bool add_item(Tables *t, int b, EnginePool *out, const Pool *pool, int item) {
    const Task *task = &pool->items[item], *first = task;
    Geometry g;
    if (!add_task(t, b, task, ENGINE_TASK)) return false;
    EngineEntry *e = &t->entries.at[t->entries.count - 1];
    if (plan_geometry(t->c->plan, t->c->prog->bodies[b].steps[task->step].op,
                      kernel_body_kind(t->c->model, t->c->prog, b), &g))
        e->chunks = (uint16_t)geometry_chunks(&g, task->hi - task->lo);
    e->pool = 1;
    if (item > 0 && pool->items[item - 1].step == task->step) {
        EngineEntry *before = e - 1;
        while (first > pool->items && first[-1].step == task->step) first--;
        const int width = first->hi - first->lo;
        if (!same_waits(t, before, e) || !same_signals(t, before, e) || e->wait_count > 32 ||
            task->hi - task->lo != width || task->lo != first->lo + (int)(task - first) * width) {
            diag_error(t->ctx, E0442, task->span, "tiles of an expert that differ in more than their place");
            return false;
        }
        t->waits.count -= e->wait_count, t->signals.count -= e->signal_count, t->entries.count--;
        before->pool++;
        return true;
    }
    out->items++;
    return true;
}

static bool add_pool(Tables *t, int b, const Pool *pool) {
    const Prog *prog = t->c->prog;
    const Body *body = &prog->bodies[b];
    EnginePool out = {.keys = (uint32_t)pool->keys,
                      .top = (uint32_t)pool->top,
                      .item = (uint32_t)t->entries.count,
                      .dynamic = pool->claim == CLAIM_DYNAMIC,
                      .chunks = (uint32_t)pool->chunks,
                      .publisher = (uint32_t)(t->steps->first[b] + pool->publisher)};
    if (pool->chunks && (pool->page_lo != 0 || pool->page_hi != prog->page_count)) {
        diag_error(t->ctx, E0442, NO_SPAN, "a pool with some of the pages; the kernel gives it all");
        return false;
    }
    for (int w = 0; w < prog->workers; w++) {
        const Queue *queue = prog_queue(prog, body, w, ROLE_COMPUTE);
        for (int i = 0; i < queue->count; i++)
            out.participants += queue->entries[i].kind == ENTRY_POOL && &body->pools[queue->entries[i].pool] == pool;
    }
    for (int i = 0; i < pool->item_count; i++)
        if (!add_item(t, b, &out, pool, i)) return false;
    if (out.items > POOL_STEPS) {
        diag_error(t->ctx, E0442, pool->items[0].span, "%u steps of an expert; the kernel takes %d", out.items,
                   POOL_STEPS);
        return false;
    }
    out.credit = (uint32_t)t->signals.count;
    for (int i = 0; i < pool->item_count; i++)
        for (int s = 0; s < pool->items[i].signal_count; s++) {
            const Signal *signal = &pool->items[i].signals[s];
            uint32_t group = (uint32_t)t->offset[signal->counter] +
                             (signal->group.kind == INDEX_RANGE ? (uint32_t)signal->group.lo : 0);
            credit_add(t, &out, (EngineSignal){group | group_flags(signal->group), (uint32_t)signal->amount});
        }
    LIST_ADD(t->ctx->arena, &t->pools, out);
    return true;
}

// Before a pool: a task of its first step without outputs, which waits for the inputs as the router does, and has them
// loaded while experts are being chosen.
static void add_inputs(Tables *t, int b, const Pool *pool) {
    const Prog *prog = t->c->prog;
    const Body *body = &prog->bodies[b];
    const Task *router = NULL;
    if (t->c->sched->activations == DTYPE_F32) return; // small models: nothing to hide
    for (int q = 0; q < prog->workers * ROLE_COUNT && !router; q++)
        for (int i = 0; i < body->queues[q].count && !router; i++) {
            const Entry *e = &body->queues[q].entries[i];
            if (e->kind == ENTRY_TASK && body->steps[e->task.step].op == OP_ROUTER) router = &e->task;
        }
    if (!router) return;
    EngineEntry e = {.step = (uint16_t)(t->steps->first[b] + pool->items[0].step),
                     .kind = ENGINE_TASK,
                     .body_step = (uint16_t)pool->items[0].step};
    add_waits(t, router, &e);
    LIST_ADD(t->ctx->arena, &t->entries, e);
}

static bool is_of(const char *counter, const char *buffer) {
    size_t length = strlen(buffer);
    return strncmp(counter, buffer, length) == 0 && strcmp(counter + length, ".w") == 0;
}

// Whether all that a task waits for are an inbox or a split router's parts, which only it reads: they say themselves
// that they are there (templates/ptx.cuh).
static bool hears_from_data(const Prog *prog, const Task *task) {
    static const char *const buffers[] = {"ix", "im", "dix", "dim", "scores_part"};
    for (int w = 0; w < task->wait_count; w++) {
        bool says = false;
        for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
            says |= is_of(prog->counters[task->waits[w].counter].name, buffers[i]);
        if (!says) return false;
    }
    return true;
}

// Whether a task need not wait for its counters. What a reduce reads beside its inbox, the residual stream that it adds
// to, must have been there for a task before it on its worker: one that waited for it, or the same tile of the reduce
// before. One that writes more than the stream, which the drafter listens to, waits: its readers are of another round.
static bool begins_early(const Tables *t, int b, const Queue *queue, int entry) {
    const Prog *prog = t->c->prog;
    const Body *body = &prog->bodies[b];
    const Task *task = &queue->entries[entry].task;
    OpId op = body->steps[task->step].op;
    if ((op != OP_ROUTE && op != OP_REDUCE) || !hears_from_data(prog, task)) return false;
    if (op == OP_ROUTE) return true;
    if (task->write_count != 1) return false;
    const char *stream = prog->buffers[task->writes[0].buffer].name;
    for (int i = 0; i < entry; i++) {
        const Task *before = &queue->entries[i].task;
        if (queue->entries[i].kind != ENTRY_TASK) continue;
        if (body->steps[before->step].op == op && before->lo == task->lo && before->hi == task->hi) return true;
        for (int w = 0; w < before->wait_count; w++)
            if (is_of(prog->counters[before->waits[w].counter].name, stream) && !before->waits[w].lag) return true;
    }
    return false;
}

// One queue: its entries, pools as entries of their own that name the participant's number.
static bool add_queue(Tables *t, int b, int worker, Role role, int first_pool, EngineQueue *out) {
    const Prog *prog = t->c->prog;
    const Body *body = &prog->bodies[b];
    const Queue *queue = prog_queue(prog, body, worker, role);
    out->first = (uint32_t)t->entries.count;
    for (int i = 0; i < queue->count; i++) {
        const Entry *entry = &queue->entries[i];
        if (entry->kind != ENTRY_POOL) {
            bool load = entry->kind == ENTRY_LOAD;
            uint8_t kind = load                           ? entry->task.ring ? ENGINE_KEYS : ENGINE_LOAD
                           : begins_early(t, b, queue, i) ? ENGINE_EARLY
                                                          : ENGINE_TASK;
            if (!add_task(t, b, &entry->task, kind)) return false;
            continue;
        }
        if (role == ROLE_COMPUTE) add_inputs(t, b, &body->pools[entry->pool]);
        EngineEntry e = {.step = (uint16_t)t->pools.at[first_pool + entry->pool].publisher,
                         .kind = ENGINE_POOL,
                         .pool = (uint16_t)(first_pool + entry->pool),
                         .body_step = (uint16_t)(body->pools[entry->pool].publisher + 1)};
        const Queue *own = prog_queue(prog, body, worker, ROLE_COMPUTE);
        for (int k = 0; k < own->count; k++)
            if (own->entries[k].kind == ENTRY_TASK && body->steps[own->entries[k].task.step].op == OP_ROUTE) e.page = 1;
        for (int w = 0; w < worker; w++) {
            const Queue *other = prog_queue(prog, body, w, ROLE_COMPUTE);
            for (int k = 0; k < other->count; k++)
                e.part = (uint16_t)(e.part +
                                    (other->entries[k].kind == ENTRY_POOL && other->entries[k].pool == entry->pool));
        }
        add_waits(t, &entry->task, &e);
        LIST_ADD(t->ctx->arena, &t->entries, e);
    }
    out->count = (uint32_t)t->entries.count - out->first;
    return true;
}

static void add_instances(const Tables *t, EngineInstance *out) {
    const Prog *prog = t->c->prog;
    const Model *m = t->c->model;
    for (int i = 0; i < prog_instances(prog); i++) {
        int layer;
        const RoundItem *item = prog_instance(prog, i, &layer);
        bool drafter = item->segment != SEGMENT_TARGET, ends = true;
        for (int r = 0; r < prog->bodies[item->body].step_count; r++) {
            OpId op = prog->bodies[item->body].steps[r].op;
            ends &= op != OP_QKV && op != OP_DRAFT_QKV && op != OP_CONTEXT;
        }
        int table = ends      ? m->layer_count + (m->has_drafter ? m->drafter.layers : 0)
                    : drafter ? m->layer_count + layer
                              : layer;
        int tap = !ends && !drafter && m->has_drafter ? model_tap(m, layer) + 1 : 0;
        out[i] = (EngineInstance){(uint16_t)item->body, (uint16_t)layer, (uint16_t)table, (uint8_t)item->segment,
                                  (uint8_t)tap};
    }
}

// What each instance's signals come to: before each instance, and in a round.
static void add_prefix(const Tables *t, uint32_t *prefix, uint32_t *total) {
    const Prog *prog = t->c->prog;
    int instances = prog_instances(prog), groups = t->groups;
    uint32_t *of_body = ARENA_ARRAY(t->ctx->arena, uint32_t, prog->body_count * groups + 1);
    for (int b = 0; b < prog->body_count; b++)
        for (int c = 0; c < prog->counter_count; c++)
            for (int g = 0; g < prog->counters[c].groups; g++)
                of_body[b * groups + t->offset[c] + g] = (uint32_t)prog_total(prog, &prog->bodies[b], c, g);
    for (int i = 0; i < instances; i++) {
        int layer;
        const RoundItem *item = prog_instance(prog, i, &layer);
        for (int g = 0; g < groups; g++) {
            prefix[i * groups + g] = total[g];
            total[g] += of_body[item->body * groups + g];
        }
    }
}

static uint32_t append(uint8_t *out, size_t *at, const void *data, size_t bytes) {
    size_t here = (*at + 15) / 16 * 16;
    if (out && bytes) memcpy(out + here, data, bytes);
    *at = here + bytes;
    return (uint32_t)here;
}

bool tasks_encode(Ctx *ctx, const Compiled *c, const void **data, size_t *size) {
    Tables t = {.ctx = ctx, .c = c, .steps = kernel_steps(ctx, c)};
    const Prog *prog = c->prog;
    int instances = prog_instances(prog);
    if (!t.steps) return false;
    t.offset = ARENA_ARRAY(ctx->arena, int, prog->counter_count + 1);
    for (int i = 0; i < prog->counter_count; i++) t.offset[i] = t.groups, t.groups += prog->counters[i].groups;
    int queue_count = prog->body_count * prog->workers * ROLE_COUNT;
    EngineQueue *queues = ARENA_ARRAY(ctx->arena, EngineQueue, queue_count);
    for (int b = 0; b < prog->body_count; b++) {
        int first_pool = (int)t.pools.count;
        for (int i = 0; i < prog->bodies[b].pool_count; i++)
            if (!add_pool(&t, b, &prog->bodies[b].pools[i])) return false;
        for (int w = 0; w < prog->workers; w++)
            for (int r = 0; r < ROLE_COUNT; r++)
                if (!add_queue(&t, b, w, (Role)r, first_pool, &queues[(b * prog->workers + w) * ROLE_COUNT + r]))
                    return false;
    }
    if (instances > 256) {
        diag_error(ctx, E0442, NO_SPAN, "%d instances a round; the kernel takes 256", instances);
        return false;
    }
    EngineInstance *list = ARENA_ARRAY(ctx->arena, EngineInstance, instances);
    add_instances(&t, list);
    uint32_t *prefix = ARENA_ARRAY(ctx->arena, uint32_t, instances * t.groups + 1),
             *total = ARENA_ARRAY(ctx->arena, uint32_t, t.groups + 1);
    add_prefix(&t, prefix, total);
    EngineTables head = {
        .magic = TABLES_MAGIC,
        .abi = ENGINE_ABI,
        .workers = (uint32_t)prog->workers,
        .instances = (uint32_t)instances,
        .bodies = (uint32_t)prog->body_count,
        .groups = (uint32_t)t.groups,
        .layers = (uint32_t)(c->model->layer_count + (c->model->has_drafter ? c->model->drafter.layers : 0) + 1),
        .entry_count = (uint32_t)t.entries.count,
        .wait_count = (uint32_t)t.waits.count,
        .signal_count = (uint32_t)t.signals.count,
        .pool_count = (uint32_t)t.pools.count,
        .counter_at = t.steps->counter_at,
        .logits_at = t.steps->logits_at,
        .slab_bytes = t.steps->slab_bytes};
    uint8_t *out = NULL;
    for (int pass = 0; pass < 2; pass++) { // sizes, then bytes
        size_t at = sizeof head;
        head.instance_at = append(out, &at, list, (size_t)instances * sizeof *list);
        head.queue_at = append(out, &at, queues, (size_t)queue_count * sizeof *queues);
        head.entry_at = append(out, &at, t.entries.at, t.entries.count * sizeof *t.entries.at);
        head.wait_at = append(out, &at, t.waits.at, t.waits.count * sizeof *t.waits.at);
        head.signal_at = append(out, &at, t.signals.at, t.signals.count * sizeof *t.signals.at);
        head.pool_at = append(out, &at, t.pools.at, t.pools.count * sizeof *t.pools.at);
        head.credit_at = head.signal_at;
        head.prefix_at = append(out, &at, prefix, (size_t)(instances * t.groups) * sizeof *prefix);
        head.total_at = append(out, &at, total, (size_t)t.groups * sizeof *total);
        head.size = (uint32_t)at;
        if (!out) out = arena_alloc(ctx->arena, at);
    }
    memcpy(out, &head, sizeof head);
    *data = out;
    *size = head.size;
    return true;
}
