#include "geometry.h"
#include "lower.h"
#include "prove.h"
#include <string.h>

// A step waits for a buffer: `from` is the step of the same body whose output it reads, or OUTSIDE for earlier
// instances.
typedef struct Need {
    int body, step, buffer, from;
    bool readers; // waits for the buffer's readers (NAME.r), not its writers
} Need;
enum { OUTSIDE = -1, NOWHERE = -2 };

// How the hand-off of one buffer is cut into counter groups.
typedef enum Cut { CUT_NONE, CUT_ALL, CUT_COLUMNS, CUT_KEYS, CUT_ROWS } Cut;
typedef struct Handoff {
    Cut cut;
    int width, groups; // columns a group
    int counter;       // in prog->counters, or -1
} Handoff;

typedef struct Place {
    Ctx *ctx;
    const Plan *plan;
    Prog *prog;
    Handoff *writers, *readers; // a buffer each
    bool *signals_readers;      // [body * steps + step] x buffer: this step's tasks signal NAME.r; see reader_mark
    int max_steps;
    int begun[OP_COUNT]; // 1 + the worker of an op's first tile
    LIST(Need) needs;
    LIST(Counter) counters;
} Place;

static const OpPlan *op_plan(const Place *p, const Body *body, int step) { return &p->plan->ops[body->steps[step].op]; }

// ---- Workers, roles and pages ----

static Role role_of(const Prog *prog, OpId op) {
    bool control = op == OP_PUSH || op == OP_ACCEPT;
    return control && prog->roles[ROLE_CONTROL].used ? ROLE_CONTROL : ROLE_COMPUTE;
}

static void queue_add(const Place *p, Body *body, int worker, Role role, Entry entry) {
    Queue *queue = &body->queues[worker * ROLE_COUNT + (int)role];
    if (queue->count == queue->room) {
        size_t room = (size_t)queue->room;
        queue->entries = list_grow(p->ctx->arena, queue->entries, (size_t)queue->count, &room, sizeof(Entry));
        queue->room = (int)room;
    }
    queue->entries[queue->count++] = entry;
}

static int chunks_of(const Place *p, OpId op, LayerAttention kind) {
    Geometry g;
    if (!p->prog->page_bytes || !plan_geometry(p->plan, op, kind, &g)) return 0;
    if (op == OP_EXPERTS_SUM) { // of all experts that may be active
        int keys = geometry_keys(p->plan, &g);
        return (p->plan->shape.keys + keys - 1) / keys;
    }
    return geometry_chunks(&g, p->plan->ops[op].tile);
}

// The kind of attention of the layers that run a body; full for the bodies at the ends.
static LayerAttention body_kind(const Place *p, const Body *body) {
    const Prog *prog = p->prog;
    for (int i = 0; i < prog->round_count; i++)
        if (&prog->bodies[prog->round[i].body] == body && prog->round[i].segment == SEGMENT_TARGET)
            return p->plan->model->layers[prog->round[i].layer_lo].attention;
    return ATTENTION_FULL;
}

