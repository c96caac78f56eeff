#include "prove_order.h"
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

// Why this is sound.
//
// Every dependence must point back in the order (instance, step) of the sequential program, queue entries included;
// that order then is a proof of progress, and a walk along it meets causes before effects.
//
// A wait c>=v takes S, the longest prefix of c's signals, in whole (instance, step) groups, whose sum is at most v. It
// gives "S before the task" if no signal outside S can be made before all of S: each later group's signals must have S
// in their clocks (Boundary.floor). Suppose all that, and look at the first wait, in time, that returned before its S
// was complete. All clocks hold up to that moment. The counter then had a contribution from outside S, made by a task
// that comes after all of S: a contradiction.
//
// Items of a pool: keys are alike, so two symbolic keys, both taken as active, show every conflict between an item and
// anything else, or between items of two keys. What an item's clock says of others, the item of every active key's says
// alike, and at least one key is active. Of inactive keys nothing is read; their signals are made by the publisher,
// which must therefore fulfil the floor of the item's group too. Who runs an item is not known: its clock begins with
// what all workers that take part know when they enter the pool.
//
// Three rounds: what a task of the third sees of the second is what one of any later round sees of the one before it.

enum { ROUNDS = 3, MAX_REPORTS = 8, KEYS = 2 };
typedef uint32_t Tick;

typedef struct Boundary { // after one (instance, step) group of signals of one counter group
    int64_t sum;          // of all signals so far
    int floor;            // newest boundary whose signals all come before each signal of this group; -1: none
    Tick *clock;          // join of all signals so far
    Tick *shared;         // the same without items, for waits on one row's group of a counter by rows; else NULL
} Boundary;

typedef struct Track { // one counter group of one rank
    Boundary *at;
    size_t count, room;
    int used; // newest boundary that a wait relied on; -1
    // the group at hand
    int64_t adding;
    int floor;
    Tick *joined, *shared;
} Track;

typedef struct Access {
    int agent;
    Tick tick;
    int body, step, instance, stamp;
} Access;

typedef struct Cell {
    Access write;       // stamp 0: never written
    int round, covered; // of the write; stamp of the step that covers it
    Access *readers;
    size_t count, room;
} Cell;

typedef struct Axis { // coordinate compression of one dimension
    int *cuts, count; // ascending; cell i is [cuts[i], cuts[i + 1])
} Axis;

typedef struct Grid {
    Axis axis[REGION_RANK];
    bool keyed[REGION_RANK]; // indexed by key or active: cells 0 and 1 are the symbolic keys, the rest stand for others
    int cells;               // of one layer
    Cell *at;                // [ranks][layers][cells]
} Grid;

typedef struct Node { // a task or item in the step at hand
    const Task *task;
    const Pool *pool;
    int rank, agent, key, worker;
    Role role;
    Tick tick;
    Tick *clock; // before its own tick
} Node;

typedef struct Walk {
    Ctx *ctx;
    const Prog *prog;
    bool report, failed, stop;
    int reports;
    Unordered *first;
    int agents, keys;
    Tick **clocks;    // of the agents of queues
    Tick *item_ticks; // [agents], of items
    int *cursor;      // [ranks * workers * ROLE_COUNT]: next entry of the queue in the body at hand
    int **item_agent; // [bodies] -> first agent of the body's pool items on rank 0
    int item_agents;  // of one rank
    Grid *grids;
    Track **tracks;     // [ranks * counters] -> groups
    int64_t ***totals;  // [bodies][counters] -> groups
    int64_t **base;     // [counters] -> groups: of the instance at hand
    int64_t ***history; // [lag] -> bases of earlier instances
    int lags;
    int instance, round, body_index, layer, step, stamp;
    const Body *body;
    Node *nodes;
    size_t node_count, node_room;
    Tick *meet;        // of the pool's enters, a rank each
    Access *publisher; // of the pool of the body at hand, a rank each; stamp 0: not yet
    Tick *published;   // its clock when it ended, a rank each
    Tick **free_clocks;
    size_t free_count, free_room;
} Walk;

static Tick *clock_new(Walk *w) {
    Tick *clock = w->free_count ? w->free_clocks[--w->free_count] : ARENA_ARRAY(w->ctx->arena, Tick, w->agents);
    memset(clock, 0, (size_t)w->agents * sizeof *clock);
    return clock;
}
static void clock_free(Walk *w, Tick *clock) {
    if (!clock) return;
    if (w->free_count == w->free_room)
        w->free_clocks = list_grow(w->ctx->arena, w->free_clocks, w->free_count, &w->free_room, sizeof *w->free_clocks);
    w->free_clocks[w->free_count++] = clock;
}
static void clock_join_some(Tick *to, const Tick *from, int agents) {
    for (int i = 0; i < agents; i++) to[i] = to[i] > from[i] ? to[i] : from[i];
}
static void clock_join(const Walk *w, Tick *to, const Tick *from) { clock_join_some(to, from, w->agents); }
// Without the items: agents of queues come first.
static void clock_join_queues(const Walk *w, Tick *to, const Tick *from) {
    clock_join_some(to, from, 2 * w->prog->ranks * w->prog->workers);
}
static bool clock_covers(const Walk *w, const Tick *big, const Tick *small) {
    Tick missing = 0;
    for (int i = 0; i < w->agents; i++) missing |= small[i] > big[i];
    return !missing;
}

