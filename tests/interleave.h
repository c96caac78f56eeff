// Runs a small placed Prog by the words of prog.h alone, in an order of events drawn at random, and says what breaks:
// a read that does not see what the sequential program would have it see, two writes at once, or a standstill.
//
// A task is three kinds of events: its start (waits hold), its end, and each arrival of each signal on each rank, in
// any order. Reads and writes last from start to end. Pages are not modelled; pools with chunks are claimed by the load
// queue, at most two items ahead.
#ifndef INTERLEAVE_H
#define INTERLEAVE_H
#include "check.h"
#include "prog.h"

enum { SIM_ROUNDS = 4, SIM_EVENTS = 4096, SIM_CELLS = 4096, SIM_LIST = 96, SIM_AGENTS = 64, SIM_PENDING = 128 };

typedef struct SimEvent {
    const Task *task;
    int rank, instance, body, key, step;
    int reads[SIM_LIST], wanted[SIM_LIST], writes[SIM_LIST];
    int read_count, write_count;
} SimEvent;

typedef struct SimPool { // of a rank and instance
    int items[SIM_LIST], count, claimed, participants;
    int active, chosen[16]; // keys chosen by each row, one bit a key
} SimPool;

typedef enum SimPhase { SIM_IDLE, SIM_RUNNING, SIM_SIGNALLING, SIM_POOL } SimPhase;
typedef struct SimAgent {
    int rank, worker, instance, entry, phase_event, own[SIM_LIST], own_count, own_done, place;
    Role role;
    SimPhase phase;
    bool in_pool, claims_over;
    struct {
        int rank, counter, group, amount;
    } pending[SIM_PENDING];
    int pending_count, priority;
} SimAgent;

typedef struct Sim {
    const Prog *prog;
    uint64_t seed;
    int instances, round, event_count, cell_count, agent_count;
    SimEvent events[SIM_EVENTS];
    int *base_of; // [buffer] first cell of rank 0, layer 0
    int bases[64], sizes[64];
    int version[SIM_CELLS], torn[SIM_CELLS], final[SIM_CELLS];
    int64_t counters[8][64][16]; // rank, counter, group
    int64_t sums[64][64][16];    // instance of the round, counter, group: what comes before it; [round]: all
    SimPool pools[8][64];
    SimAgent agents[SIM_AGENTS];
    char why[400];
} Sim;

static int sim_below(Sim *s, int n) { return (int)(check_random(&s->seed) % (uint64_t)n); }

static int sim_cells(const Sim *s, const Region *r, int rank, int owner, int key, int active, int layer, int *out,
                     int count) {
    const Buffer *buffer = &s->prog->buffers[r->buffer];
    int lo[REGION_RANK], hi[REGION_RANK], layers = buffer->layers ? buffer->layers : 1;
    for (int d = 0; d < REGION_RANK; d++) {
        Index i = r->at[d];
        lo[d] = i.lo, hi[d] = i.hi;
        if (d >= buffer->rank)
            lo[d] = 0, hi[d] = 1;
        else if (i.kind == INDEX_KEY)
            lo[d] = key, hi[d] = key + 1;
        else if (i.kind == INDEX_SELF)
            lo[d] = rank, hi[d] = rank + 1;
        else if (i.kind == INDEX_ACTIVE)
            lo[d] = 0, hi[d] = active;
    }
    for (int l = r->all_layers    ? 0
                 : buffer->layers ? layer
                                  : 0;
         l < (r->all_layers    ? layers
              : buffer->layers ? layer + 1
                               : 1);
         l++)
        for (int a = lo[0]; a < hi[0]; a++)
            for (int b = lo[1]; b < hi[1]; b++)
                for (int c = lo[2]; c < hi[2] && count < SIM_LIST; c++) {
                    int d1 = buffer->rank > 1 ? buffer->dims[1] : 1, d2 = buffer->rank > 2 ? buffer->dims[2] : 1;
                    out[count++] =
                        s->bases[r->buffer] + (owner * layers + l) * s->sizes[r->buffer] + (a * d1 + b) * d2 + c;
                }
    return count;
}

