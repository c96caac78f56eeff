#include "prog.h"
#include "text.h"
#include <string.h>

static void print_index(Text *text, Index index) {
    static const char *const names[] = {"", "key", "token", "self", "active"};
    if (index.kind == INDEX_RANGE)
        text_printf(text, "%d:%d", index.lo, index.hi);
    else
        text_printf(text, "%s", names[index.kind]);
}

static void print_regions(Text *text, const Prog *prog, const char *word, const Region *regions, int count) {
    for (int i = 0; i < count; i++) {
        const Region *r = &regions[i];
        const Buffer *buffer = &prog->buffers[r->buffer];
        text_printf(text, "%s%s%s%s[", i ? "," : word, buffer->name, r->all_ranks ? "@all" : "",
                    r->all_layers ? "*" : "");
        for (int d = 0; d < buffer->rank; d++) {
            if (d) text_add(text, ",", 1);
            print_index(text, r->at[d]);
        }
        text_add(text, "]", 1);
    }
}

// A group is one number, or a name.
static void print_group(Text *text, Index group) {
    if (group.kind == INDEX_RANGE)
        text_printf(text, "[%d]", group.lo);
    else
        text_printf(text, "[%s]", group.kind == INDEX_KEY ? "key" : "token");
}

static void print_waits(Text *text, const Prog *prog, const Task *task) {
    for (int i = 0; i < task->wait_count; i++) {
        const Wait *w = &task->waits[i];
        text_printf(text, "%s%s", i ? "," : " wait ", prog->counters[w->counter].name);
        print_group(text, w->group);
        if (w->lag) text_printf(text, "-%d", w->lag);
        text_printf(text, ">=%d", w->need);
    }
}

static void print_pages(Text *text, const Task *task) {
    for (int i = 0; i < task->page_count; i++) text_printf(text, "%s%d", i ? "," : " pages ", task->pages[i]);
    if (task->ring) text_printf(text, "..");
}

static void print_head(Text *text, const Task *task) {
    text_printf(text, "s%d %d:%d", task->step, task->lo, task->hi);
    if (task->part) text_printf(text, " part %d", task->part);
}

static void print_task(Text *text, const Prog *prog, const Task *task) {
    print_head(text, task);
    print_regions(text, prog, " reads ", task->reads, task->read_count);
    print_regions(text, prog, " writes ", task->writes, task->write_count);
    print_waits(text, prog, task);
    for (int i = 0; i < task->signal_count; i++) {
        const Signal *s = &task->signals[i];
        text_printf(text, "%s%s%s", i ? "," : " signal ", prog->counters[s->counter].name, s->all_ranks ? "@all" : "");
        print_group(text, s->group);
        text_printf(text, "+%d", s->amount);
    }
    print_pages(text, task);
    text_add(text, "\n", 1);
}

static void print_queue(Text *text, const Prog *prog, const Queue *queue) {
    for (int i = 0; i < queue->count; i++) {
        const Entry *entry = &queue->entries[i];
        text_printf(text, "    ");
        switch (entry->kind) {
        case ENTRY_TASK: print_task(text, prog, &entry->task); break;
        case ENTRY_LOAD:
            text_printf(text, "load ");
            print_head(text, &entry->task);
            print_pages(text, &entry->task);
            text_add(text, "\n", 1);
            break;
        case ENTRY_POOL:
            text_printf(text, "pool %d", entry->pool);
            print_waits(text, prog, &entry->task);
            text_add(text, "\n", 1);
            break;
        }
    }
}

static void print_body(Text *text, const Prog *prog, const Body *body) {
    text_printf(text, "body %s\n", body->name);
    for (int i = 0; i < body->step_count; i++) {
        text_printf(text, "  step %d %s", i, op_name(body->steps[i].op));
        print_regions(text, prog, " covers ", body->steps[i].covers, body->steps[i].cover_count);
        text_add(text, "\n", 1);
    }
    for (int i = 0; i < body->pool_count; i++) {
        const Pool *pool = &body->pools[i];
        text_printf(text, "  pool %d %s keys %d top %d publisher s%d %s", i, pool->name, pool->keys, pool->top,
                    pool->publisher, pool->claim == CLAIM_DYNAMIC ? "dynamic" : "static");
        if (pool->chunks) text_printf(text, " pages %d:%d chunks %d", pool->page_lo, pool->page_hi, pool->chunks);
        text_add(text, "\n", 1);
        for (int t = 0; t < pool->item_count; t++) {
            text_printf(text, "    ");
            print_task(text, prog, &pool->items[t]);
        }
    }
    if (!body->queues) {
        text_printf(text, "  unplaced\n");
        print_queue(text, prog, &body->unplaced);
        return;
    }
    for (int worker = 0; worker < prog->workers; worker++)
        for (int role = 0; role < ROLE_COUNT; role++) {
            const Queue *queue = prog_queue(prog, body, worker, (Role)role);
            if (!queue->count) continue;
            text_printf(text, "  queue %d %s\n", worker, role_name((Role)role));
            print_queue(text, prog, queue);
        }
}

char *prog_print(Ctx *ctx, const Prog *prog) {
    static const char *const segments[] = {"target", "draft", "context"};
    Text out = text_new(ctx->arena), *text = &out;
    text_printf(text, "prog 1\nmodel %s\nsku %s\nranks %d\nworkers %d\nrows %d\n", prog->model, prog->sku, prog->ranks,
                prog->workers, prog->rows);
    for (int role = 0; role < ROLE_COUNT; role++)
        if (prog->roles[role].used)
            text_printf(text, "role %s warps %d registers %d\n", role_name((Role)role), prog->roles[role].warps,
                        prog->roles[role].registers);
    if (prog->page_count) text_printf(text, "pages %d x %d\n", prog->page_count, prog->page_bytes);
    for (int i = 0; i < prog->buffer_count; i++) {
        const Buffer *buffer = &prog->buffers[i];
        text_printf(text, "buffer %s %s [", buffer->name, dtype_name(buffer->dtype));
        for (int d = 0; d < buffer->rank; d++) text_printf(text, "%s%d", d ? "," : "", buffer->dims[d]);
        text_add(text, "]", 1);
        if (buffer->layers) text_printf(text, " layers %d", buffer->layers);
        if (buffer->state) text_printf(text, " state");
        text_add(text, "\n", 1);
    }
    for (int i = 0; i < prog->counter_count; i++)
        text_printf(text, "counter %s %d%s\n", prog->counters[i].name, prog->counters[i].groups,
                    prog->counters[i].via == VIA_DATA ? " data" : "");
    for (int i = 0; i < prog->body_count; i++) print_body(text, prog, &prog->bodies[i]);
    text_printf(text, "round\n");
    for (int i = 0; i < prog->round_count; i++)
        text_printf(text, "  %s %s %d:%d\n", segments[prog->round[i].segment], prog->bodies[prog->round[i].body].name,
                    prog->round[i].layer_lo, prog->round[i].layer_hi);
    text_printf(text, "end\n");
    return out.at;
}
