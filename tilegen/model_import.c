#include "model_schema.h"
#include "file.h"
#include <jansson.h>
#include <math.h>
#include <string.h>

// One config.json at hand. Keys may have other names in other releases: lookups take a list.
typedef struct Config {
    Ctx *ctx;
    json_t *root;
    Span span;
    bool ok;
} Config;

static void json_free_root(void *root) { json_decref(root); }

static bool config_open(Ctx *ctx, const char *folder, const char *file, Config *out) {
    char *path = file_join(ctx, folder, file);
    *out = (Config){.ctx = ctx, .ok = true};
    Source *source = file_read(ctx, path, 16 << 20);
    if (!source) return false;
    out->span = (Span){source, 0, 0, 0};
    json_error_t error;
    out->root = json_loadb(source->text, source->length, JSON_REJECT_DUPLICATES, &error);
    if (!out->root) {
        if (json_error_code(&error) == json_error_out_of_memory) ctx_out_of_memory(ctx);
        diag_error(ctx, E0121,
                   (Span){source, (uint32_t)(error.line > 0 ? error.line : 1),
                          (uint32_t)(error.column > 0 ? error.column : 1), 1},
                   "not valid JSON: %s", error.text);
        return false;
    }
    ctx_defer(ctx, json_free_root, out->root);
    if (json_is_object(out->root)) return true;
    diag_error(ctx, E0121, out->span, "a JSON object is wanted here");
    ctx_done(ctx, out->root);
    return false;
}

static json_t *find(const Config *c, const char *key) {
    json_t *value = json_object_get(c->root, key);
    return json_is_null(value) ? NULL : value;
}

static double real_of(Config *c, const char *key, double otherwise) {
    json_t *value = find(c, key);
    if (!value) return otherwise;
    if (json_is_number(value)) return json_number_value(value);
    diag_error(c->ctx, E0121, c->span, "\"%s\" must be a number", key);
    c->ok = false;
    return otherwise;
}

static int int_of(Config *c, const char *key, int otherwise) {
    double value = real_of(c, key, otherwise);
    if (value == floor(value) && fabs(value) < 1e9) return (int)value;
    diag_error(c->ctx, E0121, c->span, "\"%s\" must be a whole number", key);
    c->ok = false;
    return otherwise;
}

static int required(Config *c, const char *key) {
    if (find(c, key)) return int_of(c, key, 0);
    diag_error(c->ctx, E0121, c->span, "no \"%s\", which this family needs", key);
    c->ok = false;
    return 0;
}

static bool flag_of(Config *c, const char *key, bool otherwise) {
    json_t *value = find(c, key);
    if (!value) return otherwise;
    if (json_is_boolean(value)) return json_is_true(value);
    if (json_is_integer(value)) return json_integer_value(value) != 0;
    diag_error(c->ctx, E0121, c->span, "\"%s\" must be true or false", key);
    c->ok = false;
    return otherwise;
}

static const char *text_of(const Config *c, const char *key, const char *otherwise) {
    json_t *value = find(c, key);
    return json_is_string(value) ? arena_text(c->ctx->arena, json_string_value(value)) : otherwise;
}

static void refuse_unless(Config *c, bool fine, const char *key) {
    if (fine) return;
    diag_error(c->ctx, E0114, c->span, "\"%s\" asks for something that is not supported yet", key);
    c->ok = false;
}

// Entry `index` of a list of 0 and 1, or `otherwise` without the list.
static int list_entry(Config *c, const char *key, int index, int otherwise) {
    json_t *list = find(c, key);
    if (!list) return otherwise;
    if (json_is_integer(list)) return (int)json_integer_value(list); // "every layer from this one on", below
    json_t *value = json_array_get(list, (size_t)index);
    if (json_is_integer(value)) return json_integer_value(value) != 0;
    if (json_is_boolean(value)) return json_is_true(value);
    diag_error(c->ctx, E0121, c->span, "\"%s\" must be a list with an entry for each layer", key);
    c->ok = false;
    return otherwise;
}

static int rotary_of(Config *c, int dim) {
    double factor = real_of(c, "partial_rotary_factor", 1);
    int rotary = (int)((double)dim * factor);
    return rotary - rotary % 2;
}