static int sim_event(Sim *s, const Task *task, int rank, int instance, int body, int layer, int key, int active) {
    SimEvent *e = &s->events[s->event_count];
    *e = (SimEvent){.task = task, .rank = rank, .instance = instance, .body = body, .key = key, .step = task->step};
    for (int i = 0; i < task->read_count; i++)
        e->read_count = sim_cells(s, &task->reads[i], rank, rank, key, active, layer, e->reads, e->read_count);
    for (int i = 0; i < task->write_count; i++)
        for (int owner = 0; owner < s->prog->ranks; owner++)
            if (owner == rank || task->writes[i].all_ranks)
                e->write_count =
                    sim_cells(s, &task->writes[i], rank, owner, key, active, layer, e->writes, e->write_count);
    return s->event_count++;
}

static bool sim_lay(Sim *s) {
    const Prog *p = s->prog;
    s->round = prog_instances(p);
    s->instances = SIM_ROUNDS * s->round;
    if (s->round >= 60 / SIM_ROUNDS || p->counter_count > 64 || p->buffer_count > 64 || p->ranks > 8) return false;
    for (int b = 0; b < p->buffer_count; b++) {
        const Buffer *buffer = &p->buffers[b];
        s->sizes[b] = 1;
        for (int d = 0; d < buffer->rank; d++) s->sizes[b] *= buffer->dims[d];
        s->bases[b] = s->cell_count;
        s->cell_count += s->sizes[b] * (buffer->layers ? buffer->layers : 1) * p->ranks;
        if (s->cell_count > SIM_CELLS) return false;
    }
    for (int i = 0; i <= s->round; i++)
        for (int c = 0; c < p->counter_count; c++)
            for (int g = 0; g < p->counters[c].groups && g < 16; g++) {
                int layer;
                s->sums[i][c][g] =
                    i ? s->sums[i - 1][c][g] + prog_total(p, &p->bodies[prog_instance(p, i - 1, &layer)->body], c, g)
                      : 0;
            }
    // The sequential program: what each read sees.
    for (int i = 0; i < s->instances; i++) {
        int layer;
        const RoundItem *item = prog_instance(p, i % s->round, &layer);
        const Body *body = &p->bodies[item->body];
        for (int rank = 0; rank < p->ranks; rank++)
            for (int k = 0; k < body->pool_count; k++) {
                SimPool *pool = &s->pools[rank][i];
                const Pool *made = &body->pools[k];
                int most = 0; // active keys so far; each was chosen by a row
                for (int row = 0; row < p->rows; row++) {
                    pool->chosen[row] = 0;
                    for (int want = made->top; want;) {
                        int key = sim_below(s, most + 1 < made->keys ? most + 1 : made->keys);
                        if (pool->chosen[row] >> key & 1) continue;
                        pool->chosen[row] |= 1 << key;
                        if (key == most) most++;
                        want--;
                    }
                    // A row that the round lacks chooses nothing: the publisher credits it.
                    if (row && sim_below(s, 4) == 0 && pool->chosen[row] >> (most - 1) == 0) pool->chosen[row] = 0;
                }
                pool->active = most;
            }
        for (int step = 0; step < body->step_count; step++) {
            int from = s->event_count;
            for (int rank = 0; rank < p->ranks; rank++) {
                for (int q = 0; q < p->workers * ROLE_COUNT; q++)
                    for (int e = 0; e < body->queues[q].count; e++)
                        if (body->queues[q].entries[e].kind == ENTRY_TASK &&
                            body->queues[q].entries[e].task.step == step) {
                            if (s->event_count == SIM_EVENTS) return false;
                            sim_event(s, &body->queues[q].entries[e].task, rank, i, item->body, layer, 0,
                                      s->pools[rank][i].active);
                        }
                for (int k = 0; k < body->pool_count; k++)
                    for (int key = 0; key < s->pools[rank][i].active; key++)
                        for (int t = 0; t < body->pools[k].item_count; t++)
                            if (body->pools[k].items[t].step == step) {
                                SimPool *pool = &s->pools[rank][i];
                                if (s->event_count == SIM_EVENTS || pool->count == SIM_LIST) return false;
                                pool->items[pool->count++] = sim_event(s, &body->pools[k].items[t], rank, i, item->body,
                                                                       layer, key, pool->active);
                            }
            }
            for (int e = from; e < s->event_count; e++)
                for (int r = 0; r < s->events[e].read_count; r++)
                    s->events[e].wanted[r] = s->final[s->events[e].reads[r]];
            for (int e = from; e < s->event_count; e++)
                for (int w = 0; w < s->events[e].write_count; w++) s->final[s->events[e].writes[w]] = e + 1;
        }
    }
    for (int rank = 0; rank < p->ranks; rank++)
        for (int w = 0; w < p->workers; w++)
            for (int r = 0; r < ROLE_COUNT; r++) {
                if (s->agent_count == SIM_AGENTS) return false;
                s->agents[s->agent_count++] = (SimAgent){.rank = rank, .worker = w, .role = (Role)r};
            }
    return true;
}