// Tiles go round the workers. An op begins at the same worker in every body, where the op before it stopped: so a
// worker runs few ops, and their instructions stay in its cache.
static void place_body(Place *p, Body *body, int *cursor) {
    Prog *prog = p->prog;
    LayerAttention kind = body_kind(p, body);
    body->queues = ARENA_ARRAY(p->ctx->arena, Queue, prog->workers * ROLE_COUNT);
    int *next_page = ARENA_ARRAY(p->ctx->arena, int, prog->workers);
    int step = -1, tile = 0;
    for (int i = 0; i < body->unplaced.count; i++) {
        Entry entry = body->unplaced.entries[i];
        if (entry.kind == ENTRY_POOL) {
            Pool *pool = &body->pools[entry.pool];
            for (int t = 0; t < pool->item_count; t++) {
                int chunks = chunks_of(p, body->steps[pool->items[t].step].op, kind);
                if (chunks > pool->chunks) pool->chunks = chunks;
            }
            pool->page_hi = prog->page_count;
            for (int worker = 0; worker < prog->workers; worker++) {
                queue_add(p, body, worker, ROLE_COMPUTE, entry);
                if (pool->chunks) queue_add(p, body, worker, ROLE_LOAD, entry);
                next_page[worker] = 0;
            }
            continue;
        }
        OpId op = body->steps[entry.task.step].op;
        Role role = role_of(prog, op);
        if (entry.task.step != step) step = entry.task.step, tile = 0;
        if (!p->begun[op]) p->begun[op] = *cursor + 1;
        if (p->begun[op] + tile > *cursor) *cursor = p->begun[op] + tile;
        int worker = op == OP_ACCEPT ? 0 : (p->begun[op] - 1 + tile++) % p->plan->ops[op].workers;
        bool keys = op == OP_ATTENTION && plan_pages_keys(p->plan, kind);
        int chunks = keys ? 1 : chunks_of(p, op, kind);
        if (chunks) {
            Entry load = {ENTRY_LOAD,
                          {.step = entry.task.step,
                           .lo = entry.task.lo,
                           .hi = entry.task.hi,
                           .part = entry.task.part,
                           .ring = keys,
                           .page_count = chunks,
                           .span = entry.task.span},
                          0};
            load.task.pages = ARENA_ARRAY(p->ctx->arena, int, chunks);
            for (int k = 0; k < chunks; k++) load.task.pages[k] = next_page[worker]++ % prog->page_count;
            next_page[worker] += keys; // behind a chunk of keys and one of values, since short contexts are as good
            entry.task.pages = load.task.pages;
            entry.task.ring = keys;
            entry.task.page_count = chunks;
            queue_add(p, body, worker, ROLE_LOAD, load);
        }
        queue_add(p, body, worker, role, entry);
    }
}

// ---- Who waits for what ----

static bool index_overlaps(Index a, Index b) {
    if (a.kind != INDEX_RANGE || b.kind != INDEX_RANGE) return true;
    return a.lo < b.hi && b.lo < a.hi;
}

static bool region_overlaps(const Prog *prog, const Region *a, const Region *b) {
    if (a->buffer != b->buffer) return false;
    for (int i = 0; i < prog->buffers[a->buffer].rank; i++)
        if (!index_overlaps(a->at[i], b->at[i])) return false;
    return true;
}

static bool step_writes(const Prog *prog, const Body *body, int step, const Region *r) {
    for (int i = 0; i < body->steps[step].cover_count; i++)
        if (region_overlaps(prog, &body->steps[step].covers[i], r)) return true;
    return false;
}

// The newest step before `step` that writes what is read, OUTSIDE when another instance does, NOWHERE when nobody does.
static int producer(const Prog *prog, const Body *body, int step, const Region *r) {
    for (int s = step - 1; s >= 0; s--)
        if (step_writes(prog, body, s, r)) return s;
    for (int b = 0; b < prog->body_count; b++)
        for (int s = 0; s < prog->bodies[b].step_count; s++)
            if (step_writes(prog, &prog->bodies[b], s, r)) return OUTSIDE;
    return NOWHERE;
}

static bool is_state_step(const Prog *prog, int buffer) {
    // What accept writes: whoever waits for anything of this round comes after the last round's accept.
    const char *name = prog->buffers[buffer].name;
    return strcmp(name, "state") == 0 || strcmp(name, "kv") == 0 || strcmp(name, "dkv") == 0;
}

static bool need_known(const Place *p, int body, int step, int buffer, bool readers) {
    for (size_t i = 0; i < p->needs.count; i++) {
        const Need *n = &p->needs.at[i];
        if (n->body == body && n->step == step && n->buffer == buffer && n->readers == readers) return true;
    }
    return false;
}

// The steps that a step comes after, through the needs kept so far: bit s, and bit 63 for anything OUTSIDE.
static uint64_t after(const Place *p, int body, int step) {
    uint64_t out = 0;
    for (size_t i = 0; i < p->needs.count; i++) {
        const Need *n = &p->needs.at[i];
        if (n->body != body || n->step != step) continue;
        if (n->from == OUTSIDE)
            out |= (uint64_t)1 << 63;
        else
            out |= (uint64_t)1 << n->from | after(p, body, n->from);
    }
    return out;
}

