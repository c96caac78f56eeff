#include "model_schema.h"
#include "text.h"
#include "yaml_tree.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct Reader {
    Ctx *ctx;
    bool ok;
} Reader;

static YamlNode *child(const YamlNode *map, const char *key) {
    for (size_t i = 0; i < map->count; i++)
        if (strcmp(map->keys[i], key) == 0) return map->items[i];
    return NULL;
}

static void wrong(Reader *r, const YamlNode *node, const char *key, const char *wanted) {
    static const char *const kinds[] = {"a value", "a list", "a map"};
    r->ok = false;
    if (node->kind == YAML_SCALAR)
        diag_error(r->ctx, E0112, node->span, "%s wants %s, not \"%s\"", key, wanted, node->text);
    else
        diag_error(r->ctx, E0112, node->span, "%s wants %s, not %s", key, wanted, kinds[node->kind]);
}

static bool read_number(const YamlNode *node, double *out) {
    if (node->kind != YAML_SCALAR || node->quoted || !node->text[0]) return false;
    if (node->text[strspn(node->text, "0123456789+-.eE")]) return false;
    char *end;
    errno = 0;
    *out = strtod(node->text, &end);
    return *end == 0 && isfinite(*out);
}

static bool read_bool(const YamlNode *node, bool *out) {
    if (node->kind != YAML_SCALAR || node->quoted) return false;
    *out = strcmp(node->text, "true") == 0;
    return *out || strcmp(node->text, "false") == 0;
}

static bool read_word(const YamlNode *node, const char *const *words, int count, int *out) {
    for (int i = 0; node->kind == YAML_SCALAR && i < count; i++)
        if (strcmp(node->text, words[i]) == 0) return *out = i, true;
    return false;
}

