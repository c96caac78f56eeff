// Model descriptions: reading, printing, importing, comparing. Expected diagnostics are golden texts in
// tests/golden/model; UPDATE_GOLDEN=1 writes them anew. Each case names its code beside, so that a rewritten golden
// text cannot hide another error.
#include "check.h"
#include "file.h"
#include "model_schema.h"
#include <unistd.h>

static Ctx *ctx;
static bool seen[DIAG_CODE_COUNT]; // codes that some case has asked for

static const char *root(void) { return getenv("ROOT") ? getenv("ROOT") : "."; }

static void fresh(void) {
    ctx_free(ctx);
    ctx = ctx_new((Env){0});
    CHECK(ctx);
}

// Everything that may leave by lack of memory runs in here.
static bool protect(void (*body)(Ctx *, void *), void *user) { return ctx_protect(ctx, body, user); }

typedef struct Job {
    const char *name, *text, *folder;
    Model *model;
    const Model *other;
    bool same;
} Job;

static void do_read(Ctx *c, void *user) {
    Job *job = user;
    size_t length = strlen(job->text);
    job->model = model_read(c, source_new(c, job->name, arena_copy(c->arena, job->text, length), length));
}
static void do_load(Ctx *c, void *user) {
    Job *job = user;
    Source *source = file_read(c, file_join(c, root(), job->name), MODEL_FILE_CAP);
    if (source) job->model = model_read(c, source);
}
static void do_import(Ctx *c, void *user) {
    Job *job = user;
    job->model = model_import(c, job->folder);
}
static void do_print(Ctx *c, void *user) {
    Job *job = user;
    job->text = model_print(c, job->other, job->name);
}
static void do_match(Ctx *c, void *user) {
    Job *job = user;
    job->same = model_matches(c, job->other, job->folder);
}

static Model *read_text(const char *name, const char *text) {
    Job job = {.name = name, .text = text};
    CHECK(protect(do_read, &job));
    return job.model;
}
static Model *load(const char *path) {
    Job job = {.name = path};
    CHECK(protect(do_load, &job));
    if (!job.model) diag_print(ctx, stderr, DIAG_TEXT);
    CHECK(job.model, "%s", path);
    return job.model;
}
static Model *import(const char *folder) {
    Job job = {.folder = folder};
    CHECK(protect(do_import, &job));
    return job.model;
}
static const char *print(const Model *m, const char *note) {
    Job job = {.name = note, .other = m};
    CHECK(protect(do_print, &job));
    return job.text;
}

// Field by field, in the order of model.h; the name of the first that differs, NULL for none.
static const char *attention_difference(const Attention *a, const Attention *b) {
#define SAME(field)                                                                                                    \
    if (a->field != b->field) return #field
    SAME(heads);
    SAME(kv_heads);
    SAME(qk_dim);
    SAME(v_dim);
    SAME(window);
    SAME(sink);
    SAME(qk_norm);
    SAME(value_scale);
    SAME(rope.rotary);
    SAME(rope.theta);
    SAME(rope.factor);
    SAME(rope.low);
    SAME(rope.high);
    SAME(rope.original);
    return NULL;
}
static const char *difference(const Model *a, const Model *b) {
    if (strcmp(a->name, b->name) != 0) return "name";
    if (strcmp(a->tokenizer, b->tokenizer) != 0) return "tokenizer";
    SAME(family);
    SAME(hidden);
    SAME(vocab);
    SAME(context);
    SAME(layer_count);
    SAME(eps);
    SAME(tied_head);
    for (int i = 0; i < MAX_LAYERS; i++) {
        SAME(layers[i].attention);
        SAME(layers[i].mlp);
    }
    for (int i = 0; i < ATTENTION_KINDS; i++) {
        const char *found = attention_difference(&a->attention[i], &b->attention[i]);
        if (found) return found;
    }
    SAME(dense_inner);
    SAME(dense_activation.alpha);
    SAME(dense_activation.limit);
    SAME(experts.count);
    SAME(experts.top_k);
    SAME(experts.inner);
    SAME(experts.activation.alpha);
    SAME(experts.activation.limit);
    SAME(experts.score);
    SAME(experts.selection_bias);
    SAME(experts.renormalise);
    SAME(experts.scale);
    SAME(embed_dtype);
    SAME(head_dtype);
    SAME(qkv_dtype);
    SAME(o_dtype);
    SAME(dense_dtype);
    SAME(experts_dtype);
    SAME(router_dtype);
    SAME(has_drafter);
    SAME(drafter.layers);
    SAME(drafter.block);
    SAME(drafter.inner);
    SAME(drafter.tap_count);
    for (int i = 0; i < MAX_TAPS; i++) SAME(drafter.taps[i]);
    SAME(drafter.mask_token);
    SAME(drafter.causal);
    SAME(drafter.eps);
    SAME(drafter.activation.alpha);
    SAME(drafter.activation.limit);
    SAME(drafter.dtype);
    return attention_difference(&a->drafter.attention, &b->drafter.attention);
}

// A description with every section.
static const char base[] = "name: small\n"
                           "family: mimo_v2\n"
                           "hidden: 64\n"
                           "layers: 4\n"
                           "vocab: 100\n"
                           "context: 256\n"
                           "attention:\n"
                           "  full:\n"
                           "    layers: [0, 3]\n"
                           "    heads: 4\n"
                           "    kv_heads: 2\n"
                           "    qk_dim: 24\n"
                           "    v_dim: 16\n"
                           "    rope: {rotary: 8, theta: 1e6}\n"
                           "  window:\n"
                           "    heads: 4\n"
                           "    kv_heads: 4\n"
                           "    qk_dim: 24\n"
                           "    v_dim: 16\n"
                           "    window: 32\n"
                           "    sink: true\n"
                           "    rope: {rotary: 8, theta: 10000}\n"
                           "dense:\n"
                           "  inner: 128\n"
                           "  layers: [0]\n"
                           "experts:\n"
                           "  count: 8\n"
                           "  top_k: 2\n"
                           "  inner: 32\n"
                           "  score: sigmoid\n"
                           "dtypes: {experts: mxfp4}\n"
                           "drafter:\n"
                           "  layers: 2\n"
                           "  block: 8\n"
                           "  inner: 96\n"
                           "  mask_token: 99\n"
                           "  taps: [0, 2, 3]\n"
                           "  attention:\n"
                           "    heads: 4\n"
                           "    kv_heads: 2\n"
                           "    qk_dim: 16\n"
                           "    v_dim: 16\n"
                           "    rope: {rotary: 16, theta: 10000}\n";

