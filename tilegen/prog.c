#include "prog.h"
#include <string.h>

int prog_buffer(const Prog *prog, const char *name) {
    for (int i = 0; i < prog->buffer_count; i++)
        if (strcmp(prog->buffers[i].name, name) == 0) return i;
    return -1;
}

int prog_counter(const Prog *prog, const char *name) {
    for (int i = 0; i < prog->counter_count; i++)
        if (strcmp(prog->counters[i].name, name) == 0) return i;
    return -1;
}

Queue *prog_queue(const Prog *prog, const Body *body, int worker, Role role) {
    (void)prog;
    return &body->queues[worker * ROLE_COUNT + (int)role];
}

// What a task, or an item template with its pool over all keys, adds to one group.
static int64_t task_total(const Prog *prog, const Task *task, int counter, int group, const Pool *pool) {
    int64_t sum = 0;
    for (int i = 0; i < task->signal_count; i++) {
        const Signal *s = &task->signals[i];
        if (s->counter != counter) continue;
        int64_t amount = (int64_t)s->amount * (s->all_ranks ? prog->ranks : 1);
        if (s->group.kind == INDEX_TOKEN)
            sum += amount * (pool ? pool->top : 1);
        else if (s->group.kind == INDEX_KEY)
            sum += amount;
        else if (group >= s->group.lo && group < s->group.hi)
            sum += amount * (pool ? pool->keys : 1);
    }
    return sum;
}

int64_t prog_total(const Prog *prog, const Body *body, int counter, int group) {
    int64_t sum = 0;
    for (int q = 0; body->queues && q < prog->workers * ROLE_COUNT; q++)
        for (int i = 0; i < body->queues[q].count; i++)
            if (body->queues[q].entries[i].kind == ENTRY_TASK)
                sum += task_total(prog, &body->queues[q].entries[i].task, counter, group, NULL);
    for (int i = 0; i < body->pool_count; i++)
        for (int t = 0; t < body->pools[i].item_count; t++)
            sum += task_total(prog, &body->pools[i].items[t], counter, group, &body->pools[i]);
    return sum;
}

int prog_instances(const Prog *prog) {
    int count = 0;
    for (int i = 0; i < prog->round_count; i++) count += prog->round[i].layer_hi - prog->round[i].layer_lo;
    return count;
}

const RoundItem *prog_instance(const Prog *prog, int index, int *layer) {
    for (int i = 0; i < prog->round_count; i++) {
        const RoundItem *item = &prog->round[i];
        if (index < item->layer_hi - item->layer_lo) {
            *layer = item->layer_lo + index;
            return item;
        }
        index -= item->layer_hi - item->layer_lo;
    }
    return NULL;
}

#define COPY(ctx, at, count) arena_copy((ctx)->arena, (at), (size_t)(count) * sizeof *(at))

static void task_copy(Ctx *ctx, Task *task) {
    task->reads = COPY(ctx, task->reads, task->read_count);
    task->writes = COPY(ctx, task->writes, task->write_count);
    task->waits = COPY(ctx, task->waits, task->wait_count);
    task->signals = COPY(ctx, task->signals, task->signal_count);
    task->pages = COPY(ctx, task->pages, task->page_count);
}

static void queue_copy(Ctx *ctx, Queue *queue) {
    queue->entries = COPY(ctx, queue->entries, queue->count);
    queue->room = queue->count;
    for (int i = 0; i < queue->count; i++) task_copy(ctx, &queue->entries[i].task);
}

Prog *prog_copy(Ctx *ctx, const Prog *prog) {
    Prog *out = COPY(ctx, prog, 1);
    out->buffers = COPY(ctx, out->buffers, out->buffer_count);
    out->counters = COPY(ctx, out->counters, out->counter_count);
    out->round = COPY(ctx, out->round, out->round_count);
    out->bodies = COPY(ctx, out->bodies, out->body_count);
    for (int b = 0; b < out->body_count; b++) {
        Body *body = &out->bodies[b];
        body->steps = COPY(ctx, body->steps, body->step_count);
        for (int i = 0; i < body->step_count; i++)
            body->steps[i].covers = COPY(ctx, body->steps[i].covers, body->steps[i].cover_count);
        body->pools = COPY(ctx, body->pools, body->pool_count);
        for (int i = 0; i < body->pool_count; i++) {
            Pool *pool = &body->pools[i];
            pool->items = COPY(ctx, pool->items, pool->item_count);
            for (int t = 0; t < pool->item_count; t++) task_copy(ctx, &pool->items[t]);
        }
        queue_copy(ctx, &body->unplaced);
        if (!body->queues) continue;
        body->queues = COPY(ctx, body->queues, out->workers * ROLE_COUNT);
        for (int q = 0; q < out->workers * ROLE_COUNT; q++) queue_copy(ctx, &body->queues[q]);
    }
    return out;
}
