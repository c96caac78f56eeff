#include "exec.h"
#include "text.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { STALL_SECONDS = 10, SPINS = 64, YIELDS = 2000 };

// What a page of a worker holds: a chunk of a tile's weights, by its place in the program.
typedef struct Page {
    bool filled;
    int instance, step, lo, part, chunk;
} Page;

// Where a worker is in one of its queues.
typedef struct Place {
    int instance, entry; // of the round
    int item;            // pool entry: claimed and not yet run, or -1
    int taken;           // pool entry, static claims: items considered so far
    int chunk;           // load entry: next chunk
    bool closed;         // load queue's pool entry: nothing more to claim
} Place;

typedef struct Worker {
    int rank, index, thread;
    Place places[ROLE_COUNT];
    Page *pages;
    int *handed, handed_count; // items on their way from the load queue to the compute queue
    int handed_done;           // instance whose load-side pool entry has ended
    bool finished;             // the round
} Worker;

struct Exec {
    const Prog *prog;
    Work work;
    int threads, instances, worker_count;
    const RoundItem **items; // [instances]
    int *layers;             // [instances]
    int *offset;             // [counters] -> first group
    int groups;
    int64_t *prefix;           // [instances + 1][groups]: signalled before each instance of a round
    _Atomic int64_t *counters; // [ranks][groups]
    _Atomic int *claims;       // [ranks][instances]
    int *participants;         // [bodies]: workers in the pool
    int *participant;          // [bodies][workers]: a worker's number among them, or -1
    int *publisher_pool;       // [bodies][max steps] -> pool published by this step, or -1
    int max_steps;
    Worker *workers; // [ranks * workers]
    int64_t round;
    unsigned skip;
    _Atomic int64_t progress; // tasks ended, of all threads
    _Atomic int running;      // tasks under way
    _Atomic int failed;
    const char *fault; // of pages
    pthread_mutex_t lock;
    pthread_cond_t go, done;
    int64_t started; // rounds begun
    int idle;        // threads that have ended the round
    bool quit;
    pthread_t *handles;
    int handle_count;
};

typedef struct ThreadStart {
    Exec *exec;
    int index;
} ThreadStart;

// ---- Waits and signals ----

static bool wait_holds(const Exec *e, const Worker *w, const Wait *wait, int instance, int key) {
    int group = e->offset[wait->counter] + (wait->group.kind == INDEX_KEY ? key : wait->group.lo);
    int64_t round = e->round;
    int before = instance - wait->lag;
    while (before < 0) {
        before += e->instances;
        round--;
    }
    if (round < 0) return true;
    int64_t total = e->prefix[(size_t)e->instances * (size_t)e->groups + (size_t)group];
    int64_t want = round * total + e->prefix[(size_t)before * (size_t)e->groups + (size_t)group] + wait->need;
    return atomic_load_explicit(&e->counters[(size_t)w->rank * (size_t)e->groups + (size_t)group],
                                memory_order_acquire) >= want;
}

static bool waits_hold(const Exec *e, const Worker *w, const Task *task, int instance, int key) {
    for (int i = 0; i < task->wait_count; i++)
        if (!wait_holds(e, w, &task->waits[i], instance, key)) return false;
    return true;
}

static void signal_add(Exec *e, int rank, bool all, int group, int64_t amount) {
    for (int r = all ? 0 : rank; r < (all ? e->prog->ranks : rank + 1); r++)
        atomic_fetch_add_explicit(&e->counters[(size_t)r * (size_t)e->groups + (size_t)group], amount,
                                  memory_order_release);
}

// How many of a row's keys are `key`: 1 or 0.
static bool row_chose(const Routing *routing, int row, int key) {
    for (int k = 0; k < routing->top; k++)
        if (routing->keys[row * routing->top + k] == key) return true;
    return false;
}

static void task_signals(Exec *e, int rank, const Task *task, int key) {
    for (int i = 0; i < task->signal_count; i++) {
        const Signal *s = &task->signals[i];
        int first = e->offset[s->counter];
        if (s->group.kind == INDEX_RANGE)
            signal_add(e, rank, s->all_ranks, first + s->group.lo, s->amount);
        else if (s->group.kind == INDEX_KEY)
            signal_add(e, rank, s->all_ranks, first + key, s->amount);
        else {
            const Routing *routing = e->work.routing(e->work.user, rank);
            for (int row = 0; row < routing->rows; row++)
                if (row_chose(routing, row, key)) signal_add(e, rank, s->all_ranks, first + row, s->amount);
        }
    }
}