// `text` with its one occurrence of `find` replaced. The caller frees it.
static char *edit(const char *text, const char *find, const char *put) {
    const char *at = strstr(text, find);
    CHECK(at && !strstr(at + 1, find), "the text has not exactly one \"%s\"", find);
    char *out = NULL;
    size_t size = 0;
    FILE *file = open_memstream(&out, &size);
    fprintf(file, "%.*s%s%s", (int)(at - text), text, put, at + strlen(find));
    fclose(file);
    return out;
}

static char *diagnostics(void) {
    char *out = NULL;
    size_t size = 0;
    FILE *file = open_memstream(&out, &size);
    diag_print(ctx, file, DIAG_TEXT);
    fclose(file);
    return out;
}

// Compares with tests/golden/model/NAME.txt.
static void golden(const char *name, const char *text) {
    char path[500];
    snprintf(path, sizeof path, "%s/tests/golden/model/%s.txt", root(), name);
    if (getenv("UPDATE_GOLDEN")) {
        FILE *file = fopen(path, "w");
        CHECK(file, "%s", path);
        fputs(text, file);
        fclose(file);
    }
    FILE *file = fopen(path, "r");
    CHECK(file, "%s is missing; UPDATE_GOLDEN=1 writes it", path);
    char want[4096];
    want[fread(want, 1, sizeof want - 1, file)] = 0;
    fclose(file);
    CHECK_TEXT(text, want);
}

typedef struct Case {
    const char *name; // of the golden text
    DiagCode code;    // of the first error
    int errors;
    const char *find, *put;
} Case;

static const Case read_cases[] = {
    {"unknown_key", E0110, 1, "context: 256", "context: 256\nwindw: 3"},
    {"unknown_key_without_a_suggestion", E0110, 1, "context: 256", "context: 256\nxylophone: 3"},
    {"unknown_key_of_a_window", E0110, 1, "sink: true", "sinks: true"},
    {"layers_of_a_window", E0110, 1, "    window: 32", "    window: 32\n    layers: [1, 2]"},
    {"unknown_map", E0110, 1, "dtypes: {experts: mxfp4}", "dtype: {experts: mxfp4}"},
    {"missing_hidden", E0111, 1, "hidden: 64\n", ""},
    {"missing_layers", E0111, 1, "layers: 4\n", ""},
    {"missing_rope", E0111, 1, "    rope: {rotary: 8, theta: 1e6}\n", ""},
    {"missing_theta", E0111, 1, "rotary: 8, theta: 1e6", "rotary: 8"},
    {"missing_full_layers", E0111, 1, "    layers: [0, 3]\n", ""},
    {"missing_dense_layers", E0111, 1, "  layers: [0]\n", ""},
    {"missing_taps", E0111, 1, "  taps: [0, 2, 3]\n", ""},
    {"missing_two", E0111, 2, "  top_k: 2\n  inner: 32\n", ""},
    {"number_as_text", E0112, 1, "hidden: 64", "hidden: \"64\""},
    {"number_as_word", E0112, 1, "hidden: 64", "hidden: big"},
    {"number_as_list", E0112, 1, "hidden: 64", "hidden: [64]"},
    {"number_as_nothing", E0112, 1, "hidden: 64", "hidden:"},
    {"whole_number_with_a_fraction", E0112, 1, "hidden: 64", "hidden: 64.5"},
    {"number_in_hexadecimal", E0112, 1, "hidden: 64", "hidden: 0x40"},
    {"not_a_number", E0112, 1, "theta: 1e6", "theta: nan"},
    {"number_out_of_doubles", E0112, 1, "theta: 1e6", "theta: 1e999"},
    {"too_small", E0112, 1, "hidden: 64", "hidden: 16"},
    {"too_many_layers", E0112, 1, "layers: 4\nvocab", "layers: 257\nvocab"},
    {"negative_heads", E0112, 1, "    heads: 4\n    kv_heads: 2\n    qk_dim: 24",
     "    heads: -4\n    kv_heads: 2\n    qk_dim: 24"},
    {"block_of_16", E0112, 1, "block: 8", "block: 16"},
    {"eps_0", E0112, 1, "context: 256", "context: 256\neps: 0"},
    {"bool_as_yes", E0112, 1, "sink: true", "sink: yes"},
    {"misspelt_dtype", E0112, 1, "experts: mxfp4", "experts: mxpf4"},
    {"dtype_of_indices", E0112, 1, "experts: mxfp4", "experts: i32"},
    {"misspelt_score", E0112, 1, "score: sigmoid", "score: sigmoide"},
    {"other_family", E0112, 1, "family: mimo_v2", "family: qwen3"},
    {"name_with_a_path", E0112, 1, "name: small", "name: ../small"},
    {"name_that_begins_with_a_dash", E0112, 1, "name: small", "name: -x"},
    {"section_as_number", E0112, 1, "dtypes: {experts: mxfp4}", "dtypes: 8"},
    {"layers_as_text", E0112, 1, "taps: [0, 2, 3]", "taps: all"},
    {"layer_as_word", E0112, 1, "taps: [0, 2, 3]", "taps: [0, two]"},
    {"shared_experts", E0114, 1, "score: sigmoid", "score: sigmoid\n  shared_experts: 1"},
    {"expert_groups", E0114, 1, "score: sigmoid", "score: sigmoid\n  groups: 4"},
    {"expert_activation", E0114, 1, "score: sigmoid", "score: sigmoid\n  activation: gelu"},
    {"attention_bias", E0114, 1, "sink: true", "sink: true\n    bias: true"},
    {"mtp_layers", E0114, 1, "context: 256", "context: 256\nmtp_layers: 3"},
    {"heads_not_a_multiple", E0115, 1, "heads: 4\n    kv_heads: 2\n    qk_dim: 16",
     "heads: 4\n    kv_heads: 3\n    qk_dim: 16"},
    {"rotary_odd", E0115, 1, "rotary: 16", "rotary: 7"},
    {"rotary_too_large", E0115, 1, "rotary: 16", "rotary: 18"},
    {"rope_factor_without_original", E0115, 1, "rotary: 16, ", "rotary: 16, factor: 8, "},
    {"full_with_a_window", E0115, 1, "    v_dim: 16\n    rope: {rotary: 8, theta: 1e6}",
     "    v_dim: 16\n    window: 8\n    rope: {rotary: 8, theta: 1e6}"},
    {"window_of_nothing", E0115, 1, "    window: 32\n", ""},
    {"kinds_with_other_heads", E0115, 1, "    heads: 4\n    kv_heads: 4", "    heads: 8\n    kv_heads: 4"},
    {"window_kv_heads", E0115, 1, "kv_heads: 4", "kv_heads: 1"},
    {"window_that_no_layer_uses", E0115, 1, "layers: [0, 3]", "layers: [0, 1, 2, 3]"},
    {"full_that_no_layer_uses", E0115, 1, "layers: [0, 3]", "layers: []"},
    {"dense_that_no_layer_uses", E0115, 1, "  layers: [0]\n", "  layers: []\n"},
    {"experts_that_no_layer_uses", E0115, 1, "  layers: [0]\n", "  layers: [0, 1, 2, 3]\n"},
    {"layer_past_the_end", E0115, 1, "layers: [0, 3]", "layers: [0, 4]"},
    {"layers_not_ascending", E0115, 1, "taps: [0, 2, 3]", "taps: [0, 3, 2]"},
    {"layer_twice", E0115, 1, "taps: [0, 2, 3]", "taps: [0, 3, 3]"},
    {"no_taps", E0115, 1, "taps: [0, 2, 3]", "taps: []"},
    {"top_k_above_count", E0115, 1, "top_k: 2", "top_k: 9"},
    {"mxfp4_inner", E0115, 1, "inner: 32", "inner: 40"},
    {"mask_token_past_vocab", E0115, 1, "mask_token: 99", "mask_token: 100"},
    {"tied_head_of_another_dtype", E0115, 1, "dtypes: {", "tied_head: true\ndtypes: {head: f32, "},
    {"anchor", E0104, 1, "hidden: 64", "hidden: &h 64"},
    {"alias", E0104, 1, "hidden: 64", "hidden: *h"},
    {"tag", E0105, 1, "hidden: 64", "hidden: !!int 64"},
    {"key_twice", E0106, 1, "context: 256", "hidden: 65"},
    {"tab", E0103, 1, "  inner: 128", "\tinner: 128"},
    {"second_document", E0108, 1, "context: 256", "---\ncontext: 256"},
    {"syntax", E0101, 1, "hidden: 64", "hidden: 64: 65"},
    {"not_utf8", E0102, 1, "name: small", "name: sm\xE9ll"},
    {"depth", E0107, 1, "hidden: 64", "hidden: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[64]]]]"},
};

