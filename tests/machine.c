#include "machine.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNKS_MAX = 64, ITEMS_MAX = 64, CUTS_MAX = 64 };

__attribute__((format(printf, 2, 3))) static bool wrong(Machine *m, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(m->why, sizeof m->why, format, args);
    va_end(args);
    return false;
}

// ---- Unrolling ----

typedef struct Axis {
    int cuts[CUTS_MAX], count; // ascending; cell i is [cuts[i], cuts[i + 1])
} Axis;
typedef struct Grid {
    Axis axis[REGION_RANK];
    int base, cells; // of the first cell of rank 0, layer 0; cells of one layer
} Grid;

typedef struct Make {
    Ctx *ctx;
    Machine *m;
    const Prog *prog;
    Grid *grids;
    int *offset; // [counters] -> first group
    int groups;  // of one rank
    int instances, max_steps;
    const Outcome *outcome; // of the round at hand
    const Routed *routed;   // of the instance at hand
    int64_t **base;         // [instances + 1] -> groups of all ranks: signalled before the instance
    int contents;
    bool failed;
} Make;

static void cut(Make *k, Axis *axis, int value) {
    int i = 0;
    while (i < axis->count && axis->cuts[i] < value) i++;
    if (i < axis->count && axis->cuts[i] == value) return;
    if (axis->count == CUTS_MAX) {
        k->failed = true;
        return;
    }
    memmove(axis->cuts + i + 1, axis->cuts + i, (size_t)(axis->count - i) * sizeof(int));
    axis->cuts[i] = value;
    axis->count++;
}

static void cut_regions(Make *k, const Region *regions, int count) {
    for (int i = 0; i < count; i++)
        for (int d = 0; d < k->prog->buffers[regions[i].buffer].rank; d++) {
            Axis *axis = &k->grids[regions[i].buffer].axis[d];
            Index index = regions[i].at[d];
            if (index.kind == INDEX_RANGE) {
                cut(k, axis, index.lo);
                cut(k, axis, index.hi);
            } else // by key or rank: all numbers apart
                for (int v = 0; v < k->prog->buffers[regions[i].buffer].dims[d]; v++) cut(k, axis, v);
        }
}

static void cut_task(Make *k, const Task *task) {
    cut_regions(k, task->reads, task->read_count);
    cut_regions(k, task->writes, task->write_count);
}

static void make_grids(Make *k) {
    const Prog *prog = k->prog;
    k->grids = ARENA_ARRAY(k->ctx->arena, Grid, prog->buffer_count + 1);
    for (int b = 0; b < prog->buffer_count; b++)
        for (int d = 0; d < prog->buffers[b].rank; d++) {
            cut(k, &k->grids[b].axis[d], 0);
            cut(k, &k->grids[b].axis[d], prog->buffers[b].dims[d]);
        }
    for (int b = 0; b < prog->body_count; b++) {
        const Body *body = &prog->bodies[b];
        for (int s = 0; s < body->step_count; s++) cut_regions(k, body->steps[s].covers, body->steps[s].cover_count);
        for (int q = 0; q < prog->workers * ROLE_COUNT; q++)
            for (int e = 0; e < body->queues[q].count; e++) cut_task(k, &body->queues[q].entries[e].task);
        for (int p = 0; p < body->pool_count; p++)
            for (int t = 0; t < body->pools[p].item_count; t++) cut_task(k, &body->pools[p].items[t]);
    }
    for (int b = 0; b < prog->buffer_count; b++) {
        const Buffer *buffer = &prog->buffers[b];
        Grid *grid = &k->grids[b];
        grid->base = k->m->cells;
        grid->cells = 1;
        for (int d = 0; d < buffer->rank; d++) grid->cells *= grid->axis[d].count - 1;
        int64_t all = (int64_t)grid->cells * (buffer->layers ? buffer->layers : 1) * prog->ranks;
        if (k->m->cells + all > MACHINE_CELLS) {
            k->failed = true;
            return;
        }
        k->m->cells += (int)all;
    }
}

static bool index_has(const Make *k, Index index, int cut_at, int rank, int key) {
    switch (index.kind) {
    case INDEX_RANGE: return cut_at >= index.lo && cut_at < index.hi;
    case INDEX_KEY: return cut_at == key;
    case INDEX_SELF: return cut_at == rank;
    case INDEX_ACTIVE: return cut_at < k->routed->active;
    default: return false;
    }
}