static const Queue *sim_queue(const Sim *s, const SimAgent *a, const Body **body) {
    int layer;
    *body = &s->prog->bodies[prog_instance(s->prog, a->instance % s->round, &layer)->body];
    return &(*body)->queues[a->worker * ROLE_COUNT + (int)a->role];
}

static bool sim_met(const Sim *s, const Task *task, int rank, int instance, int key) {
    for (int i = 0; i < task->wait_count; i++) {
        const Wait *w = &task->waits[i];
        int g = w->group.kind == INDEX_KEY ? key : w->group.lo, at = instance - w->lag, rounds = 0;
        while (at < 0) at += s->round, rounds--;
        rounds += at / s->round;
        int64_t base = rounds * s->sums[s->round][w->counter][g] + s->sums[at % s->round][w->counter][g];
        if (s->counters[rank][w->counter][g] < base + w->need) return false;
    }
    return true;
}

static bool sim_wrong(Sim *s, const SimEvent *e, const char *what, int cell) {
    int buffer = 0;
    for (int b = 0; b < s->prog->buffer_count; b++)
        if (s->bases[b] <= cell) buffer = b;
    snprintf(s->why, sizeof s->why, "%s: s%d %d:%d key %d of body %s, instance %d, rank %d, in %s", what, e->step,
             e->task->lo, e->task->hi, e->key, s->prog->bodies[e->body].name, e->instance, e->rank,
             s->prog->buffers[buffer].name);
    return false;
}

static bool sim_reads(Sim *s, int id) {
    const SimEvent *e = &s->events[id];
    for (int r = 0; r < e->read_count; r++) {
        int cell = e->reads[r];
        if (s->torn[cell] && s->torn[cell] != id + 1) return sim_wrong(s, e, "reads what is being written", cell);
        if (s->torn[cell] != id + 1 && s->version[cell] != e->wanted[r])
            return sim_wrong(s, e, "reads the wrong version", cell);
    }
    return true;
}

static bool sim_start(Sim *s, int id) {
    const SimEvent *e = &s->events[id];
    if (!sim_reads(s, id)) return false;
    for (int w = 0; w < e->write_count; w++) {
        if (s->torn[e->writes[w]]) return sim_wrong(s, e, "writes what is being written", e->writes[w]);
        s->torn[e->writes[w]] = id + 1;
    }
    return true;
}

static void sim_pend(SimAgent *a, int rank, int counter, int group, int amount) {
    if (a->pending_count == SIM_PENDING || amount == 0) return;
    a->pending[a->pending_count].rank = rank, a->pending[a->pending_count].counter = counter;
    a->pending[a->pending_count].group = group, a->pending[a->pending_count++].amount = amount;
}