// The publisher signals in the stead of inactive keys, and of rows that the round does not have.
static void credit(Exec *e, int rank, const Pool *pool, const Routing *routing) {
    for (int t = 0; t < pool->item_count; t++)
        for (int i = 0; i < pool->items[t].signal_count; i++) {
            const Signal *s = &pool->items[t].signals[i];
            int first = e->offset[s->counter], inactive = pool->keys - routing->active;
            if (s->group.kind == INDEX_RANGE && inactive)
                signal_add(e, rank, s->all_ranks, first + s->group.lo, (int64_t)s->amount * inactive);
            for (int key = routing->active; s->group.kind == INDEX_KEY && key < pool->keys; key++)
                signal_add(e, rank, s->all_ranks, first + key, s->amount);
            for (int row = routing->rows; s->group.kind == INDEX_TOKEN && row < e->prog->rows; row++)
                signal_add(e, rank, s->all_ranks, first + row, (int64_t)s->amount * pool->top);
        }
}

// ---- Running entries ----

static void run_task(Exec *e, Worker *w, const Task *task, int instance, int key) {
    const RoundItem *item = e->items[instance];
    const Body *body = &e->prog->bodies[item->body];
    bool skipped = e->skip >> item->segment & 1;
    atomic_fetch_add_explicit(&e->running, 1, memory_order_relaxed);
    if (!skipped) {
        Run run = {task, body->steps[task->step].op, w->rank, instance, e->layers[instance], key, w->thread};
        e->work.op(e->work.user, &run);
    }
    int pool = e->publisher_pool[item->body * e->max_steps + task->step];
    if (pool >= 0) credit(e, w->rank, &body->pools[pool], e->work.routing(e->work.user, w->rank));
    task_signals(e, w->rank, task, key);
    atomic_fetch_sub_explicit(&e->running, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&e->progress, 1, memory_order_relaxed);
}

static void page_fault(Exec *e, const char *text) {
    e->fault = text;
    atomic_store(&e->failed, 1);
}

// Fills the next chunk of a load entry. True when it could; ends the entry with its last chunk.
static bool load_chunk(Worker *w, Place *place, const Task *load) {
    if (load->ring) { // caches are read where they lie
        place->entry++;
        return true;
    }
    Page *page = &w->pages[load->pages[place->chunk]];
    if (page->filled) return false;
    *page = (Page){true, place->instance, load->step, load->lo, load->part, place->chunk};
    if (++place->chunk == load->page_count) {
        place->chunk = 0;
        place->entry++;
    }
    return true;
}

// Uses and releases a task's chunks; the loads that are still to come are made here, by the same worker's load queue.
static bool use_chunks(Exec *e, Worker *w, const Task *task, int instance) {
    for (int k = 0; k < task->page_count && !task->ring; k++) {
        Page *page = &w->pages[task->pages[k]];
        Place *place = &w->places[ROLE_LOAD];
        while (!page->filled) {
            const Body *body = &e->prog->bodies[e->items[place->instance]->body];
            const Queue *queue = prog_queue(e->prog, body, w->index, ROLE_LOAD);
            if (place->instance < instance && place->entry >= queue->count) { // ended, and not looked at since
                *place = (Place){.instance = place->instance + 1, .item = -1};
                continue;
            }
            if (place->instance != instance || place->entry >= queue->count ||
                queue->entries[place->entry].kind != ENTRY_LOAD ||
                !load_chunk(w, place, &queue->entries[place->entry].task)) {
                page_fault(e, "a task needs a chunk that its worker's load queue does not bring next");
                return false;
            }
        }
        if (page->instance != instance || page->step != task->step || page->lo != task->lo ||
            page->part != task->part || page->chunk != k) {
            page_fault(e, "a page holds another chunk than the task that uses it needs");
            return false;
        }
        page->filled = false;
    }
    return true;
}

// Item `index` of the instance's pool in claim order: its template and key. False past the last.
static bool pool_item(const Pool *pool, int active, int index, const Task **task, int *key) {
    for (int t = 0; t < pool->item_count;) {
        int tiles = 1;
        while (t + tiles < pool->item_count && pool->items[t + tiles].step == pool->items[t].step) tiles++;
        if (index < tiles * active) {
            *key = index / tiles;
            *task = &pool->items[t + index % tiles];
            return true;
        }
        index -= tiles * active;
        t += tiles;
    }
    return false;
}

