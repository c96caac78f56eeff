// Checkpoints: made, written and opened again; the demo's values; everything that can be wrong with one, told by name.
#include "damage.h"
#include "checkpoint_slots.h"
#include "file.h"
#include "pickle.h"
#include <unistd.h>

// Fused qkv of 2 chunks: 2 * 48 + 48 + 32 = 176 rows a chunk on full layers, 256 on window layers.
static const char mimo[] =
    "name: small\nfamily: mimo_v2\nhidden: 64\nlayers: 3\nvocab: 256\ncontext: 128\n"
    "attention:\n"
    "  full:\n    layers: [0, 2]\n    heads: 4\n    kv_heads: 2\n    qk_dim: 48\n    v_dim: 32\n"
    "    rope:\n      rotary: 16\n      theta: 10000\n"
    "  window:\n    heads: 4\n    kv_heads: 4\n    qk_dim: 48\n    v_dim: 32\n    window: 16\n"
    "    sink: true\n    rope:\n      rotary: 16\n      theta: 10000\n"
    "dense:\n  inner: 160\n  layers: [0]\n"
    "experts:\n  count: 4\n  top_k: 2\n  inner: 32\n  score: sigmoid\n  selection_bias: true\n"
    "dtypes:\n  qkv: fp8\n  dense: fp8\n  experts: mxfp4\n  router: f32\n"
    "drafter:\n  layers: 1\n  block: 4\n  inner: 64\n  mask_token: 250\n  taps: [0, 2]\n"
    "  attention:\n    heads: 4\n    kv_heads: 2\n    qk_dim: 16\n    v_dim: 16\n    window: 32\n"
    "    sink: true\n    qk_norm: true\n    rope:\n      rotary: 16\n      theta: 10000\n";
static const char llama[] = "name: small\nfamily: llama\nhidden: 64\nlayers: 2\nvocab: 256\ncontext: 128\n"
                            "tied_head: true\n"
                            "attention:\n  full:\n    heads: 4\n    kv_heads: 2\n    qk_dim: 16\n    v_dim: 16\n"
                            "    rope:\n      rotary: 16\n      theta: 10000\n"
                            "dense:\n  inner: 96\n";

static Model *model_of(const char *yaml) {
    Model *model = model_read(ctx, source_new(ctx, "small.yaml", yaml, strlen(yaml)));
    CHECK_SILENT();
    CHECK(model);
    return model;
}

static void same_matrix(const char *name, const Matrix *a, const Matrix *b) {
    CHECK(a->dtype == b->dtype && a->rows == b->rows && a->cols == b->cols, "%s", name);
    float *x = ARENA_ARRAY(ctx->arena, float, a->cols), *y = ARENA_ARRAY(ctx->arena, float, a->cols);
    for (int r = 0; r < a->rows; r++) {
        matrix_decode(a, r, 0, a->cols, x);
        matrix_decode(b, r, 0, b->cols, y);
        CHECK(memcmp(x, y, sizeof *x * (size_t)a->cols) == 0, "%s row %d", name, r);
    }
}

static void same_weights(const Model *model, Checkpoint *a, Checkpoint *b) {
    Slots x, y;
    CHECK(checkpoint_slots(ctx, model, a, &x) && checkpoint_slots(ctx, model, b, &y) && x.count == y.count);
    for (size_t i = 0; i < x.count; i++) {
        if (x.at[i].kind == SLOT_MATRIX) same_matrix(x.at[i].name, x.at[i].matrix, y.at[i].matrix);
        if (x.at[i].kind == SLOT_VECTOR)
            CHECK(memcmp(*x.at[i].vector, *y.at[i].vector, sizeof(float) * (size_t)x.at[i].shape[0]) == 0, "%s",
                  x.at[i].name);
    }
}

static void written_and_opened(const char *yaml) {
    FRESH();
    Model *model = model_of(yaml);
    Checkpoint *made = checkpoint_synthetic(ctx, model, 3);
    CHECK(made);
    made->end_tokens[0] = 255;
    made->end_tokens[1] = 7;
    made->end_token_count = 2;
    const char *folder = temp_path("again");
    CHECK(checkpoint_write(ctx, model, made, folder));
    Checkpoint *again = checkpoint_open(ctx, model, folder);
    CHECK_SILENT();
    CHECK(again);
    same_weights(model, made, again);
    CHECK(again->end_token_count == 2 && again->end_tokens[0] == 255 && again->end_tokens[1] == 7);
    CHECK(!model->tied_head || again->head.data == again->embed.data);
    // An opened checkpoint is written as well as a made one.
    const char *third = temp_path("third");
    CHECK(checkpoint_write(ctx, model, again, third));
    Checkpoint *last = checkpoint_open(ctx, model, third);
    CHECK_SILENT();
    same_weights(model, made, last);
    checkpoint_close(made);
    checkpoint_close(again);
    checkpoint_close(last);
}
static void mimo_is_written_and_opened(void) { written_and_opened(mimo); }
static void llama_is_written_and_opened(void) { written_and_opened(llama); }