static const Case *current;
static void read_case(void) {
    fresh();
    char *text = edit(base, current->find, current->put);
    Model *model = read_text("small.yaml", text);
    free(text);
    CHECK(!model);
    CHECK(diag_code_at(ctx, 0) == current->code, "%s", diag_code_name(diag_code_at(ctx, 0)));
    CHECK((int)diag_errors(ctx) == current->errors, "%zu errors", diag_errors(ctx));
    seen[current->code] = true;
    char *out = diagnostics();
    CHECK(strstr(out, "small.yaml:") == out && strstr(out, "help: "));
    golden(current->name, out);
    free(out);
}

static void base_reads(void) {
    fresh();
    Model *m = read_text("small.yaml", base);
    CHECK(m);
    CHECK(m->layers[0].attention == ATTENTION_FULL && m->layers[0].mlp == MLP_DENSE);
    CHECK(m->layers[1].attention == ATTENTION_WINDOW && m->layers[1].mlp == MLP_EXPERTS);
    CHECK(m->layers[3].attention == ATTENTION_FULL && m->layers[3].mlp == MLP_EXPERTS);
    CHECK(m->eps == 1e-5 && m->drafter.eps == 1e-5 && !m->tied_head && m->experts.renormalise);
    CHECK(m->experts.scale == 1 && m->attention[ATTENTION_FULL].value_scale == 1);
    CHECK(m->qkv_dtype == DTYPE_BF16 && m->experts_dtype == DTYPE_MXFP4 && m->drafter.dtype == DTYPE_BF16);
    CHECK(m->drafter.tap_count == 3 && m->drafter.taps[1] == 2 && m->drafter.attention.window == 0);
    CHECK(m->dense_activation.alpha == 1 && m->experts.activation.limit == 0 && m->drafter.activation.alpha == 1);
    CHECK_TEXT(m->tokenizer, "tokenizer.json");
    CHECK(model_tap(m, 2) == 1 && model_tap(m, 1) == -1);
}

static void neutral_values_may_stand(void) {
    fresh();
    char *text = edit(base, "score: sigmoid",
                      "score: sigmoid\n  shared_experts: 0\n  groups: 1\n  activation: swiglu\n  bias: false");
    CHECK(read_text("t", text));
    free(text);
    text = edit(base, "context: 256", "context: 256\nmtp_layers: 0");
    CHECK(read_text("t", text));
    free(text);
}

