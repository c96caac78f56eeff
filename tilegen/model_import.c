// Model descriptions from published config.json files. Key names are those of the transformers, vLLM and SGLang
// implementations of mimo_v2 and llama, and of DFlash drafters. Keys that change no result are passed over; a key that
// asks for something else than the passes compute is refused.
#include "model_config.h"
#include "model_schema.h"
#include "file.h"
#include "yaml_tree.h"
#include <ctype.h>
#include <string.h>

// The files that a description comes from, for messages about its values.
typedef struct Imported {
    Config target, drafter, dflash; // dflash: the drafter's dflash_config, or the drafter itself
    bool has_drafter;
    Family family;
} Imported;

typedef struct Origin {
    const char *path, *key;
} Origin;

static const Origin mimo_origins[] = {
    {"attention.full.layers", "hybrid_layer_pattern"},
    {"attention.full.heads", "num_attention_heads"},
    {"attention.full.kv_heads", "num_key_value_heads"},
    {"attention.full.qk_dim", "head_dim"},
    {"attention.full.v_dim", "v_head_dim"},
    {"attention.full.sink", "add_full_attention_sink_bias"},
    {"attention.full.value_scale", "attention_value_scale"},
    {"attention.full.rope.rotary", "partial_rotary_factor"},
    {"attention.full.rope.theta", "rope_theta"},
    {"attention.window.heads", "swa_num_attention_heads"},
    {"attention.window.heads", "num_attention_heads"},
    {"attention.window.kv_heads", "swa_num_key_value_heads"},
    {"attention.window.kv_heads", "num_key_value_heads"},
    {"attention.window.qk_dim", "swa_head_dim"},
    {"attention.window.qk_dim", "head_dim"},
    {"attention.window.v_dim", "swa_v_head_dim"},
    {"attention.window.v_dim", "v_head_dim"},
    {"attention.window.window", "sliding_window"},
    {"attention.window.window", "sliding_window_size"},
    {"attention.window.sink", "add_swa_attention_sink_bias"},
    {"attention.window.value_scale", "attention_value_scale"},
    {"attention.window.rope.rotary", "partial_rotary_factor"},
    {"attention.window.rope.theta", "swa_rope_theta"},
    {"attention.window", "hybrid_layer_pattern"},
    {"attention", "hybrid_layer_pattern"},
    {"eps", "layernorm_epsilon"},
};
static const Origin common_origins[] = {
    {"hidden", "hidden_size"},
    {"layers", "num_hidden_layers"},
    {"vocab", "vocab_size"},
    {"context", "max_position_embeddings"},
    {"eps", "rms_norm_eps"},
    {"tied_head", "tie_word_embeddings"},
    {"dense.inner", "intermediate_size"},
    {"dense", "moe_layer_freq"},
    {"experts.count", "n_routed_experts"},
    {"experts.top_k", "num_experts_per_tok"},
    {"experts.inner", "moe_intermediate_size"},
    {"experts.score", "scoring_func"},
    {"experts.selection_bias", "topk_method"},
    {"experts.renormalise", "norm_topk_prob"},
    {"experts.scale", "routed_scaling_factor"},
    {"experts", "moe_layer_freq"},
    {"dtypes.router", "moe_router_dtype"},
    {"dtypes", "quantization_config"},
    {"attention.full.heads", "num_attention_heads"},
    {"attention.full.kv_heads", "num_key_value_heads"},
    {"attention.full.qk_dim", "head_dim"},
    {"attention.full.v_dim", "head_dim"},
    {"attention.full.rope.theta", "rope_theta"},
    {"attention.full.rope", "rope_scaling"},
    {"drafter.layers", "num_hidden_layers"},
    {"drafter.block", "block_size"},
    {"drafter.inner", "intermediate_size"},
    {"drafter.mask_token", "mask_token_id"},
    {"drafter.causal", "is_causal"},
    {"drafter.eps", "rms_norm_eps"},
    {"drafter.dtype", "torch_dtype"},
    {"drafter.taps", "target_layer_ids"},
    {"drafter.attention.heads", "num_attention_heads"},
    {"drafter.attention.kv_heads", "num_key_value_heads"},
    {"drafter.attention.qk_dim", "head_dim"},
    {"drafter.attention.v_dim", "v_head_dim"},
    {"drafter.attention.window", "sliding_window"},
    {"drafter.attention.sink", "attention_sink_bias"},
    {"drafter.attention.value_scale", "attention_value_scale"},
    {"drafter.attention.rope.rotary", "partial_rotary_factor"},
    {"drafter.attention.rope.theta", "rope_theta"},
};

