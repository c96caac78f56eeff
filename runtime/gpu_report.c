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

static void record_note(Ctx *ctx, const Prog *prog, const EngineReport *r) {
    Text text = text_new(ctx->arena);
    text_printf(&text, "worker %u, %s: ", r->worker, r->role < ROLE_COUNT ? role_name((Role)r->role) : "no role");
    if (r->kind != WAITER_GATE) text_printf(&text, "%s, ", task_text(ctx, prog, r));
    text_printf(&text, "round %u: ", r->round);
    switch (r->kind) {
    case WAITER_COUNTER:
        text_printf(&text, "waits for %s to reach %u; it is at %u", group_text(ctx, prog, r->group), r->want, r->have);
        break;
    case WAITER_PAGE: text_printf(&text, "waits for page %u", r->group); break;
    case WAITER_RING: text_printf(&text, "waits for the host to read rounds"); break;
    case WAITER_GATE: text_printf(&text, "waits for the round to begin"); break;
    case WAITER_GROUP: text_printf(&text, "waits for the other warps of its group"); break;
    default: text_printf(&text, "waits for something unknown (%u)", r->kind);
    }
    if (r->timed_out) text_printf(&text, "; it raised the alarm");
    diag_note(ctx, NO_SPAN, "%s", text.at);
}

void gpu_report(Ctx *ctx, const Prog *prog, const EngineReport *records, int count, const char *what) {
    int shown = 0, known = 0;
    diag_error(ctx, E0906, NO_SPAN, "%s", what);
    // First who raised the alarm: the others wait for what it waits for, or for it.
    for (int alarm = 1; alarm >= 0; alarm--)
        for (int i = 0; i < count; i++) {
            if (records[i].kind == 0 || (records[i].timed_out != 0) != (alarm == 1)) continue;
            known++;
            if (shown == SHOWN) continue;
            record_note(ctx, prog, &records[i]);
            shown++;
        }
    if (known > shown) diag_note(ctx, NO_SPAN, "and %d more waited", known - shown);
    if (known == 0) diag_note(ctx, NO_SPAN, "the kernel left no report");
    diag_help(ctx, "--host runs the same Prog on the host executor");
}
