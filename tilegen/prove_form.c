// Bodies as prove sees them: nodes, groups and the waits between them, once for all instances.
#include "prove_parts.h"
#include <stdlib.h>
#include <string.h>

static int symbolic_keys(const Pool *pool) { return pool->keys < KEYS_SHOWN ? pool->keys : KEYS_SHOWN; }

static void form_rule(Prove *p, int body, const Node *node, const char *what, const char *help) {
    if (!prove_fails(p, E0609, body, node->task->step, node->pool, (int)node->kind)) return;
    diag_error(p->ctx, E0609, prove_span(p, body, node), "%s %s", prove_task(p, body, node, -1), what);
    diag_help(p->ctx, "%s", help);
}

static Node *form_node(BodyForm *form, NodeKind kind, const Task *task) {
    Node *node = &form->nodes[form->node_count++];
    *node = (Node){.kind = kind, .task = task, .pool = -1, .key = -1, .worker = -1, .agent = -1, .before = -1};
    return node;
}

static void form_queue(Prove *p, int index, int worker, Role role) {
    const Body *body = &p->prog->bodies[index];
    BodyForm *form = &p->bodies[index];
    const Queue *queue = &body->queues[worker * ROLE_COUNT + (int)role];
    int agent = p->queue_agent[worker * ROLE_COUNT + (int)role], before = -1;
    for (int e = 0; e < queue->count; e++) {
        const Entry *entry = &queue->entries[e];
        if (entry->kind == ENTRY_LOAD) continue; // prove_pages.c
        Node *node = form_node(form, entry->kind == ENTRY_POOL ? NODE_POOL : NODE_TASK, &entry->task);
        node->worker = worker, node->role = role, node->agent = agent;
        node->order = form->queue_count[agent]++;
        node->before = before;
        before = form->node_count - 1;
        if (entry->kind != ENTRY_POOL) continue;
        PoolForm *pool = &form->pools[entry->pool];
        node->pool = entry->pool;
        for (int i = 0; i < pool->start_count; i++)
            if (form->nodes[pool->starts[i]].worker == worker &&
                prove_fails(p, E0607, index, entry->pool, worker, -1)) {
                diag_error(p->ctx, E0607, prove_span(p, index, node), "worker %d enters pool %s twice", worker,
                           body->pools[entry->pool].name);
                diag_help(p->ctx, "one pool entry a worker");
            }
        pool->starts[pool->start_count++] = before;
        const Queue *loads = &body->queues[worker * ROLE_COUNT + (int)ROLE_LOAD];
        for (int l = 0; l < loads->count && !node->loader; l++)
            if (loads->entries[l].kind == ENTRY_POOL && loads->entries[l].pool == entry->pool)
                node->loader = &loads->entries[l].task;
        Node *end = form_node(form, NODE_POOL_END, &entry->task);
        end->worker = worker, end->role = role, end->agent = agent, end->pool = entry->pool;
        end->order = node->order;
        end->before = before;
        before = form->node_count - 1;
    }
}

// Items by step, then key, then tile: an order of claims.
static void form_chain(PoolForm *form, const Pool *pool, int first) {
    int *order = form->chain, count = 0;
    for (int lo = 0; lo < pool->item_count;) {
        int hi = lo;
        while (hi < pool->item_count && pool->items[hi].step == pool->items[lo].step) hi++;
        for (int key = 0; key < form->keys; key++)
            for (int t = lo; t < hi; t++) order[count++] = first + t * form->keys + key;
        lo = hi;
    }
    form->chain_count = count;
}

