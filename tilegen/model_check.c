// What a model must satisfy before a pass relies on it, whoever filled it: a YAML description or a config.json.
#include "model_schema.h"
#include <math.h>
#include <stdarg.h>
#include <string.h>

typedef struct Checker {
    Ctx *ctx;
    const Model *m;
    Places places;
    bool ok;
} Checker;

__attribute__((format(printf, 4, 5))) static bool rule(Checker *c, bool holds, const char *path, const char *format,
                                                       ...) {
    if (holds) return true;
    va_list args;
    va_start(args, format);
    char text[300];
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    diag_error(c->ctx, E0115, c->places.find(c->ctx, c->places.user, path), "%s", text);
    c->ok = false;
    return false;
}

// A rule, and what would be right.
#define RULE(holds, path, help, ...)                                                                                   \
    do {                                                                                                               \
        if (!rule(c, holds, path, __VA_ARGS__)) diag_help(c->ctx, "%s", help);                                         \
    } while (0)

static void check_ranges(Checker *c) {
    for (size_t s = 0; s < MODEL_SECTION_COUNT; s++) {
        const Section *section = &MODEL_SECTIONS[s];
        if (!section->occurs(c->m)) continue;
        for (size_t f = 0; f < section->count; f++) {
            const Field *field = &section->fields[f];
            const void *at = (const char *)c->m + section->offset + field->offset;
            if (field->kind != FIELD_INT && field->kind != FIELD_REAL) continue;
            double value = field->kind == FIELD_INT ? *(const int *)at : *(const double *)at;
            if (value >= field->lo && value <= field->hi) continue;
            const char *path =
                arena_printf(c->ctx->arena, "%s%s%s", section->path, *section->path ? "." : "", field->key);
            c->ok = false;
            diag_error(c->ctx, E0112, c->places.find(c->ctx, c->places.user, path), "%s wants %s, not %s", path,
                       field_wants(c->ctx, field), field_text(c->ctx, c->m, section, field));
            diag_help(c->ctx, "models/SCHEMA.md says what each key means");
        }
    }
}

static void check_attention(Checker *c, const Attention *a, const char *path) {
    Arena *arena = c->ctx->arena;
    const char *kv_heads = arena_printf(arena, "%s.kv_heads", path);
    const char *rotary = arena_printf(arena, "%s.rope.rotary", path);
    const char *factor = arena_printf(arena, "%s.rope.factor", path);
    RULE(a->heads % a->kv_heads == 0, kv_heads, "each kv head serves the same number of query heads",
         "%s: %d heads are not a multiple of %d kv_heads", path, a->heads, a->kv_heads);
    RULE(a->rope.rotary % 2 == 0, rotary, "dims rotate in pairs (i, i + rotary/2)", "%s: rotary %d is odd", path,
         a->rope.rotary);
    RULE(a->rope.rotary <= a->qk_dim, rotary, "rotary counts the leading q/k dims that rotate",
         "%s: rotary %d is more than qk_dim %d", path, a->rope.rotary, a->qk_dim);
    RULE(a->rope.factor == 1 || a->rope.original > 0, factor, "give rope.original, the context before scaling",
         "%s: rope.factor %g without rope.original", path, a->rope.factor);
    RULE(a->rope.factor == 1 || a->rope.high > a->rope.low, factor, "Llama 3 has low 1 and high 4",
         "%s: rope.low %g is not below rope.high %g", path, a->rope.low, a->rope.high);
}

static void check_layers(Checker *c) {
    const Model *m = c->m;
    const Attention *full = &m->attention[ATTENTION_FULL], *window = &m->attention[ATTENTION_WINDOW];
    int kinds[ATTENTION_KINDS] = {0}, dense = 0, experts = 0;
    for (int i = 0; i < m->layer_count; i++) {
        kinds[m->layers[i].attention]++;
        if (m->layers[i].mlp == MLP_DENSE)
            dense++;
        else
            experts++;
    }
    RULE(!kinds[ATTENTION_FULL] || full->heads, "attention", "describe them under attention.full",
         "%d of %d layers use full attention, which is not described", kinds[ATTENTION_FULL], m->layer_count);
    RULE(!kinds[ATTENTION_WINDOW] || window->heads, "attention.full.layers",
         "describe them under attention.window, or leave `layers` out: all are full then",
         "%d of %d layers are not full, and window attention is not described", kinds[ATTENTION_WINDOW],
         m->layer_count);
    RULE(kinds[ATTENTION_FULL] || !full->heads, "attention.full", "list its layers in attention.full.layers",
         "attention.full is described, but no layer uses it");
    RULE(kinds[ATTENTION_WINDOW] || !window->heads, "attention.window",
         "leave the layers that use a window out of attention.full.layers",
         "attention.window is described, but no layer uses it");
    if (full->heads) check_attention(c, full, "attention.full");
    if (window->heads) check_attention(c, window, "attention.window");
    RULE(!full->heads || !full->window, "attention.full.window", "describe such layers under attention.window",
         "attention.full has a window");
    RULE(!window->heads || window->window, "attention.window", "write `window: 128` for the last 128 keys",
         "attention.window has no window");
    if (full->heads && window->heads) {
        RULE(full->heads == window->heads, "attention.window.heads", "both kinds share one shape of o_proj",
             "attention.window has %d heads, attention.full %d", window->heads, full->heads);
        RULE(full->qk_dim == window->qk_dim, "attention.window.qk_dim", "both kinds share one shape of q",
             "attention.window has qk_dim %d, attention.full %d", window->qk_dim, full->qk_dim);
        RULE(full->v_dim == window->v_dim, "attention.window.v_dim", "both kinds share one shape of o_proj",
             "attention.window has v_dim %d, attention.full %d", window->v_dim, full->v_dim);
        RULE(m->family != FAMILY_MIMO_V2 || window->kv_heads % full->kv_heads == 0, "attention.window.kv_heads",
             "the fused qkv has a chunk for each kv head of the full layers",
             "%d kv_heads of the window layers are not a multiple of the %d of the full ones", window->kv_heads,
             full->kv_heads);
    }
    RULE(!dense || m->dense_inner, m->experts.count ? "dense" : "", "describe dense, experts, or both",
         "%d of %d layers have a dense MLP, which is not described", dense, m->layer_count);
    RULE(dense || !m->dense_inner, "dense", "list its layers in dense.layers, or leave dense out",
         "dense is described, but no layer uses it");
    RULE(!experts || m->experts.count, "dense.layers", "describe experts, or leave `layers` out: all are dense then",
         "%d of %d layers are not dense, and experts is not described", experts, m->layer_count);
    RULE(experts || !m->experts.count, "experts", "leave the layers with experts out of dense.layers",
         "experts is described, but every layer is dense");
}