// ---- Messages ----

static const char *task_text(const Walk *w, const Body *body, const Task *task, int worker) {
    if (worker >= 0)
        return arena_printf(w->ctx->arena, "%s %d:%d of body %s, worker %d", op_name(body->steps[task->step].op),
                            task->lo, task->hi, body->name, worker);
    return arena_printf(w->ctx->arena, "%s %d:%d of body %s", op_name(body->steps[task->step].op), task->lo, task->hi,
                        body->name);
}

__attribute__((format(printf, 4, 5))) static void fault(Walk *w, DiagCode code, const Node *node, const char *format,
                                                        ...) {
    w->failed = true;
    if (!w->report || w->reports++ >= MAX_REPORTS) return;
    char text[300];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (node)
        diag_error(w->ctx, code, node->task->span, "%s: %s",
                   task_text(w, w->body, node->task, node->pool ? -1 : node->worker), text);
    else
        diag_error(w->ctx, code, NO_SPAN, "body %s: %s", w->body ? w->body->name : "?", text);
}

// ---- Cells ----

static int compare_ints(const void *a, const void *b) {
    return (*(const int *)a > *(const int *)b) - (*(const int *)a < *(const int *)b);
}

typedef LIST(int) Ints;

static void cut_regions(Walk *w, Ints (*cuts)[REGION_RANK], const Region *regions, int count) {
    for (int i = 0; i < count; i++) {
        const Region *r = &regions[i];
        for (int d = 0; d < w->prog->buffers[r->buffer].rank; d++) {
            Index index = r->at[d];
            if (index.kind == INDEX_RANGE) {
                LIST_ADD(w->ctx->arena, &cuts[r->buffer][d], index.lo);
                LIST_ADD(w->ctx->arena, &cuts[r->buffer][d], index.hi);
            } else if (index.kind == INDEX_SELF)
                for (int rank = 0; rank < w->prog->ranks; rank++) {
                    LIST_ADD(w->ctx->arena, &cuts[r->buffer][d], rank);
                    LIST_ADD(w->ctx->arena, &cuts[r->buffer][d], rank + 1);
                }
            else
                w->grids[r->buffer].keyed[d] = true;
        }
    }
}

static void cut_task(Walk *w, Ints (*cuts)[REGION_RANK], const Task *task) {
    cut_regions(w, cuts, task->reads, task->read_count);
    cut_regions(w, cuts, task->writes, task->write_count);
}

static void make_grids(Walk *w) {
    const Prog *prog = w->prog;
    w->grids = ARENA_ARRAY(w->ctx->arena, Grid, prog->buffer_count);
    Ints(*cuts)[REGION_RANK] = arena_array(w->ctx->arena, (size_t)prog->buffer_count, sizeof *cuts);
    for (int b = 0; b < prog->body_count; b++) {
        const Body *body = &prog->bodies[b];
        for (int s = 0; s < body->step_count; s++)
            cut_regions(w, cuts, body->steps[s].covers, body->steps[s].cover_count);
        for (int q = 0; q < prog->workers * ROLE_COUNT; q++)
            for (int e = 0; e < body->queues[q].count; e++) cut_task(w, cuts, &body->queues[q].entries[e].task);
        for (int p = 0; p < body->pool_count; p++)
            for (int t = 0; t < body->pools[p].item_count; t++) cut_task(w, cuts, &body->pools[p].items[t]);
    }
    for (int b = 0; b < prog->buffer_count; b++) {
        const Buffer *buffer = &prog->buffers[b];
        Grid *grid = &w->grids[b];
        grid->cells = 1;
        for (int d = 0; d < buffer->rank; d++) {
            Ints *list = &cuts[b][d];
            LIST_ADD(w->ctx->arena, list, 0);
            LIST_ADD(w->ctx->arena, list, buffer->dims[d]);
            for (int k = 1; grid->keyed[d] && k <= KEYS && k < buffer->dims[d]; k++) LIST_ADD(w->ctx->arena, list, k);
            qsort(list->at, list->count, sizeof(int), compare_ints);
            int count = 0;
            for (size_t i = 0; i < list->count; i++)
                if (!count || list->at[count - 1] != list->at[i]) list->at[count++] = list->at[i];
            grid->axis[d] = (Axis){list->at, count - 1};
            grid->cells *= count - 1;
        }
        grid->at =
            ARENA_ARRAY(w->ctx->arena, Cell,
                        (size_t)prog->ranks * (size_t)(buffer->layers ? buffer->layers : 1) * (size_t)grid->cells);
    }
}

