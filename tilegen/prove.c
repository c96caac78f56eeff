#include "prove.h"
#include "../templates/abi.h"
#include "prove_parts.h"
#include <string.h>

// Loads of a worker stand in the order of their uses, chunk by chunk in the same pages. A load waits for nothing but
// the release of its page by an earlier chunk of the same order, so loads and tasks together go forward like the tasks
// alone. That holds whatever the number of a ring's chunks, since both sides go through the same pages as often.
static bool pages_match(Ctx *ctx, const Prog *prog, const Body *body, int worker) {
    const Queue *loads = prog_queue(prog, body, worker, ROLE_LOAD),
                *tasks = prog_queue(prog, body, worker, ROLE_COMPUTE);
    const Queue *control = prog_queue(prog, body, worker, ROLE_CONTROL);
    for (int i = 0; i < control->count; i++) {
        if (!control->entries[i].task.page_count) continue;
        diag_error(ctx, E0611, control->entries[i].task.span, "body %s, worker %d: a control task with pages",
                   body->name, worker);
        return false;
    }
    int next = 0;
    for (int i = 0; i < tasks->count; i++) {
        const Entry *use = &tasks->entries[i];
        bool pool = use->kind == ENTRY_POOL && body->pools[use->pool].chunks;
        if (!pool && !use->task.page_count) continue;
        const Entry *load = next < loads->count ? &loads->entries[next++] : NULL;
        const Task *a = &use->task, *b = load ? &load->task : NULL;
        bool same =
            load && (pool ? load->kind == ENTRY_POOL && load->pool == use->pool
                          : load->kind == ENTRY_LOAD && a->step == b->step && a->lo == b->lo && a->hi == b->hi &&
                                a->part == b->part && a->ring == b->ring && a->page_count == b->page_count &&
                                memcmp(a->pages, b->pages, (size_t)a->page_count * sizeof *a->pages) == 0);
        if (same) continue;
        if (pool)
            diag_error(ctx, E0611, a->span, "body %s, worker %d: pool %d has no matching entry in the load queue",
                       body->name, worker, use->pool);
        else
            diag_error(ctx, E0611, a->span,
                       "body %s, worker %d: %s %d:%d uses pages that the next load does not fill for it", body->name,
                       worker, op_name(body->steps[a->step].op), a->lo, a->hi);
        return false;
    }
    if (next == loads->count) return true;
    diag_error(ctx, E0611, loads->entries[next].task.span, "body %s, worker %d: a load that no task uses", body->name,
               worker);
    return false;
}

// Readiness carried in the data: one producer a group, or a reader could take half of it for all.
static bool data_counters(Ctx *ctx, const Prog *prog) {
    for (int c = 0; c < prog->counter_count; c++) {
        if (prog->counters[c].via != VIA_DATA) continue;
        for (int b = 0; b < prog->body_count; b++)
            for (int g = 0; g < prog->counters[c].groups; g++) {
                int64_t total = prog_total(prog, &prog->bodies[b], c, g);
                if (total <= 1) continue;
                diag_error(ctx, E0612, NO_SPAN, "%s[%d] is carried in the data, but body %s signals it %lld times",
                           prog->counters[c].name, g, prog->bodies[b].name, (long long)total);
                diag_help(ctx, "write per = \"tile\" with a tile that its readers share, or via = \"counter\"");
                return false;
            }
    }
    return true;
}

// Shared memory beside the pages: barriers, staging of activations, the round's state.
enum { MAX_TX = (1 << 20) - 1, NAMED_BARRIERS = 16 };

static bool budgets(Ctx *ctx, const Prog *prog, const Sku *sku) {
    size_t errors = diag_errors(ctx);
    int warps = 0, registers = 0, roles = 0;
    for (int r = 0; r < ROLE_COUNT; r++) {
        const SchedRole *role = &prog->roles[r];
        if (!role->used) continue;
        roles++;
        warps += role->warps;
        registers += role->warps * 32 * role->registers;
        if (role->registers % 8 || (role->registers && (role->registers < 24 || role->registers > 256))) {
            diag_error(ctx, E0613, role->span, "role %s: %d registers a thread", role_name((Role)r), role->registers);
            diag_help(ctx, "a multiple of 8 from 24 to 256, as setmaxnreg takes");
        }
    }
    if (sku_is_host(sku)) return diag_errors(ctx) == errors;
    if (warps > 32) diag_error(ctx, E0613, NO_SPAN, "%d warps; a block has at most 32", warps);
    if (registers > sku->registers)
        diag_error(ctx, E0613, NO_SPAN, "the roles take %d registers; %s has %d an SM", registers, sku->name,
                   sku->registers);
    // What is not pages holds the barriers: one filled and one emptied a page, and two of each role pair. Named
    // barriers: one a role and one for all.
    int64_t pages = (int64_t)prog->page_count * prog->page_bytes;
    int reserved = sku->shared_memory - sku_page_memory(sku);
    if (pages > sku_page_memory(sku)) {
        diag_error(ctx, E0613, NO_SPAN,
                   "%d pages of %d bytes and %d reserved are %lld bytes; %s has %d bytes of shared memory a block",
                   prog->page_count, prog->page_bytes, reserved, (long long)pages + reserved, sku->name,
                   sku->shared_memory);
        diag_help(ctx, "at most %d pages of this size fit", sku_page_memory(sku) / prog->page_bytes);
    }
    if (prog->page_bytes > MAX_TX)
        diag_error(ctx, E0613, NO_SPAN, "a page of %d bytes; an mbarrier counts at most %d bytes a phase",
                   prog->page_bytes, MAX_TX);
    if (roles + 1 > NAMED_BARRIERS)
        diag_error(ctx, E0613, NO_SPAN, "%d named barriers; there are %d", roles + 1, NAMED_BARRIERS);
    return diag_errors(ctx) == errors;
}

