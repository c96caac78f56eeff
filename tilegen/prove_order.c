// Clocks: what is over when an event starts, in every execution.
//
// A wait that needs the sum v of a group is taken to return after S, the longest prefix of the group's marks whose sum
// is at most v (its first `sure` marks). Why that holds. Let the first wait that ever returns too early be one for S.
// Its counter had reached v, which is at least S's sum, without all of S: so a signal t outside S had arrived before
// some signal s of S had. The fence rule below shows for each such t that s had arrived before t was sent, by queue
// order and by waits that returned before then, which were not too early. Contradiction.
//
// The fence rule: for each group, S of the longest prefix that some wait relies on before t's own mark must have
// arrived when t is sent. This follows either from the clock of t's event, which knows that each task of S has done all
// its signals (even ticks: its queue went on; or it has but one, which somebody waited for), or from the group's own
// tick in that clock: somebody whose start t knows of has waited for all of S on this rank (on another rank that
// says nothing: a signal to all ranks does not arrive everywhere at once). Prefixes that are shorter follow.
//
// Two rounds show all. A boundary of the second round has its likeness in the first, unless that lies before the first
// round where nothing has to hold; what is signalled later than one round after S comes after the like entry of S's
// next round. Later rounds have all edges of these two, moved, as thresholds move with the sums.
//
// Pools. An item runs in some participant's pool entry, so it knows what all participants know when they enter it (the
// meet of their clocks), and what its waits tell. Of its signals others cannot tell the item from the publisher's
// credit, except items of the same key in the same instance, which run only if their key is active (`strong`). Others
// learn what the publisher knew, and that those items of this instance and key are over that the item waited for, as an
// inactive key has no items at all. A counter that counts all keys tells more: at least one of
// them was active, and what items of either symbolic key know of others, that one knew. Rows: a round may lack a row,
// which then has credits alone; but every active key was chosen by a row, so waits for all rows (`strong` again) mean
// all items.
//
// Progress. Edges are all that may block: the entry before, every signal that the threshold needs (all of a mark that
// is needed in part), the claims before an item. Waits reach back, or to their own instance, never forward (E0603); so
// if each instance is free of circles, so are all rounds. Load queues add none: prove_pages.c.
#include "prove_parts.h"
#include <string.h>

typedef struct Run {
    Prove *p;
    int instance;
    const Instance *at;
    const BodyForm *form;
    size_t length; // of a clock
    Tick **queues; // running clock of each queue
    Tick **spare;  // clocks to use again
    int spare_count, spare_room;
    int *meets; // pools whose participants' clocks have been met in this instance
    Tick **pool_meet;
} Run;

static Tick *clock_new(Run *r) {
    if (r->spare_count) {
        Tick *clock = r->spare[--r->spare_count];
        memset(clock, 0, r->length * sizeof *clock);
        return clock;
    }
    return ARENA_ARRAY(r->p->arena, Tick, r->length);
}

static Tick *clock_copy(Run *r, const Tick *from) {
    Tick *clock = r->spare_count ? r->spare[--r->spare_count] : ARENA_ARRAY(r->p->arena, Tick, r->length);
    memcpy(clock, from, r->length * sizeof *clock);
    return clock;
}

static void clock_drop(Run *r, Tick **clock) {
    if (!*clock) return;
    if (r->spare_count == r->spare_room) {
        int room = r->spare_room ? 2 * r->spare_room : 256;
        Tick **grown = ARENA_ARRAY(r->p->arena, Tick *, room);
        if (r->spare_count) memcpy(grown, r->spare, (size_t)r->spare_count * sizeof *grown);
        r->spare = grown;
        r->spare_room = room;
    }
    r->spare[r->spare_count++] = *clock;
    *clock = NULL;
}

static void raise(Tick *at, Tick to) {
    if (*at < to) *at = to;
}

// Whether all signals of a key group's marks in this instance up to `step` are of the pool: then an item of the pool
// that waits for its key's group knows that they are items' own.
static bool all_of_pool(const BodyForm *form, int step, int pool) {
    for (; step >= 0; step = form->steps[step].before)
        for (int m = 0; m < form->steps[step].count; m++)
            if (form->nodes[form->steps[step].members[m].node].pool != pool) return false;
    return true;
}