// The worker's next item: claimed, or dealt out. -1 when none is left.
static int claim(Exec *e, const Worker *w, Place *place, const Pool *pool, int body, int total) {
    if (pool->claim == CLAIM_DYNAMIC) {
        int next = atomic_fetch_add_explicit(
            &e->claims[(size_t)w->rank * (size_t)e->instances + (size_t)place->instance], 1, memory_order_relaxed);
        return next < total ? next : -1;
    }
    int next = e->participant[body * e->prog->workers + w->index] + place->taken++ * e->participants[body];
    return next < total ? next : -1;
}

static int pool_total(const Pool *pool, int active) { return pool->item_count * active; }

// One turn of a pool entry. True when something went forward; *ended when the entry is over.
static bool pool_turn(Exec *e, Worker *w, Place *place, Role role, const Entry *entry, bool *ended) {
    int body_index = e->items[place->instance]->body;
    const Body *body = &e->prog->bodies[body_index];
    const Pool *pool = &body->pools[entry->pool];
    if (!waits_hold(e, w, &entry->task, place->instance, -1)) return false;
    bool skipped = e->skip >> e->items[place->instance]->segment & 1;
    int active = skipped ? 0 : e->work.routing(e->work.user, w->rank)->active;
    if (role == ROLE_LOAD) {
        int room = (pool->page_hi - pool->page_lo) / pool->chunks;
        if (w->handed_count >= (room > 0 ? room : 1)) return false;
        int item = claim(e, w, place, pool, body_index, pool_total(pool, active));
        if (item >= 0) {
            w->handed[w->handed_count++] = item;
            return true;
        }
        w->handed_done = place->instance;
        *ended = true;
        return true;
    }
    if (place->item < 0) {
        if (pool->chunks) {
            if (w->handed_count) {
                place->item = w->handed[0];
                memmove(w->handed, w->handed + 1, (size_t)--w->handed_count * sizeof *w->handed);
            } else if (w->handed_done == place->instance) {
                *ended = true;
                return true;
            } else
                return false;
        } else if ((place->item = claim(e, w, place, pool, body_index, pool_total(pool, active))) < 0) {
            *ended = true;
            return true;
        }
    }
    const Task *task = NULL;
    int key = 0;
    pool_item(pool, active, place->item, &task, &key);
    if (!waits_hold(e, w, task, place->instance, key)) return false;
    run_task(e, w, task, place->instance, key);
    place->item = -1;
    return true;
}

