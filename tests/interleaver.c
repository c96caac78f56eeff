#include "interleaver.h"
#include "machine.h"
#include <stdio.h>
#include <string.h>

enum { OUTCOMES_MAX = 4096, ROUNDS_MAX = 16, POOLS_MAX = 32, ROUTINGS_MAX = 512 };

// States seen: keys one after the other, and an open table of 1 + their number.
typedef struct Seen {
    Ctx *ctx;
    size_t key_size;
    uint8_t *keys;
    uint32_t *slots;
    size_t count, room, mask;
} Seen;

static void seen_grow(Seen *seen) {
    size_t old = seen->count;
    seen->room = seen->room ? seen->room * 4 : 256;
    uint8_t *keys = arena_alloc(seen->ctx->arena, seen->room * seen->key_size);
    if (old) memcpy(keys, seen->keys, old * seen->key_size);
    seen->keys = keys;
    seen->mask = seen->room * 2 - 1;
    seen->slots = ARENA_ARRAY(seen->ctx->arena, uint32_t, seen->mask + 1);
    for (size_t i = 0; i < old; i++) {
        uint64_t hash = 1469598103934665603u;
        for (size_t b = 0; b < seen->key_size; b += 8) {
            uint64_t word;
            memcpy(&word, keys + i * seen->key_size + b, 8);
            hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
            hash ^= hash >> 29;
        }
        size_t at = hash & seen->mask;
        while (seen->slots[at]) at = (at + 1) & seen->mask;
        seen->slots[at] = (uint32_t)i + 1;
    }
}

// True when the state is new.
static bool seen_add(Seen *seen, const State *state) {
    if (seen->count == seen->room) seen_grow(seen);
    uint64_t hash = 1469598103934665603u;
    for (size_t b = 0; b < seen->key_size; b += 8) {
        uint64_t word;
        memcpy(&word, state + b, 8);
        hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 29;
    }
    size_t at = hash & seen->mask;
    for (; seen->slots[at]; at = (at + 1) & seen->mask)
        if (memcmp(seen->keys + (seen->slots[at] - 1) * seen->key_size, state, seen->key_size) == 0) return false;
    memcpy(seen->keys + seen->count * seen->key_size, state, seen->key_size);
    seen->slots[at] = (uint32_t)++seen->count;
    return true;
}

typedef struct Search {
    Ctx *ctx;
    Machine *m;
    Seen seen;
    long cap, states;
    int hold; // node that may not end; -1: none
    int depth_room;
    State **stack; // a state a depth
} Search;

static State *state_at(Search *x, int depth) {
    if (depth >= x->depth_room) {
        int room = depth * 2 + 64;
        State **stack = ARENA_ARRAY(x->ctx->arena, State *, room);
        if (x->depth_room) memcpy(stack, x->stack, (size_t)x->depth_room * sizeof *stack);
        x->stack = stack;
        x->depth_room = room;
    }
    if (!x->stack[depth]) x->stack[depth] = arena_alloc(x->ctx->arena, x->m->size);
    return x->stack[depth];
}

// All events of one kind or (fill, start, end) that can happen go first, in any order. False when one is wrong.
static bool run_ahead(Search *x, State *s, bool tasks, bool strict) {
    for (bool moved = true; moved;) {
        moved = false;
        for (int a = 0; a < x->m->agent_count; a++) {
            int node;
            Event event = machine_next(x->m, s, a, &node);
            bool task = event == EVENT_START || (event == EVENT_END && node != x->hold);
            if (event != EVENT_QUIET && !(tasks && task)) continue;
            if (!machine_step(x->m, s, a, strict)) return false;
            moved = true;
            a--; // the same agent goes on
        }
    }
    return true;
}

static Verdict all_states(Search *x, int depth) {
    State *s = state_at(x, depth);
    Machine *m = x->m;
    if (m->quiet_first && !run_ahead(x, s, false, true)) return VERDICT_BROKEN;
    if (!seen_add(&x->seen, s)) return VERDICT_RIGHT;
    if (++x->states > x->cap) return VERDICT_TOO_BIG;
    bool moved = false;
    for (int a = 0; a < m->agent_count; a++) {
        int node;
        if (machine_next(m, s, a, &node) == EVENT_NONE) continue;
        moved = true;
        State *next = state_at(x, depth + 1);
        memcpy(next, s, m->size);
        if (!machine_step(m, next, a, true)) return VERDICT_BROKEN;
        Verdict verdict = all_states(x, depth + 1);
        if (verdict != VERDICT_RIGHT) return verdict;
    }
    return moved || machine_done(m, s) ? VERDICT_RIGHT : VERDICT_BROKEN;
}