static void import_dtypes(Config *c, Model *m) {
    json_t *quant = find(c, "quantization_config");
    m->embed_dtype = m->head_dtype = m->qkv_dtype = m->o_dtype = m->dense_dtype = m->experts_dtype = m->router_dtype =
        DTYPE_BF16;
    if (m->family == FAMILY_MIMO_V2) m->router_dtype = DTYPE_F32;
    const char *router = text_of(c, "moe_router_dtype", NULL);
    if (router && strncmp(router, "bf", 2) == 0) m->router_dtype = DTYPE_BF16;
    if (!quant) return;
    const char *method = json_string_value(json_object_get(quant, "quant_method"));
    const char *store = json_string_value(json_object_get(quant, "store_dtype"));
    refuse_unless(c, method && strcmp(method, "fp8") == 0, "quantization_config.quant_method");
    json_t *block = json_object_get(quant, "weight_block_size");
    refuse_unless(
        c, json_integer_value(json_array_get(block, 0)) == 128 && json_integer_value(json_array_get(block, 1)) == 128,
        "quantization_config.weight_block_size");
    m->qkv_dtype = m->dense_dtype = DTYPE_FP8;
    m->experts_dtype = store && strcmp(store, "mxfp4") == 0 ? DTYPE_MXFP4 : DTYPE_FP8;
}

static void import_mimo(Config *c, Model *m) {
    m->family = FAMILY_MIMO_V2;
    m->eps = real_of(c, "layernorm_epsilon", real_of(c, "rms_norm_eps", 1e-5));
    m->dense_inner = required(c, "intermediate_size");
    Attention *full = &m->attention[ATTENTION_FULL], *window = &m->attention[ATTENTION_WINDOW];
    int heads = required(c, "num_attention_heads"), kv = required(c, "num_key_value_heads"),
        dim = required(c, "head_dim");
    int v = int_of(c, "v_head_dim", dim);
    double value_scale = real_of(c, "attention_value_scale", 1);
    *full = (Attention){
        .heads = heads,
        .kv_heads = kv,
        .qk_dim = dim,
        .v_dim = v,
        .value_scale = value_scale,
        .sink = flag_of(c, "add_full_attention_sink_bias", false),
        .rope = {
            .rotary = rotary_of(c, dim), .theta = real_of(c, "rope_theta", 1e7), .factor = 1, .low = 1, .high = 4}};
    int swa_dim = int_of(c, "swa_head_dim", dim);
    *window = (Attention){.heads = int_of(c, "swa_num_attention_heads", heads),
                          .kv_heads = int_of(c, "swa_num_key_value_heads", kv),
                          .qk_dim = swa_dim,
                          .v_dim = int_of(c, "swa_v_head_dim", v),
                          .value_scale = value_scale,
                          .window = int_of(c, "sliding_window", int_of(c, "sliding_window_size", 128)),
                          .sink = flag_of(c, "add_swa_attention_sink_bias", true),
                          .rope = {.rotary = rotary_of(c, swa_dim),
                                   .theta = real_of(c, "swa_rope_theta", 1e4),
                                   .factor = 1,
                                   .low = 1,
                                   .high = 4}};
    bool any[ATTENTION_KINDS] = {false}, dense = false, experts = false;
    for (int i = 0; i < m->layer_count && c->ok; i++) {
        m->layers[i].attention = list_entry(c, "hybrid_layer_pattern", i, 0) ? ATTENTION_WINDOW : ATTENTION_FULL;
        m->layers[i].mlp = list_entry(c, "moe_layer_freq", i, i > 0) ? MLP_EXPERTS : MLP_DENSE;
        any[m->layers[i].attention] = true;
        dense |= m->layers[i].mlp == MLP_DENSE;
        experts |= m->layers[i].mlp == MLP_EXPERTS;
    }
    if (!any[ATTENTION_FULL]) *full = (Attention){0};
    if (!any[ATTENTION_WINDOW]) *window = (Attention){0};
    if (!dense) m->dense_inner = 0;
    m->dense_activation = (Activation){1, 0};
    refuse_unless(c, !flag_of(c, "attention_bias", false), "attention_bias");
    refuse_unless(c, int_of(c, "n_shared_experts", 0) == 0, "n_shared_experts");
    refuse_unless(c, int_of(c, "n_group", 1) == 1 && int_of(c, "topk_group", 1) == 1, "n_group");
    if (!experts) return;
    const char *score = text_of(c, "scoring_func", "sigmoid"), *method = text_of(c, "topk_method", "noaux_tc");
    refuse_unless(c, strcmp(score, "sigmoid") == 0 || strcmp(score, "softmax") == 0, "scoring_func");
    m->experts = (Experts){.count = required(c, "n_routed_experts"),
                           .top_k = required(c, "num_experts_per_tok"),
                           .inner = required(c, "moe_intermediate_size"),
                           .activation = {1, 0},
                           .score = strcmp(score, "softmax") == 0 ? SCORE_SOFTMAX : SCORE_SIGMOID,
                           .selection_bias = strcmp(method, "noaux_tc") == 0,
                           .renormalise = flag_of(c, "norm_topk_prob", true),
                           .scale = real_of(c, "routed_scaling_factor", 1)};
}

