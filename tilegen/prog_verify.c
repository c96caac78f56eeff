#include "prog.h"
#include <stdarg.h>
#include <string.h>

// Where the verifier is, for its messages.
typedef struct Verify {
    Ctx *ctx;
    const Prog *prog;
    const Body *body;
    const Task *task;
    const Pool *pool; // when the task is an item
    bool *pooled;     // [steps of the body]: its tasks are items
    int layers;       // one more than the highest layer that runs the body
} Verify;

__attribute__((format(printf, 2, 3))) static bool bad(const Verify *v, const char *format, ...) {
    va_list args;
    char text[300];
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    Span span = v->task ? v->task->span : NO_SPAN;
    if (v->body)
        diag_error(v->ctx, E0502, span, "body %s: %s", v->body->name, text);
    else
        diag_error(v->ctx, E0502, span, "%s", text);
    return false;
}

enum {
    MAX_DIM = 1 << 24,
    MAX_GROUPS = 1 << 16,
    MAX_NEED = 1 << 28,
    MAX_KEYS = 4096,
    MAX_STEPS = 62,
    MAX_CHUNKS = 4096,
    MAX_INSTANCES = 1024,
    MAX_PAGE_BYTES = 1 << 24
};

// A name that the printed Prog can carry: `extra` are the characters it may have beside letters, digits, '_' and '.'.
static bool name_fine(const char *name, const char *extra) {
    if (!name || !*name || strchr(extra, *name)) return false;
    for (const char *s = name; *s; s++) {
        bool plain = (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9');
        if (!plain && *s != '_' && *s != '.' && !strchr(extra, *s)) return false;
    }
    return true;
}

static bool verify_region(const Verify *v, const Region *r, bool write) {
    const Prog *prog = v->prog;
    if (r->buffer < 0 || r->buffer >= prog->buffer_count) return bad(v, "no buffer %d", r->buffer);
    const Buffer *buffer = &prog->buffers[r->buffer];
    if (r->all_ranks && !write) return bad(v, "%s@all is read; only writes go to all ranks", buffer->name);
    if (r->all_layers && !buffer->layers) return bad(v, "%s has no layers", buffer->name);
    if (buffer->layers && !r->all_layers && v->layers > buffer->layers)
        return bad(v, "runs layer %d of %s, which has %d", v->layers - 1, buffer->name, buffer->layers);
    int keyed = 0, ranked = 0;
    bool by_key = false;
    for (int d = 0; d < buffer->rank; d++) {
        Index i = r->at[d];
        keyed += i.kind == INDEX_KEY || i.kind == INDEX_ACTIVE;
        ranked += i.kind == INDEX_SELF;
        by_key |= i.kind == INDEX_KEY;
        switch (i.kind) {
        case INDEX_RANGE:
            if (i.lo < 0 || i.lo >= i.hi || i.hi > buffer->dims[d])
                return bad(v, "%s has %d in dimension %d, not %d:%d", buffer->name, buffer->dims[d], d, i.lo, i.hi);
            break;
        case INDEX_KEY:
            if (!v->pool) return bad(v, "%s[key] outside a pool", buffer->name);
            if (buffer->dims[d] < v->pool->keys)
                return bad(v, "%s has %d of %d keys", buffer->name, buffer->dims[d], v->pool->keys);
            break;
        case INDEX_SELF:
            if (buffer->dims[d] < prog->ranks)
                return bad(v, "%s has %d of %d ranks", buffer->name, buffer->dims[d], prog->ranks);
            break;
        case INDEX_ACTIVE:
            if (write) return bad(v, "%s[active] is written; only reads take all active keys", buffer->name);
            if (!v->body->pool_count) return bad(v, "%s[active] in a body without a pool", buffer->name);
            if (!v->task || v->task->step <= v->body->pools[0].publisher)
                return bad(v, "%s[active] before the pool's publisher has ended", buffer->name);
            if (v->body->pools[0].keys != buffer->dims[d])
                return bad(v, "%s[active] has %d keys, the pool %d", buffer->name, buffer->dims[d],
                           v->body->pools[0].keys);
            break;
        default: return bad(v, "%s: an index that regions do not have", buffer->name);
        }
    }
    // Which keys are active is not known here, so items write what is their key's own. Twice would be a diagonal, which
    // is no block of the buffer.
    if (write && v->pool && !by_key) return bad(v, "%s is written by a pool's items, but not by key", buffer->name);
    if (keyed > 1 || ranked > 1) return bad(v, "%s is indexed twice by the same name", buffer->name);
    return true;
}

static bool verify_group(const Verify *v, int counter, Index group, bool signal) {
    if (counter < 0 || counter >= v->prog->counter_count) return bad(v, "no counter %d", counter);
    const Counter *c = &v->prog->counters[counter];
    if (group.kind == INDEX_KEY) {
        if (!v->pool) return bad(v, "%s[key] outside a pool", c->name);
        return c->groups == v->pool->keys ||
               bad(v, "%s has %d groups, the pool %d keys", c->name, c->groups, v->pool->keys);
    }
    if (group.kind == INDEX_TOKEN) {
        if (!v->pool || !signal) return bad(v, "%s[token] is for signals of items", c->name);
        return c->groups == v->prog->rows || bad(v, "%s has %d groups for %d rows", c->name, c->groups, v->prog->rows);
    }
    if (group.kind != INDEX_RANGE || group.lo < 0 || group.hi != group.lo + 1 || group.hi > c->groups)
        return bad(v, "%s has %d groups, not one of number %d", c->name, c->groups, group.lo);
    return true;
}

static bool verify_waits(const Verify *v, const Task *task) {
    for (int i = 0; i < task->wait_count; i++) {
        const Wait *w = &task->waits[i];
        if (!verify_group(v, w->counter, w->group, false)) return false;
        if (w->lag < 0 || w->lag > 4096) return bad(v, "a lag of %d", w->lag);
        if (w->need < 0 || w->need > MAX_NEED) return bad(v, "a threshold of %d", w->need);
    }
    return true;
}

static bool verify_pages(const Verify *v, const Task *task) {
    for (int i = 0; i < task->page_count; i++)
        if (task->pages[i] < 0 || task->pages[i] >= v->prog->page_count)
            return bad(v, "page %d of %d", task->pages[i], v->prog->page_count);
    if (task->ring && task->page_count != 1) return bad(v, "chunks in a ring of pages have one first page");
    return true;
}

static bool verify_task(Verify *v, const Task *task) {
    v->task = task;
    if (task->step < 0 || task->step >= v->body->step_count) return bad(v, "no step s%d", task->step);
    if (task->lo < 0 || task->lo >= task->hi || task->part < 0)
        return bad(v, "an empty tile %d:%d", task->lo, task->hi);
    for (int i = 0; i < task->read_count; i++)
        if (!verify_region(v, &task->reads[i], false)) return false;
    for (int i = 0; i < task->write_count; i++)
        if (!verify_region(v, &task->writes[i], true)) return false;
    for (int i = 0; i < task->signal_count; i++) {
        const Signal *s = &task->signals[i];
        if (!verify_group(v, s->counter, s->group, true)) return false;
        if (s->amount < 1 || s->amount > 1 << 16) return bad(v, "a signal of %d", s->amount);
    }
    return verify_waits(v, task) && verify_pages(v, task);
}

static bool verify_pool(Verify *v, const Pool *pool) {
    v->task = NULL;
    v->pool = NULL;
    if (pool->keys < 1 || pool->keys > MAX_KEYS || pool->top < 1 || pool->top > pool->keys)
        return bad(v, "pool %s: %d keys, top %d", pool->name, pool->keys, pool->top);
    if (pool->publisher < 0 || pool->publisher >= v->body->step_count)
        return bad(v, "pool %s: no step s%d", pool->name, pool->publisher);
    if (pool->item_count < 1) return bad(v, "pool %s has no items", pool->name);
    if (pool->chunks < 0 || pool->chunks > MAX_CHUNKS) return bad(v, "pool %s: %d chunks", pool->name, pool->chunks);
    if (pool->chunks && (pool->page_lo < 0 || pool->page_lo >= pool->page_hi || pool->page_hi > v->prog->page_count))
        return bad(v, "pool %s: pages %d:%d of %d", pool->name, pool->page_lo, pool->page_hi, v->prog->page_count);
    for (int t = 0; t < pool->item_count; t++) {
        const Task *item = &pool->items[t];
        v->pool = pool;
        if (!verify_task(v, item)) return false;
        if (item->step <= pool->publisher)
            return bad(v, "an item of s%d, not after its publisher s%d", item->step, pool->publisher);
        if (t && item->step < pool->items[t - 1].step) return bad(v, "items come step by step");
        if (item->page_count) return bad(v, "an item's pages are the pool's");
        v->pooled[item->step] = true;
    }
    v->pool = NULL;
    return true;
}

static bool verify_queue(Verify *v, const Queue *queue, Role role, bool placed) {
    for (int i = 0; i < queue->count; i++) {
        const Entry *entry = &queue->entries[i];
        v->task = &entry->task;
        if (entry->kind == ENTRY_POOL) {
            if (entry->pool < 0 || entry->pool >= v->body->pool_count) return bad(v, "no pool %d", entry->pool);
            if (placed && role == ROLE_CONTROL) return bad(v, "a pool in a control queue");
            if (placed && role == ROLE_LOAD && !v->body->pools[entry->pool].chunks)
                return bad(v, "a load queue runs a pool without pages");
            const Task *t = &entry->task;
            if (t->read_count || t->write_count || t->signal_count || t->page_count)
                return bad(v, "a pool's entry has waits and nothing else");
            if (!verify_waits(v, &entry->task)) return false;
            continue;
        }
        if (placed && (entry->kind == ENTRY_LOAD) != (role == ROLE_LOAD))
            return bad(v, role == ROLE_LOAD ? "a task in a load queue" : "a load outside a load queue");
        if (!verify_task(v, &entry->task)) return false;
        if (entry->kind == ENTRY_LOAD) {
            const Task *t = &entry->task;
            if (t->read_count || t->write_count || t->wait_count || t->signal_count)
                return bad(v, "a load has pages and nothing else");
            if (!t->page_count) return bad(v, "a load without pages");
        }
        if (v->pooled[entry->task.step]) return bad(v, "s%d belongs to a pool", entry->task.step);
    }
    return true;
}

static bool verify_body(Verify *v, const Body *body) {
    v->body = body;
    v->task = NULL;
    if (body->step_count < 1 || body->step_count > MAX_STEPS)
        return bad(v, "%d steps; 1 to %d are allowed", body->step_count, MAX_STEPS);
    if (body->pool_count > 1) return bad(v, "%d pools; at most one", body->pool_count);
    bool pooled[MAX_STEPS] = {false};
    v->pooled = pooled;
    for (int i = 0; i < body->pool_count; i++)
        if (!verify_pool(v, &body->pools[i])) return false;
    for (int i = 0; i < body->step_count; i++) {
        const Step *step = &body->steps[i];
        v->task = NULL;
        v->pool = pooled[i] ? &body->pools[0] : NULL;
        if (step->op < 0 || step->op >= OP_COUNT) return bad(v, "s%d: no op %d", i, (int)step->op);
        for (int c = 0; c < step->cover_count; c++)
            if (!verify_region(v, &step->covers[c], true)) return false;
    }
    v->pool = NULL;
    if (!body->queues) return verify_queue(v, &body->unplaced, ROLE_COMPUTE, false);
    for (int q = 0; q < v->prog->workers * ROLE_COUNT; q++) {
        Role role = (Role)(q % ROLE_COUNT);
        if (body->queues[q].count && !v->prog->roles[role].used)
            return bad(v, "worker %d has a %s queue, but the Prog no such role", q / ROLE_COUNT, role_name(role));
        if (!verify_queue(v, &body->queues[q], role, true)) return false;
    }
    return true;
}

static bool verify_header(const Verify *v) {
    const Prog *prog = v->prog;
    if (!name_fine(prog->model, "-/")) return bad(v, "\"%s\" is not a model's name", prog->model ? prog->model : "");
    if (!name_fine(prog->sku, "-/")) return bad(v, "\"%s\" is not an SKU's name", prog->sku ? prog->sku : "");
    if (prog->ranks < 1 || prog->ranks > 8) return bad(v, "%d ranks; 1 to 8 are allowed", prog->ranks);
    if (prog->workers < 1 || prog->workers > 1024) return bad(v, "%d workers; 1 to 1024 are allowed", prog->workers);
    if (prog->rows < 1 || prog->rows > MAX_ROWS) return bad(v, "%d rows; 1 to %d are allowed", prog->rows, MAX_ROWS);
    if (prog->page_count < 0 || prog->page_count > 256 || prog->page_bytes < 0 || prog->page_bytes > MAX_PAGE_BYTES)
        return bad(v, "%d pages of %d bytes", prog->page_count, prog->page_bytes);
    for (int r = 0; r < ROLE_COUNT; r++) {
        const SchedRole *role = &prog->roles[r];
        if (role->used && (role->warps < 0 || role->warps > 32 || role->registers < 0 || role->registers > 1024))
            return bad(v, "role %s: %d warps, %d registers", role_name((Role)r), role->warps, role->registers);
    }
    return true;
}

static bool verify_declarations(const Verify *v) {
    const Prog *prog = v->prog;
    for (int i = 0; i < prog->buffer_count; i++) {
        const Buffer *b = &prog->buffers[i];
        if (!name_fine(b->name, "")) return bad(v, "buffer %d has no name that can be printed", i);
        if (prog_buffer(prog, b->name) != i) return bad(v, "buffer %s is declared twice", b->name);
        if (b->rank < 1 || b->rank > REGION_RANK || b->layers < 0 || b->layers > MAX_LAYERS)
            return bad(v, "buffer %s: shape", b->name);
        int64_t elements = 1;
        for (int d = 0; d < b->rank; d++) {
            if (b->dims[d] < 1 || b->dims[d] > MAX_DIM)
                return bad(v, "buffer %s: %d in dimension %d", b->name, b->dims[d], d);
            elements *= b->dims[d];
            if (elements > INT32_MAX) return bad(v, "buffer %s is too large", b->name);
        }
    }
    for (int i = 0; i < prog->counter_count; i++) {
        const Counter *c = &prog->counters[i];
        if (!name_fine(c->name, "")) return bad(v, "counter %d has no name that can be printed", i);
        if (prog_counter(prog, c->name) != i) return bad(v, "counter %s is declared twice", c->name);
        if (c->groups < 1 || c->groups > MAX_GROUPS) return bad(v, "counter %s: %d groups", c->name, c->groups);
    }
    return true;
}

static bool verify_round(const Verify *v) {
    const Prog *prog = v->prog;
    if (prog->round_count < 1) return bad(v, "the round is empty");
    int instances = 0;
    for (int i = 0; i < prog->round_count; i++) {
        const RoundItem *item = &prog->round[i];
        if (item->body < 0 || item->body >= prog->body_count) return bad(v, "no body %d", item->body);
        if (item->layer_lo < 0 || item->layer_lo >= item->layer_hi || item->layer_hi > MAX_LAYERS)
            return bad(v, "body %s: layers %d:%d", prog->bodies[item->body].name, item->layer_lo, item->layer_hi);
        instances += item->layer_hi - item->layer_lo;
        if (instances > MAX_INSTANCES) return bad(v, "more than %d instances a round", MAX_INSTANCES);
    }
    return true;
}

bool prog_verify(Ctx *ctx, const Prog *prog) {
    Verify v = {.ctx = ctx, .prog = prog};
    if (!verify_header(&v) || !verify_declarations(&v) || !verify_round(&v)) return false;
    bool placed = prog->bodies[0].queues;
    for (int i = 0; i < prog->body_count; i++) {
        const Body *body = &prog->bodies[i];
        v.body = NULL;
        v.task = NULL;
        if (!name_fine(body->name, "")) return bad(&v, "body %d has no name that can be printed", i);
        for (int k = 0; k < i; k++)
            if (strcmp(prog->bodies[k].name, body->name) == 0) return bad(&v, "body %s is declared twice", body->name);
        if ((body->queues != NULL) != placed) return bad(&v, "some bodies are placed and some are not");
        v.layers = 0;
        for (int k = 0; k < prog->round_count; k++)
            if (prog->round[k].body == i && prog->round[k].layer_hi > v.layers) v.layers = prog->round[k].layer_hi;
        if (!verify_body(&v, body)) return false;
    }
    return true;
}