// All claims; everything else as far as it goes, but for the end of `hold`.
static Verdict all_claims(Search *x, int depth) {
    State *s = state_at(x, depth);
    Machine *m = x->m;
    if (!run_ahead(x, s, true, false)) return VERDICT_BROKEN;
    if (!seen_add(&x->seen, s)) return VERDICT_RIGHT;
    if (++x->states > x->cap) return VERDICT_TOO_BIG;
    bool moved = false;
    for (int a = 0; a < m->agent_count; a++) {
        int node;
        if (machine_next(m, s, a, &node) != EVENT_CLAIM) continue;
        moved = true;
        State *next = state_at(x, depth + 1);
        memcpy(next, s, m->size);
        if (!machine_step(m, next, a, false)) return VERDICT_BROKEN;
        Verdict verdict = all_claims(x, depth + 1);
        if (verdict != VERDICT_RIGHT) return verdict;
    }
    if (moved) return VERDICT_RIGHT;
    if (x->hold < 0) return machine_done(m, s) ? VERDICT_RIGHT : VERDICT_BROKEN;
    for (int n = 0; n < m->node_count; n++)
        if (m->nodes[n].before[x->hold / 64] >> x->hold % 64 & 1 && machine_status(m, s, n) != STATUS_WAITING) {
            const Node *u = &m->nodes[n], *t = &m->nodes[x->hold];
            snprintf(m->why, sizeof m->why,
                     "s%d %d:%d key %d of %s, instance %d, rank %d starts before s%d %d:%d key %d of %s, instance %d, "
                     "rank %d has ended",
                     u->step, u->task->lo, u->task->hi, u->key, u->body->name, u->instance, u->rank, t->step,
                     t->task->lo, t->task->hi, t->key, t->body->name, t->instance, t->rank);
            return VERDICT_BROKEN;
        }
    return VERDICT_RIGHT;
}

static Verdict search_from_start(Search *x, Verdict (*search)(Search *, int)) {
    x->seen = (Seen){.ctx = x->ctx, .key_size = x->m->key_size};
    machine_start(x->m, state_at(x, 0));
    return search(x, 0);
}

static Verdict machine_states(Search *x) {
    x->hold = -1;
    return search_from_start(x, all_states);
}

static Verdict machine_pairs(Search *x) {
    if (!x->m->quiet_first) return machine_states(x);
    bool held[MACHINE_NODES] = {false};
    for (int n = 0; n < x->m->node_count; n++)
        for (int t = 0; t < x->m->node_count; t++)
            if (x->m->nodes[n].before[t / 64] >> t % 64 & 1) held[t] = true;
    for (int r = 0; r < x->m->run_count; r++) held[x->m->runs[r].publisher] = true; // claims come after it
    x->hold = -1;
    Verdict verdict = search_from_start(x, all_claims);
    for (int t = 0; t < x->m->node_count && verdict == VERDICT_RIGHT; t++) {
        if (!held[t]) continue;
        ArenaMark mark = arena_push(x->ctx->arena);
        Search inner = *x;
        inner.hold = t;
        inner.depth_room = 0;
        inner.stack = NULL;
        verdict = search_from_start(&inner, all_claims);
        x->states = inner.states;
        arena_pop(x->ctx->arena, mark);
    }
    return verdict;
}

// ---- Outcomes of chance ----

typedef struct Routings { // of one number of rows
    Routed *at;
    size_t count, room;
} Routings;

static void routings_add(Ctx *ctx, Routings *list, const Pool *pool, int rows, int row, Routed *routed) {
    if (list->count >= ROUTINGS_MAX) return;
    if (row == rows) {
        unsigned all = 0;
        for (int r = 0; r < rows; r++) all |= routed->chosen[r];
        if (all == (1u << routed->active) - 1) LIST_ADD(ctx->arena, list, *routed);
        return;
    }
    for (unsigned set = 0; set < 1u << routed->active; set++) {
        if (__builtin_popcount(set) != pool->top) continue;
        routed->chosen[row] = set;
        routings_add(ctx, list, pool, rows, row + 1, routed);
    }
}