// Where the first of the rows stands whose path is `path` or begins it, and whose key is there.
static bool find_origin(const Config *c, const Origin *rows, size_t count, const char *path, Span *out) {
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(rows[i].path);
        if (strncmp(rows[i].path, path, length) == 0 && (path[length] == 0 || path[length] == '.') &&
            config_find(c, rows[i].key, out))
            return true;
    }
    return false;
}

static Span place_in_config(Ctx *ctx, const void *user, const char *path) {
    const Imported *from = user;
    Span span = {from->target.source, 0, 0, 0};
    size_t common = sizeof common_origins / sizeof *common_origins, mimo = sizeof mimo_origins / sizeof *mimo_origins;
    (void)ctx;
    if (strncmp(path, "drafter", 7) != 0) {
        if (from->family != FAMILY_MIMO_V2 || !find_origin(&from->target, mimo_origins, mimo, path, &span))
            find_origin(&from->target, common_origins, common, path, &span);
    } else if (from->has_drafter) {
        span = (Span){from->drafter.source, 0, 0, 0};
        if (!find_origin(&from->dflash, common_origins, common, path, &span))
            find_origin(&from->drafter, common_origins, common, path, &span);
    }
    return span;
}

// What all kinds of attention share of RoPE. Newer releases keep it in rope_parameters.
typedef struct Rotation {
    double part, theta; // theta of rope_theta
    Rope rope;          // scaling alone
} Rotation;

// `part`, `theta`: where the file is silent. `scaled`: Llama 3's scaling is known to the family.
static Rotation import_rotation(const Config *c, double part, double theta, bool scaled) {
    Config inside;
    Rotation out = {part, theta, {.factor = 1, .low = 1, .high = 4}};
    bool has = config_inside(c, "rope_parameters", &inside);
    if (has) {
        out.part = config_real(&inside, "partial_rotary_factor", out.part);
        out.theta = config_real(&inside, "rope_theta", out.theta);
    }
    out.part = config_real(c, "partial_rotary_factor", out.part);
    out.theta = config_real(c, "rope_theta", out.theta);
    if (!(out.part > 0 && out.part <= 1)) {
        config_wrong(c, "partial_rotary_factor", "must be above 0 and at most 1");
        out.part = 1;
    }
    if (!config_inside(c, "rope_scaling", &inside) && !has) return out;
    const char *key = config_has(&inside, "rope_type") ? "rope_type" : "type";
    const char *type = config_text(&inside, key, "default");
    if (strcmp(type, "default") == 0) return out;
    config_only(&inside, key, scaled && strcmp(type, "llama3") == 0, scaled ? "\"llama3\"" : "\"default\"");
    out.rope.factor = config_real(&inside, "factor", 1);
    out.rope.low = config_real(&inside, "low_freq_factor", 1);
    out.rope.high = config_real(&inside, "high_freq_factor", 4);
    out.rope.original = config_int(&inside, "original_max_position_embeddings", 8192);
    return out;
}

// The rotating dims are an even number, rounded down.
static Rope rope_of(const Rotation *rotation, int dim, double theta) {
    Rope rope = rotation->rope;
    rope.theta = theta;
    rope.rotary = (int)(dim * rotation->part) / 2 * 2;
    return rope;
}