static bool sim_end(Sim *s, SimAgent *a, int id) {
    const SimEvent *e = &s->events[id];
    if (!sim_reads(s, id)) return false;
    for (int w = 0; w < e->write_count; w++) s->version[e->writes[w]] = id + 1, s->torn[e->writes[w]] = 0;
    const Body *body = &s->prog->bodies[e->body];
    const SimPool *pool = &s->pools[e->rank][e->instance];
    for (int i = 0; i < e->task->signal_count; i++) {
        const Signal *g = &e->task->signals[i];
        for (int rank = 0; rank < s->prog->ranks; rank++) {
            if (rank != e->rank && !g->all_ranks) continue;
            if (g->group.kind == INDEX_TOKEN) {
                for (int row = 0; row < s->prog->rows; row++)
                    if (pool->chosen[row] >> e->key & 1) sim_pend(a, rank, g->counter, row, g->amount);
            } else
                sim_pend(a, rank, g->counter, g->group.kind == INDEX_KEY ? e->key : g->group.lo, g->amount);
        }
    }
    // Credits for keys that are not active and rows that are not there.
    for (int k = 0; k < body->pool_count; k++) {
        if (body->pools[k].publisher != e->step) continue;
        for (int t = 0; t < body->pools[k].item_count; t++)
            for (int i = 0; i < body->pools[k].items[t].signal_count; i++) {
                const Signal *g = &body->pools[k].items[t].signals[i];
                for (int row = 0; row < s->prog->rows; row++)
                    if (g->group.kind == INDEX_TOKEN && !pool->chosen[row])
                        sim_pend(a, e->rank, g->counter, row, g->amount * body->pools[k].top);
                for (int key = pool->active; key < body->pools[k].keys; key++)
                    if (g->group.kind != INDEX_TOKEN)
                        for (int rank = 0; rank < s->prog->ranks; rank++)
                            if (rank == e->rank || g->all_ranks)
                                sim_pend(a, rank, g->counter, g->group.kind == INDEX_KEY ? key : g->group.lo,
                                         g->amount);
            }
    }
    return true;
}

static void sim_deliver(Sim *s, SimAgent *a) {
    int k = sim_below(s, a->pending_count);
    s->counters[a->pending[k].rank][a->pending[k].counter][a->pending[k].group] += a->pending[k].amount;
    a->pending[k] = a->pending[--a->pending_count];
}

static int sim_find(const Sim *s, const Task *task, int rank, int instance) {
    for (int e = 0; e < s->event_count; e++)
        if (s->events[e].task == task && s->events[e].rank == rank && s->events[e].instance == instance) return e;
    return -1;
}

static SimAgent *sim_other(Sim *s, const SimAgent *a, Role role) {
    return &s->agents[(a->rank * s->prog->workers + a->worker) * ROLE_COUNT + (int)role];
}

// Which participant of the pool the worker is, and how many there are.
static int sim_place(const Sim *s, const SimAgent *a, const Body *body, int pool, int *count) {
    int place = 0;
    *count = 0;
    for (int w = 0; w < s->prog->workers; w++)
        for (int e = 0; e < body->queues[w * ROLE_COUNT + (int)ROLE_COMPUTE].count; e++) {
            const Entry *entry = &body->queues[w * ROLE_COUNT + (int)ROLE_COMPUTE].entries[e];
            if (entry->kind != ENTRY_POOL || entry->pool != pool) continue;
            if (w == a->worker) place = *count;
            ++*count;
        }
    return place;
}

// Claims an item for the worker's compute agent `to`. False: none is left for it.
static bool sim_claim(Sim *s, const SimAgent *a, SimAgent *to, const Body *body, int pool, int instance) {
    SimPool *made = &s->pools[a->rank][instance];
    int count, place = sim_place(s, a, body, pool, &count);
    if (body->pools[pool].claim == CLAIM_DYNAMIC) {
        if (made->claimed == made->count) return false;
        to->own[to->own_count++] = made->items[made->claimed++];
        return true;
    }
    int next = place + to->own_count * count;
    if (next >= made->count) return false;
    to->own[to->own_count++] = made->items[next];
    return true;
}