static void a_seed_gives_its_weights(void) {
    FRESH();
    Model *model = model_of(mimo);
    Checkpoint *a = checkpoint_synthetic(ctx, model, 5), *b = checkpoint_synthetic(ctx, model, 5),
               *c = checkpoint_synthetic(ctx, model, 6);
    same_weights(model, a, b);
    CHECK(memcmp(a->embed.data, c->embed.data, 1000) != 0);
    CHECK(memcmp(a->layers[1].expert_gate[0].data, a->layers[1].expert_gate[1].data, 500) != 0);
    checkpoint_close(a);
    checkpoint_close(b);
    checkpoint_close(c);
}

static double deviation(const Matrix *m) {
    double sum = 0, squares = 0, count = (double)m->rows * m->cols;
    float *x = ARENA_ARRAY(ctx->arena, float, m->cols);
    for (int r = 0; r < m->rows; r++) {
        matrix_decode(m, r, 0, m->cols, x);
        for (int c = 0; c < m->cols; c++) {
            sum += x[c];
            squares += (double)x[c] * x[c];
        }
    }
    CHECK(fabs(sum / count) < 0.1 * sqrt(squares / count));
    return sqrt(squares / count);
}

static void synthetic_weights_keep_the_size_of_their_inputs(void) {
    FRESH();
    Model *model = model_of(mimo);
    Checkpoint *c = checkpoint_synthetic(ctx, model, 1);
    const Matrix *weights[] = {&c->layers[0].qkv, &c->layers[0].gate,           &c->layers[0].down,
                               &c->layers[1].o,   &c->layers[1].expert_gate[2], &c->layers[1].expert_down[3]};
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++) {
        double got = deviation(weights[i]) * sqrt(weights[i]->cols);
        CHECK(got > 0.9 && got < 1.1, "weight %zu: %g", i, got);
    }
    checkpoint_close(c);
}

static void too_large_for_the_memory(void) {
    FRESH();
    Model *model = model_of(mimo);
    model->vocab = 2000000000;
    model->hidden = 100000000; // 2e17 elements
    CHECK(!checkpoint_synthetic(ctx, model, 1));
    CHECK_ERROR(E0731, "this machine has");
}

// Values computed from the published layout by another program.
static void the_demo_has_its_values(void) {
    FRESH();
    const char *root = getenv("ROOT") ? getenv("ROOT") : ".";
    Source *source = file_read(ctx, file_join(ctx, root, "models/demo.yaml"), MODEL_FILE_CAP);
    Model *model = source ? model_read(ctx, source) : NULL;
    CHECK_SILENT();
    Checkpoint *c = checkpoint_open(ctx, model, file_join(ctx, root, "models/demo"));
    CHECK_SILENT();
    CHECK(c);
    const struct {
        const Matrix *matrix;
        int row, col;
        double want;
    } values[] = {
        {&c->layers[0].qkv, 271, 383, -0.0028067645616829395}, {&c->layers[0].qkv, 272, 0, -0.10103334486484528},
        {&c->layers[0].qkv, 543, 200, -0.14118868112564087},   {&c->layers[1].qkv, 351, 128, -0.029357995837926865},
        {&c->layers[1].qkv, 352, 127, 0.06680739670991898},    {&c->layers[1].qkv, 700, 300, 0.08287739753723145},
        {&c->layers[0].down, 383, 1023, -0.1353032886981964},  {&c->layers[0].gate, 1000, 129, 0.09807495772838593},
        {&c->layers[1].expert_gate[0], 5, 33, 0.125},          {&c->layers[5].expert_down[23], 383, 127, -0.0625},
        {&c->layers[3].expert_up[7], 127, 382, 0.125},         {&c->head, 2047, 383, -0.010498046875}};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        const Matrix *m = values[i].matrix;
        float row[1024];
        matrix_decode(m, values[i].row, 0, m->cols, row);
        CHECK((double)row[values[i].col] == values[i].want, "value %zu: %.17g", i, row[values[i].col]);
    }
    CHECK((double)c->layers[1].sink[3] == 0.7734375 && !c->layers[0].sink);
    CHECK((double)c->layers[2].router_bias[5] == 0.633625328540802);
    CHECK(c->end_token_count == 1 && c->end_tokens[0] == 2040);
    CHECK(c->drafter.layers && c->drafter.mask_embedding);
    checkpoint_close(c);
}

// ---- One thing wrong ----

// The tensors of a made checkpoint, to be changed and written as one file each for target and drafter.
typedef struct Files {
    Model *model;
    Checkpoint *made;
    const char *folder;
    TensorOut *tensors[2];
    size_t counts[2];
} Files;