// Sets the cells of a region. `rank`: whose task it is.
static void region_cells(const Make *k, const Region *r, int rank, int key, int layer, bool *set) {
    const Buffer *buffer = &k->prog->buffers[r->buffer];
    const Grid *grid = &k->grids[r->buffer];
    int layers = buffer->layers ? buffer->layers : 1, home = buffer->layers ? layer : 0;
    for (int target = 0; target < k->prog->ranks; target++) {
        if (target != rank && !r->all_ranks) continue;
        for (int l = 0; l < layers; l++) {
            if (l != home && !r->all_layers) continue;
            for (int c = 0; c < grid->cells; c++) {
                int rest = c;
                bool in = true;
                for (int d = buffer->rank - 1; d >= 0; d--) {
                    int count = grid->axis[d].count - 1;
                    in &= index_has(k, r->at[d], grid->axis[d].cuts[rest % count], rank, key);
                    rest /= count;
                }
                if (in) set[grid->base + (target * layers + l) * grid->cells + c] = true;
            }
        }
    }
}

static int counter_index(const Make *k, int rank, int counter, int group) {
    return rank * k->groups + k->offset[counter] + group;
}

static Need *make_needs(Make *k, const Task *task, int instance, int rank, int key, int *count) {
    Need *needs = ARENA_ARRAY(k->ctx->arena, Need, task->wait_count + 1);
    *count = 0;
    for (int i = 0; i < task->wait_count; i++) {
        const Wait *w = &task->waits[i];
        if (w->lag > instance) continue; // before the first instance there is nothing to wait for
        int counter = counter_index(k, rank, w->counter, w->group.kind == INDEX_KEY ? key : w->group.lo);
        needs[(*count)++] = (Need){counter, k->base[instance - w->lag][counter] + w->need};
    }
    return needs;
}

typedef struct Adds {
    Add *at;
    size_t count, room;
} Adds;

static void add_signal(Make *k, Adds *adds, const Signal *s, int rank, int group, int amount) {
    for (int r = 0; r < k->prog->ranks; r++)
        if (r == rank || s->all_ranks)
            LIST_ADD(k->ctx->arena, adds, (Add){counter_index(k, r, s->counter, group), amount});
}

static void task_adds(Make *k, Adds *adds, const Task *task, const Pool *pool, int rank, int key) {
    for (int i = 0; i < task->signal_count; i++) {
        const Signal *s = &task->signals[i];
        if (s->group.kind == INDEX_RANGE)
            add_signal(k, adds, s, rank, s->group.lo, s->amount);
        else if (s->group.kind == INDEX_KEY)
            add_signal(k, adds, s, rank, key, s->amount);
        else
            for (int row = 0; pool && row < k->outcome->rows; row++)
                if (k->routed->chosen[row] >> key & 1) add_signal(k, adds, s, rank, row, s->amount);
    }
}

// What the publisher signals in the stead of inactive keys and absent rows.
static void credit_adds(Make *k, Adds *adds, const Pool *pool, int rank) {
    for (int t = 0; t < pool->item_count; t++)
        for (int i = 0; i < pool->items[t].signal_count; i++) {
            const Signal *s = &pool->items[t].signals[i];
            for (int key = k->routed->active; key < pool->keys; key++)
                if (s->group.kind == INDEX_RANGE)
                    add_signal(k, adds, s, rank, s->group.lo, s->amount);
                else if (s->group.kind == INDEX_KEY)
                    add_signal(k, adds, s, rank, key, s->amount);
            for (int row = k->outcome->rows; s->group.kind == INDEX_TOKEN && row < k->prog->rows; row++)
                add_signal(k, adds, s, rank, row, s->amount * pool->top);
        }
}

// Contents of pages are numbered by (instance, step, tile, part), CHUNKS_MAX numbers each.
static int content_of(Make *k, int instance, const Task *task) {
    for (int n = 0; n < k->m->node_count; n++) {
        const Node *node = &k->m->nodes[n];
        if (node->instance == instance && node->content && node->key < 0 && node->step == task->step &&
            node->task->lo == task->lo && node->task->hi == task->hi && node->task->part == task->part)
            return node->content;
    }
    return 1 + CHUNKS_MAX * ++k->contents;
}