// FP8 blocks of 128 x 128 throughout, but for what ignored_layers keeps in BF16; experts apart.
static void import_quantization(const Config *c, Model *m) {
    Config q;
    if (!config_inside(c, "quantization_config", &q)) return;
    int block[2] = {128, 128};
    const char *method = config_text(&q, "quant_method", "fp8"), *format = config_text(&q, "fmt", "e4m3");
    const char *store = config_text(&q, "store_dtype", "fp8");
    bool mxfp4 = strcmp(store, "mxfp4") == 0;
    config_only(&q, "quant_method", strcmp(method, "fp8") == 0, "\"fp8\"");
    config_only(&q, "fmt", strcmp(format, "e4m3") == 0, "\"e4m3\"");
    config_only(&q, "store_dtype", mxfp4 || strcmp(store, "fp8") == 0, "\"mxfp4\", or none for fp8 experts");
    config_only(&q, "mxfp4_block_size", config_int(&q, "mxfp4_block_size", 32) == 32, "32");
    int count = config_list(&q, "weight_block_size", block, 2);
    config_only(&q, "weight_block_size", (count < 0 || count == 2) && block[0] == 128 && block[1] == 128, "[128, 128]");
    m->qkv_dtype = m->dense_dtype = DTYPE_FP8;
    m->experts_dtype = mxfp4 ? DTYPE_MXFP4 : DTYPE_FP8;
    if (!config_has(&q, "ignored_layers")) return;
    int kept = 0;
    const char *entry;
    for (size_t i = 0; (entry = config_entry(&q, "ignored_layers", i)); i++) {
        if (strncmp(entry, "model.layers.", 13) != 0) continue; // head, embedding, MTP layers
        const char *name = entry + 13 + strspn(entry + 13, "0123456789");
        if (strcmp(name, ".self_attn.o_proj") == 0)
            kept++;
        else if (strcmp(name, ".mlp.gate") != 0) {
            config_only(&q, "ignored_layers", false, "a list of every layer's self_attn.o_proj");
            return;
        }
    }
    config_only(&q, "ignored_layers", kept == 0 || kept == m->layer_count, "a list of every layer's self_attn.o_proj");
    if (kept == 0) m->o_dtype = DTYPE_FP8;
}

// A list with a number for each layer. False after reporting.
static bool import_pattern(const Config *c, const char *key, int layers, int *out) {
    int count = config_list(c, key, out, MAX_LAYERS);
    if (count < 0) {
        config_need(c, key);
        return false;
    }
    if (!*c->ok) return false;
    if (count != layers) {
        config_wrong(c, key, "has %d entries for %d layers", count, layers);
        return false;
    }
    for (int i = 0; i < count; i++) {
        if (out[i] == 0 || out[i] == 1) continue;
        config_wrong(c, key, "must list 0 and 1; entry %d is %d", i, out[i]);
        return false;
    }
    return true;
}

// Absent: as in MiMo-V2.5-Pro. null: not scaled.
static double import_value_scale(const Config *c) {
    return config_null(c, "attention_value_scale") ? 1 : config_real(c, "attention_value_scale", 0.612);
}

static void import_experts(const Config *c, Model *m) {
    const char *score = config_text(c, "scoring_func", "sigmoid"), *method = config_text(c, "topk_method", "noaux_tc");
    config_only(c, "scoring_func", strcmp(score, "sigmoid") == 0 || strcmp(score, "softmax") == 0,
                "\"sigmoid\" or \"softmax\"");
    config_only(c, "topk_method", strcmp(method, "noaux_tc") == 0 || strcmp(method, "greedy") == 0,
                "\"noaux_tc\" or \"greedy\"");
    config_only(c, "n_shared_experts", config_int(c, "n_shared_experts", 0) == 0, "0 or null");
    config_only(c, "n_group", config_int(c, "n_group", 1) == config_int(c, "topk_group", 1), "as many as topk_group");
    m->experts = (Experts){.count = config_need(c, "n_routed_experts"),
                           .top_k = config_need(c, "num_experts_per_tok"),
                           .inner = config_need(c, "moe_intermediate_size"),
                           .activation = {1, 0},
                           .score = strcmp(score, "softmax") == 0 ? SCORE_SOFTMAX : SCORE_SIGMOID,
                           .selection_bias = strcmp(method, "noaux_tc") == 0,
                           .renormalise = config_flag(c, "norm_topk_prob", true),
                           .scale = config_real(c, "routed_scaling_factor", 1)};
    const char *router = config_text(c, "moe_router_dtype", "float32");
    bool bf16 = strcmp(router, "bfloat16") == 0;
    config_only(c, "moe_router_dtype", bf16 || strcmp(router, "float32") == 0, "\"float32\" or \"bfloat16\"");
    m->router_dtype = bf16 ? DTYPE_BF16 : DTYPE_F32;
}