// One task of each step speaks for all: tiles differ in columns only. Needs that others imply are left out; prove has
// the last word (see prog_place).
static void step_needs(Place *p, int b, const Task *task, int publisher) {
    const Prog *prog = p->prog;
    const Body *body = &prog->bodies[b];
    int from[16], buffer[16], count = 0;
    for (int r = 0; r < task->read_count && count < 16; r++) {
        int source = producer(prog, body, task->step, &task->reads[r]);
        if (source == NOWHERE) continue;
        bool seen = false;
        for (int i = 0; i < count; i++)
            seen |= buffer[i] == task->reads[r].buffer || (source != OUTSIDE && from[i] == source);
        if (seen) continue;
        from[count] = source;
        buffer[count++] = task->reads[r].buffer;
    }
    uint64_t pool = publisher >= 0 ? (uint64_t)1 << publisher | after(p, b, publisher) : 0;
    for (int i = 0; i < count; i++) {
        uint64_t implied = pool;
        bool others = publisher >= 0;
        for (int j = 0; j < count; j++) {
            if (j == i) continue;
            if (from[j] != OUTSIDE) implied |= after(p, b, from[j]);
            others |= !is_state_step(prog, buffer[j]);
        }
        bool accepts = body->steps[task->step].op == OP_ACCEPT;
        if (from[i] == OUTSIDE && is_state_step(prog, buffer[i]) && others &&
            !(accepts && strcmp(prog->buffers[buffer[i]].name, "state")))
            continue;
        if (from[i] == OUTSIDE ? implied >> 63 & 1 && !accepts : implied >> from[i] & 1) continue;
        LIST_ADD(p->ctx->arena, &p->needs, (Need){b, task->step, buffer[i], from[i], false});
    }
}

static void all_needs(Place *p) {
    for (int b = 0; b < p->prog->body_count; b++) {
        const Body *body = &p->prog->bodies[b];
        int done = -1;
        for (int i = 0; i < body->unplaced.count; i++) {
            const Entry *entry = &body->unplaced.entries[i];
            if (entry->kind == ENTRY_TASK) {
                if (entry->task.step != done) step_needs(p, b, &entry->task, -1);
                done = entry->task.step;
                continue;
            }
            const Pool *pool = &body->pools[entry->pool];
            for (int t = 0; t < pool->item_count; t++) {
                if (pool->items[t].step != done) step_needs(p, b, &pool->items[t], pool->publisher);
                done = pool->items[t].step;
            }
        }
    }
}

// ---- Counters ----