static void one_kind_needs_no_lists(void) {
    fresh();
    const char *text =
        "name: a\nfamily: llama\nhidden: 64\nlayers: 2\nvocab: 10\ncontext: 16\n"
        "attention: {full: {heads: 2, kv_heads: 1, qk_dim: 8, v_dim: 8, rope: {rotary: 8, theta: 1e4}}}\n"
        "dense: {inner: 32}\n";
    Model *m = read_text("t", text);
    CHECK(m && m->layers[0].attention == ATTENTION_FULL && m->layers[1].mlp == MLP_DENSE);
    CHECK(m->layers[2].mlp == MLP_DENSE && m->layers[2].attention == ATTENTION_FULL, "layers past the end are zero");
    CHECK(!m->has_drafter && m->experts.count == 0 && m->attention[ATTENTION_WINDOW].heads == 0);
    CHECK(m->attention[ATTENTION_WINDOW].value_scale == 0, "a kind that does not occur is zero");
}

static void neither_kind_of_attention(void) {
    fresh();
    CHECK(!read_text("t", "name: a\nfamily: llama\nhidden: 64\nlayers: 2\nvocab: 10\ncontext: 16\nattention: {}\n"
                          "dense: {inner: 32}\n"));
    CHECK(diag_code_at(ctx, 0) == E0111 && diag_errors(ctx) == 1);
    fresh();
    CHECK(!read_text("t", "name: a\nfamily: llama\nhidden: 64\nlayers: 2\nvocab: 10\ncontext: 16\n"));
    CHECK(diag_code_at(ctx, 0) == E0111 && diag_errors(ctx) == 1);
}

static void other_roots(void) {
    const char *const texts[] = {"8\n", "[1]\n", "---\n", "{}\n", "layers: 0\n", "''\n"};
    for (int i = 0; i < 6; i++) {
        fresh();
        CHECK(!read_text("t", texts[i]), "%s", texts[i]);
        CHECK(diag_errors(ctx) > 0, "%s", texts[i]);
    }
}

static void many_unknown_keys_end(void) {
    fresh();
    char *text = NULL;
    size_t size = 0;
    FILE *file = open_memstream(&text, &size);
    for (int i = 0; i < 8000; i++) fprintf(file, "k%d: 1\n", i);
    fclose(file);
    CHECK(!read_text("t", text));
    free(text);
    CHECK(diag_errors(ctx) < 40);
}

static void round_trip(const Model *m, uint64_t seed) {
    const char *text = print(m, NULL);
    Model *again = read_text("again", text);
    if (!again) diag_print(ctx, stdout, DIAG_TEXT);
    CHECK(again, "seed %llu: not read back:\n%s", (unsigned long long)seed, text);
    const char *differs = difference(m, again);
    CHECK(!differs, "seed %llu: %s differs", (unsigned long long)seed, differs);
    CHECK_TEXT(print(again, NULL), text);
}

static void shipped_models_print_as_they_stand(void) {
    const char *const names[] = {"demo", "llama-3.2-1b", "mimo-v2.5-pro", "mimo-v2.6-flash"};
    for (int i = 0; i < 4; i++) {
        char path[100], note[200];
        snprintf(path, sizeof path, "models/%s.yaml", names[i]);
        fresh();
        Model *m = load(path);
        CHECK(sscanf(m->source->text, "# %199[^\n]", note) == 1);
        CHECK_TEXT(print(m, note), m->source->text);
        CHECK_TEXT(m->name, names[i]);
        round_trip(m, 0);
    }
}

static uint64_t state;
static int any(int lo, int hi) { return lo + (int)(check_random(&state) % (uint64_t)(hi - lo + 1)); }
static bool coin(void) { return any(0, 1); }
// A double of any digits within [lo, hi], sometimes a round one.
static double real(double lo, double hi) {
    double x = lo + (hi - lo) * ((double)(check_random(&state) >> 11) / 9007199254740992.0);
    return coin() ? x : hi >= 1 && lo <= floor(x) ? floor(x) : lo;
}

static void random_attention(Attention *a, int heads, int qk, int v, int kv) {
    a->heads = heads;
    a->kv_heads = kv;
    a->qk_dim = qk;
    a->v_dim = v;
    a->sink = coin();
    a->qk_norm = coin();
    a->value_scale = coin() ? 1 : real(1e-6, 3);
    a->rope = (Rope){.rotary = 2 * any(1, qk / 2), .theta = real(1, 1e12), .factor = 1, .low = 1, .high = 4};
    if (coin()) a->rope.low = real(0.5, 3.9);
    if (coin()) a->rope.factor = real(1, 64), a->rope.original = any(1, 100000);
}

static Activation random_activation(void) { return (Activation){coin() ? 1 : real(0.5, 2), coin() ? 0 : real(0, 10)}; }