static void import_mimo(const Config *c, Model *m) {
    m->eps = config_real(c, "layernorm_epsilon", config_real(c, "rms_norm_eps", 1e-5));
    m->router_dtype = DTYPE_F32;
    int heads = config_need(c, "num_attention_heads"), kv_heads = config_need(c, "num_key_value_heads");
    int dim = config_need(c, "head_dim"), v_dim = config_int(c, "v_head_dim", dim);
    int window_dim = config_int(c, "swa_head_dim", dim);
    int window = config_int(c, "sliding_window", config_int(c, "sliding_window_size", 128));
    if (config_int(c, "sliding_window_size", window) != window)
        config_wrong(c, "sliding_window_size", "differs from sliding_window, %d", window);
    double scale = import_value_scale(c);
    Rotation rotation = import_rotation(c, 0.334, 1e7, false);
    Attention full = {.heads = heads,
                      .kv_heads = kv_heads,
                      .qk_dim = dim,
                      .v_dim = v_dim,
                      .sink = config_flag(c, "add_full_attention_sink_bias", false),
                      .qk_norm = config_flag(c, "use_qk_norm", false),
                      .value_scale = scale,
                      .rope = rope_of(&rotation, dim, rotation.theta)};
    Attention near = {.heads = config_int(c, "swa_num_attention_heads", heads),
                      .kv_heads = config_int(c, "swa_num_key_value_heads", kv_heads),
                      .qk_dim = window_dim,
                      .v_dim = config_int(c, "swa_v_head_dim", v_dim),
                      .window = window,
                      .sink = config_flag(c, "add_swa_attention_sink_bias", true),
                      .qk_norm = full.qk_norm,
                      .value_scale = scale,
                      .rope = rope_of(&rotation, window_dim, config_real(c, "swa_rope_theta", 1e4))};
    const char *layout = config_text(c, "attention_projection_layout", "fused_qkv");
    config_only(c, "attention_projection_layout", strcmp(layout, "fused_qkv") == 0, "\"fused_qkv\"");
    int pattern[MAX_LAYERS], experts[MAX_LAYERS] = {0};
    for (int i = 1; i < m->layer_count; i++) experts[i] = 1;
    if (!import_pattern(c, "hybrid_layer_pattern", m->layer_count, pattern)) return;
    if (config_has(c, "moe_layer_freq") && !import_pattern(c, "moe_layer_freq", m->layer_count, experts)) return;
    bool any_dense = false, any_experts = false;
    for (int i = 0; i < m->layer_count; i++) {
        m->layers[i] = (Layer){pattern[i] ? ATTENTION_WINDOW : ATTENTION_FULL, experts[i] ? MLP_EXPERTS : MLP_DENSE};
        m->attention[m->layers[i].attention] = pattern[i] ? near : full;
        any_experts |= experts[i];
        any_dense |= !experts[i];
    }
    if (any_dense) {
        m->dense_inner = config_need(c, "intermediate_size");
        m->dense_activation = (Activation){1, 0};
    }
    if (any_experts) import_experts(c, m);
    import_quantization(c, m);
}