// One event of an agent: 1 happened, 0 it cannot move, -1 broken.
static int sim_move(Sim *s, SimAgent *a) {
    if (a->instance == s->instances) return 0;
    const Body *body;
    const Queue *queue = sim_queue(s, a, &body);
    if (a->phase == SIM_IDLE && a->entry == queue->count) {
        a->instance++;
        a->entry = 0;
        return 1;
    }
    if (a->phase == SIM_RUNNING) {
        if (!sim_end(s, a, a->phase_event)) return -1;
        a->phase = SIM_SIGNALLING;
        return 1;
    }
    if (a->phase == SIM_SIGNALLING) {
        if (a->pending_count) {
            sim_deliver(s, a);
            return 1;
        }
        a->phase = a->in_pool ? SIM_POOL : SIM_IDLE;
        if (a->in_pool)
            a->own_done++;
        else
            a->entry++;
        return 1;
    }
    const Entry *entry = &queue->entries[a->entry];
    if (a->phase == SIM_IDLE) {
        if (entry->kind == ENTRY_LOAD) {
            a->entry++;
            return 1;
        }
        if (!sim_met(s, &entry->task, a->rank, a->instance, 0)) return 0;
        if (entry->kind == ENTRY_TASK) {
            a->phase_event = sim_find(s, &entry->task, a->rank, a->instance);
            a->phase = SIM_RUNNING;
            return sim_start(s, a->phase_event) ? 1 : -1;
        }
        a->phase = SIM_POOL;
        a->in_pool = true;
        if (a->role != ROLE_LOAD && !body->pools[entry->pool].chunks) a->own_count = a->own_done = 0;
        return 1;
    }
    // In a pool.
    const Pool *pool = &body->pools[entry->pool];
    if (a->role == ROLE_LOAD) {
        SimAgent *to = sim_other(s, a, ROLE_COMPUTE);
        if (to->claims_over || to->own_count - to->own_done >= 2) return 0; // the pages of its last pool are in use
        if (sim_claim(s, a, to, body, entry->pool, a->instance)) return 1;
        to->claims_over = true;
        a->in_pool = false;
        a->phase = SIM_IDLE;
        a->entry++;
        return 1;
    }
    if (a->own_done == a->own_count) {
        if (pool->chunks ? a->claims_over : !sim_claim(s, a, a, body, entry->pool, a->instance)) {
            a->in_pool = a->claims_over = false;
            a->own_count = a->own_done = 0;
            a->phase = SIM_IDLE;
            a->entry++;
            return 1;
        }
        return a->own_done < a->own_count;
    }
    int id = a->own[a->own_done];
    if (!sim_met(s, s->events[id].task, a->rank, a->instance, s->events[id].key)) return 0;
    a->phase_event = id;
    a->phase = SIM_RUNNING;
    return sim_start(s, id) ? 1 : -1;
}

// True when the run keeps the promise, or the Prog is too large for the simulator (why is then empty and `ran` false).
static bool sim_run(Sim *s, const Prog *prog, uint64_t seed, bool *ran) {
    memset(s, 0, sizeof *s);
    s->prog = prog;
    s->seed = seed;
    *ran = sim_lay(s);
    if (!*ran) return true;
    // Agents with priorities that change now and then: slow and fast workers, starved ones, or no preference at all.
    int manner = sim_below(s, 3);
    for (int i = 0; i < s->agent_count; i++) s->agents[i].priority = sim_below(s, 1000);
    for (;;) {
        bool tried[SIM_AGENTS] = {false};
        int moved = 0;
        if (manner == 1 && sim_below(s, 20) == 0) s->agents[sim_below(s, s->agent_count)].priority = sim_below(s, 1000);
        for (int left = s->agent_count; left > 0 && !moved; left--) {
            int best = -1, skip = sim_below(s, left);
            for (int i = 0; i < s->agent_count; i++) {
                if (tried[i]) continue;
                if (manner == 0 ? skip-- == 0 : best < 0 || s->agents[i].priority > s->agents[best].priority) best = i;
            }
            tried[best] = true;
            moved = sim_move(s, &s->agents[best]);
        }
        if (moved < 0) return false;
        if (!moved) break;
    }
    for (int i = 0; i < s->agent_count; i++) {
        const SimAgent *a = &s->agents[i];
        if (a->instance == s->instances) continue;
        snprintf(s->why, sizeof s->why, "standstill: worker %d %s of rank %d at instance %d, entry %d", a->worker,
                 role_name(a->role), a->rank, a->instance, a->entry);
        return false;
    }
    for (int c = 0; c < s->cell_count; c++)
        if (s->version[c] != s->final[c]) {
            snprintf(s->why, sizeof s->why, "a cell ends with the wrong version");
            return false;
        }
    return true;
}
#endif
