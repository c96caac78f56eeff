#include "model_schema.h"

#define AT(Type, field) offsetof(Type, field)
#define COUNT(array)    (sizeof(array) / sizeof *(array))
enum { BIG = 1 << 22 };

const char *const FAMILY_NAMES[2] = {"mimo_v2", "llama"};
const char *const SCORE_NAMES[2] = {"sigmoid", "softmax"};

static const Field model_fields[] = {
    {"name", FIELD_TEXT, AT(Model, name), true, 0, 0, 0},
    {"family", FIELD_FAMILY, AT(Model, family), true, 0, 0, 0},
    {"hidden", FIELD_INT, AT(Model, hidden), true, 32, BIG, 0},
    {"layers", FIELD_INT, AT(Model, layer_count), true, 1, MAX_LAYERS, 0},
    {"vocab", FIELD_INT, AT(Model, vocab), true, 2, BIG, 0},
    {"context", FIELD_INT, AT(Model, context), true, 16, 1 << 26, 0},
    {"eps", FIELD_REAL, AT(Model, eps), false, 0, 1, 1e-5},
    {"tied_head", FIELD_BOOL, AT(Model, tied_head), false, 0, 0, 0},
    {"tokenizer", FIELD_TEXT, AT(Model, tokenizer), false, 0, 0, 0},
};
static const Field attention_fields[] = {
    {"heads", FIELD_INT, AT(Attention, heads), true, 1, 1024, 0},
    {"kv_heads", FIELD_INT, AT(Attention, kv_heads), true, 1, 1024, 0},
    {"qk_dim", FIELD_INT, AT(Attention, qk_dim), true, 2, 1024, 0},
    {"v_dim", FIELD_INT, AT(Attention, v_dim), true, 1, 1024, 0},
    {"window", FIELD_INT, AT(Attention, window), false, 0, 1 << 26, 0},
    {"sink", FIELD_BOOL, AT(Attention, sink), false, 0, 0, 0},
    {"qk_norm", FIELD_BOOL, AT(Attention, qk_norm), false, 0, 0, 0},
    {"value_scale", FIELD_REAL, AT(Attention, value_scale), false, 1e-6, 1e6, 1},
};
static const Field rope_fields[] = {
    {"rotary", FIELD_INT, AT(Rope, rotary), true, 2, 1024, 0},
    {"theta", FIELD_REAL, AT(Rope, theta), true, 1, 1e12, 0},
    {"factor", FIELD_REAL, AT(Rope, factor), false, 1, 1e6, 1},
    {"low", FIELD_REAL, AT(Rope, low), false, 0, 1e6, 1},
    {"high", FIELD_REAL, AT(Rope, high), false, 0, 1e6, 4},
    {"original", FIELD_INT, AT(Rope, original), false, 0, 1 << 26, 0},
};
static const Field activation_fields[] = {
    {"alpha", FIELD_REAL, AT(Activation, alpha), false, 1e-6, 1e6, 1},
    {"limit", FIELD_REAL, AT(Activation, limit), false, 0, 1e9, 0},
};
static const Field experts_fields[] = {
    {"count", FIELD_INT, AT(Experts, count), true, 1, 4096, 0},
    {"top_k", FIELD_INT, AT(Experts, top_k), true, 1, 64, 0},
    {"inner", FIELD_INT, AT(Experts, inner), true, 1, BIG, 0},
    {"score", FIELD_SCORE, AT(Experts, score), true, 0, 0, 0},
    {"selection_bias", FIELD_BOOL, AT(Experts, selection_bias), false, 0, 0, 0},
    {"renormalise", FIELD_BOOL, AT(Experts, renormalise), false, 0, 0, 1},
    {"scale", FIELD_REAL, AT(Experts, scale), false, 1e-6, 1e6, 1},
};
static const Field dtype_fields[] = {
    {"embed", FIELD_DTYPE, AT(Model, embed_dtype), false, 0, 0, 0},
    {"head", FIELD_DTYPE, AT(Model, head_dtype), false, 0, 0, 0},
    {"qkv", FIELD_DTYPE, AT(Model, qkv_dtype), false, 0, 0, 0},
    {"o", FIELD_DTYPE, AT(Model, o_dtype), false, 0, 0, 0},
    {"dense", FIELD_DTYPE, AT(Model, dense_dtype), false, 0, 0, 0},
    {"experts", FIELD_DTYPE, AT(Model, experts_dtype), false, 0, 0, 0},
    {"router", FIELD_DTYPE, AT(Model, router_dtype), false, 0, 0, 0},
};
static const Field drafter_fields[] = {
    {"layers", FIELD_INT, AT(Drafter, layers), true, 1, 64, 0},
    {"block", FIELD_INT, AT(Drafter, block), true, 2, MAX_ROWS, 0},
    {"inner", FIELD_INT, AT(Drafter, inner), true, 1, BIG, 0},
    {"mask_token", FIELD_INT, AT(Drafter, mask_token), true, 0, BIG, 0},
    {"causal", FIELD_BOOL, AT(Drafter, causal), false, 0, 0, 0},
    {"eps", FIELD_REAL, AT(Drafter, eps), false, 0, 1, 1e-5},
    {"dtype", FIELD_DTYPE, AT(Drafter, dtype), false, 0, 0, 0},
};