static void import_llama(const Config *c, Model *m) {
    m->eps = config_real(c, "rms_norm_eps", 1e-5);
    m->dense_inner = config_need(c, "intermediate_size");
    m->dense_activation = (Activation){1, 0};
    int heads = config_need(c, "num_attention_heads"),
        dim = config_int(c, "head_dim", heads > 0 ? m->hidden / heads : 0);
    Rotation rotation = import_rotation(c, 1, 1e4, true);
    m->attention[ATTENTION_FULL] = (Attention){.heads = heads,
                                               .kv_heads = config_int(c, "num_key_value_heads", heads),
                                               .qk_dim = dim,
                                               .v_dim = dim,
                                               .value_scale = 1,
                                               .rope = rope_of(&rotation, dim, rotation.theta)};
    config_only(c, "mlp_bias", !config_flag(c, "mlp_bias", false), "false");
    config_only(c, "quantization_config", !config_has(c, "quantization_config"), "a bf16 checkpoint");
}

static bool family_of(const Config *c, Family *out) {
    const char *type = config_text(c, "model_type", "");
    char word[16] = "";
    for (size_t i = 0; i < sizeof word - 1 && type[i]; i++)
        word[i] = type[i] == '-' || type[i] == '.' ? '_' : (char)tolower((unsigned char)type[i]);
    if (strcmp(word, "llama") == 0)
        *out = FAMILY_LLAMA;
    else if (strncmp(word, "mimo_v2", 7) == 0 && (!word[7] || word[7] == '_'))
        *out = FAMILY_MIMO_V2;
    else {
        diag_error(c->ctx, E0122, config_span(c, "model_type"), "the model type \"%s\" is not supported",
                   yaml_shown(c->ctx, type));
        diag_help(c->ctx, "mimo_v2 and llama are");
        return *c->ok = false;
    }
    return true;
}

// The last part of the folder's name, as a name.
static const char *name_of(Ctx *ctx, const char *folder) {
    char *name = arena_text(ctx->arena, folder);
    for (size_t n = strlen(name); n > 1 && name[n - 1] == '/'; n--) name[n - 1] = 0;
    char *slash = strrchr(name, '/');
    if (slash) name = slash + 1;
    if (strlen(name) > 100) name[100] = 0;
    for (char *s = name; *s; s++)
        if (!isalnum((unsigned char)*s) && !strchr("._-", *s)) *s = '_';
    name += strspn(name, "._-");
    return *name ? name : "model";
}

static bool import_target(const Config *c, Model *m) {
    if (!family_of(c, &m->family)) return false;
    m->hidden = config_need(c, "hidden_size");
    m->layer_count = config_need(c, "num_hidden_layers");
    m->vocab = config_need(c, "vocab_size");
    m->context = config_need(c, "max_position_embeddings");
    m->tied_head = config_flag(c, "tie_word_embeddings", false);
    m->tokenizer = MODEL_TOKENIZER;
    m->embed_dtype = m->head_dtype = m->qkv_dtype = m->o_dtype = m->dense_dtype = m->experts_dtype = m->router_dtype =
        DTYPE_BF16;
    const char *dtype_key = config_has(c, "dtype") ? "dtype" : "torch_dtype";
    config_only(c, dtype_key, strcmp(config_text(c, dtype_key, "bfloat16"), "bfloat16") == 0, "\"bfloat16\"");
    config_only(c, "hidden_act", strcmp(config_text(c, "hidden_act", "silu"), "silu") == 0, "\"silu\"");
    config_only(c, "attention_bias", !config_flag(c, "attention_bias", false), "false");
    if (m->layer_count < 1 || m->layer_count > MAX_LAYERS) {
        config_wrong(c, "num_hidden_layers", "must be 1 to %d, not %d", MAX_LAYERS, m->layer_count);
        return false;
    }
    if (m->family == FAMILY_MIMO_V2)
        import_mimo(c, m);
    else
        import_llama(c, m);
    return *c->ok;
}