static int cut_index(const Axis *axis, int value) {
    int lo = 0, hi = axis->count;
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (axis->cuts[mid] < value)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

// The cells of a region, in turn.
typedef struct Cells {
    Grid *grid;
    Cell *layer;
    int lo[REGION_RANK], hi[REGION_RANK], at[REGION_RANK], rank;
    bool more;
} Cells;

static Cells cells_of(const Walk *w, const Region *r, int rank, int target, int key, int layer) {
    const Buffer *buffer = &w->prog->buffers[r->buffer];
    Grid *grid = &w->grids[r->buffer];
    int layers = buffer->layers ? buffer->layers : 1;
    Cells c = {.grid = grid, .rank = buffer->rank, .more = true};
    c.layer = grid->at + ((size_t)target * (size_t)layers + (size_t)(buffer->layers ? layer : 0)) * (size_t)grid->cells;
    for (int d = 0; d < buffer->rank; d++) {
        Index i = r->at[d];
        const Axis *axis = &grid->axis[d];
        int lo = i.lo, hi = i.hi;
        if (i.kind == INDEX_SELF) lo = rank, hi = rank + 1;
        if (i.kind == INDEX_KEY) lo = key, hi = key + 1;
        if (i.kind == INDEX_ACTIVE) lo = 0, hi = w->keys < buffer->dims[d] ? w->keys : buffer->dims[d];
        c.lo[d] = c.at[d] = cut_index(axis, lo);
        c.hi[d] = cut_index(axis, hi);
        if (c.lo[d] >= c.hi[d]) c.more = false;
    }
    return c;
}

static Cell *cells_next(Cells *c) {
    if (!c->more) return NULL;
    int index = 0;
    for (int d = 0; d < c->rank; d++) index = index * c->grid->axis[d].count + c->at[d];
    for (int d = c->rank - 1;; d--) {
        if (++c->at[d] < c->hi[d]) break;
        c->at[d] = c->lo[d];
        if (d == 0) {
            c->more = false;
            break;
        }
    }
    return c->layer + index;
}

// ---- Counters ----

static int64_t *body_totals(const Walk *w, int body, int counter) { return w->totals[body][counter]; }

static void make_totals(Walk *w) {
    const Prog *prog = w->prog;
    w->totals = ARENA_ARRAY(w->ctx->arena, int64_t **, prog->body_count);
    for (int b = 0; b < prog->body_count; b++) {
        const Body *body = &prog->bodies[b];
        w->totals[b] = ARENA_ARRAY(w->ctx->arena, int64_t *, prog->counter_count + 1);
        for (int c = 0; c < prog->counter_count; c++)
            w->totals[b][c] = ARENA_ARRAY(w->ctx->arena, int64_t, prog->counters[c].groups);
        for (int source = 0; source <= body->pool_count; source++) {
            const Pool *pool = source ? &body->pools[source - 1] : NULL;
            for (int q = 0; q < (pool ? 1 : prog->workers * ROLE_COUNT); q++) {
                int count = pool ? pool->item_count : body->queues[q].count;
                for (int i = 0; i < count; i++) {
                    const Task *task = pool ? &pool->items[i] : &body->queues[q].entries[i].task;
                    for (int s = 0; s < task->signal_count; s++) {
                        const Signal *signal = &task->signals[s];
                        int64_t amount = (int64_t)signal->amount * (signal->all_ranks ? prog->ranks : 1);
                        int lo = signal->group.lo, hi = signal->group.hi;
                        if (signal->group.kind != INDEX_RANGE) lo = 0, hi = prog->counters[signal->counter].groups;
                        if (pool && signal->group.kind == INDEX_RANGE) amount *= pool->keys;
                        if (signal->group.kind == INDEX_TOKEN) amount *= pool->top;
                        for (int g = lo; g < hi; g++) w->totals[b][signal->counter][g] += amount;
                    }
                }
            }
        }
    }
}

static Track *track_of(const Walk *w, int rank, int counter, int group) {
    return &w->tracks[rank * w->prog->counter_count + counter][group];
}

// Adds what the wait gives to the task's clock. `all_rows`: the task waits for every row's group of this counter.
static void wait_join(Walk *w, const Node *node, const Wait *wait, Tick *clock, bool all_rows) {
    int group = wait->group.kind == INDEX_KEY ? node->key : wait->group.lo;
    if (wait->lag > w->instance) return; // before the first instance
    int64_t base = wait->lag ? w->history[(w->instance - wait->lag) % w->lags][wait->counter][group]
                             : w->base[wait->counter][group];
    int64_t want = base + wait->need;
    if (want <= 0) return;
    Track *track = track_of(w, node->rank, wait->counter, group);
    int at = (int)track->count - 1;
    if (at < 0 || track->at[at].sum < want) {
        fault(w, E0603, node, "waits for %s[%d] >= %lld, but what comes before it signals %lld",
              w->prog->counters[wait->counter].name, group, (long long)want,
              (long long)(at < 0 ? 0 : track->at[at].sum));
        return;
    }
    while (at >= 0 && track->at[at].sum > want) at--;
    if (at < 0) return;
    for (size_t later = (size_t)at + 1; later < track->count; later++)
        if (track->at[later].floor < at) {
            fault(w, E0604, node, "waits for %s[%d] >= %lld, which later signals could reach before all that it means",
                  w->prog->counters[wait->counter].name, group, (long long)want);
            return;
        }
    if (at > track->used) track->used = at;
    bool row = track->at[at].shared != NULL && !all_rows;
    clock_join(w, clock, row ? track->at[at].shared : track->at[at].clock);
}

static void task_waits(Walk *w, const Node *node, const Task *task, Tick *clock) {
    for (int i = 0; i < task->wait_count; i++) {
        const Wait *wait = &task->waits[i];
        // Waits on all groups of a counter, each at the same threshold: then every row's items are done.
        int groups = 0;
        for (int k = 0; k < task->wait_count; k++)
            groups += task->waits[k].counter == wait->counter && task->waits[k].need == wait->need &&
                      task->waits[k].lag == wait->lag;
        wait_join(w, node, wait, clock, groups >= w->prog->counters[wait->counter].groups);
        if (w->stop) return;
    }
}

static int floor_of(const Walk *w, const Track *track, const Tick *clock) {
    int at = (int)track->count - 1;
    while (at >= 0 && !clock_covers(w, clock, track->at[at].clock)) at--;
    return at;
}

// One signal of the step at hand. `also`: the publisher's clock, when it may make the signal in the item's stead.
static void signal_one(Walk *w, const Node *node, int rank, int counter, int group, int64_t amount, const Tick *also,
                       bool token) {
    Track *track = track_of(w, rank, counter, group);
    if (!track->joined) {
        track->adding = 0;
        track->floor = INT_MAX;
        track->joined = clock_new(w);
        track->shared = token ? clock_new(w) : NULL;
    }
    Tick *clock = node->clock;
    int floor = floor_of(w, track, clock), other = also ? floor_of(w, track, also) : floor;
    if (other < floor) floor = other;
    if (floor < track->floor) track->floor = floor;
    track->adding += amount;
    clock_join(w, track->joined, clock);
    if (track->joined[node->agent] < node->tick) track->joined[node->agent] = node->tick;
    if (track->shared) clock_join_queues(w, track->shared, clock);
}

static void node_signals(Walk *w, const Node *node, const Tick *publisher) {
    for (int i = 0; i < node->task->signal_count; i++) {
        const Signal *s = &node->task->signals[i];
        for (int rank = s->all_ranks ? 0 : node->rank; rank < (s->all_ranks ? w->prog->ranks : node->rank + 1);
             rank++) {
            int64_t amount = s->amount;
            if (s->group.kind == INDEX_KEY) {
                signal_one(w, node, rank, s->counter, node->key, amount, publisher, false);
            } else if (s->group.kind == INDEX_TOKEN) {
                // Each row chose `top` keys; the symbolic ones stand for them all.
                for (int g = 0; g < w->prog->counters[s->counter].groups; g++)
                    signal_one(w, node, rank, s->counter, g, node->key == 0 ? amount * node->pool->top : 0, publisher,
                               true);
            } else
                signal_one(w, node, rank, s->counter, s->group.lo,
                           node->pool ? node->key == 0 ? amount * node->pool->keys : 0 : amount, publisher, false);
        }
    }
}

// Closes the groups that this step signalled.
static void close_groups(Walk *w) {
    const Prog *prog = w->prog;
    for (size_t n = 0; n < w->node_count; n++) {
        const Task *task = w->nodes[n].task;
        for (int i = 0; i < task->signal_count; i++) {
            const Signal *s = &task->signals[i];
            int lo = s->group.lo, hi = s->group.hi;
            if (s->group.kind == INDEX_KEY) lo = w->nodes[n].key, hi = lo + 1;
            if (s->group.kind == INDEX_TOKEN) lo = 0, hi = prog->counters[s->counter].groups;
            for (int rank = s->all_ranks ? 0 : w->nodes[n].rank;
                 rank < (s->all_ranks ? prog->ranks : w->nodes[n].rank + 1); rank++)
                for (int g = lo; g < hi; g++) {
                    Track *track = track_of(w, rank, s->counter, g);
                    if (!track->joined) continue;
                    Boundary *last = track->count ? &track->at[track->count - 1] : NULL;
                    if (track->floor < track->used)
                        fault(w, E0604, &w->nodes[n], "signals %s[%d] before all that an earlier wait on it means",
                              prog->counters[s->counter].name, g);
                    if (last) {
                        clock_join(w, track->joined, last->clock);
                        if (track->shared)
                            clock_join_queues(w, track->shared, last->shared ? last->shared : last->clock);
                    }
                    Boundary next = {(last ? last->sum : 0) + track->adding, track->floor, track->joined,
                                     track->shared};
                    if (track->count == track->room)
                        track->at = list_grow(w->ctx->arena, track->at, track->count, &track->room, sizeof *track->at);
                    track->at[track->count++] = next;
                    track->joined = track->shared = NULL;
                }
        }
    }
}

// ---- Accesses ----

static void unordered(Walk *w, const Node *node, Hazard hazard, int buffer, const Access *before, const char *what) {
    if (w->first->hazard == HAZARD_NONE)
        *w->first = (Unordered){hazard, buffer, before->body, before->step, w->body_index, w->step};
    if (!w->report) {
        w->failed = w->stop = true;
        return;
    }
    const Body *body = &w->prog->bodies[before->body];
    fault(w, hazard == HAZARD_READ_AFTER_WRITE ? E0601 : E0602, node,
          "%s %s, but nothing orders it after %s of body %s%s", what, w->prog->buffers[buffer].name,
          op_name(body->steps[before->step].op), body->name,
          before->instance == w->instance ? "" : " in an earlier instance");
    if (w->reports <= MAX_REPORTS)
        diag_help(w->ctx, "a wait is missing, its threshold is too low, or the tasks stand in the wrong order");
}

static bool ordered(const Node *node, const Access *before) { return node->clock[before->agent] >= before->tick; }

static void node_reads(Walk *w, const Node *node) {
    for (int i = 0; i < node->task->read_count && !w->stop; i++) {
        const Region *r = &node->task->reads[i];
        const Buffer *buffer = &w->prog->buffers[r->buffer];
        int layers = r->all_layers ? buffer->layers : 1;
        for (int l = 0; l < layers; l++) {
            Cells cells = cells_of(w, r, node->rank, node->rank, node->key, r->all_layers ? l : w->layer);
            for (Cell *cell; (cell = cells_next(&cells)) && !w->stop;) {
                if (cell->write.stamp == 0) {
                    if (!buffer->state && w->report)
                        fault(w, E0605, node, "reads %s, which nothing has written", buffer->name);
                } else {
                    if (!ordered(node, &cell->write))
                        unordered(w, node, HAZARD_READ_AFTER_WRITE, r->buffer, &cell->write, "reads");
                    if (!buffer->state && cell->round != w->round && w->report)
                        fault(w, E0605, node, "reads %s, which this round has not written yet", buffer->name);
                }
                // One entry an agent: its newest read stands for the older ones.
                Access access = {node->agent, node->tick, w->body_index, w->step, w->instance, w->stamp};
                size_t k = 0;
                while (k < cell->count && cell->readers[k].agent != node->agent) k++;
                if (k < cell->count) {
                    cell->readers[k] = access;
                    continue;
                }
                if (cell->count == cell->room)
                    cell->readers =
                        list_grow(w->ctx->arena, cell->readers, cell->count, &cell->room, sizeof *cell->readers);
                cell->readers[cell->count++] = access;
            }
        }
    }
}

static void node_writes(Walk *w, const Node *node) {
    for (int i = 0; i < node->task->write_count && !w->stop; i++) {
        const Region *r = &node->task->writes[i];
        const Buffer *buffer = &w->prog->buffers[r->buffer];
        int layers = r->all_layers ? buffer->layers : 1;
        for (int rank = r->all_ranks ? 0 : node->rank; rank < (r->all_ranks ? w->prog->ranks : node->rank + 1); rank++)
            for (int l = 0; l < layers; l++) {
                Cells cells = cells_of(w, r, node->rank, rank, node->key, r->all_layers ? l : w->layer);
                for (Cell *cell; (cell = cells_next(&cells)) && !w->stop;) {
                    if (cell->write.stamp == w->stamp) {
                        if (w->report)
                            fault(w, E0606, node, "writes a part of %s that another task of the step writes too",
                                  buffer->name);
                        continue;
                    }
                    if (cell->write.stamp && !ordered(node, &cell->write))
                        unordered(w, node, HAZARD_WRITE_AFTER_WRITE, r->buffer, &cell->write, "writes");
                    for (size_t k = 0; k < cell->count && !w->stop; k++) {
                        const Access *reader = &cell->readers[k];
                        if (reader->agent == node->agent && reader->tick == node->tick) continue;
                        if (reader->stamp == w->stamp) {
                            if (w->report)
                                fault(w, E0602, node, "writes a part of %s that another task of the step reads",
                                      buffer->name);
                        } else if (!ordered(node, reader))
                            unordered(w, node, HAZARD_WRITE_AFTER_READ, r->buffer, reader, "writes");
                    }
                    cell->count = 0;
                    cell->round = w->round;
                    cell->write = (Access){node->agent, node->tick, w->body_index, w->step, w->instance, w->stamp};
                }
            }
    }
}

// What the step covers is written, all of it and nothing else.
static void check_cover(Walk *w) {
    const Step *step = &w->body->steps[w->step];
    const Pool *pool = w->node_count ? w->nodes[0].pool : NULL;
    for (int rank = 0; rank < w->prog->ranks; rank++)
        for (int i = 0; i < step->cover_count; i++) {
            const Region *r = &step->covers[i];
            const Buffer *buffer = &w->prog->buffers[r->buffer];
            for (int key = 0; key < (pool ? w->keys : 1); key++)
                for (int target = r->all_ranks ? 0 : rank; target < (r->all_ranks ? w->prog->ranks : rank + 1);
                     target++)
                    for (int l = 0; l < (r->all_layers ? buffer->layers : 1); l++) {
                        Cells cells = cells_of(w, r, rank, target, key, r->all_layers ? l : w->layer);
                        for (Cell *cell; (cell = cells_next(&cells));) {
                            cell->covered = w->stamp;
                            if (cell->write.stamp == w->stamp) continue;
                            fault(w, E0606, NULL, "step %d (%s) leaves a part of %s unwritten", w->step,
                                  op_name(step->op), buffer->name);
                            return;
                        }
                    }
        }
    for (size_t n = 0; n < w->node_count; n++)
        for (int i = 0; i < w->nodes[n].task->write_count; i++) {
            const Region *r = &w->nodes[n].task->writes[i];
            const Buffer *buffer = &w->prog->buffers[r->buffer];
            for (int target = r->all_ranks ? 0 : w->nodes[n].rank;
                 target < (r->all_ranks ? w->prog->ranks : w->nodes[n].rank + 1); target++)
                for (int l = 0; l < (r->all_layers ? buffer->layers : 1); l++) {
                    Cells cells =
                        cells_of(w, r, w->nodes[n].rank, target, w->nodes[n].key, r->all_layers ? l : w->layer);
                    for (Cell *cell; (cell = cells_next(&cells));) {
                        if (cell->covered == w->stamp) continue;
                        fault(w, E0606, &w->nodes[n], "writes a part of %s that its step does not cover", buffer->name);
                        return;
                    }
                }
        }
}

// ---- The walk ----

static int queue_agent(const Walk *w, int rank, int worker, Role role) {
    return (rank * w->prog->workers + worker) * 2 + (role == ROLE_CONTROL);
}

static Node *node_add(Walk *w) {
    if (w->node_count == w->node_room)
        w->nodes = list_grow(w->ctx->arena, w->nodes, w->node_count, &w->node_room, sizeof *w->nodes);
    return &w->nodes[w->node_count++];
}

// The items of the step, for each rank: after what every worker of the pool knows when it enters.
static void add_items(Walk *w, const Pool *pool, int pool_index) {
    const Prog *prog = w->prog;
    for (int rank = 0; rank < prog->ranks; rank++) {
        Tick *meet = w->meet + (size_t)rank * (size_t)w->agents;
        for (int t = 0; t < pool->item_count; t++) {
            if (pool->items[t].step != w->step) continue;
            for (int key = 0; key < w->keys && key < pool->keys; key++) {
                int agent = 2 * prog->ranks * prog->workers + rank * w->item_agents +
                            w->item_agent[w->body_index][pool_index] + t * KEYS + key;
                Node *node = node_add(w);
                *node = (Node){&pool->items[t], pool, rank, agent, key, -1, ROLE_COMPUTE, 0, clock_new(w)};
                memcpy(node->clock, meet, (size_t)w->agents * sizeof(Tick));
                node->tick = w->item_ticks[agent] + 1;
                task_waits(w, node, node->task, node->clock);
                // Nobody runs an item's agent, so its ticks are in order only if somebody waited for the one before.
                if (node->clock[agent] < w->item_ticks[agent])
                    fault(w, E0602, node, "may run while the same item of an earlier instance does");
                w->item_ticks[agent] = node->tick;
            }
        }
    }
}

// The pool entries of all workers, when the walk comes to the pool's first step.
static void enter_pool(Walk *w, int pool_index) {
    const Prog *prog = w->prog;
    const Pool *pool = &w->body->pools[pool_index];
    for (int rank = 0; rank < prog->ranks; rank++) {
        Tick *meet = w->meet + (size_t)rank * (size_t)w->agents;
        bool any = false;
        for (int worker = 0; worker < prog->workers; worker++)
            for (int load = 0; load < 2; load++) {
                Role role = load ? ROLE_LOAD : ROLE_COMPUTE;
                const Queue *queue = prog_queue(prog, w->body, worker, role);
                for (int e = 0; e < queue->count; e++) {
                    const Entry *entry = &queue->entries[e];
                    if (entry->kind != ENTRY_POOL || entry->pool != pool_index) continue;
                    Node node = {&entry->task, NULL, rank,        queue_agent(w, rank, worker, ROLE_COMPUTE), 0, worker,
                                 role,         0,    clock_new(w)};
                    if (!load) memcpy(node.clock, w->clocks[node.agent], (size_t)w->agents * sizeof(Tick));
                    task_waits(w, &node, &entry->task, node.clock);
                    // Who claims must have seen the routing.
                    const Access *publisher = &w->publisher[rank];
                    if (node.clock[publisher->agent] < publisher->tick) {
                        fault(w, E0607, NULL, "worker %d enters pool %s (%s queue) without waiting for its publisher",
                              worker, pool->name, role_name(role));
                        w->stop |= w->report;
                    }
                    if (!load) {
                        memcpy(w->clocks[node.agent], node.clock, (size_t)w->agents * sizeof(Tick));
                        for (int i = 0; i < w->agents; i++)
                            meet[i] = !any || node.clock[i] < meet[i] ? node.clock[i] : meet[i];
                        any = true;
                    }
                    clock_free(w, node.clock);
                }
            }
        if (!any) {
            fault(w, E0607, NULL, "no worker takes part in pool %s", pool->name);
            w->stop = true;
        }
    }
}

// Keeps what the publisher of the body's pool knows when it ends: it signals in the stead of inactive items.
static bool publish(Walk *w) {
    memset(w->publisher, 0, (size_t)w->prog->ranks * sizeof *w->publisher);
    for (size_t n = 0; n < w->node_count; n++) {
        const Node *node = &w->nodes[n];
        Access *kept = &w->publisher[node->rank];
        if (kept->stamp) {
            fault(w, E0607, node, "the publisher of a pool is one task");
            return false;
        }
        *kept = (Access){node->agent, node->tick, w->body_index, w->step, w->instance, w->stamp};
        Tick *clock = w->published + (size_t)node->rank * (size_t)w->agents;
        memcpy(clock, node->clock, (size_t)w->agents * sizeof *clock);
        clock[node->agent] = node->tick;
    }
    for (int rank = 0; rank < w->prog->ranks; rank++) {
        if (w->publisher[rank].stamp) continue;
        fault(w, E0607, NULL, "the publisher s%d of the pool has no task", w->step);
        return false;
    }
    return true;
}

static void walk_step(Walk *w) {
    const Prog *prog = w->prog;
    w->stamp++;
    w->node_count = 0;
    const Pool *pool = NULL;
    for (int p = 0; p < w->body->pool_count; p++)
        for (int t = 0; t < w->body->pools[p].item_count; t++)
            if (w->body->pools[p].items[t].step == w->step) {
                if (w->body->pools[p].items[0].step == w->step && !pool) enter_pool(w, p);
                pool = &w->body->pools[p];
            }
    if (w->stop) return;
    if (pool) add_items(w, pool, (int)(pool - w->body->pools));
    for (int rank = 0; rank < prog->ranks && !pool; rank++)
        for (int q = 0; q < prog->workers * ROLE_COUNT; q++) {
            const Queue *queue = &w->body->queues[q];
            Role role = (Role)(q % ROLE_COUNT);
            if (role == ROLE_LOAD) continue;
            int *cursor = &w->cursor[rank * prog->workers * ROLE_COUNT + q];
            while (*cursor < queue->count && queue->entries[*cursor].kind == ENTRY_POOL) ++*cursor;
            for (; *cursor < queue->count && queue->entries[*cursor].kind == ENTRY_TASK &&
                   queue->entries[*cursor].task.step == w->step;
                 ++*cursor) {
                const Task *task = &queue->entries[*cursor].task;
                int agent = queue_agent(w, rank, q / ROLE_COUNT, role);
                Node *node = node_add(w);
                *node = (Node){task, NULL, rank, agent, 0, q / ROLE_COUNT, role, 0, clock_new(w)};
                Tick *clock = node->clock;
                memcpy(clock, w->clocks[agent], (size_t)w->agents * sizeof(Tick));
                task_waits(w, node, task, clock);
                if (w->stop) return;
                node->tick = clock[agent] + 1;
                memcpy(w->clocks[agent], clock, (size_t)w->agents * sizeof(Tick));
                w->clocks[agent][agent] = node->tick;
            }
        }
    for (size_t n = 0; n < w->node_count && !w->stop; n++) node_reads(w, &w->nodes[n]);
    for (size_t n = 0; n < w->node_count && !w->stop; n++) node_writes(w, &w->nodes[n]);
    if (w->report && !w->stop && !w->failed) check_cover(w);
    for (size_t n = 0; n < w->node_count && !w->stop; n++)
        node_signals(w, &w->nodes[n], pool ? w->published + (size_t)w->nodes[n].rank * (size_t)w->agents : NULL);
    if (!w->stop) close_groups(w);
    for (int p = 0; p < w->body->pool_count && !w->stop; p++)
        if (w->body->pools[p].publisher == w->step && !publish(w)) w->stop = true;
    for (size_t n = 0; n < w->node_count; n++) clock_free(w, w->nodes[n].clock);
}

// Boundaries that no later wait can ask for are dropped, but for the newest at or below the oldest base still in use.
static void forget(Walk *w) {
    const Prog *prog = w->prog;
    for (int t = 0; t < prog->ranks * prog->counter_count; t++)
        for (int g = 0; g < prog->counters[t % prog->counter_count].groups; g++) {
            Track *track = &w->tracks[t][g];
            int64_t oldest =
                w->instance >= w->lags - 1 ? w->history[(w->instance + 1) % w->lags][t % prog->counter_count][g] : 0;
            size_t keep = 0;
            while (keep + 1 < track->count && track->at[keep + 1].sum <= oldest) keep++;
            if (keep < 8) continue; // moving them each time would cost more
            for (size_t i = 0; i < keep; i++) {
                clock_free(w, track->at[i].clock);
                clock_free(w, track->at[i].shared);
            }
            memmove(track->at, track->at + keep, (track->count - keep) * sizeof *track->at);
            track->count -= keep;
            for (size_t i = 0; i < track->count; i++)
                track->at[i].floor = track->at[i].floor < (int)keep ? -1 : track->at[i].floor - (int)keep;
            track->used = track->used < (int)keep ? -1 : track->used - (int)keep;
        }
}

// Queue entries stand in the order of the steps; a pool stands for the steps of its items.
static bool queues_in_order(Walk *w) {
    const Prog *prog = w->prog;
    for (int b = 0; b < prog->body_count; b++) {
        w->body = &prog->bodies[b];
        for (int q = 0; q < prog->workers * ROLE_COUNT; q++) {
            int last = -1;
            for (int e = 0; e < w->body->queues[q].count; e++) {
                const Entry *entry = &w->body->queues[q].entries[e];
                int first = entry->task.step, newest = first;
                if (entry->kind == ENTRY_POOL) {
                    const Pool *pool = &w->body->pools[entry->pool];
                    first = pool->items[0].step;
                    newest = pool->items[pool->item_count - 1].step;
                }
                bool fine = first >= last && !(entry->kind == ENTRY_POOL && first == last);
                if (!fine) {
                    if (w->report)
                        diag_error(w->ctx, E0608, entry->task.span,
                                   "body %s, worker %d: an entry of step %d after one of step %d", w->body->name,
                                   q / ROLE_COUNT, first, last);
                    return false;
                }
                last = newest;
            }
        }
    }
    return true;
}

static bool setup(Walk *w) {
    const Prog *prog = w->prog;
    Ctx *ctx = w->ctx;
    w->keys = KEYS;
    int max_lag = 0;
    w->item_agent = ARENA_ARRAY(ctx->arena, int *, prog->body_count);
    for (int b = 0; b < prog->body_count; b++) {
        const Body *body = &prog->bodies[b];
        if (!body->queues) return false;
        w->item_agent[b] = ARENA_ARRAY(ctx->arena, int, body->pool_count + 1);
        int agents = 0;
        for (int p = 0; p < body->pool_count; p++) {
            w->item_agent[b][p] = w->item_agents + agents;
            agents += body->pools[p].item_count * KEYS;
            if (body->pools[p].keys < w->keys) w->keys = body->pools[p].keys;
            for (int t = 0; t < body->pools[p].item_count; t++)
                for (int k = 0; k < body->pools[p].items[t].wait_count; k++)
                    if (body->pools[p].items[t].waits[k].lag > max_lag) max_lag = body->pools[p].items[t].waits[k].lag;
        }
        w->item_agents += agents;
        for (int q = 0; q < prog->workers * ROLE_COUNT; q++)
            for (int e = 0; e < body->queues[q].count; e++)
                for (int k = 0; k < body->queues[q].entries[e].task.wait_count; k++)
                    if (body->queues[q].entries[e].task.waits[k].lag > max_lag)
                        max_lag = body->queues[q].entries[e].task.waits[k].lag;
    }
    w->agents = prog->ranks * (2 * prog->workers + w->item_agents);
    int queues = 2 * prog->ranks * prog->workers;
    w->clocks = ARENA_ARRAY(ctx->arena, Tick *, queues);
    for (int i = 0; i < queues; i++) w->clocks[i] = ARENA_ARRAY(ctx->arena, Tick, w->agents);
    w->item_ticks = ARENA_ARRAY(ctx->arena, Tick, w->agents);
    w->publisher = ARENA_ARRAY(ctx->arena, Access, prog->ranks);
    w->published = ARENA_ARRAY(ctx->arena, Tick, (size_t)prog->ranks * (size_t)w->agents);
    w->cursor = ARENA_ARRAY(ctx->arena, int, prog->ranks * prog->workers * ROLE_COUNT);
    w->meet = ARENA_ARRAY(ctx->arena, Tick, (size_t)prog->ranks * (size_t)w->agents);
    w->tracks = ARENA_ARRAY(ctx->arena, Track *, prog->ranks * prog->counter_count + 1);
    for (int t = 0; t < prog->ranks * prog->counter_count; t++) {
        int groups = prog->counters[t % prog->counter_count].groups;
        w->tracks[t] = ARENA_ARRAY(ctx->arena, Track, groups);
        for (int g = 0; g < groups; g++) w->tracks[t][g].used = -1;
    }
    w->lags = max_lag + 2;
    w->base = ARENA_ARRAY(ctx->arena, int64_t *, prog->counter_count + 1);
    w->history = ARENA_ARRAY(ctx->arena, int64_t **, w->lags);
    for (int c = 0; c < prog->counter_count; c++)
        w->base[c] = ARENA_ARRAY(ctx->arena, int64_t, prog->counters[c].groups);
    for (int h = 0; h < w->lags; h++) {
        w->history[h] = ARENA_ARRAY(ctx->arena, int64_t *, prog->counter_count + 1);
        for (int c = 0; c < prog->counter_count; c++)
            w->history[h][c] = ARENA_ARRAY(ctx->arena, int64_t, prog->counters[c].groups);
    }
    make_grids(w);
    make_totals(w);
    return true;
}

static void walk_instance(Walk *w, const RoundItem *item) {
    const Prog *prog = w->prog;
    w->body_index = item->body;
    w->body = &prog->bodies[item->body];
    memset(w->cursor, 0, (size_t)(prog->ranks * prog->workers * ROLE_COUNT) * sizeof *w->cursor);
    for (int c = 0; c < prog->counter_count; c++)
        memcpy(w->history[w->instance % w->lags][c], w->base[c], (size_t)prog->counters[c].groups * sizeof(int64_t));
    for (w->step = 0; w->step < w->body->step_count && !w->stop; w->step++) walk_step(w);
    for (int c = 0; c < prog->counter_count; c++)
        for (int g = 0; g < prog->counters[c].groups; g++) w->base[c][g] += body_totals(w, item->body, c)[g];
    forget(w);
    w->instance++;
}

bool order_walk(Ctx *ctx, const Prog *prog, bool report, Unordered *first) {
    *first = (Unordered){HAZARD_NONE, 0, 0, 0, 0, 0};
    Walk *w = ARENA_NEW(ctx->arena, Walk);
    *w = (Walk){.ctx = ctx, .prog = prog, .report = report, .first = first};
    if (!setup(w) || !queues_in_order(w)) return false;
    for (w->round = 0; w->round < ROUNDS && !w->stop; w->round++) {
        for (int i = 0; i < prog_instances(prog) && !w->stop; i++) {
            const RoundItem *item = prog_instance(prog, i, &w->layer);
            walk_instance(w, item);
            if (w->reports >= MAX_REPORTS || (w->report && w->failed)) w->stop = true;
        }
    }
    return !w->failed;
}