static void wait_join(Run *r, const Node *node, const WaitForm *wait, Tick *clock) {
    if (wait->mode == WAIT_WEAK) return;
    Bound bound = prove_bound(r->p, r->instance, wait);
    if (!bound.sure) return;
    Group *group = &r->p->groups[wait->group];
    Mark *mark = &group->marks[bound.sure - 1];
    bool strong = wait->mode == WAIT_ALL_ROWS || (wait->mode == WAIT_OWN_KEY && mark->instance == r->instance &&
                                                  all_of_pool(r->form, mark->step, node->pool));
    const Tick *from = strong && mark->strong ? mark->strong : mark->joined;
    bool before = bound.before;
    if (from && !before) clock_join(clock, from, r->length);
    if (group->known >= 0 && !before && (r->p->kinds[group->counter] != COUNTER_TOKEN || wait->mode == WAIT_ALL_ROWS))
        raise(&clock[group->known], bound.sure);
    if (--mark->uses == 0) {
        clock_drop(r, &mark->joined);
        clock_drop(r, &mark->strong);
    }
}

static void pool_enters(Run *r, const Node *node, const Tick *clock) {
    Prove *p = r->p;
    const Body *body = &p->prog->bodies[r->at->body];
    int publisher = r->form->pools[node->pool].publisher;
    if (publisher < 0) return;
    const Node *route = &r->form->nodes[publisher];
    Tick needed = entry_ended(p, route);
    const char *who = clock[route->agent] < needed ? "worker" : NULL;
    if (node->loader) {
        Tick *knows = clock_new(r); // what the load queue waited for in this entry
        for (int w = 0; w < node->load_count; w++) wait_join(r, node, &node->waits[node->wait_count + w], knows);
        if (!who && knows[route->agent] < needed) who = "load queue of worker";
        clock_drop(r, &knows);
    }
    if (!who || !prove_fails(p, E0607, r->at->body, node->pool, -4, 0)) return;
    diag_error(p->ctx, E0607, prove_span(p, r->at->body, route),
               "the %s %d enters pool %s of body %s before %s is sure to have published its keys", who, node->worker,
               body->pools[node->pool].name, body->name, prove_task(p, r->at->body, route, r->instance));
    diag_help(p->ctx, "let every pool entry, in load queues too, wait for a counter that the publisher signals");
}

static const Tick *pool_meet(Run *r, int pool) {
    const PoolForm *form = &r->form->pools[pool];
    Tick *meet = r->pool_meet[pool];
    if (r->meets[pool] == r->instance + 1) return meet;
    r->meets[pool] = r->instance + 1;
    if (!meet) meet = r->pool_meet[pool] = clock_new(r);
    memset(meet, 0, r->length * sizeof *meet);
    for (int s = 0; s < form->start_count; s++) {
        const Tick *start = node_clock(r->p, form->starts[s]);
        if (s)
            clock_meet(meet, start, r->length);
        else
            memcpy(meet, start, r->length * sizeof *meet);
    }
    return meet;
}

static void event_start(Run *r, int n) {
    Prove *p = r->p;
    const Node *node = &r->form->nodes[n];
    Tick *clock = node_clock(p, n);
    if (node->kind == NODE_POOL_END) return;
    bool item = node->kind == NODE_ITEM;
    memcpy(clock, item ? pool_meet(r, node->pool) : r->queues[node->agent], r->length * sizeof *clock);
    for (int w = 0; w < node->wait_count; w++) wait_join(r, node, &node->waits[w], clock);
    if (item) {
        // Ticks of items count occurrences, so that each must come after the one before.
        if (clock[node->agent] < r->at->occurrence &&
            prove_fails(p, E0607, r->at->body, node->pool, -5, node->task->step)) {
            diag_error(p->ctx, E0607, prove_span(p, r->at->body, node),
                       "%s may start while the same item of an earlier layer still runs",
                       prove_task(p, r->at->body, node, r->instance));
            diag_help(p->ctx, "let the pool's entries wait for what waits for all items of the layer before");
        }
        return;
    }
    clock[node->agent] = entry_ended(p, node); // as its own accesses and signals see it
    memcpy(r->queues[node->agent], clock, r->length * sizeof *clock);
    r->queues[node->agent][node->agent] = entry_ended(p, node) + 1;
    if (node->kind == NODE_POOL) pool_enters(r, node, clock);
}

