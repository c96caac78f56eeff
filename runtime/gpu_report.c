#include "gpu_parts.h"
#include "text.h"

enum { SHOWN = 12 };

static const char *group_text(Ctx *ctx, const Prog *prog, uint32_t group) {
    uint32_t first = 0;
    for (int c = 0; c < prog->counter_count; first += (uint32_t)prog->counters[c++].groups)
        if (group - first < (uint32_t)prog->counters[c].groups)
            return arena_printf(ctx->arena, "%s[%u]", prog->counters[c].name, group - first);
    return arena_printf(ctx->arena, "group %u, which there is none of", group);
}

// "qkv [0, 16) of body full_dense, layer 3"
static const char *task_text(Ctx *ctx, const Prog *prog, const EngineReport *r) {
    int layer = 0;
    const RoundItem *item =
        r->instance < (uint32_t)prog_instances(prog) ? prog_instance(prog, (int)r->instance, &layer) : NULL;
    if (!item) return arena_printf(ctx->arena, "instance %u", r->instance);
    const Body *body = &prog->bodies[item->body];
    const char *op = r->step < (uint32_t)body->step_count ? op_name(body->steps[r->step].op)
                                                          : arena_printf(ctx->arena, "step %u", r->step);
    return arena_printf(ctx->arena, "%s [%u, %u) of body %s, layer %d", op, r->lo, r->hi, body->name, layer);
}

// Records that say the same of several workers or warps are told once.
static bool alike(const EngineReport *a, const EngineReport *b) {
    return a->kind == b->kind && a->role == b->role && a->instance == b->instance && a->step == b->step &&
           a->group == b->group && a->want == b->want && a->round == b->round;
}

static void record_note(Ctx *ctx, const Prog *prog, const EngineReport *r, int others) {
    Text text = text_new(ctx->arena);
    text_printf(&text, "worker %u", r->worker);
    if (others) text_printf(&text, " and %d other%s", others, others > 1 ? "s" : "");
    text_printf(&text, ", %s: ", r->role < ROLE_COUNT ? role_name((Role)r->role) : "no role");
    if (r->kind != WAITER_GATE) text_printf(&text, "%s, ", task_text(ctx, prog, r));
    text_printf(&text, "round %u: ", r->round);
    switch (r->kind) {
    case WAITER_RANK: text_printf(&text, "waits for what rank %u says of round %u", r->group, r->round - 1); break;
    case WAITER_COUNTER:
        text_printf(&text, "waits for %s to reach %u; it is at %u", group_text(ctx, prog, r->group), r->want, r->have);
        break;
    case WAITER_RING: text_printf(&text, "waits for its place between the warps"); break;
    case WAITER_GATE: text_printf(&text, "waits for the round to begin"); break;
    default: text_printf(&text, "waits for something unknown (%u)", r->kind);
    }
    if (r->timed_out) text_printf(&text, "; it raised the alarm");
    diag_note(ctx, NO_SPAN, "%s", text.at);
}

// What is told first: waits between workers, the earliest task of the earliest round before the others, since what that
// one waits for is what is missing; then waits inside a worker, whose reason lies elsewhere.
static bool comes_before(const EngineReport *a, const EngineReport *b) {
    bool a_between = a->kind == WAITER_COUNTER || a->kind == WAITER_RANK,
         b_between = b->kind == WAITER_COUNTER || b->kind == WAITER_RANK;
    if (a_between != b_between) return a_between;
    if (a->round != b->round) return a->round < b->round;
    if (a->instance != b->instance) return a->instance < b->instance;
    return a->step < b->step;
}

static void disagreement(Ctx *ctx, int rank, const EngineReport *r) {
    diag_error(
        ctx, E0904, NO_SPAN,
        "the ranks do not agree: after round %u the tokens of rank %d have the digest %08x, those of rank %u %08x",
        r->round - 1, rank, r->want, r->group, r->have);
    diag_help(ctx, "--host runs the same Prog on the host executor; a GPU that computes wrongly often shows in the "
                   "system's log (`dmesg`, lines with Xid)");
}

DiagCode gpu_report(Ctx *ctx, const Prog *prog, int rank, const EngineReport *records, int count, const char *what) {
    for (int i = 0; i < count; i++)
        if (records[i].kind == WAITER_DIGEST) return disagreement(ctx, rank, &records[i]), E0904;
    bool *told = ARENA_ARRAY(ctx->arena, bool, count);
    int known = 0, left = 0;
    diag_error(ctx, E0906, NO_SPAN, "%s", what);
    for (int i = 0; i < count; i++) known += records[i].kind != 0;
    left = known;
    for (int line = 0; line < SHOWN && left; line++) {
        int next = -1, others = -1;
        for (int i = 0; i < count; i++)
            if (!told[i] && records[i].kind && (next < 0 || comes_before(&records[i], &records[next]))) next = i;
        for (int k = 0; k < count; k++) {
            if (told[k] || !alike(&records[next], &records[k])) continue;
            told[k] = true;
            others++;
        }
        record_note(ctx, prog, &records[next], others);
        left -= others + 1;
    }
    if (left) diag_note(ctx, NO_SPAN, "and %d more waited", left);
    if (known == 0) diag_note(ctx, NO_SPAN, "the kernel left no report");
    diag_help(ctx, "--host runs the same Prog on the host executor");
    return E0906;
}