static int node_add(Make *k, const Body *body, const Task *task, const Pool *pool, int instance, int rank, int key) {
    Machine *m = k->m;
    if (m->node_count == MACHINE_NODES || task->page_count > CHUNKS_MAX ||
        (task->ring && k->prog->page_count >= CHUNKS_MAX) || (pool && pool->chunks > CHUNKS_MAX)) {
        k->failed = true;
        return 0;
    }
    Node *node = &m->nodes[m->node_count];
    *node = (Node){.instance = instance, .rank = rank, .step = task->step, .key = key, .task = task, .body = body};
    node->needs = make_needs(k, task, instance, rank, key, &node->need_count);
    Adds adds = {0};
    task_adds(k, &adds, task, pool, rank, key);
    for (int p = 0; p < body->pool_count && !pool; p++)
        if (body->pools[p].publisher == task->step) credit_adds(k, &adds, &body->pools[p], rank);
    node->adds = adds.at;
    node->add_count = (int)adds.count;
    node->stamp = instance * k->max_steps + task->step + 1;
    node->content = pool ? 1 + CHUNKS_MAX * ++k->contents : content_of(k, instance, task);
    return m->node_count++;
}

// The pool's items in claim order, and who takes part.
static void make_run(Make *k, const Body *body, const Pool *pool, int instance, int rank, Run *run) {
    const Prog *prog = k->prog;
    *run = (Run){.pool = pool, .publisher = -1, .owner_at = k->m->owners};
    run->nodes = ARENA_ARRAY(k->ctx->arena, int, pool->item_count * pool->keys);
    run->participant = ARENA_ARRAY(k->ctx->arena, int, prog->workers);
    run->loader_slot = ARENA_ARRAY(k->ctx->arena, int, prog->workers);
    for (int from = 0, to; from < pool->item_count; from = to) {
        for (to = from; to < pool->item_count && pool->items[to].step == pool->items[from].step;) to++;
        for (int key = 0; key < k->routed->active; key++)
            for (int t = from; t < to; t++)
                run->nodes[run->total++] = node_add(k, body, &pool->items[t], pool, instance, rank, key);
    }
    k->m->owners += run->total;
    for (int worker = 0; worker < prog->workers; worker++) {
        run->participant[worker] = run->loader_slot[worker] = -1;
        for (int load = 0; load < 2; load++) {
            const Queue *queue = prog_queue(prog, body, worker, load ? ROLE_LOAD : ROLE_COMPUTE);
            int seen = 0;
            for (int e = 0; e < queue->count; e++)
                seen += queue->entries[e].kind == ENTRY_POOL && &body->pools[queue->entries[e].pool] == pool;
            if (seen > 1) wrong(k->m, "worker %d takes part twice in a pool", worker);
            if (seen && load == (pool->chunks > 0)) run->participant[worker] = run->participants++;
        }
    }
}

static void make_instance(Make *k, const RoundItem *item, int instance) {
    Machine *m = k->m;
    const Prog *prog = k->prog;
    const Body *body = &prog->bodies[item->body];
    int first_node = m->node_count, first_run = m->run_count;
    for (int a = 0; a < m->agent_count; a++) {
        Agent *agent = &m->agents[a];
        const Queue *queue = prog_queue(prog, body, agent->worker, agent->role);
        for (int e = 0; e < queue->count; e++)
            if (queue->entries[e].kind == ENTRY_TASK)
                node_add(k, body, &queue->entries[e].task, NULL, instance, agent->rank, -1);
    }
    for (int rank = 0; rank < prog->ranks; rank++)
        for (int p = 0; p < body->pool_count; p++) {
            Run *run = &m->runs[m->run_count++];
            make_run(k, body, &body->pools[p], instance, rank, run);
            for (int n = first_node; n < m->node_count; n++) {
                if (m->nodes[n].rank != rank || m->nodes[n].step != run->pool->publisher) continue;
                if (run->publisher >= 0) wrong(m, "step %d has two tasks to publish", run->pool->publisher);
                run->publisher = n;
            }
            if (run->publisher < 0) wrong(m, "nobody publishes for the pool");
        }
    // Slots, in the order in which nodes were made.
    int next = first_node;
    for (int a = 0; a < m->agent_count; a++) {
        Agent *agent = &m->agents[a];
        const Queue *queue = prog_queue(prog, body, agent->worker, agent->role);
        for (int e = 0; e < queue->count; e++) {
            const Entry *entry = &queue->entries[e];
            Slot slot = {.kind = entry->kind, .task = &entry->task, .node = -1};
            // A ring's chunks are as many as the state says: here none, or more than there are pages.
            slot.chunks = !entry->task.ring ? entry->task.page_count : instance % 2 ? prog->page_count + 1 : 0;
            switch (entry->kind) {
            case ENTRY_TASK: slot.node = next++; break;
            case ENTRY_LOAD: slot.content = content_of(k, instance, &entry->task); break;
            case ENTRY_POOL:
                slot.run = &m->runs[first_run + agent->rank * body->pool_count + entry->pool];
                slot.needs = make_needs(k, &entry->task, instance, agent->rank, -1, &slot.need_count);
                if (agent->role == ROLE_LOAD) slot.run->loader_slot[agent->worker] = agent->count;
                break;
            }
            agent->slots[agent->count++] = slot;
        }
    }
    size_t all = (size_t)m->counters;
    memcpy(k->base[instance + 1], k->base[instance], all * sizeof(int64_t));
    for (int n = first_node; n < m->node_count; n++)
        for (int i = 0; i < m->nodes[n].add_count; i++)
            k->base[instance + 1][m->nodes[n].adds[i].counter] += m->nodes[n].adds[i].amount;
    // The same for every outcome, and what prog_total says.
    for (int rank = 0; rank < prog->ranks && !m->why[0]; rank++)
        for (int c = 0; c < prog->counter_count; c++)
            for (int g = 0; g < prog->counters[c].groups; g++) {
                int i = counter_index(k, rank, c, g);
                if (k->base[instance + 1][i] - k->base[instance][i] == prog_total(prog, body, c, g)) continue;
                fprintf(stderr, "prog_total of %s[%d] differs from what is signalled\n", prog->counters[c].name, g);
                abort();
            }
}