static void random_model(Model *m) {
    static const char *const names[] = {"a", "0", "true", "null", "1e5", "x.y-z_1", "on", "0x10"};
    memset(m, 0, sizeof *m);
    m->name = names[any(0, 7)];
    m->tokenizer = coin() ? "tokenizer.json" : "other.json";
    m->family = coin() ? FAMILY_MIMO_V2 : FAMILY_LLAMA;
    m->hidden = 32 * any(1, 300);
    m->vocab = any(2, 1 << 22);
    m->context = any(16, 1 << 26);
    m->layer_count = any(1, MAX_LAYERS);
    m->eps = coin() ? 1e-5 : real(1e-12, 0.1);
    m->tied_head = coin();
    int kinds = any(1, 3), mlps = any(1, 3); // bit 0: full, dense; bit 1: window, experts
    if (m->layer_count == 1) kinds = any(1, 2), mlps = any(1, 2);
    for (int i = 0; i < m->layer_count; i++) {
        int pick = i < 2 ? i : any(0, 1); // the first two layers make sure that both occur
        m->layers[i].attention = kinds == 1 || (kinds == 3 && !pick) ? ATTENTION_FULL : ATTENTION_WINDOW;
        m->layers[i].mlp = mlps == 1 || (mlps == 3 && !pick) ? MLP_DENSE : MLP_EXPERTS;
    }
    int kv = any(1, 8), heads = kv * 2 * any(1, 8), qk = any(2, 256), v = any(1, 32) * 32;
    if (kinds & 1) random_attention(&m->attention[ATTENTION_FULL], heads, qk, v, kv);
    if (kinds & 2) {
        random_attention(&m->attention[ATTENTION_WINDOW], heads, qk, v, kv * any(1, 2));
        m->attention[ATTENTION_WINDOW].window = any(1, 5000);
    }
    if (mlps & 1) m->dense_inner = 32 * any(1, 500), m->dense_activation = random_activation();
    if (mlps & 2) {
        int count = any(1, 4096);
        m->experts = (Experts){.count = count,
                               .top_k = any(1, count < 64 ? count : 64),
                               .inner = 32 * any(1, 100),
                               .activation = random_activation(),
                               .score = coin() ? SCORE_SIGMOID : SCORE_SOFTMAX,
                               .selection_bias = coin(),
                               .renormalise = coin(),
                               .scale = coin() ? 1 : real(0.1, 9)};
    }
    Dtype *const dtypes[] = {&m->embed_dtype, &m->head_dtype,    &m->qkv_dtype,   &m->o_dtype,
                             &m->dense_dtype, &m->experts_dtype, &m->router_dtype};
    for (int i = 0; i < 7; i++) *dtypes[i] = (Dtype)any(DTYPE_F32, DTYPE_MXFP4);
    if (m->tied_head) m->head_dtype = m->embed_dtype;
    if (coin()) return;
    m->has_drafter = true;
    Drafter *d = &m->drafter;
    d->layers = any(1, 64);
    d->block = any(2, MAX_ROWS);
    d->inner = 32 * any(1, 600);
    for (int i = 0; i < m->layer_count && d->tap_count < MAX_TAPS; i++)
        if (i == 0 || coin()) d->taps[d->tap_count++] = i;
    d->mask_token = any(0, m->vocab - 1);
    d->causal = coin();
    d->eps = coin() ? 1e-5 : real(1e-12, 0.1);
    d->activation = random_activation();
    d->dtype = (Dtype)any(DTYPE_F32, DTYPE_MXFP4);
    kv = any(1, 8);
    random_attention(&d->attention, kv * any(1, 8), any(2, 256), 32 * any(1, 8), kv);
    d->attention.window = coin() ? 0 : any(1, 5000);
}

static void random_models_round_trip(void) {
    for (uint64_t seed = 1; seed <= 300; seed++) {
        state = seed;
        fresh();
        Model m;
        random_model(&m);
        round_trip(&m, seed);
    }
}

// Rows of the fused qkv, from the published shapes: 27136 of V2.5-Pro, 13568 and 14848 of V2.6-Flash.
static void fused_qkv(void) {
    fresh();
    Model *pro = load("models/mimo-v2.5-pro.yaml"), *flash = load("models/mimo-v2.6-flash.yaml");
    CHECK(model_qkv_chunks(pro) == 8 && model_qkv_chunk_rows(pro, ATTENTION_FULL) == 3392);
    CHECK(model_qkv_chunk_rows(pro, ATTENTION_WINDOW) * 8 == 27136);
    CHECK(model_qkv_chunks(flash) == 4 && model_qkv_chunk_rows(flash, ATTENTION_FULL) * 4 == 13568);
    CHECK(model_qkv_chunk_rows(flash, ATTENTION_WINDOW) * 4 == 14848);
}

static void facts_of_mimo_v25_pro(void) {
    fresh();
    Model *m = load("models/mimo-v2.5-pro.yaml");
    static const int full[] = {0, 7, 15, 23, 31, 39, 47, 55, 62, 69}, taps[] = {0, 15, 31, 47, 69};
    int found = 0;
    for (int i = 0; i < 70; i++) {
        bool is_full = found < 10 && full[found] == i;
        CHECK((m->layers[i].attention == ATTENTION_FULL) == is_full, "layer %d", i);
        CHECK((m->layers[i].mlp == MLP_DENSE) == (i == 0), "layer %d", i);
        found += is_full;
    }
    const Attention *a = &m->attention[ATTENTION_FULL], *w = &m->attention[ATTENTION_WINDOW],
                    *d = &m->drafter.attention;
    CHECK(m->layer_count == 70 && m->hidden == 6144 && m->vocab == 152576 && !m->tied_head && m->eps == 1e-5);
    CHECK(a->heads == 128 && a->kv_heads == 8 && a->qk_dim == 192 && a->v_dim == 128 && !a->sink && !a->window);
    CHECK(w->heads == 128 && w->kv_heads == 8 && w->qk_dim == 192 && w->v_dim == 128 && w->sink && w->window == 128);
    CHECK(a->rope.rotary == 64 && a->rope.theta == 1e7 && w->rope.rotary == 64 && w->rope.theta == 1e4);
    CHECK(a->value_scale == 0.612 && w->value_scale == 0.612 && !a->qk_norm && a->rope.factor == 1);
    CHECK(m->dense_inner == 16384 && m->experts.count == 384 && m->experts.top_k == 8 && m->experts.inner == 2048);
    CHECK(m->experts.score == SCORE_SIGMOID && m->experts.selection_bias && m->experts.renormalise);
    CHECK(m->experts.scale == 1 && m->experts.activation.limit == 0 && m->context == 1048576);
    CHECK(m->embed_dtype == DTYPE_BF16 && m->head_dtype == DTYPE_BF16 && m->o_dtype == DTYPE_BF16);
    CHECK(m->qkv_dtype == DTYPE_FP8 && m->dense_dtype == DTYPE_FP8 && m->experts_dtype == DTYPE_MXFP4);
    CHECK(m->router_dtype == DTYPE_F32 && m->has_drafter && m->drafter.layers == 5 && m->drafter.block == 8);
    CHECK(m->drafter.inner == 16384 && m->drafter.mask_token == 151669 && !m->drafter.causal);
    CHECK(m->drafter.tap_count == 5 && memcmp(m->drafter.taps, taps, sizeof taps) == 0);
    CHECK(d->heads == 128 && d->kv_heads == 8 && d->qk_dim == 128 && d->v_dim == 128 && d->window == 1024);
    CHECK(d->sink && d->qk_norm && d->value_scale == 0.612 && d->rope.rotary == 64 && d->rope.theta == 1e4);
}