static void form_pool(Prove *p, int index, int which, int agent) {
    const Body *body = &p->prog->bodies[index];
    const Pool *pool = &body->pools[which];
    BodyForm *form = &p->bodies[index];
    PoolForm *made = &form->pools[which];
    int publishers = 0, first = form->node_count;
    made->publisher = -1;
    for (int n = 0; n < form->node_count; n++)
        if (form->nodes[n].kind == NODE_TASK && form->nodes[n].task->step == pool->publisher) {
            made->publisher = n;
            publishers++;
        }
    if (publishers != 1) made->publisher = -1;
    if (publishers != 1 && prove_fails(p, E0607, index, which, -2, publishers)) {
        diag_error(p->ctx, E0607, body->steps[pool->publisher].span,
                   "step %s publishes the keys of pool %s in body %s with %d tasks",
                   prove_step(p, index, pool->publisher), pool->name, body->name, publishers);
        diag_help(p->ctx, "one task publishes: it credits the signals of the keys that are not active");
    }
    if (!made->start_count && pool->item_count && prove_fails(p, E0607, index, which, -3, 0)) {
        diag_error(p->ctx, E0607, pool->items[0].span, "no worker enters pool %s of body %s: its items never run",
                   pool->name, body->name);
        diag_help(p->ctx, "give at least one worker's queue a pool entry");
    }
    made->keys = symbolic_keys(pool);
    made->agent = agent;
    for (int t = 0; t < pool->item_count; t++)
        for (int key = 0; key < made->keys; key++) {
            Node *node = form_node(form, NODE_ITEM, &pool->items[t]);
            node->pool = which, node->key = key;
            node->agent = agent + t * made->keys + key;
            if (key) continue;
            if (pool->items[t].step <= pool->publisher || (t && pool->items[t].step < pool->items[t - 1].step))
                form_rule(p, index, node, "is out of the order of the pool's steps",
                          "items stand by step, after the step that publishes");
        }
    form_chain(made, pool, first);
}

// What each counter's groups stand for: all its signals must agree.
static void form_kind(Prove *p, int index, const Node *node, bool *seen) {
    const Body *body = &p->prog->bodies[index];
    for (int s = 0; s < node->task->signal_count && node->kind != NODE_POOL; s++) {
        const Signal *signal = &node->task->signals[s];
        int c = signal->counter;
        CounterKind kind = signal->group.kind == INDEX_KEY     ? COUNTER_KEY
                           : signal->group.kind == INDEX_TOKEN ? COUNTER_TOKEN
                                                               : COUNTER_PLAIN;
        const char *why = NULL;
        if (kind != COUNTER_PLAIN && node->kind != NODE_ITEM)
            why = "signals a group of its key or rows but is no pool item";
        else if (signal->all_ranks && node->kind == NODE_ITEM)
            why = "is a pool item and signals other ranks";
        else if (seen[c] && p->kinds[c] != COUNTER_BROKEN && p->kinds[c] != kind)
            why = "signals a counter by key, by row or by number unlike the others that signal it";
        else if (signal->amount <= 0)
            why = "signals less than one";
        else if (kind == COUNTER_KEY) {
            int keys = body->pools[node->pool].keys;
            if (seen[c] && p->counter_keys[c] && p->counter_keys[c] != keys)
                why = "signals a counter that pools with other numbers of keys signal too";
            else if (keys > p->prog->counters[c].groups)
                why = "signals a counter with fewer groups than the pool has keys";
            p->counter_keys[c] = keys;
        } else if (kind == COUNTER_TOKEN && p->prog->counters[c].groups < p->prog->rows)
            why = "signals a counter with fewer groups than the round has rows";
        if (!seen[c]) p->kinds[c] = kind;
        seen[c] = true;
        if (!why) continue;
        p->kinds[c] = COUNTER_BROKEN;
        form_rule(p, index, node, why, "give the hand-off a counter of its own");
    }
}