static void import_llama(Config *c, Model *m) {
    m->family = FAMILY_LLAMA;
    m->eps = real_of(c, "rms_norm_eps", 1e-5);
    m->dense_inner = required(c, "intermediate_size");
    m->dense_activation = (Activation){1, 0};
    int heads = required(c, "num_attention_heads"), dim = int_of(c, "head_dim", heads ? m->hidden / heads : 0);
    Rope rope = {.rotary = dim, .theta = real_of(c, "rope_theta", 1e4), .factor = 1, .low = 1, .high = 4};
    json_t *scaling = find(c, "rope_scaling");
    if (scaling) {
        Config inner = *c;
        inner.root = scaling;
        const char *type = text_of(&inner, "rope_type", text_of(&inner, "type", ""));
        refuse_unless(c, strcmp(type, "llama3") == 0, "rope_scaling");
        rope.factor = real_of(&inner, "factor", 1);
        rope.low = real_of(&inner, "low_freq_factor", 1);
        rope.high = real_of(&inner, "high_freq_factor", 4);
        rope.original = int_of(&inner, "original_max_position_embeddings", 8192);
        c->ok &= inner.ok;
    }
    m->attention[ATTENTION_FULL] = (Attention){.heads = heads,
                                               .kv_heads = int_of(c, "num_key_value_heads", heads),
                                               .qk_dim = dim,
                                               .v_dim = dim,
                                               .value_scale = 1,
                                               .rope = rope};
    refuse_unless(c, !flag_of(c, "attention_bias", false), "attention_bias");
    refuse_unless(c, !flag_of(c, "mlp_bias", false), "mlp_bias");
}

// Values of the drafter lie at the top level or in dflash_config, by release.
static void import_drafter(Config *c, Model *m) {
    Config inner = *c;
    json_t *dflash = find(c, "dflash_config");
    inner.root = dflash ? dflash : c->root;
    Drafter *d = &m->drafter;
    m->has_drafter = true;
    int heads = required(c, "num_attention_heads"), dim = required(c, "head_dim");
    int window = int_of(&inner, "swa_window_size", int_of(c, "sliding_window", 0));
    *d = (Drafter){.layers = required(c, "num_hidden_layers"),
                   .block = int_of(c, "block_size", int_of(&inner, "block_size", 8)),
                   .inner = required(c, "intermediate_size"),
                   .mask_token = required(&inner, "mask_token_id"),
                   .causal = flag_of(c, "is_causal", false),
                   .eps = real_of(c, "rms_norm_eps", real_of(c, "layernorm_epsilon", m->eps)),
                   .activation = {1, 0},
                   .dtype = DTYPE_BF16};
    d->attention = (Attention){
        .heads = heads,
        .kv_heads = required(c, "num_key_value_heads"),
        .qk_dim = dim,
        .v_dim = int_of(c, "v_head_dim", dim),
        .window = window,
        .qk_norm = true,
        .sink = flag_of(&inner, "attention_sink_bias", flag_of(c, "add_swa_attention_sink_bias", false)),
        .value_scale = real_of(&inner, "attention_value_scale", real_of(c, "attention_value_scale", 1)),
        .rope = {
            .rotary = rotary_of(c, dim), .theta = real_of(c, "rope_theta", 1e4), .factor = 1, .low = 1, .high = 4}};
    json_t *taps = json_object_get(inner.root, "target_layer_ids");
    if (!json_is_array(taps) || json_array_size(taps) > MAX_TAPS) {
        diag_error(c->ctx, E0121, c->span, "no list \"target_layer_ids\" of at most %d layers", MAX_TAPS);
        c->ok = false;
    }
    for (size_t i = 0; c->ok && i < json_array_size(taps); i++)
        d->taps[d->tap_count++] = (int)json_integer_value(json_array_get(taps, i));
    c->ok &= inner.ok;
}