static Interleaving run_all(Ctx *ctx, const Prog *prog, int rounds, long cap, Verdict (*decide)(Search *)) {
    Interleaving out = {VERDICT_RIGHT, 0, ""};
    const Interleaving too_big = {VERDICT_TOO_BIG, 0, ""};
    ArenaMark mark = arena_push(ctx->arena);
    bool drafts = false, contexts = false;
    int pools = 0, rows = 1, pool_round[POOLS_MAX];
    const Pool *pool_of[POOLS_MAX];
    if (rounds > ROUNDS_MAX || !prog->bodies[0].queues) return too_big;
    for (int round = 0; round < rounds; round++)
        for (int i = 0; i < prog_instances(prog); i++) {
            int layer;
            const RoundItem *item = prog_instance(prog, i, &layer);
            drafts |= item->segment == SEGMENT_DRAFT;
            contexts |= item->segment == SEGMENT_CONTEXT;
            if (!prog->bodies[item->body].pool_count) continue;
            if (pools == POOLS_MAX) return too_big;
            pool_round[pools] = round;
            pool_of[pools++] = prog->bodies[item->body].pools;
            rows = prog->rows;
        }
    for (int p = 0; p < pools; p++)
        if (pool_of[p]->keys > 4) return too_big;
    // Digits of a number with a mixed radix: routing of each pool instance, rows and skipping of each round, context.
    Routings *routings = ARENA_ARRAY(ctx->arena, Routings, (size_t)(pools + 1) * 9);
    for (int p = 0; p < pools; p++)
        for (int r = 1; r <= rows; r++)
            for (int active = 1; active <= pool_of[p]->keys; active++) {
                Routed routed = {.active = active};
                routings_add(ctx, &routings[p * 9 + r], pool_of[p], r, 0, &routed);
            }
    Outcome outcomes[ROUNDS_MAX];
    Routed routed[POOLS_MAX];
    size_t digit[POOLS_MAX] = {0};
    for (int r = 0; r < ROUNDS_MAX; r++) outcomes[r] = (Outcome){rows, false};
    bool skip_context = false;
    for (int tried = 0;; tried++) {
        bool possible = true;
        for (int p = 0; p < pools; p++) {
            const Routings *list = &routings[p * 9 + outcomes[pool_round[p]].rows];
            if (!list->count || list->count >= ROUTINGS_MAX) possible = false;
            if (list->count >= ROUTINGS_MAX) out.verdict = VERDICT_TOO_BIG;
            if (list->count) routed[p] = list->at[list->count - 1 - digit[p]]; // most active keys first
        }
        if (tried == OUTCOMES_MAX) out.verdict = VERDICT_TOO_BIG;
        if (out.verdict != VERDICT_RIGHT) break;
        if (possible) {
            ArenaMark inner = arena_push(ctx->arena);
            Machine *m = ARENA_NEW(ctx->arena, Machine);
            Search *search = ARENA_NEW(ctx->arena, Search);
            *search = (Search){.ctx = ctx, .m = m, .cap = cap - out.states, .hold = -1};
            if (!machine_make(ctx, m, prog, rounds, outcomes, routed, skip_context))
                out.verdict = m->why[0] ? VERDICT_BROKEN : VERDICT_TOO_BIG;
            else
                out.verdict = decide(search);
            out.states += search->states;
            if (out.verdict == VERDICT_BROKEN) snprintf(out.why, sizeof out.why, "%s", m->why);
            arena_pop(ctx->arena, inner);
            if (out.verdict != VERDICT_RIGHT) break;
        }
        int p = 0;
        while (p < pools && ++digit[p] >= routings[p * 9 + outcomes[pool_round[p]].rows].count) digit[p++] = 0;
        if (p < pools) continue;
        int r = 0;
        for (; r < rounds; r++) {
            if (drafts && !outcomes[r].skipped) {
                outcomes[r].skipped = true;
                break;
            }
            outcomes[r].skipped = false;
            if (--outcomes[r].rows >= 1) break;
            outcomes[r].rows = rows;
        }
        if (r < rounds) continue;
        if (!contexts || skip_context) break;
        skip_context = true;
    }
    arena_pop(ctx->arena, mark);
    return out;
}

Interleaving interleave(Ctx *ctx, const Prog *prog, int rounds, long cap) {
    return run_all(ctx, prog, rounds, cap, machine_states);
}
Interleaving interleave_pairs(Ctx *ctx, const Prog *prog, int rounds, long cap) {
    return run_all(ctx, prog, rounds, cap, machine_pairs);
}