// Whether an event knows that everything in the fence has arrived at its own rank's group, or at another rank's.
static bool fence_known(const Run *r, const Group *group, const Tick *clock, bool elsewhere) {
    size_t width = r->p->width;
    const Tick *self = clock, *other = clock + width;
    if (elsewhere) {
        if (group->known >= 0 && other[group->known] >= group->fence_marks) return true;
        return clock_lacks(other, group->fence, 0, width) < 0 &&
               clock_lacks(self, group->fence + width, 0, width) < 0 &&
               (r->p->prog->ranks < 3 || clock_lacks(other, group->fence + width, 0, width) < 0);
    }
    if (group->known >= 0 && self[group->known] >= group->fence_marks) return true;
    return clock_lacks(self, group->fence, 0, width) < 0 &&
           (r->p->parts < 2 || clock_lacks(other, group->fence + width, 0, width) < 0);
}

static void fence_fails(Run *r, const Group *group, const Node *node, int step) {
    Prove *p = r->p;
    const Mark *last = &group->marks[group->fence_marks - 1];
    const Instance *before = &p->instances[last->instance];
    const GroupStep *first = &p->bodies[before->body].steps[last->step];
    const Node *slow = &p->bodies[before->body].nodes[first->members[0].node];
    if (p->quiet) {
        int buffer = node->task->write_count ? node->task->writes[0].buffer : -1;
        if (p->overtaken.hazard == HAZARD_NONE && buffer >= 0)
            p->overtaken = (Unordered){HAZARD_WRITE_AFTER_WRITE, buffer, before->body, first->step, r->at->body, step};
        return;
    }
    if (!prove_fails(p, E0604, group->counter, r->at->body, step, before->body << 6 | first->step)) return;
    diag_error(p->ctx, E0604, prove_span(p, r->at->body, node),
               "%s may signal %s while signals that come before it are still missing",
               prove_task(p, r->at->body, node, r->instance), prove_group(p, (int)(group - p->groups)));
    diag_note(p->ctx, prove_span(p, before->body, slow), "a wait for %s would take it for that of %s",
              prove_group(p, (int)(group - p->groups)), prove_task(p, before->body, slow, last->instance));
    diag_help(p->ctx,
              "let the later signaller wait, directly or through others, until the earlier ones have signalled");
}

static int member_events(const Run *r, const Member *member) {
    bool every = member->mode == MEMBER_EACH || member->mode == MEMBER_TOKEN;
    return every ? r->form->pools[r->form->nodes[member->node].pool].keys : 1;
}

static void fence_check(Run *r, const GroupStep *step, const Group *group) {
    for (int m = 0; m < step->count; m++) {
        const Member *member = &step->members[m];
        bool known = true;
        for (int key = 0; key < member_events(r, member) && known; key++) {
            const Tick *clock = node_clock(r->p, member->node + key);
            known = fence_known(r, group, clock, false) && (!member->all_ranks || fence_known(r, group, clock, true));
        }
        if (member->publisher >= 0) known = known && fence_known(r, group, node_clock(r->p, member->publisher), false);
        if (!known) fence_fails(r, group, &r->form->nodes[member->node], step->step);
    }
}

// What is over of the items of one key in this instance, if nothing is known of its being active.
static void item_join(Run *r, Tick *into, int n) {
    const Node *node = &r->form->nodes[n];
    const PoolForm *pool = &r->form->pools[node->pool];
    const Tick *clock = node_clock(r->p, n), *published = node_clock(r->p, pool->publisher);
    int items = r->p->prog->bodies[r->at->body].pools[node->pool].item_count;
    for (int t = 0; t < items; t++) {
        int agent = pool->agent + t * pool->keys + node->key;
        if (published[agent] >= r->at->occurrence) raise(&into[agent], clock[agent]);
    }
    raise(&into[node->agent], r->at->occurrence + 1);
}