// Window of the drafter's layers, 0 for none. Releases say it in several places.
static int import_window(const Config *c, const Config *inner) {
    int sliding = 0, layers = 0, window = config_int(c, "sliding_window", 0);
    const char *type;
    for (; (type = config_entry(c, "layer_types", (size_t)layers)); layers++)
        sliding += strcmp(type, "sliding_attention") == 0;
    config_only(c, "layer_types", sliding == 0 || sliding == layers, "the same type for every layer");
    bool windowed = layers ? sliding > 0 : config_flag(c, "use_sliding_window", window > 0);
    windowed = config_flag(inner, "use_swa", windowed);
    if (!windowed) return 0;
    window = config_int(inner, "swa_window_size", window);
    if (config_int(c, "sliding_window", window) != window)
        config_wrong(inner, "swa_window_size", "differs from sliding_window");
    if (window < 1) config_wrong(c, "sliding_window", "must say how many positions the drafter's layers see");
    return window;
}

static void same_as_target(const Config *c, const char *key, int target) {
    int value = config_int(c, key, target);
    if (value != target) config_wrong(c, key, "is %d, and %d in the target's config.json", value, target);
}

// The values of DFlash lie in dflash_config or at the top level, by release.
static const Config *holder(const Config *inner, const Config *c, const char *key) {
    return config_has(inner, key) ? inner : c;
}

static bool import_drafter(const Config *c, const Config *inner, Model *m) {
    Drafter *d = &m->drafter;
    bool mimo = m->family == FAMILY_MIMO_V2;
    int heads = config_need(c, "num_attention_heads"), dim = config_need(c, "head_dim");
    Rotation rotation = import_rotation(c, mimo ? 0.5 : 1, 1e4, true);
    bool sinks = config_flag(c, "add_swa_attention_sink_bias", mimo);
    m->has_drafter = true;
    same_as_target(c, "hidden_size", m->hidden);
    same_as_target(c, "target_hidden_size", m->hidden);
    same_as_target(c, "vocab_size", m->vocab);
    *d = (Drafter){.layers = config_need(c, "num_hidden_layers"),
                   .block = config_int(holder(inner, c, "block_size"), "block_size", 8),
                   .inner = config_need(c, "intermediate_size"),
                   .mask_token = config_need(holder(inner, c, "mask_token_id"), "mask_token_id"),
                   .causal = config_flag(holder(inner, c, "is_causal"), "is_causal", false),
                   .eps = config_real(c, "rms_norm_eps", m->eps),
                   .activation = {1, 0},
                   .dtype = DTYPE_BF16};
    const Config *scale = holder(inner, c, "attention_value_scale");
    const Config *sink = holder(inner, c, "attention_sink_bias");
    d->attention =
        (Attention){.heads = heads,
                    .kv_heads = config_need(c, "num_key_value_heads"),
                    .qk_dim = dim,
                    .v_dim = config_int(c, "v_head_dim", dim),
                    .window = import_window(c, inner),
                    .qk_norm = true,
                    .sink = config_flag(sink, "attention_sink_bias", sinks),
                    .value_scale = mimo ? import_value_scale(scale) : config_real(scale, "attention_value_scale", 1),
                    .rope = rope_of(&rotation, dim, rotation.theta)};
    const Config *taps = holder(inner, c, "target_layer_ids");
    d->tap_count = config_list(taps, "target_layer_ids", d->taps, MAX_TAPS);
    if (d->tap_count < 0) {
        config_need(taps, "target_layer_ids");
        d->tap_count = 0;
    }
    const char *dtype_key = config_has(c, "dtype") ? "dtype" : "torch_dtype";
    const char *dtype = config_text(c, dtype_key, "bfloat16");
    bool f32 = strcmp(dtype, "float32") == 0;
    config_only(c, dtype_key, f32 || strcmp(dtype, "bfloat16") == 0, "\"bfloat16\" or \"float32\"");
    if (f32) d->dtype = DTYPE_F32;
    config_only(c, "hidden_act", strcmp(config_text(c, "hidden_act", "silu"), "silu") == 0, "\"silu\"");
    config_only(c, "attention_bias", !config_flag(c, "attention_bias", false), "false");
    const Config *both[2] = {c, inner};
    for (int i = 0; i < (inner->offset == c->offset ? 1 : 2); i++) {
        config_only(both[i], "tap_shift", config_int(both[i], "tap_shift", 0) == 0, "0");
        config_only(both[i], "markov_rank", config_int(both[i], "markov_rank", 0) == 0, "0");
        config_only(both[i], "fc_layernorm", !config_flag(both[i], "fc_layernorm", false), "false");
    }
    return *c->ok;
}

