#include "schedule.h"
#include "text.h"

// "4, 8, 16", or "4 to 256 by 4" for a longer even range.
static void print_values(Text *text, const Tunable *t) {
    bool even = t->value_count > 4;
    for (size_t i = 2; even && i < t->value_count; i++)
        even = t->values[i] - t->values[i - 1] == t->values[1] - t->values[0];
    if (even) {
        text_printf(text, "%lld to %lld by %lld", (long long)t->values[0], (long long)t->values[t->value_count - 1],
                    (long long)(t->values[1] - t->values[0]));
        return;
    }
    for (size_t i = 0; i < t->value_count; i++) text_printf(text, "%s%lld", i ? ", " : "", (long long)t->values[i]);
}

char *sched_print(Ctx *ctx, const Sched *s) {
    static const char *const claims[] = {"static", "dynamic"}, *const pers[] = {"all", "tile", "expert", "token"},
                             *const vias[] = {"counter", "data"},
                             *const origins[] = {"default", "arch", "sku", "record", "option"};
    Text out = text_new(ctx->arena), *text = &out;
    text_printf(text, "schedule %s, rows %d, activations %s, cache %s\n", s->name, s->rows, dtype_name(s->activations),
                dtype_name(s->cache));
    if (s->failed_check) text_printf(text, "  failed check: %s\n", s->failed_check);
    for (int i = 0; i < ROLE_COUNT; i++)
        if (s->roles[i].used)
            text_printf(text, "  role %s: warps %d, registers %d\n", role_name((Role)i), s->roles[i].warps,
                        s->roles[i].registers);
    if (s->page_count) text_printf(text, "  pages: %d of %d bytes\n", s->page_count, s->page_bytes);
    for (size_t i = 0; i < s->tunable_count; i++) {
        const Tunable *t = &s->tunables[i];
        text_printf(text, "  tunable %s = %lld (%s), line %u: ", t->name, (long long)t->value, origins[t->origin],
                    t->span.line);
        print_values(text, t);
        text_printf(text, "\n");
    }
    for (size_t i = 0; i < s->step_count; i++) {
        const SchedStep *step = &s->steps[i];
        text_printf(text, "  op %-16s line %u: tile %d, split %d, workers %d, %s, per %s via %s", op_name(step->op),
                    step->span.line, step->tile, step->split, step->workers, claims[step->claim], pers[step->per],
                    vias[step->via]);
        if (step->full_tile) text_printf(text, ", full tile %d", step->full_tile);
        if (step->steps) text_printf(text, ", steps %d", step->steps);
        text_printf(text, "\n");
    }
    return text->at;
}