// One turn of one queue. True when something went forward.
static bool queue_turn(Exec *e, Worker *w, Role role) {
    Place *place = &w->places[role];
    if (place->instance == e->instances) return false;
    const Body *body = &e->prog->bodies[e->items[place->instance]->body];
    const Queue *queue = prog_queue(e->prog, body, w->index, role);
    if (place->entry == queue->count) {
        place->instance++;
        place->entry = 0;
        place->taken = 0;
        return true;
    }
    const Entry *entry = &queue->entries[place->entry];
    bool ended = false, moved = true;
    switch (entry->kind) {
    case ENTRY_LOAD: return load_chunk(w, place, &entry->task);
    case ENTRY_POOL: moved = pool_turn(e, w, place, role, entry, &ended); break;
    case ENTRY_TASK:
        if (!waits_hold(e, w, &entry->task, place->instance, -1)) return false;
        if (!use_chunks(e, w, &entry->task, place->instance)) return false;
        run_task(e, w, &entry->task, place->instance, -1);
        ended = true;
        break;
    }
    if (ended) place->entry++;
    return moved;
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void thread_round(Exec *e, int thread) {
    int quiet = 0, left = 0;
    int64_t last = -1;
    double since = 0;
    for (int i = 0; i < e->worker_count; i++) {
        Worker *w = &e->workers[i];
        if (w->thread != thread) continue;
        w->finished = false;
        left++;
        for (int r = 0; r < ROLE_COUNT; r++) w->places[r] = (Place){.item = -1};
        w->handed_done = -1;
    }
    while (left && !atomic_load_explicit(&e->failed, memory_order_relaxed)) {
        bool moved = false;
        for (int i = 0; i < e->worker_count; i++) {
            Worker *w = &e->workers[i];
            if (w->thread != thread || w->finished) continue;
            bool here = false, over = true;
            for (int r = 0; r < ROLE_COUNT; r++) {
                // A queue goes on as long as it can: loads run ahead, tasks stay in cache.
                while (queue_turn(e, w, (Role)r)) here = true;
                over &= w->places[r].instance == e->instances;
            }
            moved |= here;
            if (over) {
                w->finished = true;
                left--;
            }
        }
        if (moved) {
            quiet = 0;
            continue;
        }
        if (++quiet < SPINS) continue;
        if (quiet < YIELDS) {
            sched_yield();
            continue;
        }
        nanosleep(&(struct timespec){0, 50000}, NULL);
        int64_t now = atomic_load_explicit(&e->progress, memory_order_relaxed);
        if (now != last || atomic_load_explicit(&e->running, memory_order_relaxed)) {
            last = now;
            since = seconds();
        } else if (seconds() - since > STALL_SECONDS)
            atomic_store(&e->failed, 1);
    }
}

static void *thread_main(void *user) {
    ThreadStart *start = user;
    Exec *e = start->exec;
    for (int64_t seen = 0;;) {
        pthread_mutex_lock(&e->lock);
        while (e->started == seen && !e->quit) pthread_cond_wait(&e->go, &e->lock);
        seen = e->started;
        bool quit = e->quit;
        pthread_mutex_unlock(&e->lock);
        if (quit) return NULL;
        thread_round(e, start->index);
        pthread_mutex_lock(&e->lock);
        if (++e->idle == e->threads - 1) pthread_cond_signal(&e->done);
        pthread_mutex_unlock(&e->lock);
    }
}

bool exec_round(Exec *e, unsigned skip) {
    if (atomic_load(&e->failed)) return false;
    for (int i = 0; i < e->prog->ranks * e->instances; i++)
        atomic_store_explicit(&e->claims[i], 0, memory_order_relaxed);
    pthread_mutex_lock(&e->lock);
    e->skip = skip;
    e->idle = 0;
    e->started++;
    pthread_cond_broadcast(&e->go);
    pthread_mutex_unlock(&e->lock);
    thread_round(e, 0);
    pthread_mutex_lock(&e->lock);
    while (e->idle < e->threads - 1) pthread_cond_wait(&e->done, &e->lock);
    pthread_mutex_unlock(&e->lock);
    e->round++;
    return !atomic_load(&e->failed);
}

// ---- Set-up ----

static void prepare_counters(Ctx *ctx, Exec *e) {
    const Prog *prog = e->prog;
    e->offset = ARENA_ARRAY(ctx->arena, int, prog->counter_count + 1);
    for (int c = 0; c < prog->counter_count; c++) {
        e->offset[c] = e->groups;
        e->groups += prog->counters[c].groups;
    }
    size_t groups = (size_t)e->groups;
    int64_t *totals = ARENA_ARRAY(ctx->arena, int64_t, (size_t)prog->body_count * groups + 1);
    for (int b = 0; b < prog->body_count; b++)
        for (int c = 0; c < prog->counter_count; c++)
            for (int g = 0; g < prog->counters[c].groups; g++)
                totals[(size_t)b * groups + (size_t)(e->offset[c] + g)] = prog_total(prog, &prog->bodies[b], c, g);
    e->prefix = ARENA_ARRAY(ctx->arena, int64_t, ((size_t)e->instances + 1) * groups + 1);
    for (int i = 0; i < e->instances; i++)
        for (size_t g = 0; g < groups; g++)
            e->prefix[((size_t)i + 1) * groups + g] =
                e->prefix[(size_t)i * groups + g] + totals[(size_t)e->items[i]->body * groups + g];
    e->counters = arena_array(ctx->arena, (size_t)prog->ranks * groups + 1, sizeof *e->counters);
    e->claims = arena_array(ctx->arena, (size_t)(prog->ranks * e->instances) + 1, sizeof *e->claims);
}

static void prepare_pools(Ctx *ctx, Exec *e) {
    const Prog *prog = e->prog;
    for (int b = 0; b < prog->body_count; b++)
        if (prog->bodies[b].step_count > e->max_steps) e->max_steps = prog->bodies[b].step_count;
    e->participants = ARENA_ARRAY(ctx->arena, int, prog->body_count);
    e->participant = ARENA_ARRAY(ctx->arena, int, prog->body_count * prog->workers);
    e->publisher_pool = ARENA_ARRAY(ctx->arena, int, prog->body_count * e->max_steps);
    memset(e->publisher_pool, -1, (size_t)(prog->body_count * e->max_steps) * sizeof(int));
    for (int b = 0; b < prog->body_count; b++) {
        const Body *body = &prog->bodies[b];
        for (int p = 0; p < body->pool_count; p++) e->publisher_pool[b * e->max_steps + body->pools[p].publisher] = p;
        for (int worker = 0; worker < prog->workers; worker++) {
            const Queue *queue = prog_queue(prog, body, worker, ROLE_COMPUTE);
            e->participant[b * prog->workers + worker] = -1;
            for (int i = 0; i < queue->count; i++)
                if (queue->entries[i].kind == ENTRY_POOL)
                    e->participant[b * prog->workers + worker] = e->participants[b]++;
        }
    }
}

static void exec_release(void *user) {
    Exec *e = user;
    pthread_mutex_lock(&e->lock);
    e->quit = true;
    pthread_cond_broadcast(&e->go);
    pthread_mutex_unlock(&e->lock);
    for (int i = 0; i < e->handle_count; i++) pthread_join(e->handles[i], NULL);
    e->handle_count = 0;
}

Exec *exec_new(Ctx *ctx, const Prog *prog, int threads, Work work) {
    Exec *e = ARENA_NEW(ctx->arena, Exec);
    e->prog = prog;
    e->work = work;
    e->worker_count = prog->ranks * prog->workers;
    e->threads = threads < 1 ? 1 : threads > e->worker_count ? e->worker_count : threads;
    e->instances = prog_instances(prog);
    e->items = ARENA_ARRAY(ctx->arena, const RoundItem *, e->instances);
    e->layers = ARENA_ARRAY(ctx->arena, int, e->instances);
    for (int i = 0; i < e->instances; i++) e->items[i] = prog_instance(prog, i, &e->layers[i]);
    prepare_counters(ctx, e);
    prepare_pools(ctx, e);
    e->workers = ARENA_ARRAY(ctx->arena, Worker, e->worker_count);
    for (int i = 0; i < e->worker_count; i++) {
        Worker *w = &e->workers[i];
        *w = (Worker){.rank = i / prog->workers, .index = i % prog->workers, .thread = i % e->threads};
        w->pages = ARENA_ARRAY(ctx->arena, Page, prog->page_count + 1);
        w->handed = ARENA_ARRAY(ctx->arena, int, prog->page_count + 1);
    }
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->go, NULL);
    pthread_cond_init(&e->done, NULL);
    e->handles = ARENA_ARRAY(ctx->arena, pthread_t, e->threads);
    ThreadStart *starts = ARENA_ARRAY(ctx->arena, ThreadStart, e->threads);
    ctx_defer(ctx, exec_release, e);
    for (int i = 1; i < e->threads; i++) {
        starts[i] = (ThreadStart){e, i};
        if (pthread_create(&e->handles[e->handle_count], NULL, thread_main, &starts[i]) != 0) {
            diag_error(ctx, E0901, NO_SPAN, "cannot start %d threads", e->threads);
            diag_help(ctx, "use fewer with --threads");
            ctx_done(ctx, e);
            return NULL;
        }
        e->handle_count++;
    }
    return e;
}