// ---- The sequential program ----

typedef struct Writer {
    int version, node; // node -1: none
    uint64_t readers[MACHINE_NODES / 64];
} Writer;

static void set_bit(uint64_t *set, int bit) { set[bit / 64] |= (uint64_t)1 << bit % 64; }

static Cell *cells_list(Make *k, const bool *set, const Writer *writers, uint64_t *bits, int *count) {
    *count = 0;
    for (int c = 0; c < k->m->cells; c++) *count += set[c];
    Cell *list = ARENA_ARRAY(k->ctx->arena, Cell, *count + 1), *next = list;
    for (int c = 0; c < k->m->cells; c++) {
        if (!set[c]) continue;
        *next++ = (Cell){c, writers[c].version};
        set_bit(bits, c);
    }
    return list;
}

// One step: what its tasks read and write, and whether they cover what it covers.
static bool sequential_step(Make *k, const Body *body, int step, int layer, int first, int last, Writer *writers) {
    Machine *m = k->m;
    int covered[MACHINE_CELLS] = {0}, written[MACHINE_CELLS] = {0};
    bool set[MACHINE_CELLS];
    const Pool *pool = NULL;
    for (int p = 0; p < body->pool_count; p++)
        for (int t = 0; t < body->pools[p].item_count; t++)
            if (body->pools[p].items[t].step == step) pool = &body->pools[p];
    for (int rank = 0; rank < k->prog->ranks; rank++)
        for (int i = 0; i < body->steps[step].cover_count; i++)
            for (int key = 0; key < (pool ? k->routed->active : 1); key++) {
                memset(set, 0, sizeof set);
                region_cells(k, &body->steps[step].covers[i], rank, key, layer, set);
                for (int c = 0; c < m->cells; c++) covered[c] |= set[c];
            }
    for (int n = first; n < last; n++) {
        Node *node = &m->nodes[n];
        if (node->step != step) continue;
        memset(set, 0, sizeof set);
        for (int i = 0; i < node->task->read_count; i++)
            region_cells(k, &node->task->reads[i], node->rank, node->key, layer, set);
        node->reads = cells_list(k, set, writers, node->read_set, &node->read_count);
        memset(set, 0, sizeof set);
        for (int i = 0; i < node->task->write_count; i++) {
            bool one[MACHINE_CELLS] = {false};
            region_cells(k, &node->task->writes[i], node->rank, node->key, layer, one);
            for (int c = 0; c < m->cells; c++) {
                written[c] += one[c];
                set[c] |= one[c];
            }
        }
        node->writes = cells_list(k, set, writers, node->write_set, &node->write_count);
        for (int i = 0; i < node->read_count; i++)
            if (writers[node->reads[i].cell].node >= 0) set_bit(node->before, writers[node->reads[i].cell].node);
        for (int i = 0; i < node->write_count; i++) {
            const Writer *w = &writers[node->writes[i].cell];
            if (w->node >= 0) set_bit(node->before, w->node);
            for (int word = 0; word < MACHINE_NODES / 64; word++) node->before[word] |= w->readers[word];
        }
    }
    for (int c = 0; c < m->cells; c++)
        if (covered[c] != written[c])
            return wrong(m, "step %d of body %s: a part is written %d times, not %d", step, body->name, written[c],
                         covered[c]);
    for (int a = first; a < last; a++)
        for (int b = first; b < last; b++)
            for (int word = 0; word < SET_WORDS && a != b; word++)
                if (m->nodes[a].step == step && m->nodes[b].step == step &&
                    (m->nodes[a].read_set[word] & m->nodes[b].write_set[word]))
                    return wrong(m, "step %d of body %s: a task reads what another of the step writes", step,
                                 body->name);
    for (int n = first; n < last; n++) {
        const Node *node = &m->nodes[n];
        if (node->step != step) continue;
        for (int i = 0; i < node->read_count; i++) set_bit(writers[node->reads[i].cell].readers, n);
    }
    for (int n = first; n < last; n++) {
        const Node *node = &m->nodes[n];
        if (node->step != step) continue;
        for (int i = 0; i < node->write_count; i++)
            writers[node->writes[i].cell] = (Writer){.version = node->stamp, .node = n};
    }
    return true;
}