static Files files_of(const char *yaml) {
    FRESH();
    Files f = {.model = model_of(yaml)};
    f.made = checkpoint_synthetic(ctx, f.model, 9);
    CHECK(f.made);
    const char *folder = temp_path("wrong");
    f.folder = folder;
    CHECK(file_mkdirs(ctx, arena_printf(ctx->arena, "%s/dflash", folder)));
    static const char *const stale[] = {"model.safetensors.index.json", "model.safetensors", "dflash/model.safetensors",
                                        "dflash/mask_embedding.pt",     "config.json",       "generation_config.json"};
    for (size_t i = 0; i < sizeof stale / sizeof *stale; i++) unlink(file_join(ctx, folder, stale[i]));
    CHECK(checkpoint_write(ctx, f.model, f.made, temp_path("right")));
    for (int d = 0; d < (f.model->has_drafter ? 2 : 1); d++) {
        const char *right = d ? "right/dflash/model.safetensors" : "right/model-00001-of-00001.safetensors";
        Safetensors *file = safetensors_open(ctx, temp_path(right));
        CHECK(file);
        size_t count;
        const Tensor *tensors = safetensors_tensors(file, &count);
        f.tensors[d] = ARENA_ARRAY(ctx->arena, TensorOut, count + 40);
        f.counts[d] = count;
        for (size_t i = 0; i < count; i++)
            f.tensors[d][i] = (TensorOut){.name = tensors[i].name,
                                          .dtype = tensors[i].dtype,
                                          .rank = tensors[i].rank,
                                          .shape = {tensors[i].shape[0], tensors[i].shape[1]},
                                          .data = arena_copy(ctx->arena, tensors[i].data, tensors[i].bytes),
                                          .bytes = tensors[i].bytes};
    }
    return f;
}

static TensorOut *tensor_of(Files *f, const char *name) {
    for (int d = 0; d < 2; d++)
        for (size_t i = 0; i < f->counts[d]; i++)
            if (strcmp(f->tensors[d][i].name, name) == 0) return &f->tensors[d][i];
    CHECK(false, "no %s", name);
    return NULL;
}

static void drop(Files *f, const char *name) {
    TensorOut *t = tensor_of(f, name);
    int d = t >= f->tensors[0] && t < f->tensors[0] + f->counts[0] ? 0 : 1;
    *t = f->tensors[d][--f->counts[d]];
}

static void add(Files *f, int drafter, const char *name, const char *dtype, int64_t length) {
    size_t bytes = (size_t)length * (strcmp(dtype, "F32") == 0 ? 4 : 2);
    f->tensors[drafter][f->counts[drafter]++] =
        (TensorOut){name, dtype, 1, {length}, arena_alloc(ctx->arena, bytes), bytes};
}

static Checkpoint *open_files(Files *f) {
    CHECK(safetensors_write(ctx, file_join(ctx, f->folder, "model.safetensors"), f->tensors[0], f->counts[0]));
    if (f->model->has_drafter)
        CHECK(
            safetensors_write(ctx, file_join(ctx, f->folder, "dflash/model.safetensors"), f->tensors[1], f->counts[1]));
    Checkpoint *opened = checkpoint_open(ctx, f->model, f->folder);
    checkpoint_close(f->made);
    return opened;
}

static void accepted(Files *f) {
    Checkpoint *opened = open_files(f);
    CHECK_SILENT();
    CHECK(opened);
    checkpoint_close(opened);
}
#define REFUSED(f, code, part)                                                                                         \
    do {                                                                                                               \
        CHECK(!open_files(f));                                                                                         \
        CHECK_ERROR(code, part);                                                                                       \
    } while (0)