static bool import_target(Config *c, Model *m, const char *folder) {
    const char *type = text_of(c, "model_type", "");
    m->hidden = required(c, "hidden_size");
    m->layer_count = required(c, "num_hidden_layers");
    m->vocab = required(c, "vocab_size");
    m->context = required(c, "max_position_embeddings");
    m->tied_head = flag_of(c, "tie_word_embeddings", false);
    m->tokenizer = "tokenizer.json";
    char *name = arena_text(c->ctx->arena, folder);
    for (size_t n = strlen(name); n > 1 && name[n - 1] == '/'; n--) name[n - 1] = 0;
    char *slash = strrchr(name, '/');
    m->name = slash ? slash + 1 : name;
    if (!m->name[0] || m->name[0] == '.') m->name = "model";
    for (char *s = name; *s; s++)
        if (!((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9') || strchr("._-/", *s)))
            *s = '_';
    if (c->ok && (m->layer_count < 1 || m->layer_count > MAX_LAYERS)) {
        diag_error(c->ctx, E0121, c->span, "%d layers; 1 to %d are supported", m->layer_count, MAX_LAYERS);
        c->ok = false;
    }
    refuse_unless(c, strcmp(text_of(c, "hidden_act", "silu"), "silu") == 0, "hidden_act");
    if (!c->ok) return false;
    if (strncmp(type, "mimo_v2", 7) == 0)
        import_mimo(c, m);
    else if (strcmp(type, "llama") == 0)
        import_llama(c, m);
    else {
        diag_error(c->ctx, E0122, c->span, "the model type \"%s\" is not supported", type);
        diag_help(c->ctx, "mimo_v2 and llama are");
        return false;
    }
    import_dtypes(c, m);
    return c->ok;
}

Model *model_import(Ctx *ctx, const char *checkpoint) {
    Model *m = ARENA_NEW(ctx->arena, Model);
    Config config;
    if (!config_open(ctx, checkpoint, "config.json", &config)) return NULL;
    bool ok = import_target(&config, m, checkpoint);
    ctx_done(ctx, config.root);
    char *folder = file_join(ctx, checkpoint, "dflash");
    if (ok && file_exists(file_join(ctx, folder, "config.json"))) {
        if (!config_open(ctx, folder, "config.json", &config)) return NULL;
        import_drafter(&config, m);
        ok = config.ok;
        ctx_done(ctx, config.root);
    }
    if (!ok || !model_rules(ctx, m, config.span)) return NULL;
    char *text = model_print(ctx, m, NULL);
    m->source = source_new(ctx, file_join(ctx, checkpoint, "config.json"), text, strlen(text));
    return m;
}

// Compares line by line: both models are printed by the same tables, the name aside.
bool model_matches(Ctx *ctx, const Model *model, const char *checkpoint) {
    Model *published = model_import(ctx, checkpoint);
    if (!published) return false;
    Model ours = *model;
    ours.name = published->name;
    ours.tokenizer = published->tokenizer;
    ours.router_dtype = published->router_dtype; // the file says; checkpoint_open compares it
    if (!ours.has_drafter) published->has_drafter = false;
    char *a = model_print(ctx, &ours, NULL), *b = model_print(ctx, published, NULL);
    bool same = true;
    while (*a || *b) {
        size_t n = strcspn(a, "\n"), m = strcspn(b, "\n");
        if (n != m || strncmp(a, b, n) != 0) {
            diag_error(ctx, E0123, file_span(ctx, file_join(ctx, checkpoint, "config.json")),
                       "the description says \"%.*s\", the checkpoint \"%.*s\"", (int)n, a, (int)m, b);
            diag_help(ctx, "`tilegen import %s` writes the description of this checkpoint", checkpoint);
            same = false;
            break;
        }
        a += n + (a[n] == '\n');
        b += m + (b[m] == '\n');
    }
    return same;
}