// Consumers of a page that are not one queue could race for it; then nothing is quiet.
static bool one_user_of_pages(const Prog *prog) {
    for (int b = 0; b < prog->body_count; b++)
        for (int worker = 0; worker < prog->workers; worker++) {
            const Queue *queue = prog_queue(prog, &prog->bodies[b], worker, ROLE_CONTROL);
            for (int e = 0; e < queue->count; e++)
                if (queue->entries[e].task.page_count) return false;
        }
    return true;
}

static size_t align8(size_t n) { return (n + 7) & ~(size_t)7; }

bool machine_make(Ctx *ctx, Machine *m, const Prog *prog, int rounds, const Outcome *outcomes, const Routed *routed,
                  bool skip_context) {
    *m = (Machine){.prog = prog, .quiet_first = one_user_of_pages(prog)};
    Make *k = ARENA_NEW(ctx->arena, Make);
    *k = (Make){.ctx = ctx, .m = m, .prog = prog, .instances = prog_instances(prog) * rounds};
    if (prog->ranks * prog->workers * ROLE_COUNT > 64 || k->instances > 64) return false;
    k->offset = ARENA_ARRAY(ctx->arena, int, prog->counter_count + 1);
    for (int c = 0; c < prog->counter_count; c++) {
        k->offset[c] = k->groups;
        k->groups += prog->counters[c].groups;
    }
    m->counters = k->groups * prog->ranks;
    m->pages = prog->page_count * prog->workers * prog->ranks;
    int entries = 0, pools = 0;
    for (int b = 0; b < prog->body_count; b++) {
        const Body *body = &prog->bodies[b];
        if (body->step_count > k->max_steps) k->max_steps = body->step_count;
        pools += body->pool_count;
        for (int q = 0; q < prog->workers * ROLE_COUNT; q++) entries += body->queues[q].count;
    }
    if (m->counters > 256 || m->pages > 256 || entries > 256) return false;
    make_grids(k);
    if (k->failed) return false;
    for (int a = 0; a < prog->ranks * prog->workers * ROLE_COUNT; a++) {
        int worker = a / ROLE_COUNT % prog->workers;
        bool any = false;
        for (int b = 0; b < prog->body_count; b++)
            any |= prog->bodies[b].queues[worker * ROLE_COUNT + a % ROLE_COUNT].count > 0;
        if (!any) continue;
        if (m->agent_count == MACHINE_AGENTS) return false;
        m->agents[m->agent_count++] = (Agent){.rank = a / ROLE_COUNT / prog->workers,
                                              .worker = worker,
                                              .role = (Role)(a % ROLE_COUNT),
                                              .slots = ARENA_ARRAY(ctx->arena, Slot, entries * k->instances)};
    }
    m->nodes = ARENA_ARRAY(ctx->arena, Node, MACHINE_NODES);
    m->runs = ARENA_ARRAY(ctx->arena, Run, pools * prog->ranks * k->instances + 1);
    k->base = ARENA_ARRAY(ctx->arena, int64_t *, k->instances + 1);
    for (int i = 0; i <= k->instances; i++) k->base[i] = ARENA_ARRAY(ctx->arena, int64_t, m->counters + 1);
    Writer *writers = ARENA_ARRAY(ctx->arena, Writer, m->cells + 1);
    for (int c = 0; c < m->cells; c++) writers[c].node = -1;
    static const Routed none;
    int per_round = prog_instances(prog);
    for (int i = 0; i < k->instances; i++) {
        int layer, first = m->node_count;
        const RoundItem *item = prog_instance(prog, i % per_round, &layer);
        const Body *body = &prog->bodies[item->body];
        k->outcome = &outcomes[i / per_round];
        k->routed = body->pool_count ? routed++ : &none;
        make_instance(k, item, i);
        if (k->failed || m->why[0]) return false;
        bool skipped = (item->segment == SEGMENT_DRAFT && k->outcome->skipped) ||
                       (item->segment == SEGMENT_CONTEXT && skip_context);
        for (int step = 0; step < body->step_count && !skipped; step++)
            if (!sequential_step(k, body, step, layer, first, m->node_count, writers)) return false;
    }
    if (m->owners > ITEMS_MAX) return false;
    m->key_size = align8((size_t)m->agent_count * 4 + (size_t)m->owners);
    m->counters_at = m->key_size;
    m->versions_at = m->counters_at + (size_t)m->counters * sizeof(int64_t);
    m->pages_at = m->versions_at + align8((size_t)m->cells * sizeof(int32_t));
    m->status_at = m->pages_at + align8((size_t)m->pages * sizeof(int32_t));
    m->size = m->status_at + align8((size_t)m->node_count);
    return true;
}