static void one_file_without_an_index(void) {
    Files f = files_of(mimo);
    accepted(&f);
}
static void missing_tensor(void) {
    Files f = files_of(mimo);
    drop(&f, "model.layers.1.self_attn.o_proj.weight");
    REFUSED(&f, E0703, "note: model.layers.1.self_attn.o_proj.weight");
}
static void missing_scale(void) {
    Files f = files_of(mimo);
    drop(&f, "model.layers.2.mlp.experts.3.up_proj.weight_scale");
    REFUSED(&f, E0703, "1 missing tensor\n");
}
static void missing_tensor_of_the_drafter(void) {
    Files f = files_of(mimo);
    drop(&f, "layers.0.self_attn.q_norm.weight");
    REFUSED(&f, E0703, "dflash: error[E0703]: 1 missing tensor\nnote: layers.0.self_attn.q_norm.weight");
}
static void many_missing_tensors_are_counted(void) {
    Files f = files_of(mimo);
    for (int e = 0; e < 4; e++)
        for (int i = 0; i < 6; i++)
            drop(&f, arena_printf(ctx->arena, "model.layers.1.mlp.experts.%d.%s_proj.weight%s", e,
                                  i % 3 == 0   ? "gate"
                                  : i % 3 == 1 ? "up"
                                               : "down",
                                  i < 3 ? "" : "_scale"));
    REFUSED(&f, E0703, "24 missing tensors\n");
}
static void the_list_of_missing_tensors_ends(void) {
    Files f = files_of(mimo);
    f.counts[0] = 1;
    CHECK(!open_files(&f));
    const char *said = reported(), *at = said;
    int notes = 0;
    while ((at = strstr(at, "note: "))) at++, notes++;
    CHECK(notes == 21, "%d", notes);
    CHECK(strstr(said, " more\n"));
}
static void unexpected_tensor(void) {
    Files f = files_of(mimo);
    add(&f, 0, "model.layers.1.self_attn.qkv_proj.bias", "BF16", 8);
    REFUSED(&f, E0704, "1 unexpected tensor\nnote: model.layers.1.self_attn.qkv_proj.bias");
}
static void unexpected_tensor_of_the_drafter(void) {
    Files f = files_of(mimo);
    add(&f, 1, "embed_tokens.weight", "BF16", 8);
    REFUSED(&f, E0704, "note: embed_tokens.weight");
}
static void the_list_of_unexpected_tensors_ends(void) {
    Files f = files_of(mimo);
    for (int i = 0; i < 33; i++) add(&f, 0, arena_printf(ctx->arena, "extra.%d", i), "F32", 1);
    REFUSED(&f, E0704, "note: and 13 more\n");
}
static void prediction_layers_are_known(void) {
    Files f = files_of(mimo);
    add(&f, 0, "model.mtp.layers.0.input_layernorm.weight", "BF16", 8);
    add(&f, 0, "model.mtp_block.0.x", "BF16", 8);
    accepted(&f);
}
static void prediction_layers_past_the_last_are_known(void) {
    Files f = files_of(mimo);
    add(&f, 0, "model.layers.3.eh_proj.weight", "BF16", 8);
    add(&f, 0, "model.layers.3.self_attn.o_proj.weight", "BF16", 8);
    accepted(&f);
}
static void other_layers_past_the_last_are_not(void) {
    Files f = files_of(mimo);
    add(&f, 0, "model.layers.4.eh_proj.weight", "BF16", 8);
    add(&f, 0, "model.layers.3.self_attn.o_proj.weight", "BF16", 8);
    REFUSED(&f, E0704, "1 unexpected tensor\nnote: model.layers.3.self_attn.o_proj.weight");
}
static void matrix_of_another_dtype(void) {
    Files f = files_of(mimo);
    TensorOut *t = tensor_of(&f, "model.layers.0.self_attn.qkv_proj.weight");
    t->dtype = "BF16";
    t->bytes *= 2;
    t->data = arena_alloc(ctx->arena, t->bytes);
    REFUSED(&f, E0705, "\"model.layers.0.self_attn.qkv_proj.weight\" is BF16; the description says qkv: fp8");
}
static void drafter_of_another_dtype(void) {
    Files f = files_of(mimo);
    f.model->drafter.dtype = DTYPE_F32;
    REFUSED(&f, E0705, "is BF16; the description says drafter: f32, stored as F32");
}
static void vector_of_another_dtype(void) {
    Files f = files_of(mimo);
    tensor_of(&f, "model.norm.weight")->dtype = "F16";
    REFUSED(&f, E0705, "\"model.norm.weight\" is F16; BF16 or F32 is wanted");
}
static void a_vector_in_f32(void) {
    Files f = files_of(mimo);
    TensorOut *t = tensor_of(&f, "model.norm.weight");
    float values[64];
    for (int i = 0; i < 64; i++) values[i] = 1 + (float)i * 0x1p-20f; // more digits than bfloat16 has
    t->dtype = "F32";
    t->data = values;
    t->bytes = sizeof values;
    Checkpoint *opened = open_files(&f);
    CHECK_SILENT();
    CHECK(opened && memcmp(opened->norm, values, sizeof values) == 0);
    // Nothing is rounded when it is written again.
    CHECK(checkpoint_write(ctx, f.model, opened, temp_path("f32")));
    Checkpoint *again = checkpoint_open(ctx, f.model, temp_path("f32"));
    CHECK(again && memcmp(again->norm, values, sizeof values) == 0);
    checkpoint_close(opened);
    checkpoint_close(again);
}
static void matrix_of_another_shape(void) {
    Files f = files_of(mimo);
    TensorOut *t = tensor_of(&f, "model.layers.1.self_attn.o_proj.weight");
    t->shape[0] = 128;
    t->shape[1] = 64;
    REFUSED(&f, E0705, "has the shape [128, 64]; [64, 128] follows from the description");
}
// 352 rows would have 3 scale rows as a whole; in chunks of 176 they have 4.
static void scales_not_tiled_by_chunks(void) {
    Files f = files_of(mimo);
    TensorOut *t = tensor_of(&f, "model.layers.0.self_attn.qkv_proj.weight_scale_inv");
    CHECK(t->shape[0] == 4 && t->shape[1] == 1);
    t->shape[0] = 3;
    t->bytes = 12;
    REFUSED(&f, E0705, "has the shape [3, 1]; [4, 1] follows");
}
static void matrix_as_a_vector(void) {
    Files f = files_of(mimo);
    TensorOut *t = tensor_of(&f, "lm_head.weight");
    t->rank = 1;
    t->shape[0] *= 64;
    REFUSED(&f, E0705, "\"lm_head.weight\" has the shape [16384]; [256, 64]");
}
static void set_scale(Files *f, const char *name, size_t at, uint32_t bits) {
    TensorOut *t = tensor_of(f, name);
    uint8_t *data = arena_copy(ctx->arena, t->data, t->bytes);
    bool wide = t->dtype[0] == 'F';
    memcpy(data + at * (wide ? 4 : 1), &bits, wide ? 4 : 1);
    t->data = data;
}
static void fp8_scale_nan(void) {
    Files f = files_of(mimo);
    set_scale(&f, "model.layers.0.mlp.down_proj.weight_scale_inv", 1, 0x7FC00000);
    REFUSED(&f, E0706, "\"model.layers.0.mlp.down_proj.weight_scale_inv\": the scale of row 0, column 1");
}
static void fp8_scale_infinite(void) {
    Files f = files_of(mimo);
    set_scale(&f, "model.layers.0.self_attn.qkv_proj.weight_scale_inv", 3, 0xFF800000);
    REFUSED(&f, E0706, "the scale of row 3, column 0");
}
static void mxfp4_scale_nan(void) {
    Files f = files_of(mimo);
    set_scale(&f, "model.layers.2.mlp.experts.3.gate_proj.weight_scale", 63, 255);
    REFUSED(&f, E0706, "experts.3.gate_proj.weight_scale\": the scale of row 31, column 1");
}
static void norm_nan(void) {
    Files f = files_of(mimo);
    TensorOut *t = tensor_of(&f, "model.norm.weight");
    uint8_t *data = arena_copy(ctx->arena, t->data, t->bytes);
    data[2 * 5] = 0xC1, data[2 * 5 + 1] = 0x7F;
    t->data = data;
    REFUSED(&f, E0725, "\"model.norm.weight\": value 5");
}
static void no_folder(void) {
    FRESH();
    CHECK(!checkpoint_open(ctx, model_of(mimo), temp_path("nowhere")));
    CHECK_ERROR(E0702, "nowhere");
}
static void no_drafter_folder(void) {
    Files f = files_of(mimo);
    CHECK(safetensors_write(ctx, file_join(ctx, f.folder, "model.safetensors"), f.tensors[0], f.counts[0]));
    CHECK(!checkpoint_open(ctx, f.model, f.folder));
    CHECK_ERROR(E0702, "dflash");
    checkpoint_close(f.made);
}
static void tied_head_may_lie_there(void) {
    Files f = files_of(llama);
    TensorOut *t = tensor_of(&f, "model.embed_tokens.weight");
    f.tensors[0][f.counts[0]] = *t;
    f.tensors[0][f.counts[0]++].name = "lm_head.weight";
    accepted(&f);
}
static void untied_head_must(void) {
    Files f = files_of(llama);
    f.model->tied_head = false;
    REFUSED(&f, E0703, "note: lm_head.weight");
}
static void mxfp4_of_odd_columns(void) {
    FRESH();
    Model *model = model_of(llama);
    model->dense_dtype = DTYPE_MXFP4;
    model->dense_inner = 90;
    CHECK(!checkpoint_synthetic(ctx, model, 1));
    CHECK_ERROR(E0732, "model.layers.0.mlp.down_proj.weight: 90 columns");
}