const FieldTable MODEL_FIELDS = {model_fields, COUNT(model_fields)};
const FieldTable ATTENTION_FIELDS = {attention_fields, COUNT(attention_fields)};
const FieldTable ROPE_FIELDS = {rope_fields, COUNT(rope_fields)};
const FieldTable ACTIVATION_FIELDS = {activation_fields, COUNT(activation_fields)};
const FieldTable EXPERTS_FIELDS = {experts_fields, COUNT(experts_fields)};
const FieldTable DTYPE_FIELDS = {dtype_fields, COUNT(dtype_fields)};
const FieldTable DRAFTER_FIELDS = {drafter_fields, COUNT(drafter_fields)};

#define RULE(condition, ...)                                                                                           \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            diag_error(ctx, E0115, file, __VA_ARGS__);                                                                 \
            return false;                                                                                              \
        }                                                                                                              \
    } while (0)

static bool attention_rules(Ctx *ctx, const Attention *a, const char *where, Span file) {
    RULE(a->heads % a->kv_heads == 0, "%s: %d heads are not a multiple of %d kv_heads", where, a->heads, a->kv_heads);
    RULE(a->rope.rotary % 2 == 0 && a->rope.rotary <= a->qk_dim, "%s: rotary %d must be even and at most qk_dim %d",
         where, a->rope.rotary, a->qk_dim);
    RULE(a->rope.factor == 1 || (a->rope.original > 0 && a->rope.high > a->rope.low),
         "%s: a rope factor needs original, and low below high", where);
    return true;
}

bool model_rules(Ctx *ctx, const Model *m, Span file) {
    bool dense = false, experts = false, kinds[ATTENTION_KINDS] = {false};
    for (int i = 0; i < m->layer_count; i++) {
        kinds[m->layers[i].attention] = true;
        dense |= m->layers[i].mlp == MLP_DENSE;
        experts |= m->layers[i].mlp == MLP_EXPERTS;
    }
    const Attention *full = &m->attention[ATTENTION_FULL], *window = &m->attention[ATTENTION_WINDOW];
    RULE(!kinds[ATTENTION_FULL] || full->heads, "layers use full attention, but attention.full is not described");
    RULE(!kinds[ATTENTION_WINDOW] || window->heads,
         "layers use window attention, but attention.window is not described");
    RULE(kinds[ATTENTION_FULL] || !full->heads, "attention.full is described, but no layer uses it");
    RULE(kinds[ATTENTION_WINDOW] || !window->heads, "attention.window is described, but no layer uses it");
    if (full->heads && !attention_rules(ctx, full, "attention.full", file)) return false;
    if (window->heads && !attention_rules(ctx, window, "attention.window", file)) return false;
    RULE(!full->heads || !full->window, "attention.full has a window; describe such layers under attention.window");
    RULE(!window->heads || window->window, "attention.window has no window");
    if (full->heads && window->heads)
        RULE(full->heads == window->heads && full->qk_dim == window->qk_dim && full->v_dim == window->v_dim,
             "heads, qk_dim and v_dim must be the same for both kinds of attention; they share one o_proj shape");
    if (m->family == FAMILY_MIMO_V2 && full->heads && window->heads)
        RULE(window->kv_heads % full->kv_heads == 0,
             "kv_heads %d of the window layers are not a multiple of the %d chunks of the fused qkv", window->kv_heads,
             full->kv_heads);
    RULE(!dense || m->dense_inner, "layers use a dense MLP, but dense.inner is not given");
    RULE(!experts || m->experts.count, "layers use experts, but experts is not described");
    RULE(experts || !m->experts.count, "experts is described, but every layer is listed in dense.layers");
    if (m->experts.count) {
        RULE(m->experts.top_k <= m->experts.count, "experts.top_k %d is more than experts.count %d", m->experts.top_k,
             m->experts.count);
        RULE(m->experts_dtype != DTYPE_MXFP4 || (m->experts.inner % 32 == 0 && m->hidden % 32 == 0),
             "mxfp4 experts need hidden and experts.inner in multiples of 32");
    }
    if (!m->has_drafter) return true;
    const Drafter *d = &m->drafter;
    if (!attention_rules(ctx, &d->attention, "drafter.attention", file)) return false;
    RULE(d->tap_count > 0, "drafter.taps is empty");
    for (int i = 0; i < d->tap_count; i++) {
        RULE(d->taps[i] >= 0 && d->taps[i] < m->layer_count, "drafter.taps: there is no layer %d", d->taps[i]);
        RULE(i == 0 || d->taps[i] > d->taps[i - 1], "drafter.taps must ascend");
    }
    RULE(d->mask_token < m->vocab, "drafter.mask_token %d is not below vocab %d", d->mask_token, m->vocab);
    return true;
}