static void prove_leave(void *arena) { arena_free(arena); }
static void prove_oom(void *ctx) { ctx_out_of_memory(ctx); }

// Working memory of its own: what is left in the Ctx's arena are messages.
static Prove prove_begin(Ctx *ctx, const Prog *prog, bool quiet) {
    Arena *arena = arena_new(prove_oom, ctx);
    if (!arena) ctx_out_of_memory(ctx);
    ctx_defer(ctx, prove_leave, arena);
    return (Prove){.ctx = ctx, .prog = prog, .arena = arena, .quiet = quiet};
}

static void prove_end(Prove *p) { ctx_done(p->ctx, p->arena); }

// The instances of one round.
static Instance *round_instances(Prove *p, int *count) {
    const Prog *prog = p->prog;
    *count = prog_instances(prog);
    if (*count > PROVE_INSTANCES_MAX) *count = 0; // prog_verify
    Instance *at = ARENA_ARRAY(p->arena, Instance, 2 * *count + 1);
    int made = 0;
    for (int i = 0; i < prog->round_count && *count; i++)
        for (int layer = prog->round[i].layer_lo; layer < prog->round[i].layer_hi; layer++)
            at[made++] = (Instance){.body = prog->round[i].body, .layer = layer};
    return at;
}

static int second_round(Instance *at, int count) {
    for (int i = 0; i < count; i++) {
        at[count + i] = at[i];
        at[count + i].round = 1;
    }
    return 2 * count;
}

// Leaves out what only repeats: from two places with the same two bodies before them, all between is dropped if every
// three bodies in a row in it are found elsewhere in what is kept. It is the round of a smaller model, good for
// finding most of what is unordered, and shows nothing by itself.
static int round_sketch(Prove *p, Instance *at, int count) {
    int bodies = p->prog->body_count, kept = 0;
    bool *triples = bodies <= 128 ? ARENA_ARRAY(p->arena, bool, bodies *bodies *bodies) : NULL;
    if (!triples) return count;
    for (int i = 0, last_new = 0; i < count; i++) {
        at[kept++] = at[i];
        if (kept < 3) continue;
        const Instance *end = &at[kept - 1];
        bool *seen = &triples[(end[-2].body * bodies + end[-1].body) * bodies + end->body];
        if (!*seen) last_new = kept - 1;
        *seen = true;
        for (int j = kept - 2; j > last_new; j--)
            if (at[j].body == end->body && at[j - 1].body == end[-1].body) {
                kept = j + 1;
                break;
            }
    }
    return kept;
}

static bool prove_rounds(Prove *p, Instance *instances, int round) {
    int count = second_round(instances, round);
    if (!round || !prove_form(p, instances, count, round) || !prove_grids(p)) return false;
    if (!p->quiet) prove_cover(p);
    bool met = prove_marks(p);
    if (!met && !p->quiet) return false;
    return prove_order(p) && !p->failed;
}

bool prog_prove(Ctx *ctx, const Prog *prog, const Sku *sku) {
    size_t errors = diag_errors(ctx);
    if (!prog_verify(ctx, prog)) return false;
    if (!prog->body_count || !prog->bodies[0].queues) {
        diag_error(ctx, E0614, NO_SPAN, "the Prog is not placed: there are no queues to prove anything of");
        return false;
    }
    for (int b = 0; b < prog->body_count; b++)
        for (int worker = 0; worker < prog->workers; worker++)
            if (!pages_match(ctx, prog, &prog->bodies[b], worker)) return false;
    if (!data_counters(ctx, prog)) return false;
    if (sku && !budgets(ctx, prog, sku)) return false;
    Prove p = prove_begin(ctx, prog, false);
    int round;
    Instance *instances = round_instances(&p, &round);
    bool proved = prove_rounds(&p, instances, round);
    prove_end(&p);
    return proved && diag_errors(ctx) == errors;
}

Unordered prog_unordered(Ctx *ctx, const Prog *prog) {
    Unordered first = {.hazard = HAZARD_NONE};
    if (!prog->body_count || !prog->bodies[0].queues) return first;
    for (int whole = 0; whole < 2 && first.hazard == HAZARD_NONE; whole++) {
        Prove p = prove_begin(ctx, prog, true);
        int round;
        Instance *instances = round_instances(&p, &round);
        prove_rounds(&p, instances, whole ? round : round_sketch(&p, instances, round));
        first = p.first.hazard != HAZARD_NONE ? p.first : p.overtaken;
        prove_end(&p);
    }
    return first;
}
