// How prove names things.
#include "prove_parts.h"
#include "text.h"

bool prove_fails(Prove *p, DiagCode code, int a, int b, int c, int d) {
    p->failed = true;
    if (p->quiet) return false;
    for (int i = 0; i < p->reported_count; i++) {
        const struct Reported *r = &p->reported[i];
        if (r->code == code && r->a == a && r->b == b && r->c == c && r->d == d) return false;
    }
    if (p->errors >= PROVE_ERRORS) return false;
    p->errors++;
    p->reported[p->reported_count++] = (struct Reported){code, a, b, c, d};
    return true;
}

const char *prove_step(const Prove *p, int body, int step) { return op_name(p->prog->bodies[body].steps[step].op); }

const char *prove_task(Prove *p, int body, const Node *node, int instance) {
    const Body *made = &p->prog->bodies[body];
    Text text = text_new(p->arena);
    if (node->kind == NODE_POOL || node->kind == NODE_POOL_END)
        text_printf(&text, "%s pool %s (body %s", node->kind == NODE_POOL ? "the entry of" : "the end of",
                    made->pools[node->pool].name, made->name);
    else
        text_printf(&text, "%s %d:%d (body %s", prove_step(p, body, node->task->step), node->task->lo, node->task->hi,
                    made->name);
    if (instance >= 0) {
        text_printf(&text, ", layer %d", p->instances[instance].layer);
        if (p->instances[instance].round) text_printf(&text, " of the next round");
    }
    if (node->worker >= 0) text_printf(&text, ", worker %d", node->worker);
    if (node->worker >= 0 && node->role != ROLE_COMPUTE) text_printf(&text, " %s", role_name(node->role));
    if (node->kind == NODE_ITEM) text_printf(&text, ", an item of pool %s", made->pools[node->pool].name);
    text_printf(&text, ")");
    return text.at;
}

const char *prove_group(Prove *p, int group) {
    if (group < 0) return "a group that nothing signals";
    const Group *at = &p->groups[group];
    const char *name = p->prog->counters[at->counter].name;
    switch (p->kinds[at->counter]) {
    case COUNTER_KEY: return arena_printf(p->arena, "%s[key]", name);
    case COUNTER_TOKEN: return arena_printf(p->arena, "%s[token]", name);
    default: return arena_printf(p->arena, "%s[%d]", name, at->index);
    }
}

const char *prove_region(Prove *p, const Region *region) {
    const Buffer *buffer = &p->prog->buffers[region->buffer];
    Text text = text_new(p->arena);
    text_printf(&text, "%s%s%s[", buffer->name, region->all_ranks ? "@all" : "", region->all_layers ? "*" : "");
    for (int d = 0; d < buffer->rank; d++) {
        const Index *at = &region->at[d];
        if (d) text_printf(&text, ", ");
        switch (at->kind) {
        case INDEX_RANGE: text_printf(&text, "%d:%d", at->lo, at->hi); break;
        case INDEX_KEY: text_printf(&text, "key"); break;
        case INDEX_TOKEN: text_printf(&text, "token"); break;
        case INDEX_SELF: text_printf(&text, "self"); break;
        case INDEX_ACTIVE: text_printf(&text, "active"); break;
        }
    }
    text_printf(&text, "]");
    return text.at;
}

const Node *prove_event(const Prove *p, int agent, Tick tick, int *body, int *instance) {
    int64_t entry = agent < p->queue_agents ? (tick - 1) / 2 : tick - 1, before = 0;
    for (int i = 0; i < p->instance_count; i++) {
        const BodyForm *form = &p->bodies[p->instances[i].body];
        *body = p->instances[i].body;
        *instance = i;
        for (int n = 0; n < form->node_count; n++) {
            const Node *node = &form->nodes[n];
            if (node->agent != agent || node->kind == NODE_POOL_END) continue;
            if (agent >= p->queue_agents && p->instances[i].occurrence == entry) return node;
            if (agent < p->queue_agents && node->order == entry - before) return node;
        }
        if (agent < p->queue_agents) before += form->queue_count[agent];
    }
    *body = *instance = 0;
    return &p->bodies[0].nodes[0];
}

Span prove_span(const Prove *p, int body, const Node *node) {
    if (node->task->span.source || node->kind == NODE_POOL || node->kind == NODE_POOL_END) return node->task->span;
    return p->prog->bodies[body].steps[node->task->step].span;
}