// ---- Running ----

typedef struct Position { // of an agent, in the state's key
    uint16_t slot;
    uint8_t phase; // see machine_next
    uint8_t count; // items of the pool entry done
} Position;

static Position *position_of(const State *s, int agent) { return (Position *)(void *)s + agent; }
static uint8_t *owners_of(const Machine *m, const State *s) { return (uint8_t *)s + (size_t)m->agent_count * 4; }
static int64_t *counters_of(const Machine *m, const State *s) {
    return (int64_t *)(void *)((uint8_t *)s + m->counters_at);
}
static int32_t *versions_of(const Machine *m, const State *s) {
    return (int32_t *)(void *)((uint8_t *)s + m->versions_at);
}
static int32_t *page_of(const Machine *m, const State *s, const Agent *a, int page) {
    return (int32_t *)(void *)((uint8_t *)s + m->pages_at) +
           (a->rank * m->prog->workers + a->worker) * m->prog->page_count + page;
}
static uint8_t *status_of(const Machine *m, const State *s) { return (uint8_t *)s + m->status_at; }

void machine_start(const Machine *m, State *state) { memset(state, 0, m->size); }

Status machine_status(const Machine *m, const State *state, int node) { return (Status)status_of(m, state)[node]; }

static bool needs_hold(const Machine *m, const State *s, const Need *needs, int count) {
    for (int i = 0; i < count; i++)
        if (counters_of(m, s)[needs[i].counter] < needs[i].value) return false;
    return true;
}

// Items of the run claimed so far; the nth of one worker (its number + 1), or -1.
static int claimed(const Machine *m, const State *s, const Run *run) {
    int n = 0;
    while (n < run->total && owners_of(m, s)[run->owner_at + n]) n++;
    return n;
}
static int owned(const Machine *m, const State *s, const Run *run, int worker, int nth) {
    for (int i = 0; i < run->total; i++)
        if (owners_of(m, s)[run->owner_at + i] == worker + 1 && nth-- == 0) return run->nodes[i];
    return -1;
}

static int item_page(const Pool *pool, int nth, int chunk) {
    return pool->page_lo + (nth * pool->chunks + chunk) % (pool->page_hi - pool->page_lo);
}

// The page that an agent fills or uses next, of the task or item at hand; -1: no chunk is left.
static int next_page(const Machine *m, const Slot *slot, Position at, int chunk) {
    if (slot->kind == ENTRY_POOL)
        return chunk < slot->run->pool->chunks ? item_page(slot->run->pool, at.count, chunk) : -1;
    if (chunk >= slot->chunks) return -1;
    return slot->task->ring ? (slot->task->pages[0] + chunk) % m->prog->page_count : slot->task->pages[chunk];
}