static void member_join(Run *r, Group *group, const Member *member) {
    Prove *p = r->p;
    const Node *node = &r->form->nodes[member->node];
    const Tick *clock = node_clock(p, member->node);
    size_t width = p->width;
    if (member->mode == MEMBER_TASK) {
        Tick ended = entry_ended(p, node), told = node->multi ? ended : ended + 1;
        clock_join(group->joined, clock, r->length);
        raise(&group->joined[node->agent], told);
        group->signalled[node->agent] = ended + 1;
        if (group->strong) {
            clock_join(group->strong, clock, r->length);
            raise(&group->strong[node->agent], told);
        }
        if (!member->all_ranks) return;
        clock_join(group->joined, clock + width, width);
        clock_join(group->joined + width, clock, width);
        group->signalled[width + (size_t)node->agent] = ended + 1;
        return;
    }
    const Tick *published = node_clock(p, member->publisher);
    int route = r->form->nodes[member->publisher].agent, keys = member_events(r, member);
    Tick *common = clock_copy(r, clock);
    for (int key = 1; key < keys; key++) clock_meet(common, node_clock(p, member->node + key), r->length);
    if (member->mode == MEMBER_KEY) {
        clock_join(group->strong, clock, r->length);
        raise(&group->strong[node->agent], r->at->occurrence + 1);
    }
    if (member->mode == MEMBER_TOKEN) clock_join(group->strong, common, r->length);
    if (member->mode != MEMBER_EACH) clock_meet(common, published, r->length);
    clock_join(group->joined, common, r->length);
    clock_drop(r, &common);
    for (int key = 0; key < keys; key++) {
        item_join(r, member->mode == MEMBER_TOKEN ? group->strong : group->joined, member->node + key);
        int agent = node[key].agent;
        group->signalled[agent] = node->multi ? TICK_NEVER : r->at->occurrence + 1;
    }
    raise(&group->signalled[route], entry_ended(p, &r->form->nodes[member->publisher]) + 1);
}

static void mark_reach(Run *r, int s) {
    Prove *p = r->p;
    const GroupStep *step = &r->form->steps[s];
    Group *group = &p->groups[step->group];
    int place = 0; // of this group's marks in this instance
    for (int before = step->before; before >= 0; before = r->form->steps[before].before) place++;
    int index = group->upto[r->instance] + place;
    bool keyed = p->kinds[group->counter] == COUNTER_KEY, rows = p->kinds[group->counter] == COUNTER_TOKEN;
    if (!group->joined) {
        group->joined = clock_new(r);
        group->signalled = clock_new(r);
        group->strong = keyed || rows ? clock_new(r) : NULL;
        group->strong_instance = -1;
    }
    if (group->fence) fence_check(r, step, group);
    if (keyed && group->strong_instance != r->instance) {
        memcpy(group->strong, group->joined, r->length * sizeof *group->strong);
        group->strong_instance = r->instance;
    }
    for (int m = 0; m < step->count; m++) member_join(r, group, &step->members[m]);
    Mark *mark = &group->marks[index];
    if (!mark->uses) return;
    mark->joined = clock_copy(r, group->joined);
    if (group->strong) mark->strong = clock_copy(r, group->strong);
    if (!group->fence) group->fence = clock_new(r);
    memcpy(group->fence, group->signalled, r->length * sizeof *group->fence);
    group->fence_marks = index + 1;
}

// Vertices that are left wait for each other: follow what waits for whom until one comes again.
static void circle_report(Run *r, const int *left, const int *heads, const int *nexts, const int *targets) {
    Prove *p = r->p;
    const BodyForm *form = r->form;
    int vertices = form->node_count + form->step_count, from = -1;
    int *blocker = ARENA_ARRAY(p->arena, int, vertices), *seen = ARENA_ARRAY(p->arena, int, vertices);
    for (int v = 0; v < vertices; v++) blocker[v] = -1;
    for (int v = 0; v < vertices; v++) {
        if (!left[v]) continue;
        from = v;
        for (int e = form->edge_at[v]; e < form->edge_at[v + 1]; e++) blocker[form->edges[e]] = v;
        for (int e = v >= form->node_count ? heads[v - form->node_count] : -1; e >= 0; e = nexts[e])
            blocker[targets[e]] = v;
    }
    int v = from;
    while (v >= 0 && !seen[v]) {
        seen[v] = 1;
        v = blocker[v];
    }
    if (v < 0 || !prove_fails(p, E0608, r->at->body, 0, 0, 0)) return;
    int start = v, told = 0;
    while (start >= form->node_count) start = blocker[start];
    diag_error(p->ctx, E0608, prove_span(p, r->at->body, &form->nodes[start]), "%s may wait for itself",
               prove_task(p, r->at->body, &form->nodes[start], r->instance));
    int waiting = start;
    for (v = blocker[start];; v = blocker[v]) {
        if (v >= form->node_count) continue;
        const Node *node = &form->nodes[v];
        const char *why = form->nodes[waiting].before == v ? "which stands before it in its queue" : "for its signal";
        if (form->nodes[waiting].kind == NODE_POOL_END || form->nodes[waiting].kind == NODE_ITEM)
            why = "which may have to run before it in the pool, or signals it";
        if (told++ < 8)
            diag_note(p->ctx, prove_span(p, r->at->body, node), "%s waits for %s, %s",
                      prove_task(p, r->at->body, &form->nodes[waiting], r->instance),
                      prove_task(p, r->at->body, node, r->instance), why);
        waiting = v;
        if (v == start) break;
    }
    diag_help(p->ctx, "put the tasks of a queue into the order in which their inputs come about");
}