// Both files into `m`, unchecked. `from` says afterwards where each value came from.
static bool import_files(Ctx *ctx, const char *checkpoint, Model *m, Imported *from) {
    bool ok = true;
    *from = (Imported){.has_drafter = false};
    m->name = name_of(ctx, checkpoint);
    if (!config_open(ctx, checkpoint, &ok, &from->target)) return false;
    ok = import_target(&from->target, m);
    config_close(&from->target);
    from->family = m->family;
    char *folder = file_join(ctx, checkpoint, "dflash");
    if (!ok || !file_exists(file_join(ctx, folder, "config.json"))) return ok;
    if (!config_open(ctx, folder, &ok, &from->drafter)) return false;
    from->has_drafter = true;
    if (!config_inside(&from->drafter, "dflash_config", &from->dflash)) from->dflash = from->drafter;
    ok = import_drafter(&from->drafter, &from->dflash, m);
    config_close(&from->drafter);
    return ok;
}

Model *model_import(Ctx *ctx, const char *checkpoint) {
    Model *m = ARENA_NEW(ctx->arena, Model);
    Imported from;
    if (!import_files(ctx, checkpoint, m, &from) || !model_check(ctx, m, (Places){place_in_config, &from})) return NULL;
    char *text = model_print(ctx, m, NULL);
    m->source = source_new(ctx, file_join(ctx, checkpoint, "config.json"), text, strlen(text));
    return m;
}

// What the checkpoint's files cannot say, or say better themselves: tensors tell the router's dtype.
static bool is_compared(const Section *section, const Field *field) {
    if (field->kind == FIELD_NEUTRAL || field->kind == FIELD_NAME) return false;
    return strcmp(section->path, "dtypes") != 0 || strcmp(field->key, "router") != 0;
}

bool model_matches(Ctx *ctx, const Model *model, const char *checkpoint) {
    Model *published = ARENA_NEW(ctx->arena, Model);
    Imported from;
    if (!import_files(ctx, checkpoint, published, &from) ||
        !model_check(ctx, published, (Places){place_in_config, &from}))
        return false;
    Places places = model_yaml_places(ctx, model);
    bool same = true;
    for (size_t s = 0; s < MODEL_SECTION_COUNT; s++) {
        const Section *section = &MODEL_SECTIONS[s];
        bool ours = section->occurs(model), theirs = section->occurs(published);
        if (!ours && (!theirs || strncmp(section->path, "drafter", 7) == 0)) continue; // decoding without it is fine
        for (size_t f = 0; f < section->count; f++) {
            const Field *field = &section->fields[f];
            if (!is_compared(section, field)) continue;
            const char *path = arena_printf(ctx->arena, "%s%s%s", section->path, *section->path ? "." : "", field->key);
            const char *here = ours ? field_text(ctx, model, section, field) : "absent";
            const char *there = theirs ? field_text(ctx, published, section, field) : "absent";
            if (strcmp(here, there) == 0) continue;
            same = false;
            diag_error(ctx, E0123, places.find(ctx, places.user, path), "%s is %s here, and %s in the checkpoint", path,
                       here, there);
            diag_note(ctx, place_in_config(ctx, &from, path), "the checkpoint's value");
            if (ours != theirs) break;
        }
    }
    if (!same) diag_help(ctx, "`tilegen import %s` writes the description of this checkpoint", checkpoint);
    return same;
}