// ---- Index and shards ----

// Two shards, a and b, and the index `map` (the inside of weight_map).
static void with_index(const char *index, DiagCode code, const char *part) {
    FRESH();
    const char *folder = temp_path("shards");
    CHECK(file_mkdirs(ctx, folder));
    TensorOut a = {"x", "U8", 1, {1}, "1", 1}, b = {"y", "U8", 1, {1}, "2", 1};
    CHECK(safetensors_write(ctx, file_join(ctx, folder, "a.safetensors"), &a, 1));
    CHECK(safetensors_write(ctx, file_join(ctx, folder, "b.safetensors"), &b, 1));
    CHECK(file_write(ctx, file_join(ctx, folder, "model.safetensors.index.json"), index, strlen(index)));
    Shards *shards = shards_open(ctx, folder);
    if (!code) {
        CHECK_SILENT();
        CHECK(shards && shards_count(shards) == 2 && shards_find(shards, "y") == 1 && shards_find(shards, "z") == -1);
        CHECK(shards_at(shards, 1)->data[0] == '2');
        shards_close(shards);
        return;
    }
    CHECK(!shards);
    CHECK_ERROR(code, part);
}
static void index_that_holds(void) {
    with_index("{\"weight_map\": {\"x\": \"a.safetensors\", \"y\": \"b.safetensors\"}}", E0000, "");
}
static void index_not_json(void) { with_index("{\"weight_map\": }", E0707, "index.json:1:"); }
static void index_without_map(void) { with_index("{\"metadata\": {}}", E0707, "weight_map"); }
static void index_of_numbers(void) { with_index("{\"weight_map\": {\"x\": 3}}", E0707, "\"x\""); }
static void index_out_of_the_folder(void) {
    with_index("{\"weight_map\": {\"x\": \"../shards/a.safetensors\"}}", E0707, "same folder");
}
static void missing_shard(void) {
    with_index("{\"weight_map\": {\"x\": \"a.safetensors\", \"y\": \"c.safetensors\"}}", E0002, "c.safetensors");
}
static void tensors_in_each_others_shard(void) {
    with_index("{\"weight_map\": {\"x\": \"b.safetensors\", \"y\": \"a.safetensors\"}}", E0722,
               "tensor \"y\" should be in a.safetensors and is in b.safetensors");
}
static void tensor_in_no_shard(void) {
    with_index("{\"weight_map\": {\"x\": \"a.safetensors\", \"y\": \"b.safetensors\", \"z\": \"a.safetensors\"}}",
               E0723, "tensor \"z\" should be in a.safetensors");
}
static void tensor_not_in_the_index(void) {
    FRESH();
    TensorOut both[] = {{"x", "U8", 1, {1}, "1", 1}, {"w", "U8", 1, {1}, "2", 1}};
    const char *folder = temp_path("extra"), *index = "{\"weight_map\": {\"x\": \"a.safetensors\"}}";
    CHECK(file_mkdirs(ctx, folder));
    CHECK(safetensors_write(ctx, file_join(ctx, folder, "a.safetensors"), both, 2));
    CHECK(file_write(ctx, file_join(ctx, folder, "model.safetensors.index.json"), index, strlen(index)));
    CHECK(!shards_open(ctx, folder));
    CHECK_ERROR(E0724, "a.safetensors: error[E0724]: tensor \"w\"");
}
static void tensor_in_two_shards(void) {
    FRESH();
    TensorOut both[] = {{"x", "U8", 1, {1}, "1", 1}, {"y", "U8", 1, {1}, "2", 1}};
    const char *folder = temp_path("two"),
               *index = "{\"weight_map\": {\"x\": \"a.safetensors\", \"y\": \"b.safetensors\"}}";
    CHECK(file_mkdirs(ctx, folder));
    CHECK(safetensors_write(ctx, file_join(ctx, folder, "a.safetensors"), both, 1));
    CHECK(safetensors_write(ctx, file_join(ctx, folder, "b.safetensors"), both, 2));
    CHECK(file_write(ctx, file_join(ctx, folder, "model.safetensors.index.json"), index, strlen(index)));
    CHECK(!shards_open(ctx, folder));
    CHECK_ERROR(E0722, "tensor \"x\" is in ");
}
static void damaged_shard(void) {
    FRESH();
    const char *folder = temp_path("damaged"), *index = "{\"weight_map\": {\"x\": \"a.safetensors\"}}";
    CHECK(file_mkdirs(ctx, folder));
    temp_text("damaged/a.safetensors", "not one at all");
    CHECK(file_write(ctx, file_join(ctx, folder, "model.safetensors.index.json"), index, strlen(index)));
    CHECK(!shards_open(ctx, folder));
    CHECK_ERROR(E0701, "a.safetensors");
}