// Phases. Load: chunks filled. Task: 0 not started, 1 + k: k chunks used. Pool entry that claims: 0 to claim, then for
// a loader 1 + k: k chunks filled, for others 1 claimed, 2 started. Pool entry that is handed items: as a task.
Event machine_next(const Machine *m, const State *s, int agent, int *node) {
    const Agent *a = &m->agents[agent];
    Position at = *position_of(s, agent);
    *node = -1;
    if (at.slot == a->count) return EVENT_NONE;
    const Slot *slot = &a->slots[at.slot];
    int page;
    if (slot->kind == ENTRY_LOAD) {
        page = next_page(m, slot, at, at.phase);
        return page >= 0 && *page_of(m, s, a, page) ? EVENT_NONE : EVENT_QUIET;
    }
    if (slot->kind == ENTRY_TASK) {
        const Node *n = &m->nodes[ *node = slot->node];
        if (!at.phase) return needs_hold(m, s, n->needs, n->need_count) ? EVENT_START : EVENT_NONE;
        if ((page = next_page(m, slot, at, at.phase - 1)) < 0) return EVENT_END;
        return *page_of(m, s, a, page) ? EVENT_QUIET : EVENT_NONE;
    }
    Run *run = slot->run;
    bool pages = run->pool->chunks > 0, claims = pages == (a->role == ROLE_LOAD);
    if (!at.phase && !needs_hold(m, s, slot->needs, slot->need_count)) return EVENT_NONE;
    if (claims && !at.phase)
        return run->pool->claim == CLAIM_DYNAMIC && claimed(m, s, run) < run->total ? EVENT_CLAIM : EVENT_QUIET;
    if (claims && pages) return *page_of(m, s, a, next_page(m, slot, at, at.phase - 1)) ? EVENT_NONE : EVENT_QUIET;
    *node = owned(m, s, run, a->worker, at.count);
    if (claims) { // without pages
        const Node *n = &m->nodes[*node];
        return at.phase == 2 ? EVENT_END : needs_hold(m, s, n->needs, n->need_count) ? EVENT_START : EVENT_NONE;
    }
    if (*node < 0) { // nothing at hand: over when the loader's entry is
        int loader_slot = run->loader_slot[a->worker];
        for (int l = 0; l < m->agent_count; l++)
            if (m->agents[l].rank == a->rank && m->agents[l].worker == a->worker && m->agents[l].role == ROLE_LOAD)
                return loader_slot >= 0 && position_of(s, l)->slot > loader_slot ? EVENT_QUIET : EVENT_NONE;
        return EVENT_NONE;
    }
    const Node *n = &m->nodes[*node];
    if (!at.phase) return needs_hold(m, s, n->needs, n->need_count) ? EVENT_START : EVENT_NONE;
    if ((page = next_page(m, slot, at, at.phase - 1)) < 0) return EVENT_END;
    return *page_of(m, s, a, page) ? EVENT_QUIET : EVENT_NONE;
}

static const char *node_text(const Machine *m, int n, char *text, size_t size) {
    const Node *node = &m->nodes[n];
    snprintf(text, size, "s%d %d:%d key %d of %s, instance %d, rank %d", node->step, node->task->lo, node->task->hi,
             node->key, node->body->name, node->instance, node->rank);
    return text;
}

static bool start_is_right(Machine *m, const State *s, int n) {
    const Node *node = &m->nodes[n];
    char text[100];
    for (int i = 0; i < node->read_count; i++)
        if (versions_of(m, s)[node->reads[i].cell] != node->reads[i].version)
            return wrong(m, "%s reads version %d, not %d", node_text(m, n, text, sizeof text),
                         versions_of(m, s)[node->reads[i].cell], node->reads[i].version);
    for (int i = 0; i < node->write_count; i++)
        if (versions_of(m, s)[node->writes[i].cell] != node->writes[i].version)
            return wrong(m, "%s writes over version %d, not %d", node_text(m, n, text, sizeof text),
                         versions_of(m, s)[node->writes[i].cell], node->writes[i].version);
    for (int other = 0; other < m->node_count; other++) {
        if (status_of(m, s)[other] != STATUS_RUNNING) continue;
        const Node *o = &m->nodes[other];
        for (int w = 0; w < SET_WORDS; w++)
            if ((node->read_set[w] & o->write_set[w]) || (node->write_set[w] & (o->read_set[w] | o->write_set[w])))
                return wrong(m, "%s starts while s%d %d:%d of instance %d runs", node_text(m, n, text, sizeof text),
                             o->step, o->task->lo, o->task->hi, o->instance);
    }
    return true;
}