static void read_field(Reader *r, const YamlNode *node, const Field *field, char *base) {
    void *at = base + field->offset;
    double number;
    int word;
    char wanted[120];
    switch (field->kind) {
    case FIELD_INT:
        snprintf(wanted, sizeof wanted, "a whole number from %.0f to %.0f", field->lo, field->hi);
        if (!read_number(node, &number) || number != floor(number) || number < field->lo || number > field->hi)
            wrong(r, node, field->key, wanted);
        else
            *(int *)at = (int)number;
        break;
    case FIELD_REAL:
        snprintf(wanted, sizeof wanted, "a number from %g to %g", field->lo, field->hi);
        if (!read_number(node, &number) || number < field->lo || number > field->hi)
            wrong(r, node, field->key, wanted);
        else
            *(double *)at = number;
        break;
    case FIELD_BOOL:
        if (!read_bool(node, (bool *)at)) wrong(r, node, field->key, "true or false");
        break;
    case FIELD_TEXT:
        if (node->kind != YAML_SCALAR || !node->text[0] || strlen(node->text) > 200 ||
            node->text[strspn(node->text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")])
            wrong(r, node, field->key, "a name of letters, digits, '.', '_' and '-'");
        else
            *(const char **)at = node->text;
        break;
    case FIELD_DTYPE: {
        static const char *const names[] = {"f32", "bf16", "fp8", "mxfp4"};
        static const Dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_FP8, DTYPE_MXFP4};
        if (!read_word(node, names, 4, &word))
            wrong(r, node, field->key, "f32, bf16, fp8 or mxfp4");
        else
            *(Dtype *)at = dtypes[word];
        break;
    }
    case FIELD_SCORE:
        if (!read_word(node, SCORE_NAMES, 2, &word))
            wrong(r, node, field->key, "sigmoid or softmax");
        else
            *(Score *)at = (Score)word;
        break;
    case FIELD_FAMILY:
        if (!read_word(node, FAMILY_NAMES, 2, &word))
            wrong(r, node, field->key, "mimo_v2 or llama");
        else
            *(Family *)at = (Family)word;
        break;
    }
}

static void defaults(const FieldTable *table, char *base) {
    for (size_t i = 0; i < table->count; i++) {
        const Field *field = &table->fields[i];
        void *at = base + field->offset;
        if (field->kind == FIELD_INT) *(int *)at = (int)field->value;
        if (field->kind == FIELD_REAL) *(double *)at = field->value;
        if (field->kind == FIELD_BOOL) *(bool *)at = field->value != 0;
    }
}

// A field that the passes do not compute: it may stand with its neutral value, and no other.
typedef struct Unsupported {
    const char *key, *neutral;
} Unsupported;

static const Unsupported unsupported[] = {
    {"shared_experts", "0"}, {"groups", "1"}, {"bias", "false"}, {"activation", "silu"}, {"mtp_layers", "0"},
};
enum { UNSUPPORTED = sizeof unsupported / sizeof *unsupported };

// Reads the rows of `table` from `map` into `base`; `others` are keys that the caller reads itself.
static void read_fields(Reader *r, const YamlNode *map, const char *where, const FieldTable *table, void *base,
                        const char *const *others) {
    defaults(table, base);
    if (map->kind != YAML_MAP) {
        wrong(r, map, where, "a map of keys");
        return;
    }
    for (size_t i = 0; i < map->count; i++) {
        const char *key = map->keys[i], *names[64];
        size_t count = 0;
        bool known = false;
        for (size_t f = 0; f < table->count; f++) {
            names[count++] = table->fields[f].key;
            if (strcmp(key, table->fields[f].key) != 0) continue;
            read_field(r, map->items[i], &table->fields[f], base);
            known = true;
        }
        for (size_t o = 0; others[o]; o++) {
            names[count++] = others[o];
            known |= strcmp(key, others[o]) == 0;
        }
        for (int u = 0; u < UNSUPPORTED && !known; u++) {
            if (strcmp(key, unsupported[u].key) != 0) continue;
            known = true;
            if (map->items[i]->kind == YAML_SCALAR && strcmp(map->items[i]->text, unsupported[u].neutral) == 0)
                continue;
            r->ok = false;
            diag_error(r->ctx, E0114, map->items[i]->span, "%s is not supported yet but as %s", key,
                       unsupported[u].neutral);
        }
        if (known) continue;
        r->ok = false;
        diag_error(r->ctx, E0110, map->key_spans[i], "unknown key \"%s\" in %s", key, where);
        const char *near = text_nearest(key, names, count);
        if (near) diag_help(r->ctx, "did you mean \"%s\"?", near);
    }
    for (size_t f = 0; f < table->count; f++) {
        if (!table->fields[f].required || child(map, table->fields[f].key)) continue;
        r->ok = false;
        diag_error(r->ctx, E0111, map->span, "%s has no \"%s\"", where, table->fields[f].key);
    }
}

static const char *const NO_OTHERS[] = {NULL};

// A list of ascending whole numbers below `limit`.
static int read_list(Reader *r, const YamlNode *node, const char *key, int limit, int *out, int room) {
    int count = 0;
    if (node->kind != YAML_LIST) {
        wrong(r, node, key, "a list of layers");
        return 0;
    }
    for (size_t i = 0; i < node->count; i++) {
        double number;
        if (!read_number(node->items[i], &number) || number != floor(number) || number < 0 || number >= limit) {
            wrong(r, node->items[i], key, "layers of the model");
            return count;
        }
        if (count && number <= out[count - 1]) {
            r->ok = false;
            diag_error(r->ctx, E0115, node->items[i]->span, "%s must ascend", key);
            return count;
        }
        if (count == room) {
            r->ok = false;
            diag_error(r->ctx, E0115, node->items[i]->span, "%s has more than %d entries", key, room);
            return count;
        }
        out[count++] = (int)number;
    }
    return count;
}

static void read_attention(Reader *r, const YamlNode *node, const char *where, Attention *out, bool layers) {
    static const char *const with_layers[] = {"rope", "layers", NULL}, *const without[] = {"rope", NULL};
    read_fields(r, node, where, &ATTENTION_FIELDS, out, layers ? with_layers : without);
    YamlNode *rope = node->kind == YAML_MAP ? child(node, "rope") : NULL;
    if (rope) {
        read_fields(r, rope, "rope", &ROPE_FIELDS, &out->rope, NO_OTHERS);
    } else if (node->kind == YAML_MAP) {
        r->ok = false;
        diag_error(r->ctx, E0111, node->span, "%s has no \"rope\"", where);
    }
}

static void read_activation(Reader *r, const YamlNode *map, Activation *out) {
    YamlNode *node = map && map->kind == YAML_MAP ? child(map, "swiglu") : NULL;
    *out = (Activation){1, 0};
    if (node) read_fields(r, node, "swiglu", &ACTIVATION_FIELDS, out, NO_OTHERS);
}

static void read_layers(Reader *r, const YamlNode *root, Model *m) {
    static const char *const kinds[] = {"full", "window", NULL};
    static const FieldTable none = {NULL, 0};
    static const Field inner[] = {{"inner", FIELD_INT, offsetof(Model, dense_inner), true, 1, 1 << 22, 0}};
    static const FieldTable dense_fields = {inner, 1};
    static const char *const dense_others[] = {"layers", "swiglu", NULL};
    static const char *const expert_others[] = {"swiglu", NULL};
    YamlNode *attention = child(root, "attention"), *dense = child(root, "dense"), *experts = child(root, "experts");
    int list[MAX_LAYERS], count;
    if (!attention) {
        r->ok = false;
        diag_error(r->ctx, E0111, root->span, "the model has no \"attention\"");
        return;
    }
    char unused[sizeof(Model)];
    read_fields(r, attention, "attention", &none, unused, kinds);
    if (attention->kind != YAML_MAP) return;
    YamlNode *full = child(attention, "full"), *window = child(attention, "window");
    if (full) read_attention(r, full, "attention.full", &m->attention[ATTENTION_FULL], true);
    if (window) read_attention(r, window, "attention.window", &m->attention[ATTENTION_WINDOW], false);
    for (int i = 0; i < m->layer_count; i++)
        m->layers[i].attention = full && !window ? ATTENTION_FULL : ATTENTION_WINDOW;
    YamlNode *full_layers = full && full->kind == YAML_MAP ? child(full, "layers") : NULL;
    if (full_layers) {
        for (int i = 0; i < m->layer_count; i++) m->layers[i].attention = ATTENTION_WINDOW;
        count = read_list(r, full_layers, "attention.full.layers", m->layer_count, list, MAX_LAYERS);
        for (int i = 0; i < count; i++) m->layers[list[i]].attention = ATTENTION_FULL;
    } else if (full && window) {
        r->ok = false;
        diag_error(r->ctx, E0111, full->span, "attention.full has no \"layers\": which layers are full?");
    }
    for (int i = 0; i < m->layer_count; i++) m->layers[i].mlp = experts ? MLP_EXPERTS : MLP_DENSE;
    if (dense) {
        read_fields(r, dense, "dense", &dense_fields, m, dense_others);
        YamlNode *layers = dense->kind == YAML_MAP ? child(dense, "layers") : NULL;
        count = layers ? read_list(r, layers, "dense.layers", m->layer_count, list, MAX_LAYERS) : 0;
        for (int i = 0; i < count; i++) m->layers[list[i]].mlp = MLP_DENSE;
    }
    read_activation(r, dense, &m->dense_activation);
    if (experts) read_fields(r, experts, "experts", &EXPERTS_FIELDS, &m->experts, expert_others);
    read_activation(r, experts, &m->experts.activation);
}

static void read_drafter(Reader *r, const YamlNode *node, Model *m) {
    static const char *const others[] = {"taps", "attention", "swiglu", NULL};
    Drafter *d = &m->drafter;
    m->has_drafter = true;
    d->dtype = DTYPE_BF16;
    read_fields(r, node, "drafter", &DRAFTER_FIELDS, d, others);
    if (node->kind != YAML_MAP) return;
    YamlNode *taps = child(node, "taps"), *attention = child(node, "attention");
    if (taps) d->tap_count = read_list(r, taps, "drafter.taps", m->layer_count, d->taps, MAX_TAPS);
    if (attention) read_attention(r, attention, "drafter.attention", &d->attention, false);
    for (int i = 0; i < 2; i++) {
        if (i ? attention : taps) continue;
        r->ok = false;
        diag_error(r->ctx, E0111, node->span, "drafter has no \"%s\"", i ? "attention" : "taps");
    }
    read_activation(r, node, &d->activation);
}

Model *model_read(Ctx *ctx, Source *source) {
    static const char *const others[] = {"attention", "dense", "experts", "dtypes", "drafter", NULL};
    YamlNode *root = yaml_read(ctx, source);
    if (!root) return NULL;
    Reader r = {ctx, true};
    Model *m = ARENA_NEW(ctx->arena, Model);
    read_fields(&r, root, "the model", &MODEL_FIELDS, m, others);
    if (root->kind != YAML_MAP || m->layer_count < 1) return NULL;
    if (!m->tokenizer) m->tokenizer = "tokenizer.json";
    m->embed_dtype = m->head_dtype = m->qkv_dtype = m->o_dtype = m->dense_dtype = m->experts_dtype = m->router_dtype =
        DTYPE_BF16;
    YamlNode *dtypes = child(root, "dtypes"), *drafter = child(root, "drafter");
    if (dtypes) read_fields(&r, dtypes, "dtypes", &DTYPE_FIELDS, m, NO_OTHERS);
    read_layers(&r, root, m);
    if (drafter) read_drafter(&r, drafter, m);
    m->source = source;
    if (!r.ok) return NULL;
    return model_rules(ctx, m, (Span){source, 0, 0, 0}) ? m : NULL;
}