static int name_order(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static int group_find(const Prove *p, int counter, int index) {
    uint64_t name = (uint64_t)counter << 32 | (uint32_t)index;
    uint64_t *at = bsearch(&name, p->names, (size_t)p->group_count, sizeof name, name_order);
    return at ? (int)(at - p->names) : -1;
}

static void form_groups(Prove *p) {
    LIST(uint64_t) names = {0};
    for (int c = 0; c < p->prog->counter_count; c++) {
        int shown = p->kinds[c] == COUNTER_KEY ? KEYS_SHOWN : p->kinds[c] == COUNTER_TOKEN ? 1 : 0;
        for (int i = 0; i < shown; i++) LIST_ADD(p->arena, &names, (uint64_t)c << 32 | (uint32_t)i);
    }
    for (int b = 0; b < p->prog->body_count; b++)
        for (int n = 0; n < p->bodies[b].node_count; n++) {
            const Node *node = &p->bodies[b].nodes[n];
            for (int load = 0; load < 2; load++) {
                const Task *task = load ? node->loader : node->task;
                for (int i = 0; task && i < task->wait_count; i++)
                    if (p->kinds[task->waits[i].counter] == COUNTER_PLAIN && task->waits[i].group.kind == INDEX_RANGE)
                        LIST_ADD(p->arena, &names,
                                 (uint64_t)task->waits[i].counter << 32 | (uint32_t)task->waits[i].group.lo);
            }
            for (int i = 0; i < node->task->signal_count; i++)
                if (p->kinds[node->task->signals[i].counter] == COUNTER_PLAIN)
                    LIST_ADD(p->arena, &names,
                             (uint64_t)node->task->signals[i].counter << 32 |
                                 (uint32_t)node->task->signals[i].group.lo);
        }
    if (names.count) qsort(names.at, names.count, sizeof *names.at, name_order);
    size_t kept = 0;
    for (size_t i = 0; i < names.count; i++)
        if (!kept || names.at[kept - 1] != names.at[i]) names.at[kept++] = names.at[i];
    p->names = names.at;
    p->group_count = (int)kept;
    p->groups = ARENA_ARRAY(p->arena, Group, kept ? kept : 1);
    for (size_t i = 0; i < kept; i++) {
        p->groups[i].counter = (int)(names.at[i] >> 32);
        p->groups[i].index = (int)(uint32_t)names.at[i];
        p->groups[i].known = -1;
    }
}

static void wait_add(Node *node, int group, const Wait *wait, WaitMode mode) {
    node->waits[node->wait_count + node->load_count++] = (WaitForm){group, wait->lag, wait->need, mode};
}

// Whether the task waits alike for all groups 0..count-1 of the wait's counter, of which this wait is the first.
static bool wait_for_all(Prove *p, const Task *task, const Wait *wait, int count) {
    if (wait->group.lo != 0 || count > task->wait_count) return false;
    ArenaMark mark = arena_push(p->arena);
    bool *has = ARENA_ARRAY(p->arena, bool, count);
    int found = 0;
    for (int i = 0; i < task->wait_count; i++) {
        const Wait *other = &task->waits[i];
        if (other->counter != wait->counter || other->lag != wait->lag || other->need != wait->need ||
            other->group.kind != INDEX_RANGE || other->group.lo >= count || has[other->group.lo])
            continue;
        has[other->group.lo] = true;
        found++;
    }
    arena_pop(p->arena, mark);
    return found == count;
}

// Appends the waits of the node or of its load queue's entry.
static void form_waits(Prove *p, int index, Node *node, const Task *task) {
    const char *help = "a wait names the groups as the signals of the counter do";
    for (int i = 0; i < task->wait_count; i++) {
        const Wait *wait = &task->waits[i];
        int c = wait->counter, lo = wait->group.lo;
        bool own = wait->group.kind == INDEX_KEY;
        switch (p->kinds[c]) {
        case COUNTER_BROKEN: break;
        case COUNTER_PLAIN:
            if (wait->group.kind != INDEX_RANGE) {
                form_rule(p, index, node, "waits for its key of a counter that is not signalled by key", help);
                break;
            }
            wait_add(node, group_find(p, c, lo), wait, WAIT_PLAIN);
            break;
        case COUNTER_KEY:
            if (own &&
                (node->kind != NODE_ITEM || p->prog->bodies[index].pools[node->pool].keys != p->counter_keys[c])) {
                form_rule(p, index, node, "waits for a key that is not of the counter's pool", help);
                break;
            }
            if (own) {
                wait_add(node, group_find(p, c, node->key), wait, WAIT_OWN_KEY);
                break;
            }
            if (lo >= p->counter_keys[c]) {
                wait_add(node, -1, wait, WAIT_WEAK);
                break;
            }
            // A number of a key says nothing of the symbolic ones, all of them say everything.
            bool all = wait_for_all(p, task, wait, p->counter_keys[c]);
            for (int key = 0; key < KEYS_SHOWN && key < p->counter_keys[c]; key++)
                wait_add(node, group_find(p, c, key), wait, all ? WAIT_PLAIN : WAIT_WEAK);
            break;
        case COUNTER_TOKEN:
            if (wait->group.kind != INDEX_RANGE) {
                form_rule(p, index, node, "waits for its key of a counter that is signalled by row", help);
                break;
            }
            if (lo >= p->prog->rows)
                wait_add(node, -1, wait, WAIT_WEAK);
            else
                wait_add(node, group_find(p, c, 0), wait,
                         wait_for_all(p, task, wait, p->prog->rows) ? WAIT_ALL_ROWS : WAIT_PLAIN);
            break;
        }
    }
}

static int member_order(const void *a, const void *b) {
    const Member *x = a, *y = b;
    if (x->group != y->group) return x->group < y->group ? -1 : 1;
    if (x->step != y->step) return x->step < y->step ? -1 : 1;
    return x->node < y->node ? -1 : x->node > y->node;
}

static bool form_members(Prove *p, int index) {
    const Body *body = &p->prog->bodies[index];
    BodyForm *form = &p->bodies[index];
    LIST(Member) members = {0};
    for (int n = 0; n < form->node_count; n++) {
        Node *node = &form->nodes[n];
        if (node->kind != NODE_TASK && node->kind != NODE_ITEM) continue;
        int64_t arrivals = 0;
        for (int s = 0; s < node->task->signal_count; s++) {
            const Signal *signal = &node->task->signals[s];
            const Pool *pool = node->pool >= 0 ? &body->pools[node->pool] : NULL;
            CounterKind kind = p->kinds[signal->counter];
            arrivals += signal->all_ranks ? p->prog->ranks : kind == COUNTER_TOKEN ? 2 : 1;
            if (kind == COUNTER_BROKEN) continue;
            Member member = {.step = node->task->step, .node = n, .publisher = -1, .amount = signal->amount};
            member.all_ranks = signal->all_ranks && p->prog->ranks > 1;
            if (member.all_ranks) member.amount *= p->prog->ranks;
            if (pool) {
                member.publisher = form->pools[node->pool].publisher;
                member.mode = kind == COUNTER_KEY ? MEMBER_KEY : kind == COUNTER_TOKEN ? MEMBER_TOKEN : MEMBER_EACH;
                if (member.publisher < 0) continue;
                if (kind != COUNTER_KEY && node->key > 0) continue;
                if (kind != COUNTER_KEY) member.amount *= kind == COUNTER_TOKEN ? pool->top : pool->keys;
            }
            int lo = kind == COUNTER_KEY ? node->key : kind == COUNTER_TOKEN ? 0 : signal->group.lo;
            member.group = group_find(p, signal->counter, lo);
            LIST_ADD(p->arena, &members, member);
        }
        node->multi = arrivals > 1;
    }
    if (members.count) qsort(members.at, members.count, sizeof *members.at, member_order);
    LIST(GroupStep) steps = {0};
    for (size_t m = 0; m < members.count; m++) {
        const Member *member = &members.at[m];
        GroupStep *last = steps.count ? &steps.at[steps.count - 1] : NULL;
        if (!last || last->group != member->group || last->step != member->step) {
            int before = last && last->group == member->group ? (int)steps.count - 1 : -1;
            LIST_ADD(p->arena, &steps, (GroupStep){member->group, member->step, 0, &members.at[m], 0, before});
            last = &steps.at[steps.count - 1];
        }
        last->count++;
        if (__builtin_add_overflow(last->amount, member->amount, &last->amount)) return false;
        if (form->nodes[member->node].multi || member->publisher >= 0) p->groups[member->group].known = 0;
    }
    form->steps = steps.at;
    form->step_count = (int)steps.count;
    return true;
}

typedef struct EdgeList {
    struct {
        int from, to;
    } * at;
    size_t count, room;
} EdgeList;

static void edge_add(Prove *p, EdgeList *list, int from, int to) {
    if (list->count == list->room) list->at = list_grow(p->arena, list->at, list->count, &list->room, sizeof *list->at);
    list->at[list->count].from = from;
    list->at[list->count++].to = to;
}

// What may block what. A queue blocks its next entry. Any participant may hold any item, so that the first item waits
// for all of them to come, each item for the one claimed before it, and the pool's end for the last.
static void form_edges(Prove *p, BodyForm *form, int pool_count) {
    EdgeList list = {0};
    int vertices = form->node_count + form->step_count;
    for (int n = 0; n < form->node_count; n++)
        if (form->nodes[n].before >= 0) edge_add(p, &list, form->nodes[n].before, n);
    for (int i = 0; i < pool_count; i++) {
        const PoolForm *pool = &form->pools[i];
        if (!pool->chain_count) continue;
        for (int s = 0; s < pool->start_count; s++) {
            edge_add(p, &list, pool->starts[s], pool->chain[0]);
            edge_add(p, &list, pool->chain[pool->chain_count - 1], pool->starts[s] + 1);
        }
        for (int c = 1; c < pool->chain_count; c++) edge_add(p, &list, pool->chain[c - 1], pool->chain[c]);
    }
    for (int s = 0; s < form->step_count; s++) {
        const GroupStep *step = &form->steps[s];
        if (step->before >= 0) edge_add(p, &list, step_vertex(form, step->before), step_vertex(form, s));
        for (int m = 0; m < step->count; m++) {
            const Member *member = &step->members[m];
            int alike = member->mode == MEMBER_EACH || member->mode == MEMBER_TOKEN
                            ? form->pools[form->nodes[member->node].pool].keys
                            : 1;
            for (int key = 0; key < alike; key++) edge_add(p, &list, member->node + key, step_vertex(form, s));
            if (member->publisher >= 0) edge_add(p, &list, member->publisher, step_vertex(form, s));
        }
    }
    form->edge_at = ARENA_ARRAY(p->arena, int, vertices + 1);
    form->indegree = ARENA_ARRAY(p->arena, int, vertices + 1);
    form->edges = ARENA_ARRAY(p->arena, int, list.count + 1);
    for (size_t e = 0; e < list.count; e++) form->edge_at[list.at[e].from + 1]++;
    for (int v = 0; v < vertices; v++) form->edge_at[v + 1] += form->edge_at[v];
    int *fill = ARENA_ARRAY(p->arena, int, vertices + 1);
    memcpy(fill, form->edge_at, ((size_t)vertices + 1) * sizeof *fill);
    for (size_t e = 0; e < list.count; e++) {
        form->edges[fill[list.at[e].from]++] = list.at[e].to;
        form->indegree[list.at[e].to]++;
    }
}

static void form_order(Prove *p, BodyForm *form, int steps) {
    int *at = ARENA_ARRAY(p->arena, int, steps + 1);
    form->by_step = ARENA_ARRAY(p->arena, int, form->node_count + 1);
    for (int n = 0; n < form->node_count; n++)
        if (form->nodes[n].kind == NODE_TASK || form->nodes[n].kind == NODE_ITEM) {
            at[form->nodes[n].task->step + 1]++;
            form->by_step_count++;
        }
    for (int s = 0; s < steps; s++) at[s + 1] += at[s];
    for (int n = 0; n < form->node_count; n++)
        if (form->nodes[n].kind == NODE_TASK || form->nodes[n].kind == NODE_ITEM)
            form->by_step[at[form->nodes[n].task->step]++] = n;
}

static bool too_large(Prove *p, const char *what) {
    if (prove_fails(p, E0610, 0, 0, 0, 0)) diag_error(p->ctx, E0610, NO_SPAN, "too large to be proved: %s", what);
    return false;
}

// Agents are the queues that some body uses, then each pool's items.
static bool form_agents(Prove *p) {
    const Prog *prog = p->prog;
    int slots = prog->workers * ROLE_COUNT;
    p->queue_agent = ARENA_ARRAY(p->arena, int, slots + 1);
    for (int s = 0; s < slots; s++) {
        p->queue_agent[s] = -1;
        if (s % ROLE_COUNT == (int)ROLE_LOAD) continue;
        for (int b = 0; b < prog->body_count; b++)
            if (prog->bodies[b].queues[s].count) p->queue_agent[s] = -2;
        if (p->queue_agent[s] == -2) p->queue_agent[s] = p->queue_agents++;
    }
    int64_t agents = p->queue_agents, events = 0;
    for (int b = 0; b < prog->body_count; b++)
        for (int i = 0; i < prog->bodies[b].pool_count; i++)
            agents += (int64_t)prog->bodies[b].pools[i].item_count * symbolic_keys(&prog->bodies[b].pools[i]);
    if (agents > 1 << 20) return too_large(p, "queues and items");
    p->agents = (int)agents;
    p->queue_base = ARENA_ARRAY(p->arena, int, p->queue_agents + 1);
    for (int b = 0; b < prog->body_count; b++) {
        const Body *body = &prog->bodies[b];
        BodyForm *form = &p->bodies[b];
        int64_t nodes = 0;
        for (int s = 0; s < slots; s++)
            if (p->queue_agent[s] >= 0) nodes += 2 * (int64_t)body->queues[s].count;
        form->pools = ARENA_ARRAY(p->arena, PoolForm, body->pool_count + 1);
        for (int i = 0; i < body->pool_count; i++) {
            int items = body->pools[i].item_count * symbolic_keys(&body->pools[i]);
            nodes += items;
            form->pools[i].chain = ARENA_ARRAY(p->arena, int, items + 1);
            form->pools[i].starts = ARENA_ARRAY(p->arena, int, slots + 1);
        }
        for (int i = 0; i < p->instance_count; i++) events += p->instances[i].body == b ? nodes : 0;
        if (events > PROVE_EVENTS_MAX || nodes > PROVE_EVENTS_MAX) return too_large(p, "tasks in two rounds");
        form->nodes = ARENA_ARRAY(p->arena, Node, nodes + 1);
        form->queue_count = ARENA_ARRAY(p->arena, int, p->queue_agents + 1);
    }
    return true;
}

bool prove_form(Prove *p, const Instance *instances, int count, int round_count) {
    const Prog *prog = p->prog;
    p->bodies = ARENA_ARRAY(p->arena, BodyForm, prog->body_count + 1);
    p->instances = ARENA_ARRAY(p->arena, Instance, count + 1);
    p->instance_count = count;
    p->round_instances = round_count;
    p->parts = prog->ranks > 1 ? 2 : 1;
    for (int i = 0; i < count; i++) {
        p->instances[i] = instances[i];
        p->instances[i].occurrence = p->bodies[instances[i].body].occurrences++;
    }
    for (int b = 0; b < prog->body_count; b++)
        if (!prog->bodies[b].queues) {
            if (prove_fails(p, E0614, b, 0, 0, 0))
                diag_error(p->ctx, E0614, NO_SPAN, "the tasks of body %s are in no queue yet", prog->bodies[b].name);
            return false;
        }
    if (!form_agents(p)) return false;
    int agent = p->queue_agents;
    for (int b = 0; b < prog->body_count; b++) {
        for (int w = 0; w < prog->workers; w++)
            for (int r = 0; r < ROLE_COUNT; r++)
                if (p->queue_agent[w * ROLE_COUNT + r] >= 0) form_queue(p, b, w, (Role)r);
        for (int i = 0; i < prog->bodies[b].pool_count; i++) {
            form_pool(p, b, i, agent);
            agent += prog->bodies[b].pools[i].item_count * p->bodies[b].pools[i].keys;
        }
    }
    p->kinds = ARENA_ARRAY(p->arena, CounterKind, prog->counter_count + 1);
    p->counter_keys = ARENA_ARRAY(p->arena, int, prog->counter_count + 1);
    bool *seen = ARENA_ARRAY(p->arena, bool, prog->counter_count + 1);
    for (int b = 0; b < prog->body_count; b++)
        for (int n = 0; n < p->bodies[b].node_count; n++)
            if (p->bodies[b].nodes[n].kind != NODE_POOL_END) form_kind(p, b, &p->bodies[b].nodes[n], seen);
    form_groups(p);
    for (int b = 0; b < prog->body_count; b++) {
        BodyForm *form = &p->bodies[b];
        for (int n = 0; n < form->node_count; n++) {
            Node *node = &form->nodes[n];
            if (node->kind == NODE_POOL_END) continue;
            int waits = node->task->wait_count + (node->loader ? node->loader->wait_count : 0);
            node->waits = waits ? ARENA_ARRAY(p->arena, WaitForm, (size_t)waits * KEYS_SHOWN) : NULL;
            form_waits(p, b, node, node->task);
            node->wait_count = node->load_count;
            node->load_count = 0;
            if (node->loader) form_waits(p, b, node, node->loader);
        }
        if (!form_members(p, b)) return too_large(p, "sums of signals");
        form_edges(p, form, prog->bodies[b].pool_count);
        form_order(p, form, prog->bodies[b].step_count);
    }
    p->width = (size_t)p->agents;
    for (int g = 0; g < p->group_count; g++)
        if (p->groups[g].known == 0) p->groups[g].known = (int)p->width++;
    p->width = (p->width + 3) & ~(size_t)3;
    return true;
}