// ---- End tokens ----

static void end_tokens(const char *generation, const char *config, int count, int first) {
    Files f = files_of(llama);
    if (generation) temp_text("wrong/generation_config.json", generation);
    if (config) temp_text("wrong/config.json", config);
    Checkpoint *opened = open_files(&f);
    if (count < 0) {
        CHECK(!opened);
        CHECK_ERROR(E0726, "eos_token_id");
        return;
    }
    CHECK_SILENT();
    CHECK(opened && opened->end_token_count == count && (!count || opened->end_tokens[0] == first));
    checkpoint_close(opened);
}
static void end_token_of_generation_config(void) { end_tokens("{\"eos_token_id\": 3}", "{\"eos_token_id\": 4}", 1, 3); }
static void end_tokens_as_a_list(void) { end_tokens("{\"eos_token_id\": [9, 8, 7]}", NULL, 3, 9); }
static void end_token_of_config(void) { end_tokens("{\"temperature\": 1}", "{\"eos_token_id\": 4}", 1, 4); }
static void end_token_null(void) { end_tokens("{\"eos_token_id\": null}", "{\"eos_token_id\": 4}", 1, 4); }
static void no_end_token(void) { end_tokens(NULL, NULL, 0, 0); }
static void end_token_past_the_vocabulary(void) { end_tokens("{\"eos_token_id\": 256}", NULL, -1, 0); }
static void negative_end_token(void) { end_tokens("{\"eos_token_id\": -1}", NULL, -1, 0); }
static void end_token_as_text(void) { end_tokens("{\"eos_token_id\": \"3\"}", NULL, -1, 0); }
static void seventeen_end_tokens(void) {
    end_tokens("{\"eos_token_id\": [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}", NULL, -1, 0);
}
static void generation_config_not_json(void) {
    Files f = files_of(llama);
    temp_text("wrong/generation_config.json", "{");
    REFUSED(&f, E0726, "generation_config.json:1:1: error[E0726]: not valid JSON");
}

// ---- mask_embedding.pt ----