static const char *config_of(const char *name) {
    return arena_printf(ctx->arena, "%s/tests/data/config/%s", root(), name);
}

static void published_configs_are_the_shipped_models(void) {
    const char *const names[] = {"llama-3.2-1b", "mimo-v2.5-pro", "mimo-v2.6-flash"};
    for (int i = 0; i < 3; i++) {
        char path[100];
        snprintf(path, sizeof path, "models/%s.yaml", names[i]);
        fresh();
        Model *ours = load(path), *published = import(config_of(names[i]));
        if (!published) diag_print(ctx, stdout, DIAG_TEXT);
        CHECK(published, "%s", names[i]);
        const char *differs = difference(ours, published);
        CHECK(!differs, "%s: %s differs", names[i], differs);
        Job job = {.other = ours, .folder = config_of(names[i])};
        CHECK(protect(do_match, &job) && job.same && !diag_errors(ctx), "%s", names[i]);
    }
}

static void demo_is_its_config(void) {
    fresh();
    Model *ours = load("models/demo.yaml");
    Model *published = import(arena_printf(ctx->arena, "%s/models/demo///", root()));
    CHECK(published);
    const char *differs = difference(ours, published);
    CHECK(!differs, "%s differs", differs);
}

// A folder with a config.json (and dflash/config.json) of the given texts.
static const char *folder_of(const char *config, const char *dflash) {
    char *folder = arena_printf(ctx->arena, "%s/model", getenv("TEST_TMP") ? getenv("TEST_TMP") : "/tmp");
    char *inner = file_join(ctx, folder, "dflash"), *draft = file_join(ctx, inner, "config.json");
    CHECK(file_mkdirs(ctx, inner));
    unlink(draft);
    CHECK(file_write(ctx, file_join(ctx, folder, "config.json"), config, strlen(config)));
    CHECK(!dflash || file_write(ctx, draft, dflash, strlen(dflash)));
    return folder;
}

static const char mimo[] =
    "{\n  \"model_type\": \"mimo_v2_flash\",\n  \"hidden_size\": 64,\n  \"num_hidden_layers\": 3,\n"
    "  \"vocab_size\": 100,\n  \"max_position_embeddings\": 256,\n  \"intermediate_size\": 128,\n"
    "  \"num_attention_heads\": 4,\n  \"num_key_value_heads\": 2,\n  \"head_dim\": 24,\n  \"v_head_dim\": 16,\n"
    "  \"attention_value_scale\": 0.5,\n"
    "  \"hybrid_layer_pattern\": [0, 1, 1],\n  \"moe_layer_freq\": [0, 1, 1],\n"
    "  \"n_routed_experts\": 8,\n  \"num_experts_per_tok\": 2,\n  \"moe_intermediate_size\": 32\n}\n";
static const char dflash[] =
    "{\n  \"hidden_size\": 64,\n  \"num_hidden_layers\": 1,\n  \"intermediate_size\": 96,\n"
    "  \"num_attention_heads\": 4,\n  \"num_key_value_heads\": 2,\n  \"head_dim\": 16,\n  \"block_size\": 4,\n"
    "  \"dflash_config\": {\n    \"mask_token_id\": 7,\n    \"target_layer_ids\": [0, 2]\n  }\n}\n";

// What a sparse config.json leaves out is as in MiMo-V2.5-Pro.
static void defaults_of_a_sparse_config(void) {
    fresh();
    Model *m = import(folder_of(mimo, dflash));
    if (!m) diag_print(ctx, stdout, DIAG_TEXT);
    CHECK(m);
    const Attention *full = &m->attention[ATTENTION_FULL], *window = &m->attention[ATTENTION_WINDOW];
    CHECK(full->rope.theta == 1e7 && window->rope.theta == 1e4 && window->window == 128);
    CHECK(full->rope.rotary == 8 && window->rope.rotary == 8); // a third of 24
    CHECK(window->heads == 4 && window->kv_heads == 2 && window->qk_dim == 24 && window->v_dim == 16);
    CHECK(!full->sink && window->sink && full->value_scale == 0.5 && window->value_scale == 0.5);
    CHECK(m->eps == 1e-5 && !m->tied_head && m->router_dtype == DTYPE_F32 && m->qkv_dtype == DTYPE_BF16);
    CHECK(m->experts.score == SCORE_SIGMOID && m->experts.selection_bias && m->experts.renormalise);
    const Attention *d = &m->drafter.attention;
    CHECK(d->rope.rotary == 8 && d->rope.theta == 1e4 && d->sink && d->value_scale == 0.612 && d->window == 0);
    CHECK(d->qk_norm && d->v_dim == 16 && m->drafter.block == 4 && m->drafter.mask_token == 7);
    CHECK_TEXT(m->name, "model");
}

static void spellings_of_the_model_type(void) {
    const char *const good[] = {"mimo_v2", "mimo_v2_pro", "MiMo-V2-Flash", "mimo_v2.5"}, *const bad[] = {
                                                                                             "mimo_v20", "mimo",
                                                                                             "qwen3", "", "llama4"};
    for (int i = 0; i < 4; i++) {
        fresh();
        char *text = edit(mimo, "mimo_v2_flash", good[i]);
        bool ok = import(folder_of(text, NULL)) != NULL;
        free(text);
        CHECK(ok, "%s", good[i]);
    }
    for (int i = 0; i < 5; i++) {
        fresh();
        char *text = edit(mimo, "mimo_v2_flash", bad[i]);
        bool ok = import(folder_of(text, NULL)) != NULL;
        free(text);
        CHECK(!ok && diag_code_at(ctx, 0) == E0122, "%s", bad[i]);
    }
}

