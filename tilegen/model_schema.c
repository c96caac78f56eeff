#include "model_schema.h"
#include "text.h"
#include <math.h>
#include <string.h>

#define AT(Type, field) offsetof(Type, field)
#define COUNT(array)    (sizeof(array) / sizeof *(array))
#define INT(key, Type, field, lo, hi)                                                                                  \
    { key, FIELD_INT, AT(Type, field), true, lo, hi, 0, NULL }
#define INT_OR(key, Type, field, lo, hi, it)                                                                           \
    { key, FIELD_INT, AT(Type, field), false, lo, hi, it, NULL }
#define REAL(key, Type, field, lo, hi)                                                                                 \
    { key, FIELD_REAL, AT(Type, field), true, lo, hi, 0, NULL }
#define REAL_OR(key, Type, field, lo, hi, it)                                                                          \
    { key, FIELD_REAL, AT(Type, field), false, lo, hi, it, NULL }
#define BOOL_OR(key, Type, field, it)                                                                                  \
    { key, FIELD_BOOL, AT(Type, field), false, 0, 0, it, NULL }
#define OTHER(key, kind, Type, field, it, deflt)                                                                       \
    { key, kind, AT(Type, field), it, 0, 0, deflt, NULL }
#define LAYERS(key)                                                                                                    \
    { key, FIELD_LAYERS, 0, false, 0, 0, 0, NULL }
#define NEUTRAL(key, words)                                                                                            \
    { key, FIELD_NEUTRAL, 0, false, 0, 0, 0, words }

enum { BIG = 1 << 22, LONG = 1 << 26 };

// The smallest eps that keeps a row of zeros finite in f32.
#define EPS_LO 1e-12

static const Field model_fields[] = {
    OTHER("name", FIELD_NAME, Model, name, true, 0),
    OTHER("family", FIELD_FAMILY, Model, family, true, 0),
    INT("hidden", Model, hidden, 32, BIG),
    INT("layers", Model, layer_count, 1, MAX_LAYERS),
    INT("vocab", Model, vocab, 2, BIG),
    INT("context", Model, context, 16, LONG),
    REAL_OR("eps", Model, eps, EPS_LO, 0.1, 1e-5),
    BOOL_OR("tied_head", Model, tied_head, false),
    OTHER("tokenizer", FIELD_NAME, Model, tokenizer, false, 0),
    NEUTRAL("mtp_layers", "0"),
};
// The first row is of attention.full alone.
static const Field attention_fields[] = {
    LAYERS("layers"),
    INT("heads", Attention, heads, 1, 1024),
    INT("kv_heads", Attention, kv_heads, 1, 1024),
    INT("qk_dim", Attention, qk_dim, 2, 1024),
    INT("v_dim", Attention, v_dim, 1, 1024),
    INT_OR("window", Attention, window, 0, LONG, 0),
    BOOL_OR("sink", Attention, sink, false),
    BOOL_OR("qk_norm", Attention, qk_norm, false),
    REAL_OR("value_scale", Attention, value_scale, 1e-6, 1e6, 1),
    NEUTRAL("bias", "false"),
};
static const Field rope_fields[] = {
    INT("rotary", Rope, rotary, 2, 1024),       REAL("theta", Rope, theta, 1, 1e12),
    REAL_OR("factor", Rope, factor, 1, 1e6, 1), REAL_OR("low", Rope, low, 1e-6, 1e6, 1),
    REAL_OR("high", Rope, high, 1e-6, 1e6, 4),  INT_OR("original", Rope, original, 0, LONG, 0),
};
static const Field swiglu_fields[] = {
    REAL_OR("alpha", Activation, alpha, 1e-6, 1e6, 1),
    REAL_OR("limit", Activation, limit, 0, 1e9, 0),
};
static const Field dense_fields[] = {
    INT("inner", Model, dense_inner, 1, BIG),
    LAYERS("layers"),
    NEUTRAL("activation", "silu swiglu"),
    NEUTRAL("bias", "false"),
};
static const Field experts_fields[] = {
    INT("count", Experts, count, 1, 4096),
    INT("top_k", Experts, top_k, 1, 64),
    INT("inner", Experts, inner, 1, BIG),
    OTHER("score", FIELD_SCORE, Experts, score, true, 0),
    BOOL_OR("selection_bias", Experts, selection_bias, false),
    BOOL_OR("renormalise", Experts, renormalise, true),
    REAL_OR("scale", Experts, scale, 1e-6, 1e6, 1),
    NEUTRAL("shared_experts", "0"),
    NEUTRAL("groups", "1"),
    NEUTRAL("activation", "silu swiglu"),
    NEUTRAL("bias", "false"),
};
static const Field dtype_fields[] = {
    OTHER("embed", FIELD_DTYPE, Model, embed_dtype, false, DTYPE_BF16),
    OTHER("head", FIELD_DTYPE, Model, head_dtype, false, DTYPE_BF16),
    OTHER("qkv", FIELD_DTYPE, Model, qkv_dtype, false, DTYPE_BF16),
    OTHER("o", FIELD_DTYPE, Model, o_dtype, false, DTYPE_BF16),
    OTHER("dense", FIELD_DTYPE, Model, dense_dtype, false, DTYPE_BF16),
    OTHER("experts", FIELD_DTYPE, Model, experts_dtype, false, DTYPE_BF16),
    OTHER("router", FIELD_DTYPE, Model, router_dtype, false, DTYPE_BF16),
};
static const Field drafter_fields[] = {
    INT("layers", Drafter, layers, 1, 64),
    INT("block", Drafter, block, 2, MAX_ROWS),
    INT("inner", Drafter, inner, 1, BIG),
    INT("mask_token", Drafter, mask_token, 0, BIG),
    BOOL_OR("causal", Drafter, causal, false),
    REAL_OR("eps", Drafter, eps, EPS_LO, 0.1, 1e-5),
    OTHER("dtype", FIELD_DTYPE, Drafter, dtype, false, DTYPE_BF16),
    {"taps", FIELD_LAYERS, 0, true, 0, 0, 0, NULL},
    NEUTRAL("activation", "silu swiglu"),
};