static Source *mask_file(const char *name) {
    const char *root = getenv("ROOT") ? getenv("ROOT") : ".";
    Source *source =
        file_read(ctx, arena_printf(ctx->arena, "%s/tests/golden/mask_embedding/%s.pt", root, name), 1 << 20);
    CHECK_SILENT();
    return source;
}
static bool mask_parse(const void *data, size_t bytes, int64_t *token, float **values) {
    return mask_embedding_parse(ctx, file_span(ctx, "x.pt"), data, bytes, 64, token, values);
}
static void mask_reads(const char *name) {
    FRESH();
    Source *source = mask_file(name);
    int64_t token = 0;
    float *values = NULL;
    bool ok = mask_parse(source->text, source->length, &token, &values);
    CHECK_SILENT();
    CHECK(ok && token == 250);
    for (int i = 0; i < 64; i++) CHECK(values[i] == (float)(i - 20) / 8, "%d: %g", i, values[i]);
}
static void mask_refused(const char *name, const char *part) {
    FRESH();
    Source *source = mask_file(name);
    int64_t token = 0;
    float *values = NULL;
    CHECK(!mask_parse(source->text, source->length, &token, &values));
    CHECK_ERROR(E0708, part);
}
static void mask_bf16(void) { mask_reads("bf16"); }
static void mask_f32(void) { mask_reads("f32"); }
static void mask_of_one_row(void) { mask_reads("row"); }
static void mask_inside_a_storage(void) { mask_reads("slice"); }
static void mask_parameter(void) { mask_refused("parameter", "a name that such a file has no use for"); }
static void mask_strided(void) { mask_refused("strided", "not contiguous"); }
static void mask_half(void) { mask_refused("half", "a name that such a file has no use for"); }
static void mask_short(void) { mask_refused("short", "an embedding of 32 values, not 64"); }
static void mask_other_key(void) { mask_refused("other_key", "other things than mask_token_id and embedding"); }
static void mask_without_token(void) { mask_refused("no_token", "no dict of mask_token_id and embedding"); }
static void mask_without_embedding(void) { mask_refused("no_embedding", "no dict of mask_token_id and embedding"); }
static void mask_list(void) { mask_refused("list", "the opcode 0x5d"); }
static void mask_deflated(void) { mask_refused("deflated", "a compressed entry"); }
static void mask_that_calls_is_not_run(void) {
    mask_refused("call", "a name that such a file has no use for");
    CHECK(access("mask_embedding_was_run", F_OK) != 0);
}

// A byte changed anywhere: the file is refused, or the change is where nothing is read (padding, times, other entries).
static void mask_with_a_byte_changed(void) {
    FRESH();
    Source *source = mask_file("bf16");
    int refusals = 0, wrong = 0;
    for (size_t at = 0; at < source->length; at++) {
        for (int flip = 1; flip < 256; flip *= 2) {
            uint8_t *data = arena_copy(ctx->arena, source->text, source->length);
            data[at] ^= (uint8_t)flip;
            int64_t token = 0;
            float *values = NULL;
            if (!mask_parse(data, source->length, &token, &values)) {
                refusals++;
                continue;
            }
            wrong += token != 250;
            for (int i = 0; i < 64; i++) wrong += values[i] != (float)(i - 20) / 8;
        }
        diag_forget(ctx, 0);
    }
    CHECK(wrong == 0, "%d", wrong);
    CHECK(refusals > 2000, "%d", refusals);
}
static void mask_cut_anywhere(void) {
    FRESH();
    Source *source = mask_file("f32");
    for (size_t length = 0; length < source->length; length++) {
        int64_t token = 0;
        float *values = NULL;
        CHECK(!mask_parse(arena_copy(ctx->arena, source->text, length), length, &token, &values), "%zu", length);
        diag_forget(ctx, 0);
    }
}
// The pickle's bytes at random, checksums made right: the machine meets every opcode in every state.
static void mask_with_a_random_pickle(void) {
    FRESH();
    uint64_t state = 21;
    static const uint8_t ops[] = {'}', '(', ')', 0x85, 0x86, 0x87, 't', 0x88, 0x89, 'K', 'J', 'X',
                                  'q', 'h', 'c', 'Q',  'R',  's',  'u', '.',  'M',  'r', 'j', 0};
    for (int round = 0; round < 20000; round++) {
        if (round % 500 == 0) FRESH();
        uint8_t zip[600] = {0};
        size_t length = 2 + check_random(&state) % 120, name = strlen("m/data.pkl"), at = 30 + name;
        zip[at] = 0x80, zip[at + 1] = 2;
        for (size_t i = 2; i < length; i++)
            zip[at + i] = ops[check_random(&state) % sizeof ops] ^ (uint8_t)(check_random(&state) % 16 ? 0 : 1);
        uint32_t crc = 0xFFFFFFFF;
        for (size_t i = 0; i < length; i++) {
            crc ^= zip[at + i];
            for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ 0xEDB88320 : crc >> 1;
        }
        crc = ~crc;
        memcpy(zip, "PK\3\4", 4);
        zip[26] = (uint8_t)name;
        memcpy(zip + 30, "m/data.pkl", name);
        uint8_t *central = zip + at + length, *end = central + 46 + name;
        memcpy(central, "PK\1\2", 4);
        memcpy(central + 16, &crc, 4);
        central[20] = central[24] = (uint8_t)length;
        central[28] = (uint8_t)name;
        memcpy(central + 46, "m/data.pkl", name);
        memcpy(end, "PK\5\6", 4);
        end[10] = 1;
        end[16] = (uint8_t)(central - zip);
        int64_t token;
        float *values;
        CHECK(!mask_parse(zip, (size_t)(end + 22 - zip), &token, &values));
        CHECK(!strstr(reported(), "checksum"));
    }
}