static void check_experts(Checker *c) {
    const Experts *e = &c->m->experts;
    RULE(e->top_k <= e->count, "experts.top_k", "a row uses some of the experts",
         "experts.top_k %d is more than experts.count %d", e->top_k, e->count);
}

// A matrix of mxfp4 has its input columns in groups of 32.
static void check_groups(Checker *c, Dtype dtype, const char *path, int columns, const char *what) {
    RULE(dtype != DTYPE_MXFP4 || columns % 32 == 0, path, "take a multiple of 32, or another dtype",
         "mxfp4 needs its inputs in groups of 32; %s is %d", what, columns);
}

static void check_dtypes(Checker *c) {
    const Model *m = c->m;
    RULE(!m->tied_head || m->head_dtype == m->embed_dtype, "dtypes.head", "give both the same dtype",
         "a tied head is the embedding, but dtypes.head differs from dtypes.embed");
    check_groups(c, m->embed_dtype, "dtypes.embed", m->hidden, "hidden");
    check_groups(c, m->head_dtype, "dtypes.head", m->hidden, "hidden");
    check_groups(c, m->qkv_dtype, "dtypes.qkv", m->hidden, "hidden");
    for (int kind = 0; kind < ATTENTION_KINDS; kind++)
        check_groups(c, m->o_dtype, "dtypes.o", m->attention[kind].heads * m->attention[kind].v_dim, "heads x v_dim");
    if (m->dense_inner) {
        check_groups(c, m->dense_dtype, "hidden", m->hidden, "hidden");
        check_groups(c, m->dense_dtype, "dense.inner", m->dense_inner, "dense.inner");
    }
    if (m->experts.count) {
        check_groups(c, m->router_dtype, "dtypes.router", m->hidden, "hidden");
        check_groups(c, m->experts_dtype, "hidden", m->hidden, "hidden");
        check_groups(c, m->experts_dtype, "experts.inner", m->experts.inner, "experts.inner");
    }
}

static void check_drafter(Checker *c) {
    const Drafter *d = &c->m->drafter;
    const Attention *a = &d->attention;
    check_attention(c, a, "drafter.attention");
    RULE(d->tap_count > 0, "drafter.taps", "list the target layers that the drafter listens to",
         "drafter.taps is empty");
    for (int i = 0; i < d->tap_count && c->ok; i++) {
        RULE(d->taps[i] >= 0 && d->taps[i] < c->m->layer_count, "drafter.taps",
             "taps are target layers, counted from 0", "drafter.taps: there is no layer %d; the last one is %d",
             d->taps[i], c->m->layer_count - 1);
        RULE(i == 0 || d->taps[i] > d->taps[i - 1], "drafter.taps", "sort the list and write each layer once",
             "drafter.taps must ascend, and %d follows %d", d->taps[i], d->taps[i > 0 ? i - 1 : 0]);
    }
    RULE(d->mask_token < c->m->vocab, "drafter.mask_token", "a token's number is below vocab",
         "drafter.mask_token %d is not below vocab %d", d->mask_token, c->m->vocab);
    check_groups(c, d->dtype, "drafter.dtype", c->m->hidden, "hidden");
    check_groups(c, d->dtype, "drafter.dtype", d->inner, "drafter.inner");
    check_groups(c, d->dtype, "drafter.dtype", a->heads * a->v_dim, "heads x v_dim");
}

bool model_check(Ctx *ctx, const Model *model, Places places) {
    Checker c = {ctx, model, places, true};
    check_ranges(&c);
    if (!c.ok) return false; // the rules below divide
    check_layers(&c);
    if (model->experts.count) check_experts(&c);
    check_dtypes(&c);
    if (model->has_drafter) check_drafter(&c);
    return c.ok;
}