static bool always(const Model *m) { return m != NULL; }
static bool has_full(const Model *m) { return m->attention[ATTENTION_FULL].heads != 0; }
static bool has_window(const Model *m) { return m->attention[ATTENTION_WINDOW].heads != 0; }
static bool has_dense(const Model *m) { return m->dense_inner != 0; }
static bool has_experts(const Model *m) { return m->experts.count != 0; }
static bool has_drafter(const Model *m) { return m->has_drafter; }
static void set_drafter(Model *m, bool it) { m->has_drafter = it; }

#define FULL   AT(Model, attention[ATTENTION_FULL])
#define WINDOW AT(Model, attention[ATTENTION_WINDOW])
#define DRAFT  (AT(Model, drafter) + AT(Drafter, attention))
#define ROPE   AT(Attention, rope)

const Section MODEL_SECTIONS[] = {
    {"", model_fields, COUNT(model_fields), 0, true, always, NULL},
    {"attention", NULL, 0, 0, true, always, NULL},
    {"attention.full", attention_fields, COUNT(attention_fields), FULL, false, has_full, NULL},
    {"attention.full.rope", rope_fields, COUNT(rope_fields), FULL + ROPE, true, has_full, NULL},
    {"attention.window", attention_fields + 1, COUNT(attention_fields) - 1, WINDOW, false, has_window, NULL},
    {"attention.window.rope", rope_fields, COUNT(rope_fields), WINDOW + ROPE, true, has_window, NULL},
    {"dense", dense_fields, COUNT(dense_fields), 0, false, has_dense, NULL},
    {"dense.swiglu", swiglu_fields, COUNT(swiglu_fields), AT(Model, dense_activation), false, has_dense, NULL},
    {"experts", experts_fields, COUNT(experts_fields), AT(Model, experts), false, has_experts, NULL},
    {"experts.swiglu", swiglu_fields, COUNT(swiglu_fields), AT(Model, experts) + AT(Experts, activation), false,
     has_experts, NULL},
    {"dtypes", dtype_fields, COUNT(dtype_fields), 0, false, always, NULL},
    {"drafter", drafter_fields, COUNT(drafter_fields), AT(Model, drafter), false, has_drafter, set_drafter},
    {"drafter.attention", attention_fields + 1, COUNT(attention_fields) - 1, DRAFT, true, has_drafter, NULL},
    {"drafter.attention.rope", rope_fields, COUNT(rope_fields), DRAFT + ROPE, true, has_drafter, NULL},
    {"drafter.swiglu", swiglu_fields, COUNT(swiglu_fields), AT(Model, drafter) + AT(Drafter, activation), false,
     has_drafter, NULL},
};
const size_t MODEL_SECTION_COUNT = COUNT(MODEL_SECTIONS);

const Section *section_parent(const Section *section, const char **key) {
    const char *dot = strrchr(section->path, '.');
    *key = dot ? dot + 1 : section->path;
    if (!*section->path) return NULL;
    size_t length = dot ? (size_t)(dot - section->path) : 0;
    for (size_t i = 0; i < MODEL_SECTION_COUNT; i++)
        if (strlen(MODEL_SECTIONS[i].path) == length && strncmp(MODEL_SECTIONS[i].path, section->path, length) == 0)
            return &MODEL_SECTIONS[i];
    return NULL;
}

// In the order of the enums.
static const char *const family_words[] = {"mimo_v2", "llama"};
static const char *const score_words[] = {"sigmoid", "softmax"};
static const char *const dtype_words[] = {"f32", "bf16", "fp8", "mxfp4"};
static const char *const bool_words[] = {"false", "true"};
_Static_assert(FAMILY_MIMO_V2 == 0 && FAMILY_LLAMA == 1 && SCORE_SIGMOID == 0 && SCORE_SOFTMAX == 1 && DTYPE_F32 == 0 &&
                   DTYPE_BF16 == 1 && DTYPE_FP8 == 2 && DTYPE_MXFP4 == 3,
               "the words above name the values of the enums");