static void value_scale_null_is_1(void) {
    fresh();
    char *text = edit(mimo, "0.5", "null");
    Model *m = import(folder_of(text, NULL));
    free(text);
    CHECK(m && m->attention[0].value_scale == 1);
    fresh();
    text = edit(mimo, "  \"attention_value_scale\": 0.5,\n", "");
    m = import(folder_of(text, NULL));
    free(text);
    CHECK(m && m->attention[0].value_scale == 0.612);
}

static const Case import_cases[] = {
    {"import_cut", E0121, 1, "32\n}\n", "32\n"},
    {"import_not_an_object", E0121, 1, mimo, "[1]"},
    {"import_empty", E0121, 1, mimo, ""},
    {"import_twice", E0121, 1, "\"head_dim\": 24", "\"hidden_size\": 24"},
    {"import_nan", E0121, 1, "\"head_dim\": 24", "\"head_dim\": NaN"},
    {"import_missing", E0121, 1, "  \"head_dim\": 24,\n", ""},
    {"import_missing_pattern", E0121, 1, "  \"hybrid_layer_pattern\": [0, 1, 1],\n", ""},
    {"import_text_for_number", E0121, 1, "\"head_dim\": 24", "\"head_dim\": \"24\""},
    {"import_fraction", E0121, 1, "\"head_dim\": 24", "\"head_dim\": 24.5"},
    {"import_pattern_too_short", E0121, 1, "\"hybrid_layer_pattern\": [0, 1, 1]", "\"hybrid_layer_pattern\": [0, 1]"},
    {"import_pattern_too_long", E0121, 1, "\"moe_layer_freq\": [0, 1, 1]", "\"moe_layer_freq\": [0, 1, 1, 1]"},
    {"import_pattern_of_texts", E0121, 1, "\"moe_layer_freq\": [0, 1, 1]", "\"moe_layer_freq\": [0, \"1\", 1]"},
    {"import_pattern_of_2", E0121, 1, "\"moe_layer_freq\": [0, 1, 1]", "\"moe_layer_freq\": [0, 2, 1]"},
    {"import_pattern_is_a_number", E0121, 1, "\"moe_layer_freq\": [0, 1, 1]", "\"moe_layer_freq\": 1"},
    {"import_no_layers", E0121, 1, "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 0"},
    {"import_huge_layers", E0121, 1, "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 1000000000"},
    {"import_flag", E0121, 1, "\"head_dim\": 24", "\"head_dim\": 24, \"norm_topk_prob\": \"yes\""},
    {"import_rotary_factor", E0121, 1, "\"head_dim\": 24", "\"head_dim\": 24, \"partial_rotary_factor\": -1"},
    {"import_two_windows", E0121, 1, "\"head_dim\": 24",
     "\"head_dim\": 24, \"sliding_window\": 128, \"sliding_window_size\": 64"},
    {"import_model_type", E0122, 1, "mimo_v2_flash", "deepseek_v3"},
    {"import_zero_kv_heads", E0112, 2, "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 0"},
    {"import_negative_heads", E0112, 2, "\"num_attention_heads\": 4", "\"num_attention_heads\": -4"},
    {"import_kv_heads", E0115, 2, "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3"},
    {"import_top_k", E0115, 1, "\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 9"},
    {"import_shared_experts", E0114, 1, "\"head_dim\": 24", "\"head_dim\": 24, \"n_shared_experts\": 1"},
    {"import_groups", E0114, 1, "\"head_dim\": 24", "\"head_dim\": 24, \"n_group\": 8, \"topk_group\": 4"},
    {"import_bias", E0114, 1, "\"head_dim\": 24", "\"head_dim\": 24, \"attention_bias\": true"},
    {"import_activation", E0114, 1, "\"head_dim\": 24", "\"head_dim\": 24, \"hidden_act\": \"gelu\""},
    {"import_score", E0114, 1, "\"head_dim\": 24", "\"head_dim\": 24, \"scoring_func\": \"sqrtsoftplus\""},
    {"import_rope_scaling", E0114, 1, "\"head_dim\": 24",
     "\"head_dim\": 24, \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4}"},
    {"import_split_qkv", E0114, 1, "\"head_dim\": 24", "\"head_dim\": 24, \"attention_projection_layout\": \"split\""},
    {"import_quantization", E0114, 1, "\"head_dim\": 24",
     "\"head_dim\": 24, \"quantization_config\": {\"quant_method\": \"gptq\"}"},
    {"import_blocks", E0114, 1, "\"head_dim\": 24",
     "\"head_dim\": 24, \"quantization_config\": {\"weight_block_size\": [64, 128]}"},
    {"import_dtype", E0114, 1, "\"head_dim\": 24", "\"head_dim\": 24, \"torch_dtype\": \"float16\""},
};
static const Case drafter_cases[] = {
    {"drafter_missing_mask", E0121, 1, "    \"mask_token_id\": 7,\n", ""},
    {"drafter_missing_taps", E0121, 1, "7,\n    \"target_layer_ids\": [0, 2]", "7"},
    {"drafter_taps_not_a_list", E0121, 1, "[0, 2]", "2"},
    {"drafter_too_many_taps", E0121, 1, "[0, 2]", "[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]"},
    {"drafter_hidden", E0121, 1, "\"hidden_size\": 64", "\"hidden_size\": 128"},
    {"drafter_dflash_config", E0121, 3, "\"dflash_config\": {", "\"dflash_config\": 3, \"other\": {"},
    {"drafter_block", E0112, 1, "\"block_size\": 4", "\"block_size\": 16"},
    {"drafter_tap_past_the_end", E0115, 1, "[0, 2]", "[0, 3]"},
    {"drafter_taps_order", E0115, 1, "[0, 2]", "[2, 0]"},
    {"drafter_mask_past_vocab", E0115, 1, "\"mask_token_id\": 7", "\"mask_token_id\": 100"},
    {"drafter_mixed_layers", E0114, 1, "\"head_dim\": 16",
     "\"head_dim\": 16, \"sliding_window\": 32, \"layer_types\": [\"full_attention\", \"sliding_attention\"]"},
    {"drafter_tap_shift", E0114, 1, "\"mask_token_id\": 7", "\"mask_token_id\": 7, \"tap_shift\": 1"},
};