void exec_free(Exec *e) { exec_release(e); }

int exec_threads(const Exec *e) { return e->threads; }

char *exec_report(Ctx *ctx, const Exec *e) {
    Text text = text_new(ctx->arena);
    if (e->fault) text_printf(&text, "%s\n", e->fault);
    int shown = 0;
    for (int i = 0; i < e->worker_count && shown < 12; i++) {
        const Worker *w = &e->workers[i];
        for (int r = 0; r < ROLE_COUNT; r++) {
            const Place *place = &w->places[r];
            if (place->instance == e->instances) continue;
            const Body *body = &e->prog->bodies[e->items[place->instance]->body];
            const Queue *queue = prog_queue(e->prog, body, w->index, (Role)r);
            if (place->entry >= queue->count) continue;
            const Entry *entry = &queue->entries[place->entry];
            const char *what = entry->kind == ENTRY_POOL ? "a pool" : op_name(body->steps[entry->task.step].op);
            text_printf(&text, "rank %d worker %d %s: %s in body %s, layer %d", w->rank, w->index, role_name((Role)r),
                        what, body->name, e->layers[place->instance]);
            for (int k = 0; k < entry->task.wait_count; k++) {
                const Wait *wait = &entry->task.waits[k];
                if (wait->group.kind != INDEX_RANGE || wait_holds(e, w, wait, place->instance, -1)) continue;
                int group = e->offset[wait->counter] + wait->group.lo;
                text_printf(&text, ", waits for %s[%d], which is at %lld", e->prog->counters[wait->counter].name,
                            wait->group.lo,
                            (long long)atomic_load(&e->counters[(size_t)w->rank * (size_t)e->groups + (size_t)group]));
            }
            text_printf(&text, "\n");
            shown++;
        }
    }
    return text.at;
}