static int gcd(int a, int b) {
    while (b) {
        int rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

// Calls `visit` for each task and item of the program, with its pool or NULL.
static void each_task(Place *p, void (*visit)(Place *p, Body *body, const Pool *pool, Task *task, void *user),
                      void *user) {
    Prog *prog = p->prog;
    for (int b = 0; b < prog->body_count; b++) {
        Body *body = &prog->bodies[b];
        for (int q = 0; q < prog->workers * ROLE_COUNT; q++)
            for (int i = 0; i < body->queues[q].count; i++)
                if (body->queues[q].entries[i].kind == ENTRY_TASK)
                    visit(p, body, NULL, &body->queues[q].entries[i].task, user);
        for (int i = 0; i < body->pool_count; i++)
            for (int t = 0; t < body->pools[i].item_count; t++)
                visit(p, body, &body->pools[i], &body->pools[i].items[t], user);
    }
}

// A buffer is handed on as finely as all of its writers were asked to.
static void cut_by(Place *p, Body *body, const Pool *pool, Task *task, void *user) {
    (void)user;
    const OpPlan *o = op_plan(p, body, task->step);
    for (int i = 0; i < task->write_count; i++) {
        const Region *r = &task->writes[i];
        Handoff *h = &p->writers[r->buffer];
        int axis = p->prog->buffers[r->buffer].rank - 1;
        Cut cut = CUT_ALL;
        if (pool && o->per == PER_EXPERT) cut = CUT_KEYS;
        if (pool && o->per == PER_TOKEN) cut = CUT_ROWS;
        if (!pool && o->per == PER_TILE && r->at[axis].kind == INDEX_RANGE) cut = CUT_COLUMNS;
        if (h->cut != CUT_NONE && h->cut != cut) cut = CUT_ALL;
        h->cut = cut;
        if (cut == CUT_COLUMNS) h->width = gcd(gcd(h->width, r->at[axis].lo), r->at[axis].hi);
        if (cut == CUT_KEYS) h->groups = pool->keys;
    }
}

static int counter_new(Place *p, const char *buffer, char kind, const Handoff *h, Via via) {
    Counter counter = {arena_printf(p->ctx->arena, "%s.%c", buffer, kind), h->groups, via};
    LIST_ADD(p->ctx->arena, &p->counters, counter);
    return (int)p->counters.count - 1;
}

static void make_counters(Place *p) {
    Prog *prog = p->prog;
    memset(&p->counters, 0, sizeof p->counters);
    for (int i = 0; i < prog->buffer_count; i++) p->writers[i] = p->readers[i] = (Handoff){.counter = -1};
    each_task(p, cut_by, NULL);
    for (size_t i = 0; i < p->needs.count; i++) {
        const Need *n = &p->needs.at[i];
        const Buffer *buffer = &prog->buffers[n->buffer];
        Handoff *h = n->readers ? &p->readers[n->buffer] : &p->writers[n->buffer];
        if (h->counter >= 0) continue;
        if (n->readers) h->cut = CUT_ALL;
        if (h->cut == CUT_ALL) h->groups = 1;
        if (h->cut == CUT_COLUMNS) h->groups = buffer->dims[buffer->rank - 1] / h->width;
        if (h->cut == CUT_ROWS) h->groups = prog->rows;
        Via via = VIA_COUNTER;
        for (int b = 0; b < prog->body_count && !n->readers; b++)
            for (int s = 0; s < prog->bodies[b].step_count; s++)
                for (int c = 0; c < prog->bodies[b].steps[s].cover_count; c++)
                    if (prog->bodies[b].steps[s].covers[c].buffer == n->buffer)
                        via = op_plan(p, &prog->bodies[b], s)->via;
        h->counter = counter_new(p, buffer->name, n->readers ? 'r' : 'w', h, h->cut == CUT_COLUMNS ? via : VIA_COUNTER);
    }
    prog->counters = p->counters.at;
    prog->counter_count = (int)p->counters.count;
}

static bool *reader_mark(const Place *p, int body, int step, int buffer) {
    return &p->signals_readers[((size_t)body * (size_t)p->max_steps + (size_t)step) * (size_t)p->prog->buffer_count +
                               (size_t)buffer];
}

static bool written_everywhere(const Prog *prog, int buffer) {
    for (int b = 0; b < prog->body_count; b++)
        for (int s = 0; s < prog->bodies[b].step_count; s++)
            for (int c = 0; c < prog->bodies[b].steps[s].cover_count; c++) {
                const Region *r = &prog->bodies[b].steps[s].covers[c];
                if (r->buffer == buffer && r->all_ranks) return true;
            }
    return false;
}

// The groups of a hand-off that a region touches: [*lo, *hi).
static void groups_of(const Prog *prog, const Handoff *h, const Region *r, int *lo, int *hi) {
    Index columns = r->at[prog->buffers[r->buffer].rank - 1];
    *lo = 0;
    *hi = h->groups;
    if (h->cut != CUT_COLUMNS || columns.kind != INDEX_RANGE) return;
    *lo = columns.lo / h->width;
    *hi = (columns.hi + h->width - 1) / h->width;
}

typedef LIST(Signal) Signals;
typedef LIST(Wait) Waits;

static void signal_add(Place *p, Signals *list, Signal signal) {
    for (size_t i = 0; i < list->count; i++) {
        const Signal *s = &list->at[i];
        if (s->counter == signal.counter && s->group.kind == signal.group.kind && s->group.lo == signal.group.lo)
            return;
    }
    LIST_ADD(p->ctx->arena, list, signal);
}

static void make_signals(Place *p, Body *body, const Pool *pool, Task *task, void *user) {
    (void)user;
    (void)pool;
    Signals list = {0};
    int b = (int)(body - p->prog->bodies);
    for (int i = 0; i < task->write_count; i++) {
        const Region *r = &task->writes[i];
        const Handoff *h = &p->writers[r->buffer];
        if (h->counter < 0) continue;
        if (h->cut == CUT_KEYS || h->cut == CUT_ROWS) {
            Index group = {h->cut == CUT_KEYS ? INDEX_KEY : INDEX_TOKEN, 0, 0};
            signal_add(p, &list, (Signal){h->counter, group, 1, r->all_ranks});
            continue;
        }
        int lo, hi;
        groups_of(p->prog, h, r, &lo, &hi);
        for (int g = lo; g < hi; g++)
            signal_add(p, &list, (Signal){h->counter, {INDEX_RANGE, g, g + 1}, 1, r->all_ranks});
    }
    for (int i = 0; i < task->read_count; i++) {
        int buffer = task->reads[i].buffer;
        const Handoff *h = &p->readers[buffer];
        if (h->counter >= 0 && *reader_mark(p, b, task->step, buffer))
            signal_add(p, &list, (Signal){h->counter, {INDEX_RANGE, 0, 1}, 1, written_everywhere(p->prog, buffer)});
    }
    task->signals = list.at;
    task->signal_count = (int)list.count;
}

// ---- Waits: thresholds are what the steps before signal in the same instance ----

typedef struct Totals {
    int **at; // [counter][group]
} Totals;

static void totals_add(const Place *p, const Totals *totals, const Pool *pool, const Task *task) {
    for (int i = 0; i < task->signal_count; i++) {
        const Signal *s = &task->signals[i];
        int amount = s->amount * (s->all_ranks ? p->prog->ranks : 1), lo = s->group.lo, hi = s->group.hi;
        if (s->group.kind != INDEX_RANGE) {
            lo = 0;
            hi = p->prog->counters[s->counter].groups;
            if (s->group.kind == INDEX_TOKEN) amount *= pool->top;
        } else if (pool)
            amount *= pool->keys;
        for (int g = lo; g < hi; g++) totals->at[s->counter][g] += amount;
    }
}

static void wait_add(const Place *p, const Totals *totals, Waits *list, int counter, Index group) {
    int need = totals->at[counter][group.kind == INDEX_RANGE ? group.lo : 0];
    LIST_ADD(p->ctx->arena, list, (Wait){counter, group, 0, need});
}

// The waits that one buffer's need gives a task: the groups that its reads (or, for the readers' counter, all) touch.
static void need_waits(const Place *p, const Totals *totals, Waits *list, const Need *n, const Task *task, bool item) {
    const Handoff *h = n->readers ? &p->readers[n->buffer] : &p->writers[n->buffer];
    bool *added = ARENA_ARRAY(p->ctx->arena, bool, h->groups);
    if (h->cut == CUT_KEYS && item) {
        wait_add(p, totals, list, h->counter, (Index){INDEX_KEY, 0, 0});
        return;
    }
    const Region *regions = task->reads;
    int count = task->read_count, touched = 0;
    for (int i = 0; i < count; i++) {
        if (regions[i].buffer != n->buffer) continue;
        int lo, hi;
        groups_of(p->prog, h, &regions[i], &lo, &hi);
        for (int g = lo; g < hi; g++) {
            touched++;
            if (!added[g]) wait_add(p, totals, list, h->counter, (Index){INDEX_RANGE, g, g + 1});
            added[g] = true;
        }
    }
    if (touched) return;
    for (int g = 0; g < h->groups; g++) wait_add(p, totals, list, h->counter, (Index){INDEX_RANGE, g, g + 1});
}

static void task_waits(const Place *p, const Totals *totals, int b, Task *task, bool item) {
    Waits list = {0};
    for (size_t i = 0; i < p->needs.count; i++)
        if (p->needs.at[i].body == b && p->needs.at[i].step == task->step)
            need_waits(p, totals, &list, &p->needs.at[i], task, item);
    task->waits = list.at;
    task->wait_count = (int)list.count;
}

static void body_waits(Place *p, int b) {
    Prog *prog = p->prog;
    Body *body = &prog->bodies[b];
    Totals totals = {ARENA_ARRAY(p->ctx->arena, int *, prog->counter_count + 1)};
    for (int c = 0; c < prog->counter_count; c++)
        totals.at[c] = ARENA_ARRAY(p->ctx->arena, int, prog->counters[c].groups);
    for (int s = 0; s < body->step_count; s++) {
        for (int adding = 0; adding < 2; adding++) {
            for (int q = 0; q < prog->workers * ROLE_COUNT; q++)
                for (int i = 0; i < body->queues[q].count; i++) {
                    Entry *entry = &body->queues[q].entries[i];
                    if (entry->kind != ENTRY_TASK || entry->task.step != s) continue;
                    if (adding)
                        totals_add(p, &totals, NULL, &entry->task);
                    else
                        task_waits(p, &totals, b, &entry->task, false);
                }
            for (int i = 0; i < body->pool_count; i++)
                for (int t = 0; t < body->pools[i].item_count; t++) {
                    Task *item = &body->pools[i].items[t];
                    if (item->step != s) continue;
                    if (adding)
                        totals_add(p, &totals, &body->pools[i], item);
                    else
                        task_waits(p, &totals, b, item, true);
                }
        }
        // A pool's workers begin when its publisher's routes are there.
        for (int i = 0; i < body->pool_count; i++) {
            if (body->pools[i].publisher != s) continue;
            Waits list = {0};
            const Region *out = &body->steps[s].covers[0];
            Need need = {b, s, out->buffer, s, false};
            Task reader = {.reads = body->steps[s].covers, .read_count = 1};
            need_waits(p, &totals, &list, &need, &reader, false);
            for (int q = 0; q < prog->workers * ROLE_COUNT; q++)
                for (int e = 0; e < body->queues[q].count; e++) {
                    Entry *entry = &body->queues[q].entries[e];
                    if (entry->kind != ENTRY_POOL || entry->pool != i) continue;
                    entry->task.waits = list.at;
                    entry->task.wait_count = (int)list.count;
                }
        }
    }
}

static void hand_off(Place *p) {
    // The publishers' outputs are waited for by pool entries: they need a counter like any other.
    for (int b = 0; b < p->prog->body_count; b++)
        for (int i = 0; i < p->prog->bodies[b].pool_count; i++) {
            const Pool *pool = &p->prog->bodies[b].pools[i];
            int buffer = p->prog->bodies[b].steps[pool->publisher].covers[0].buffer;
            if (!need_known(p, b, -1, buffer, false))
                LIST_ADD(p->ctx->arena, &p->needs, (Need){b, -1, buffer, pool->publisher, false});
        }
    make_counters(p);
    each_task(p, make_signals, NULL);
    for (int b = 0; b < p->prog->body_count; b++) body_waits(p, b);
}

bool prog_place(Ctx *ctx, const Plan *plan, Prog *prog) {
    Place *p = ARENA_NEW(ctx->arena, Place);
    *p = (Place){.ctx = ctx, .plan = plan, .prog = prog};
    p->writers = ARENA_ARRAY(ctx->arena, Handoff, prog->buffer_count);
    p->readers = ARENA_ARRAY(ctx->arena, Handoff, prog->buffer_count);
    for (int b = 0; b < prog->body_count; b++)
        if (prog->bodies[b].step_count > p->max_steps) p->max_steps = prog->bodies[b].step_count;
    p->signals_readers = ARENA_ARRAY(ctx->arena, bool, prog->body_count * p->max_steps * prog->buffer_count);
    int cursor = 0;
    for (int b = 0; b < prog->body_count; b++) place_body(p, &prog->bodies[b], &cursor);
    all_needs(p);
    for (int tries = 0; tries < 200; tries++) {
        hand_off(p);
        Unordered u = prog_unordered(ctx, prog);
        if (u.hazard == HAZARD_NONE) {
            for (int b = 0; b < prog->body_count; b++) prog->bodies[b].unplaced = (Queue){0};
            return true;
        }
        bool readers = u.hazard == HAZARD_WRITE_AFTER_READ;
        if (readers) *reader_mark(p, u.first_body, u.first_step, u.buffer) = true;
        if (need_known(p, u.second_body, u.second_step, u.buffer, readers)) {
            if (readers) continue; // one more step of readers now signals the counter that is waited for already
            break;
        }
        int from = u.first_body == u.second_body && u.first_step < u.second_step ? u.first_step : OUTSIDE;
        LIST_ADD(ctx->arena, &p->needs, (Need){u.second_body, u.second_step, u.buffer, from, readers});
    }
    diag_error(ctx, E0006, NO_SPAN, "place found no hand-offs that order the program");
    return false;
}