// All events of the instance, each after everything that it may block on. False: there is a circle.
static bool instance_run(Run *r) {
    Prove *p = r->p;
    const BodyForm *form = r->form;
    ArenaMark scratch = arena_push(p->arena);
    int vertices = form->node_count + form->step_count, waits = 0, edges = 0;
    int *left = ARENA_ARRAY(p->arena, int, vertices + 1), *ready = ARENA_ARRAY(p->arena, int, vertices + 1);
    int *heads = ARENA_ARRAY(p->arena, int, form->step_count + 1);
    for (int n = 0; n < form->node_count; n++) waits += form->nodes[n].wait_count + form->nodes[n].load_count;
    int *nexts = ARENA_ARRAY(p->arena, int, waits + 1), *targets = ARENA_ARRAY(p->arena, int, waits + 1);
    memcpy(left, form->indegree, (size_t)vertices * sizeof *left);
    for (int s = 0; s < form->step_count; s++) heads[s] = -1;
    for (int n = 0; n < form->node_count; n++)
        for (int w = 0; w < form->nodes[n].wait_count + form->nodes[n].load_count; w++) {
            Bound bound = prove_bound(p, r->instance, &form->nodes[n].waits[w]);
            if (bound.last < 0) continue;
            const Mark *mark = &p->groups[form->nodes[n].waits[w].group].marks[bound.last];
            if (mark->instance != r->instance) continue;
            targets[edges] = n;
            nexts[edges] = heads[mark->step];
            heads[mark->step] = edges++;
            left[n]++;
        }
    int head = 0, tail = 0;
    for (int v = 0; v < vertices; v++)
        if (!left[v]) ready[tail++] = v;
    while (head < tail) {
        int v = ready[head++];
        for (int e = form->edge_at[v]; e < form->edge_at[v + 1]; e++)
            if (--left[form->edges[e]] == 0) ready[tail++] = form->edges[e];
        if (v >= form->node_count)
            for (int e = heads[v - form->node_count]; e >= 0; e = nexts[e])
                if (--left[targets[e]] == 0) ready[tail++] = targets[e];
    }
    bool free_of_circles = tail == vertices;
    if (free_of_circles) memcpy(p->order, ready, (size_t)tail * sizeof *ready);
    if (!free_of_circles) circle_report(r, left, heads, nexts, targets);
    arena_pop(p->arena, scratch);
    if (!free_of_circles) return false;
    for (int i = 0; i < vertices; i++) {
        if (p->order[i] >= form->node_count)
            mark_reach(r, p->order[i] - form->node_count);
        else
            event_start(r, p->order[i]);
    }
    return true;
}

bool prove_order(Prove *p) {
    Run run = {.p = p, .length = (size_t)p->parts * p->width};
    int nodes = 0, vertices = 0, pools = 0;
    for (int b = 0; b < p->prog->body_count; b++) {
        const BodyForm *form = &p->bodies[b];
        if (form->node_count > nodes) nodes = form->node_count;
        if (form->node_count + form->step_count > vertices) vertices = form->node_count + form->step_count;
        if (p->prog->bodies[b].pool_count > pools) pools = p->prog->bodies[b].pool_count;
    }
    p->clocks = ARENA_ARRAY(p->arena, Tick, (size_t)(nodes + 1) * run.length);
    p->order = ARENA_ARRAY(p->arena, int, vertices + 1);
    run.queues = ARENA_ARRAY(p->arena, Tick *, p->queue_agents + 1);
    for (int q = 0; q < p->queue_agents; q++) run.queues[q] = clock_new(&run);
    run.meets = ARENA_ARRAY(p->arena, int, pools + 1);
    run.pool_meet = ARENA_ARRAY(p->arena, Tick *, pools + 1);
    for (int i = 0; i < p->instance_count; i++) {
        run.instance = i;
        run.at = &p->instances[i];
        run.form = &p->bodies[run.at->body];
        if (!instance_run(&run)) return false;
        if (!prove_hazards(p, i)) return false;
        for (int q = 0; q < p->queue_agents; q++) p->queue_base[q] += run.form->queue_count[q];
    }
    return true;
}