const char *const *field_words(FieldKind kind, int *count) {
    *count = kind == FIELD_DTYPE ? 4 : 2;
    return kind == FIELD_FAMILY  ? family_words
           : kind == FIELD_SCORE ? score_words
           : kind == FIELD_DTYPE ? dtype_words
           : kind == FIELD_BOOL  ? bool_words
                                 : NULL;
}

// The shortest decimal text that reads back as the same double: 0.612, 500000, 1e7.
static const char *real_text(Ctx *ctx, double value) {
    if (value == floor(value) && fabs(value) < 1e6) return arena_printf(ctx->arena, "%.0f", value);
    char room[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(room, sizeof room, "%.*g", digits, value);
        double back;
        if (sscanf(room, "%lf", &back) == 1 && back == value) break;
    }
    char *e = strchr(room, 'e');
    if (!e) return arena_text(ctx->arena, room);
    const char *power = e + 1 + strspn(e + 1, "+-0");
    return arena_printf(ctx->arena, "%.*s%s%s", (int)(e - room + 1), room, e[1] == '-' ? "-" : "", power);
}

const char *field_wants(Ctx *ctx, const Field *field) {
    switch (field->kind) {
    case FIELD_INT: return arena_printf(ctx->arena, "a whole number from %.0f to %.0f", field->lo, field->hi);
    case FIELD_REAL:
        return arena_printf(ctx->arena, "a number from %s to %s", real_text(ctx, field->lo), real_text(ctx, field->hi));
    case FIELD_BOOL: return "true or false";
    case FIELD_NAME: return "a name of letters, digits, '.', '_' and '-' that begins with a letter or digit";
    case FIELD_DTYPE: return "f32, bf16, fp8 or mxfp4";
    case FIELD_SCORE: return "sigmoid or softmax";
    case FIELD_FAMILY: return "mimo_v2 or llama";
    case FIELD_LAYERS: return "an ascending list of layers, like [0, 3, 5]";
    case FIELD_NEUTRAL:
    default: return field->neutral;
    }
}

int model_list_get(const Model *m, const Section *section, int *out) {
    int count = 0;
    if (section->fields == drafter_fields) {
        for (; count < m->drafter.tap_count && count < MAX_TAPS; count++) out[count] = m->drafter.taps[count];
        return count;
    }
    bool dense = section->fields == dense_fields;
    for (int i = 0; i < m->layer_count && i < MAX_LAYERS; i++)
        if (dense ? m->layers[i].mlp == MLP_DENSE : m->layers[i].attention == ATTENTION_FULL) out[count++] = i;
    return count;
}

const char *field_text(Ctx *ctx, const Model *m, const Section *section, const Field *field) {
    const void *at = (const char *)m + section->offset + field->offset;
    int count, list[MAX_LAYERS];
    const char *const *words = field_words(field->kind, &count);
    switch (field->kind) {
    case FIELD_INT: return arena_printf(ctx->arena, "%d", *(const int *)at);
    case FIELD_REAL: return real_text(ctx, *(const double *)at);
    case FIELD_BOOL: return words[*(const bool *)at];
    case FIELD_NAME: return *(const char *const *)at;
    case FIELD_DTYPE: return words[*(const Dtype *)at];
    case FIELD_SCORE: return words[*(const Score *)at];
    case FIELD_FAMILY: return words[*(const Family *)at];
    case FIELD_LAYERS: {
        Text text = text_new(ctx->arena);
        count = model_list_get(m, section, list);
        for (int i = 0; i < count; i++) text_printf(&text, "%s%d", i ? ", " : "[", list[i]);
        text_printf(&text, count ? "]" : "[]");
        return text.at;
    }
    case FIELD_NEUTRAL:
    default: return NULL;
    }
}

bool field_is_default(const Model *m, const Section *section, const Field *field) {
    const void *at = (const char *)m + section->offset + field->offset;
    if (field->required) return false;
    if (field->kind == FIELD_INT) return *(const int *)at == (int)field->value;
    if (field->kind == FIELD_REAL) return *(const double *)at == field->value;
    if (field->kind == FIELD_BOOL) return *(const bool *)at == (field->value != 0);
    if (field->kind == FIELD_DTYPE) return *(const Dtype *)at == (Dtype)field->value;
    if (field->kind == FIELD_NAME) return strcmp(*(const char *const *)at, MODEL_TOKENIZER) == 0;
    // Which layers are full, or dense, is said only where there are others.
    if (field->kind != FIELD_LAYERS || section->fields == drafter_fields) return false;
    return section->fields == dense_fields ? !has_experts(m) : !has_window(m);
}
