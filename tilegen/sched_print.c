#include "schedule.h"
#include "text.h"

char *sched_print(Ctx *ctx, const Sched *s) {
    static const char *const claims[] = {"static", "dynamic"}, *const pers[] = {"all", "tile", "expert", "token"},
                             *const vias[] = {"counter", "data"},
                             *const origins[] = {"default", "arch", "sku", "record", "option"};
    Text out = text_new(ctx->arena), *text = &out;
    text_printf(text, "schedule %s, rows %d, activations %s, cache %s\n", s->name, s->rows, dtype_name(s->activations),
                dtype_name(s->cache));
    for (int i = 0; i < ROLE_COUNT; i++)
        if (s->roles[i].used)
            text_printf(text, "  role %s: warps %d, registers %d\n", role_name((Role)i), s->roles[i].warps,
                        s->roles[i].registers);
    if (s->page_count) text_printf(text, "  pages: %d of %d bytes\n", s->page_count, s->page_bytes);
    for (size_t i = 0; i < s->tunable_count; i++)
        text_printf(text, "  tunable %s = %lld (%s, of %zu values)\n", s->tunables[i].name,
                    (long long)s->tunables[i].value, origins[s->tunables[i].origin], s->tunables[i].value_count);
    for (size_t i = 0; i < s->step_count; i++) {
        const SchedStep *step = &s->steps[i];
        text_printf(text, "  op %-16s line %u: tile %d, split %d, workers %d, %s, per %s via %s\n", op_name(step->op),
                    step->span.line, step->tile, step->split, step->workers, claims[step->claim], pers[step->per],
                    vias[step->via]);
    }
    return text->at;
}