static void copy_mask(const char *name) {
    Source *source = mask_file(name);
    temp_file("wrong/dflash/mask_embedding.pt", source->text, source->length);
}
static void mask_embedding_beside_the_drafter(void) {
    Files f = files_of(mimo);
    drop(&f, "mask_embedding");
    copy_mask("bf16");
    Checkpoint *opened = open_files(&f);
    CHECK_SILENT();
    CHECK(opened && opened->drafter.mask_embedding[21] == 0.125f);
    checkpoint_close(opened);
}
static void no_mask_embedding(void) {
    Files f = files_of(mimo);
    drop(&f, "mask_embedding");
    REFUSED(&f, E0703, "note: mask_embedding\n");
}
static void mask_embedding_of_another_token(void) {
    Files f = files_of(mimo);
    drop(&f, "mask_embedding");
    copy_mask("bf16");
    f.model->drafter.mask_token = 251;
    REFUSED(&f, E0727, "the mask token 250, the description has 251");
}
static void mask_embedding_nan(void) {
    Files f = files_of(mimo);
    drop(&f, "mask_embedding");
    copy_mask("nan");
    REFUSED(&f, E0725, "value 20 is NaN");
}

int main(void) {
    RUN(mimo_is_written_and_opened);
    RUN(llama_is_written_and_opened);
    RUN(a_seed_gives_its_weights);
    RUN(synthetic_weights_keep_the_size_of_their_inputs);
    RUN(too_large_for_the_memory);
    RUN(the_demo_has_its_values);
    RUN(one_file_without_an_index);
    RUN(missing_tensor);
    RUN(missing_scale);
    RUN(missing_tensor_of_the_drafter);
    RUN(many_missing_tensors_are_counted);
    RUN(the_list_of_missing_tensors_ends);
    RUN(unexpected_tensor);
    RUN(unexpected_tensor_of_the_drafter);
    RUN(the_list_of_unexpected_tensors_ends);
    RUN(prediction_layers_are_known);
    RUN(prediction_layers_past_the_last_are_known);
    RUN(other_layers_past_the_last_are_not);
    RUN(matrix_of_another_dtype);
    RUN(drafter_of_another_dtype);
    RUN(vector_of_another_dtype);
    RUN(a_vector_in_f32);
    RUN(matrix_of_another_shape);
    RUN(scales_not_tiled_by_chunks);
    RUN(matrix_as_a_vector);
    RUN(fp8_scale_nan);
    RUN(fp8_scale_infinite);
    RUN(mxfp4_scale_nan);
    RUN(norm_nan);
    RUN(no_folder);
    RUN(no_drafter_folder);
    RUN(tied_head_may_lie_there);
    RUN(untied_head_must);
    RUN(mxfp4_of_odd_columns);
    RUN(index_that_holds);
    RUN(index_not_json);
    RUN(index_without_map);
    RUN(index_of_numbers);
    RUN(index_out_of_the_folder);
    RUN(missing_shard);
    RUN(tensors_in_each_others_shard);
    RUN(tensor_in_no_shard);
    RUN(tensor_not_in_the_index);
    RUN(tensor_in_two_shards);
    RUN(damaged_shard);
    RUN(end_token_of_generation_config);
    RUN(end_tokens_as_a_list);
    RUN(end_token_of_config);
    RUN(end_token_null);
    RUN(no_end_token);
    RUN(end_token_past_the_vocabulary);
    RUN(negative_end_token);
    RUN(end_token_as_text);
    RUN(seventeen_end_tokens);
    RUN(generation_config_not_json);
    RUN(mask_bf16);
    RUN(mask_f32);
    RUN(mask_of_one_row);
    RUN(mask_inside_a_storage);
    RUN(mask_parameter);
    RUN(mask_strided);
    RUN(mask_half);
    RUN(mask_short);
    RUN(mask_other_key);
    RUN(mask_without_token);
    RUN(mask_without_embedding);
    RUN(mask_list);
    RUN(mask_deflated);
    RUN(mask_that_calls_is_not_run);
    RUN(mask_with_a_byte_changed);
    RUN(mask_cut_anywhere);
    RUN(mask_with_a_random_pickle);
    RUN(mask_embedding_beside_the_drafter);
    RUN(no_mask_embedding);
    RUN(mask_embedding_of_another_token);
    RUN(mask_embedding_nan);
    ctx_free(ctx);
    return check_done();
}