static void node_end(Machine *m, State *s, int n) {
    const Node *node = &m->nodes[n];
    status_of(m, s)[n] = STATUS_ENDED;
    for (int i = 0; i < node->write_count; i++) versions_of(m, s)[node->writes[i].cell] = node->stamp;
    for (int i = 0; i < node->add_count; i++) counters_of(m, s)[node->adds[i].counter] += node->adds[i].amount;
}

static bool claim_next(Machine *m, State *s, int agent) {
    const Agent *a = &m->agents[agent];
    Position *at = position_of(s, agent);
    Run *run = a->slots[at->slot].run;
    if (status_of(m, s)[run->publisher] != STATUS_ENDED)
        return wrong(m, "worker %d claims before the publisher has ended, instance %d", a->worker,
                     m->nodes[run->publisher].instance);
    int next = run->pool->claim == CLAIM_DYNAMIC ? claimed(m, s, run)
                                                 : run->participant[a->worker] + at->count * run->participants;
    if (next >= run->total) { // the entry ends
        *at = (Position){(uint16_t)(at->slot + 1), 0, 0};
        return true;
    }
    owners_of(m, s)[run->owner_at + next] = (uint8_t)(a->worker + 1);
    at->phase = 1;
    return true;
}

bool machine_step(Machine *m, State *s, int agent, bool strict) {
    const Agent *a = &m->agents[agent];
    Position *at = position_of(s, agent);
    const Slot *slot = &a->slots[at->slot];
    int node;
    Event event = machine_next(m, s, agent, &node);
    bool pool = slot->kind == ENTRY_POOL, loads = a->role == ROLE_LOAD;
    if (event == EVENT_START) {
        if (strict && !start_is_right(m, s, node)) return false;
        status_of(m, s)[node] = STATUS_RUNNING;
        at->phase++;
        return true;
    }
    if (event == EVENT_END) {
        node_end(m, s, node);
        if (pool) {
            at->phase = 0;
            at->count++;
        } else
            *at = (Position){(uint16_t)(at->slot + 1), 0, 0};
        return true;
    }
    if (pool && at->phase == 0 && (loads || !slot->run->pool->chunks)) return claim_next(m, s, agent);
    if (pool && at->phase == 0) { // nothing is handed on any more
        *at = (Position){(uint16_t)(at->slot + 1), 0, 0};
        return true;
    }
    int chunk = loads && !pool ? at->phase : at->phase - 1, number = next_page(m, slot, *at, chunk);
    if (number < 0) { // a load of no chunk
        *at = (Position){(uint16_t)(at->slot + 1), 0, 0};
        return true;
    }
    int32_t *page = page_of(m, s, a, number);
    if (!loads) {
        if (*page != m->nodes[node].content + chunk)
            return wrong(m, "worker %d: page %d holds another chunk than s%d %d:%d of instance %d needs", a->worker,
                         number, m->nodes[node].step, m->nodes[node].task->lo, m->nodes[node].task->hi,
                         m->nodes[node].instance);
        *page = 0;
        at->phase++;
        return true;
    }
    int content = pool ? m->nodes[owned(m, s, slot->run, a->worker, at->count)].content : slot->content;
    *page = content + chunk;
    at->phase++;
    if (pool && chunk + 1 == slot->run->pool->chunks) {
        at->phase = 0;
        at->count++;
    } else if (!pool && chunk + 1 == slot->chunks)
        *at = (Position){(uint16_t)(at->slot + 1), 0, 0};
    return true;
}

bool machine_done(Machine *m, const State *s) {
    char text[100];
    for (int a = 0; a < m->agent_count; a++) {
        Position at = *position_of(s, a);
        if (at.slot == m->agents[a].count) continue;
        int node;
        machine_next(m, s, a, &node);
        if (node >= 0) return wrong(m, "%s is stuck", node_text(m, node, text, sizeof text));
        return wrong(m, "rank %d worker %d %s: stuck", m->agents[a].rank, m->agents[a].worker,
                     role_name(m->agents[a].role));
    }
    for (int n = 0; n < m->node_count; n++)
        if (status_of(m, s)[n] != STATUS_ENDED) return wrong(m, "%s never runs", node_text(m, n, text, sizeof text));
    return true;
}