static const char *target_text;
static void import_case(void) {
    fresh();
    bool drafter = target_text != NULL;
    char *text = edit(drafter ? dflash : mimo, current->find, current->put);
    const char *folder = drafter ? folder_of(mimo, text) : folder_of(text, NULL);
    free(text);
    CHECK(!import(folder));
    CHECK(diag_code_at(ctx, 0) == current->code, "%s", diag_code_name(diag_code_at(ctx, 0)));
    CHECK((int)diag_errors(ctx) == current->errors, "%zu errors", diag_errors(ctx));
    seen[current->code] = true;
    // The scratch folder's name is no part of the golden text.
    char *out = diagnostics(), *clean = NULL;
    size_t size = 0, skip = strlen(folder) - strlen("model");
    FILE *file = open_memstream(&clean, &size);
    for (const char *s = out; *s;) {
        if (strncmp(s, folder, strlen(folder)) == 0)
            s += skip;
        else
            fputc(*s++, file);
    }
    fclose(file);
    free(out);
    CHECK(strncmp(clean, "model/", 6) == 0 && strstr(clean, "help: "));
    golden(current->name, clean);
    free(clean);
}

static void missing_config(void) {
    fresh();
    CHECK(!import("/nonexistent"));
    CHECK(diag_code_at(ctx, 0) == E0002);
}

static void differences_from_a_checkpoint(void) {
    fresh();
    Model *m = import(folder_of(mimo, dflash));
    CHECK(m);
    char *text = edit(print(m, NULL), "  count: 8", "  count: 16"),
         *again = edit(text, "sink: true\n    value_scale: 0.5", "value_scale: 0.25");
    free(text);
    Model *ours = read_text("ours.yaml", again);
    free(again);
    CHECK(ours);
    Job job = {.other = ours, .folder = folder_of(mimo, dflash)};
    CHECK(protect(do_match, &job) && !job.same);
    CHECK(diag_errors(ctx) == 3 && diag_code_at(ctx, 0) == E0123 && diag_code_at(ctx, 2) == E0123);
    seen[E0123] = true;
    char *out = diagnostics();
    CHECK(strstr(out, "attention.window.sink is false here, and true in the checkpoint"));
    CHECK(strstr(out, "attention.window.value_scale is 0.25 here, and 0.5 in the checkpoint"));
    CHECK(strstr(out, "experts.count is 16 here, and 8 in the checkpoint"));
    CHECK(strstr(out, "ours.yaml:") && strstr(out, "config.json:15:23: note:"));
    free(out);
}

static void a_checkpoint_without_drafter(void) {
    fresh();
    Model *with = import(folder_of(mimo, dflash));
    Job job = {.other = with, .folder = folder_of(mimo, NULL)};
    CHECK(with && protect(do_match, &job) && !job.same && diag_code_at(ctx, 0) == E0123);
    fresh();
    Model *without = import(folder_of(mimo, NULL));
    job = (Job){.other = without, .folder = folder_of(mimo, dflash)};
    CHECK(without && protect(do_match, &job) && job.same && !diag_errors(ctx));
}

// Every key stands in models/SCHEMA.md.
static void schema_is_documented(void) {
    fresh();
    Source *source = file_read(ctx, file_join(ctx, root(), "models/SCHEMA.md"), 1 << 20);
    CHECK(source);
    for (size_t s = 0; s < MODEL_SECTION_COUNT; s++) {
        const Section *section = &MODEL_SECTIONS[s];
        for (size_t f = 0; f < section->count; f++) {
            char key[64], row[200];
            snprintf(key, sizeof key, "`%s`", section->fields[f].key);
            snprintf(row, sizeof row, "`%s%s%s`", section->path, *section->path ? "." : "", section->fields[f].key);
            CHECK(strstr(source->text, key) || strstr(source->text, row), "%s is not in SCHEMA.md", row);
        }
    }
}

static void every_code_has_a_case(void) {
    seen[E0109] = true; // tests/test_yaml.c has it
    for (int code = diag_code_from("E0101"); code <= (int)diag_code_from("E0123"); code++)
        CHECK(seen[code], "%s", diag_code_name((DiagCode)code));
}

static void run_cases(const Case *cases, size_t count, void (*test)(void)) {
    for (size_t i = 0; i < count; i++) {
        current = &cases[i];
        check_name = current->name;
        int landed = setjmp(check_landing);
        if (landed == 0) {
            test();
            printf("ok %s\n", check_name);
        } else
            check_failures++;
    }
}

int main(void) {
    RUN(base_reads);
    RUN(neutral_values_may_stand);
    RUN(one_kind_needs_no_lists);
    RUN(neither_kind_of_attention);
    RUN(other_roots);
    RUN(many_unknown_keys_end);
    run_cases(read_cases, sizeof read_cases / sizeof *read_cases, read_case);
    RUN(shipped_models_print_as_they_stand);
    RUN(random_models_round_trip);
    RUN(fused_qkv);
    RUN(facts_of_mimo_v25_pro);
    RUN(published_configs_are_the_shipped_models);
    RUN(demo_is_its_config);
    RUN(defaults_of_a_sparse_config);
    RUN(spellings_of_the_model_type);
    RUN(value_scale_null_is_1);
    run_cases(import_cases, sizeof import_cases / sizeof *import_cases, import_case);
    target_text = mimo;
    run_cases(drafter_cases, sizeof drafter_cases / sizeof *drafter_cases, import_case);
    RUN(missing_config);
    RUN(differences_from_a_checkpoint);
    RUN(a_checkpoint_without_drafter);
    RUN(schema_is_documented);
    RUN(every_code_has_a_case);
    ctx_free(ctx);
    return check_done();
}
