// The GPU engine without a GPU: a driver of our own (fake_cuda.c) whose kernel is a thread at the other end of mailbox
// and ring. What is loaded, requests, logits, cancelling, and every way in which it can fail.
#include "demo.h" // before damage.h, whose ctx its own would shadow
#include "../templates/synthetic.h"
#include "cuda.h"
#include "damage.h"
#include "fake_bundle.h"
#include "fake_session.h"
#include "gpu.h"
#include "pack_file.h"
#include "text.h"
#include "unpack.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

enum { VOCAB = 2048 };

static char pair_path[1000], bundle_path[1000], weights_path[1000];

// ---- Sessions ----

static tr_options options(void) {
    return (tr_options){.bundle = bundle_path, .weights = weights_path, .threads = 2, .cuda = library};
}

// Opening fails with this exit code; what is said is kept, and nothing is left on the device.
static void refused(const char *behaviour, tr_options o, int want) {
    tr_session *s;
    setenv("FAKE_CUDA", behaviour, 1);
    int code = tr_open(&o, &s);
    keep(s);
    tr_close(s);
    CHECK(code == want, "exit %d, not %d\n# %s", code, want, said);
    if (!fake) return;
    const FakeCuda *f = fake();
    CHECK(f->allocations == 0 && f->hosts == 0 && f->contexts == 0 && f->modules == 0 && f->streams == 0 &&
              f->events == 0 && f->kernels == 0,
          "%d %d %d %d %d %d %d are left", f->allocations, f->hosts, f->contexts, f->modules, f->streams, f->events,
          f->kernels);
}

static void closed(tr_session *s) {
    tr_close(s);
    const FakeCuda *f = fake();
    CHECK(f->allocations == 0 && f->hosts == 0 && f->contexts == 0 && f->modules == 0 && f->streams == 0 &&
              f->kernels == 0,
          "%d %d %d %d %d %d are left", f->allocations, f->hosts, f->contexts, f->modules, f->streams, f->kernels);
}

// ---- Tests ----

static void no_driver(void) {
    tr_options o = options();
    o.cuda = "/nowhere/libcuda.so.1";
    refused("", o, 3);
    SAID("E0907");
    SAID("no NVIDIA driver");
    SAID("--host");
}

static void drivers_and_devices_that_will_not_do(void) {
    static const struct {
        const char *behaviour, *code, *text, *help;
    } cases[] = {{"old", "E0908", "CUDA 12.8; 13.0 is needed", "580"},
                 {"nodevice", "E0909", "CUDA_ERROR_NO_DEVICE (100): in the driver's words", "--host"},
                 {"busy", "E0910", "CUDA_ERROR_DEVICE_UNAVAILABLE", "nvidia-smi"},
                 {"exclusive", "E0910", "exclusive", "--device"},
                 {"prohibited", "E0910", "prohibited", "nvidia-smi"},
                 {"full", "E0911", "10.0 MB of its 150.75 GB are free", "--context"},
                 {"full", "E0911", "weights, experts", "caches"},
                 {"crowded", "E0911", "0.0 kB of its 150.75 GB are free", "experts"},
                 {"name=NVIDIA H100 80GB HBM3", "E0912", "an NVIDIA H100 80GB HBM3", "--sku h100-sxm"},
                 {"name=NVIDIA A100,major=8", "E0912", "compute capability is 8.0", "--host"},
                 {"workers=120", "E0912", "120 SMs, the kernel runs on 132", "--device"},
                 {"shared=100000", "E0912", "100000 bytes of shared memory", "--device"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        refused(cases[i].behaviour, options(), 3);
        SAID(cases[i].code);
        SAID(cases[i].text);
        SAID(cases[i].help);
    }
    tr_options o = options();
    o.device = 3;
    refused("", o, 3);
    SAID("E0909");
    SAID("no device 3: the driver sees 1");
}

static void devices_and_their_skus(void) {
    static const struct {
        const char *name, *sku;
    } devices[] = {
        {"NVIDIA H200", "h200"},           {"NVIDIA H200 NVL", "h200"}, {"NVIDIA H100 80GB HBM3", "h100-sxm"},
        {"NVIDIA H100 PCIe", "h100-pcie"}, {"NVIDIA H20", "h20"},       {"NVIDIA H20-3e", "h20"},
        {"NVIDIA GH200 480GB", "gh200"},   {"NVIDIA H100 NVL", NULL},   {"NVIDIA GeForce RTX 4090", NULL}};
    static const char *const skus[] = {"h200", "h100-sxm", "h100-pcie", "h20", "gh200"};
    FRESH();
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
        CudaDevice d = {.major = 9, .workers = 200, .shared = 300000};
        snprintf(d.name, sizeof d.name, "%s", devices[i].name);
        const char *is = cuda_sku(&d);
        CHECK(is == devices[i].sku || (is && devices[i].sku && strcmp(is, devices[i].sku) == 0), "%s", d.name);
        for (int k = 0; k < 5; k++)
            CHECK(cuda_fits(ctx, &d, skus[k], 132, 232448) == (is && strcmp(is, skus[k]) == 0), "%s %s", d.name,
                  skus[k]);
        CHECK(cuda_fits(ctx, &d, "my-own", 132, 232448)); // a SKU of the user's build.lua
    }
}

static void bundles_that_will_not_do(void) {
    char path[1100];
    tr_options o = options();
    o.bundle = path;
    snprintf(path, sizeof path, "%s/old.bundle", demo_tmp());
    fake_abi = ENGINE_ABI + 1;
    fake_bundle(path);
    fake_abi = ENGINE_ABI;
    refused("", o, 1);
    SAID("E0914");
    SAID("another version");
    fake_without_kernel = true;
    fake_bundle(path);
    fake_without_kernel = false;
    refused("", o, 1);
    SAID("has no kernel");
}

static void what_is_loaded(void) {
    FRESH();
    tr_options o = options();
    o.context = 1000;
    tr_session *s = opened("", o);
    const FakeCuda *f = fake();
    CHECK(f->launches >= 1 && f->grid == 132 && f->block == ENGINE_THREADS && f->shared + 30000 <= 232448);
    CHECK(f->events == 0); // staging is gone
    const EngineParams *p = &f->params;
    const EngineLayer *layers = (const EngineLayer *)(uintptr_t)p->layers;
    Source *yaml = file_read(ctx, file_join(ctx, demo_root(), "models/demo.yaml"), MODEL_FILE_CAP);
    Model *model = model_read(ctx, yaml);
    Checkpoint *weights = checkpoint_open(ctx, model, weights_path);
    CHECK(weights && p->context == 1000 && p->timeout_ms == 1000 && p->peers[0] == p->slab);
    RankViews views = views_of(ctx, model, weights, 0, 1);
    float row[4096];
    for (int layer = 0; layer < 8; layer++) {
        const RankLayer *v = layer < 6 ? &views.layers[layer] : &views.draft_layers[layer - 6];
        const uint8_t *at = (const uint8_t *)(uintptr_t)layers[layer].weight[SLOT_O];
        for (int n = 0; n < v->o.rows; n += 37) {
            matrix_decode(&v->o, n, 0, v->o.cols, row);
            for (int k = 0; k < v->o.cols; k++) CHECK(unpack(v->o.dtype, at, v->o.cols, n, k) == row[k]);
        }
        bool ring = layer >= 6 || model->layers[layer].attention == ATTENTION_WINDOW;
        uint32_t capacity = layer >= 6 ? 2048 : ring ? 256 : 1024;
        CHECK(layers[layer].capacity == capacity && layers[layer].mask == (ring ? capacity - 1 : UINT32_MAX),
              "layer %d", layer);
        CHECK(layers[layer].k && layers[layer].v > layers[layer].k);
        CHECK(!layers[layer].weight[SLOT_ROUTER] == (layer == 0 || layer >= 6));
    }
    CHECK(layers[8].k == 0 && layers[8].weight[SLOT_QKV] == 0);
    for (int layer = 0; layer < 9; layer++)
        CHECK(layers[layer].weight[SLOT_FC] && layers[layer].weight[SLOT_FC] == layers[0].weight[SLOT_FC]);
    // Position 700 of the window's angles, pair 3: frequency 10000^(-6/16).
    const double *high = (const double *)(uintptr_t)p->rope_high[1], *low = (const double *)(uintptr_t)p->rope_low[1];
    const double *a = high + (700 / 256 * 8 + 3) * 2, *b = low + (700 % 256 * 8 + 3) * 2;
    double angle = 700 * pow(10000, -6.0 / 16);
    CHECK(fabs(a[0] * b[0] - a[1] * b[1] - cos(angle)) < 1e-12 && fabs(a[1] * b[0] + a[0] * b[1] - sin(angle)) < 1e-12);
    const uint8_t *slab = (const uint8_t *)(uintptr_t)p->slab;
    for (int i = 0; i < 4096; i++) CHECK(slab[i] == 0);
    checkpoint_close(weights);
    closed(s);
}

static void generates(void) {
    tr_session *s = opened("", options());
    tr_request r = request(100);
    tr_result result;
    CHECK(tr_generate(s, &r, &result) == 0);
    check_chain(&result, 100);
    CHECK(result.gpu && !result.ended && result.rounds > 10 && result.acceptance > 3 && result.first_token_seconds > 0);
    for (int i = 0; i < result.rounds; i++) CHECK(result.round_seconds[i] > 0 && result.round_seconds[i] < 1);
    r.no_draft = true;
    CHECK(tr_generate(s, &r, &result) == 0);
    check_chain(&result, 100);
    CHECK(result.rounds == 99 && result.histogram[1] == 99);
    r.max_tokens = 1;
    CHECK(tr_generate(s, &r, &result) == 0);
    check_chain(&result, 1);
    CHECK(result.rounds == 0);
    closed(s);
}

static void the_ring_goes_round(void) {
    tr_session *s = opened("", options());
    tr_request r = request(1500);
    tr_result result;
    r.no_draft = true;
    for (int i = 0; i < 4; i++) { // 6000 rounds through a ring of 4096
        CHECK(tr_generate(s, &r, &result) == 0);
        check_chain(&result, 1500);
    }
    closed(s);
}

static void logits_of_held_rounds(void) {
    tr_session *s = opened("", options());
    int tokens[21];
    float *out = malloc(21 * VOCAB * sizeof *out);
    for (int i = 0; i < 21; i++) tokens[i] = 100 + i;
    for (int again = 0; again < 2; again++) {
        CHECK(tr_logits(s, tokens, 21, out) == 0);
        for (int i = 0; i < 21; i++)
            CHECK(out[i * VOCAB + 5] == (float)(100 + i), "row %d: %g", i, (double)out[i * VOCAB + 5]);
    }
    tr_request r = request(30);
    tr_result result;
    CHECK(tr_generate(s, &r, &result) == 0);
    check_chain(&result, 30);
    free(out);
    closed(s);
}

// What `tilegen diff` needs: a halt on its way to the kernel, and the device's memory read back.
static void halted_requests(void) {
    FRESH();
    setenv("FAKE_CUDA", "", 1);
    Bundle *bundle = bundle_read(ctx, bundle_path);
    const Section *yaml = bundle_section(bundle, "model"), *text = bundle_section(bundle, "prog");
    Model *model = model_read(ctx, source_new(ctx, "model", yaml->data, yaml->size));
    Prog *prog = prog_parse(ctx, source_new(ctx, "prog", text->data, text->size));
    Checkpoint *weights = checkpoint_open(ctx, model, weights_path);
    PackList list;
    Decoder d;
    DecodedRound round = {0};
    volatile sig_atomic_t cancelled = 0;
    CHECK(weights && pack_list(ctx, model, weights, 0, 1, &list));
    GpuOptions o = {.library = library, .context = 100, .threads = 2, .cancelled = &cancelled};
    CHECK(gpu_open(ctx, model, prog, bundle, &list, &o, &d) == EXIT_OK, "%s", reported());
    DecodeRequest r = {.prompt = prompt,
                       .prompt_count = 10,
                       .limit = 9,
                       .draft = true,
                       .logits = true,
                       .halt = true,
                       .halt_instance = 6,
                       .halt_step = 3};
    CHECK(d.begin(d.self, &r) == EXIT_OK && d.next(d.self, &round) == EXIT_OK);
    const EngineRequest *got = &fake()->request;
    CHECK(got->flags == (REQUEST_DRAFT | REQUEST_HOLD | REQUEST_HALT) && got->halt_instance == 6 &&
          got->halt_body_step == 3 && got->limit == 9);

    const EngineParams *p = &fake()->params;
    const EngineTables *tables = (const EngineTables *)(uintptr_t)p->tables;
    size_t bytes = tables->slab_bytes;
    uint8_t *slab = (uint8_t *)(uintptr_t)p->slab, *read = arena_alloc(ctx->arena, bytes);
    for (size_t i = 0; i < bytes; i++) slab[i] = (uint8_t)(i * 7 + i / 251);
    CHECK(bytes > 2 * 8 * VOCAB * sizeof(float)); // more than goes at once
    CHECK(gpu_read_slab(&d, read, bytes) == EXIT_OK && memcmp(read, slab, bytes) == 0);
    for (int layer = 5; layer < 8; layer++) {
        uint32_t capacity, mask;
        gpu_cache_shape(&d, layer, &capacity, &mask);
        const EngineLayer *at = (const EngineLayer *)(uintptr_t)p->layers + layer;
        CHECK(capacity == at->capacity && mask == at->mask);
        uint8_t k[100], v[100];
        memset((void *)(uintptr_t)at->k, 0x40 + layer, 100);
        memset((void *)(uintptr_t)at->v, 0x80 + layer, 100);
        CHECK(gpu_read_cache(&d, layer, k, 100, v, 100) == EXIT_OK && k[99] == 0x40 + layer && v[99] == 0x80 + layer);
    }
    d.end(d.self);
    CHECK(d.begin(d.self, &(DecodeRequest){.prompt = prompt, .prompt_count = 10, .limit = 1}) == EXIT_OK &&
          d.next(d.self, &round) == EXIT_OK);
    CHECK(fake()->request.flags == 0);
    d.close(d.self);
    CHECK(fake()->allocations == 0 && fake()->kernels == 0);
    checkpoint_close(weights);
}

static void cancelled_requests(void) {
    tr_session *s = opened("slow", options());
    tr_request r = request(1000);
    tr_result result;
    tr_cancel(s);
    CHECK(tr_generate(s, &r, &result) == 130);
    CHECK(result.count == 0);
    r.max_tokens = 5;
    CHECK(tr_generate(s, &r, &result) == 0); // the next one is another
    check_chain(&result, 5);
    closed(s);
}

static void a_kernel_that_hangs(void) {
    tr_session *s = opened("hang", options());
    tr_request r = request(100);
    tr_result result;
    int code = tr_generate(s, &r, &result);
    keep(s);
    CHECK(code == 4, "%d", code);
    SAID("E0906");
    SAID("no round came");
    SAID("worker 17, compute: ");
    SAID("worker 0 and 3 others, compute: ");
    SAID("it raised the alarm");
    SAID("to reach 12; it is at 11");
    SAID("and 5 more waited");
    CHECK(strstr(said, "worker 17") < strstr(said, "worker 0"));
    CHECK(fake()->allocations == 0 && fake()->contexts == 0 && fake()->kernels == 0);
    CHECK(tr_generate(s, &r, &result) == 4);
    keep(s);
    SAID("E0916");
    closed(s);
}

static void kernels_that_end(void) {
    static const struct {
        const char *behaviour, *code, *text;
    } cases[] = {{"dies", "E0906", "a wait lasted too long"},
                 {"dies,silent", "E0906", "left no report"},
                 {"dies,crashes", "E0916", "CUDA_ERROR_LAUNCH_FAILED (719)"},
                 {"lies", "E0916", "tokens that there are none of"}};
    for (int i = 0; i < 4; i++) {
        tr_session *s = opened(cases[i].behaviour, options());
        tr_request r = request(100);
        tr_result result;
        CHECK(tr_generate(s, &r, &result) == 4);
        keep(s);
        SAID(cases[i].code);
        SAID(cases[i].text);
        closed(s);
    }
}

// ---- One rank alone ----

static tr_options alone(int rank) {
    return (tr_options){.bundle = pair_path,
                        .weights = "synthetic:7",
                        .threads = 2,
                        .cuda = library,
                        .context = 3000, // more than the model's 2048
                        .alone = true,
                        .rank = rank};
}

// Deviation and mean of rows [0, rows) x inputs [0, cols) of a packed matrix; what lies past them is zero.
static void check_spread(Dtype dtype, uint64_t at, int rows, int cols, double mean, double std, const char *what) {
    const uint8_t *packed = (const uint8_t *)(uintptr_t)at;
    double sum = 0, squares = 0, n = (double)rows * cols;
    int zeros = 0;
    for (int r = 0; r < (rows + 15) / 16 * 16; r++)
        for (int k = 0; k < (cols + 127) / 128 * 128; k++) {
            double v = (double)unpack(dtype, packed, cols, r, k);
            if (r >= rows || k >= cols) {
                CHECK(v == 0, "%s: %g behind the matrix, row %d, input %d", what, v, r, k);
                continue;
            }
            CHECK(fabs(v) < 8 * std, "%s: %g", what, v);
            sum += v, squares += v * v, zeros += v == 0;
        }
    CHECK(fabs(sum / n - mean) < 5 * std / sqrt(n) && fabs(sqrt(squares / n) / std - 1) < 0.03,
          "%s: mean %g, std %g of %g", what, sum / n, sqrt(squares / n), std);
    CHECK(zeros < n / 6, "%s: %d zeros", what, zeros); // an eighth of mxfp4's codes
}

static double halves_std(uint64_t at, size_t count, double mean) {
    const uint16_t *v = (const uint16_t *)(uintptr_t)at;
    double squares = 0;
    for (size_t i = 0; i < count; i++) squares += pow((double)bf16_to_float(v[i]) - mean, 2);
    return sqrt(squares / (double)count);
}

static void a_rank_alone(void) {
    FRESH();
    int before = fake()->fills;
    tr_session *s = opened("", alone(1));
    const FakeCuda *f = fake();
    const EngineParams *p = &f->params;
    const EngineLayer *layers = (const EngineLayer *)(uintptr_t)p->layers;
    CHECK(p->rank == 1 && p->context == 3000 && p->peers[0] == p->slab && p->peers[1] == p->slab && !p->peers[2]);
    CHECK(f->fills == f->fills_at_launch && f->grid == 132);
    // Every segment once, in order, nothing between two of them but what aligns the next; then the caches.
    Source *yaml = file_read(ctx, file_join(ctx, demo_tmp(), "pair.yaml"), MODEL_FILE_CAP);
    Model *model = model_read(ctx, yaml);
    PackList list;
    CHECK(pack_list(ctx, model, checkpoint_described(ctx, model), 1, 2, &list));
    CHECK(f->fills - before == (int)list.count + 2 * 8, "%d", f->fills - before);
    const EngineFill *fill = f->fill + before;
    for (size_t i = 0; i < list.count; i++)
        CHECK(fill[i].at == fill[0].at + list.at[i].offset && fill[i].quads == (list.at[i].bytes + 15) / 16, "%s",
              list.at[i].name);
    for (int i = 0; i < 8; i++) {
        const EngineFill *k = fill + list.count + 2 * i;
        const Attention *a = i < 6 ? &model->attention[model->layers[i].attention] : &model->drafter.attention;
        uint64_t rows = (uint64_t)a->kv_heads / 2 * layers[i].capacity;
        CHECK(k[0].at == layers[i].k && k[0].quads * 16 == rows * 2 * KEY_DIM((uint64_t)a->qk_dim));
        CHECK(k[1].at == layers[i].v && k[1].quads * 16 == rows * 2 * (uint64_t)a->v_dim);
        const uint16_t *key = (const uint16_t *)(uintptr_t)layers[i].k;
        for (uint64_t row = 0; row < rows; row++)
            for (int c = a->qk_dim; c < KEY_DIM(a->qk_dim); c++)
                CHECK(key[row * KEY_DIM((uint64_t)a->qk_dim) + (uint64_t)c] == 0);
        CHECK(fabs(halves_std(layers[i].v, rows * (uint64_t)a->v_dim, 0) / 0.707 - 1) < 0.02);
    }
    for (int i = 1; i < f->fills - before; i++)
        for (int k = 0; k < i; k++) CHECK(fill[i].key != fill[k].key);
    const EngineLayer *l = &layers[1];
    check_spread(DTYPE_FP8, l->weight[SLOT_QKV], 4 * 48 + 2 * 48 + 2 * 32, 512, 0, 1 / sqrt(512), "qkv");
    check_spread(DTYPE_BF16, l->weight[SLOT_O], 512, 4 * 32, 0, 1 / sqrt(128), "o");
    check_spread(DTYPE_F32, l->weight[SLOT_ROUTER], 24, 512, 0, 1 / sqrt(512), "router");
    size_t pair = 2 * 128 / 16 * 4 * MXFP4_BLOCK, down = 512 / 16 * MXFP4_BLOCK;
    for (int e = 0; e < 24; e += 23) {
        check_spread(DTYPE_MXFP4, l->weight[SLOT_EXPERT_UP] + (uint64_t)e * pair, 256, 512, 0, 1 / sqrt(512), "up");
        check_spread(DTYPE_MXFP4, l->weight[SLOT_EXPERT_DOWN] + (uint64_t)e * down, 512, 128, 0, 1 / sqrt(128), "down");
    }
    check_spread(DTYPE_FP8, layers[0].weight[SLOT_DOWN], 512, 512, 0, 1 / sqrt(512), "dense down");
    check_spread(DTYPE_BF16, l->weight[SLOT_HEAD], 1024, 512, 0, 3 / sqrt(512), "head");
    CHECK(fabs(halves_std(l->weight[SLOT_EMBED], 2048 * 512, 0) - 1) < 0.01);
    CHECK(fabs(halves_std(l->weight[SLOT_INPUT_NORM], 512, 1) - 0.1) < 0.02);
    tr_figures figures = tr_session_figures(s);
    CHECK(figures.weights == list.bytes && figures.weights_seconds > 0);
    tr_request r = request(50);
    tr_result result;
    r.start = 2000;
    r.accept = 6.3;
    CHECK(tr_generate(s, &r, &result) == 0);
    check_chain(&result, 50);
    CHECK(f->request.start == 2000 && f->request.accept_mean == 6.3f && (f->request.flags & REQUEST_ACCEPT));
    closed(s);
}

// What lies past a matrix is zero, whatever its size.
static void random_padding(void) {
    static const struct {
        uint32_t kind, bytes;
        Dtype dtype;
    } kinds[] = {{FILL_BF16, BF16_BLOCK, DTYPE_BF16},
                 {FILL_FP8, FP8_BLOCK, DTYPE_FP8},
                 {FILL_MXFP4, MXFP4_BLOCK, DTYPE_MXFP4},
                 {FILL_F32, F32_BLOCK, DTYPE_F32}};
    uint32_t *room = malloc(4 * 3 * F32_BLOCK);
    for (size_t i = 0; i < 4; i++) {
        EngineFill f = {.kind = kinds[i].kind,
                        .key = i,
                        .rows = 57,
                        .cols = kinds[i].kind == FILL_MXFP4 ? 288 : 301,
                        .strips = 4,
                        .blocks = 3,
                        .scale = 119,
                        .upper = 1 << 23,
                        .std = 0.05f};
        f.quads = 4 * 3 * kinds[i].bytes / 16;
        for (uint64_t q = f.quads; q-- > 0;) fill_quad(&f, q, room + 4 * q); // in any order
        float std = kinds[i].kind == FILL_MXFP4 ? ldexpf(2.9261750f, -8) * sqrtf(2.5f) : 0.05f;
        check_spread(kinds[i].dtype, (uint64_t)(uintptr_t)room, 57, (int)f.cols, 0, (double)std, "padded");
    }
    EngineFill f = {.kind = FILL_FLOATS, .quads = 3, .rows = 1, .cols = 10, .pitch = 10, .std = 1};
    for (uint64_t q = 0; q < 3; q++) fill_quad(&f, q, room + 4 * q);
    for (int i = 0; i < 12; i++) CHECK((room[i] == 0) == (i >= 10), "%d", i);
    free(room);
}

static void ranks_that_cannot_be_alone(void) {
    tr_options o = alone(2);
    refused("", o, 1);
    SAID("E0746");
    SAID("no rank 2: it has 2");
    o = alone(0);
    o.weights = "synthetic:x";
    refused("", o, 1);
    SAID("E0748");
    SAID("synthetic:1");
    o.weights = weights_path;
    refused("", o, 1);
    SAID("E0905");
    SAID("synthetic:SEED");
    o = alone(0);
    o.bundle = bundle_path;
    refused("", o, 1);
    SAID("E0905");
    SAID("leave out --alone");
    o = alone(0);
    o.host = true;
    refused("", o, 1);
    SAID("E0905");
    o = alone(0);
    o = alone(0);
    o.gpus = 2;
    refused("", o, 1);
    SAID("E0905");
    SAID("leave out --gpus");
    refused("full", alone(0), 3);
    SAID("E0911");
    SAID("caches");
}

// ---- Packed files ----

static char packed_path[1100];

static int pack(const char *weights, int rank, const char *bundle) {
    tr_session *s;
    tr_options o = {.bundle = bundle, .weights = weights, .threads = 2};
    int code = tr_pack(&o, rank, packed_path, &s);
    keep(s);
    tr_close(s);
    return code;
}

static size_t file_size(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 ? (size_t)st.st_size : 0;
}

static void change(const char *path, long at, int with) {
    FILE *f = fopen(path, "r+b");
    CHECK(f && fseek(f, at, SEEK_SET) == 0);
    int was = fgetc(f);
    CHECK(fseek(f, at, SEEK_SET) == 0 && fputc(with < 0 ? was ^ 1 : with, f) != EOF && fclose(f) == 0);
}

static void packed_weights_are_the_same(void) {
    CHECK(pack(weights_path, 0, bundle_path) == 0, "%s", said);
    tr_options o = options();
    uint8_t *first = NULL;
    for (int i = 0; i < 2; i++) {
        o.weights = i ? packed_path : weights_path;
        tr_session *s = opened("", o);
        const EngineLayer *layers = (const EngineLayer *)(uintptr_t)fake()->params.layers;
        const uint8_t *at = (const uint8_t *)(uintptr_t)layers[0].weight[SLOT_INPUT_NORM]; // the first of all
        size_t bytes = (size_t)(layers[0].weight[SLOT_MASK] - layers[0].weight[SLOT_INPUT_NORM]) + 768;
        if (i == 0) {
            first = malloc(bytes);
            memcpy(first, at, bytes);
        } else // but for what lies between segments
            for (int slot = 0; slot < SLOT_COUNT; slot++)
                for (int t = 0; t < 9; t++) {
                    uint64_t a = layers[t].weight[slot];
                    if (a)
                        CHECK(memcmp(first + (a - (uint64_t)(uintptr_t)at), (const void *)(uintptr_t)a,
                                     512 < bytes ? 32 : 0) == 0);
                }
        CHECK(!i || memcmp(first, at, bytes) == 0);
        tr_request r = {.prompt = "import", .prompt_length = 6, .max_tokens = 12};
        tr_result result;
        CHECK(tr_has_tokenizer(s) && tr_generate(s, &r, &result) == 0 && result.count == 12);
        closed(s);
    }
    free(first);
}

static void packed_files_that_will_not_do(void) {
    CHECK(pack(weights_path, 0, bundle_path) == 0, "%s", said);
    tr_options o = options();
    o.weights = packed_path;
    size_t size = file_size(packed_path);
    long places[] = {3, 9, 40, 300, (long)size / 2, (long)size - 300}; // magic, version, table, entries, data
    const char *codes[] = {"E0745", "E0746", "E0745", "E0745", "E0745", "E0745"};
    for (int i = 0; i < 6; i++) {
        change(packed_path, places[i], -1);
        refused("", o, 1);
        SAID(codes[i]);
        change(packed_path, places[i], -1);
    }
    SAID("does not match its SHA-256");
    CHECK(truncate(packed_path, (off_t)size - 1000) == 0);
    refused("", o, 1);
    SAID("cut short");
    o.host = true;
    CHECK(pack(weights_path, 0, bundle_path) == 0, "%s", said);
    refused("", o, 1);
    SAID("E0747");
    char host[1100]; // the same model for another SKU is fine to pack for: only model and ranks count
    snprintf(host, sizeof host, "%s/host2.bundle", demo_tmp());
    CHECK(demo_build(NULL, "host", 2, host));
    CHECK(pack(weights_path, 1, host) == 0, "%s", said);
    o.host = false;
    refused("", o, 1);
    SAID("E0746");
    SAID("rank 1 of 2; rank 0 of 1");
    CHECK(pack(weights_path, 2, host) == 1);
    SAID("no rank 2");
    CHECK(pack(packed_path, 0, bundle_path) == 1);
    SAID("E0702");
    CHECK(pack("/nowhere", 0, bundle_path) == 1);
}

static void packing_goes_on(void) {
    char part[1200];
    snprintf(part, sizeof part, "%s.part", packed_path);
    CHECK(pack(weights_path, 0, bundle_path) == 0, "%s", said);
    size_t size = file_size(packed_path);
    uint8_t *want = malloc(size), *got = malloc(size);
    FILE *f = fopen(packed_path, "rb");
    CHECK(f && fread(want, 1, size, f) == size && fclose(f) == 0);
    PackHeader *h = (PackHeader *)(void *)want;
    PackEntry *entries = (PackEntry *)(h + 1);
    CHECK(h->count > 50);
    // As left by an interruption after 30 segments, the 21st damaged since: it goes on from there, and the file is the
    // same. The first segments are not made again, which a changed byte behind the last whole one shows not, so their
    // hashes are looked at instead: a file of other bytes with right hashes is kept as it is.
    for (int pass = 0; pass < 3; pass++) {
        memcpy(got, want, size);
        PackHeader *g = (PackHeader *)(void *)got;
        PackEntry *e = (PackEntry *)(g + 1);
        memset(g->table_sha, 0, 64);
        for (uint32_t i = 30; i < g->count; i++) {
            memset(e[i].sha, 0, 64);
            memset(got + g->data_at + e[i].offset, 0, (size_t)e[i].bytes);
        }
        if (pass == 1) got[g->data_at + e[20].offset] ^= 1;
        if (pass == 2) { // other bytes, and their hash
            char hex[65];
            got[g->data_at + e[5].offset] ^= 1;
            sha256_hex_of(got + g->data_at + e[5].offset, (size_t)e[5].bytes, hex);
            memcpy(e[5].sha, hex, 64);
        }
        f = fopen(part, "wb");
        CHECK(f && fwrite(got, 1, size - 5000, f) == size - 5000 && fclose(f) == 0);
        CHECK(unlink(packed_path) == 0 && pack(weights_path, 0, bundle_path) == 0, "%s", said);
        CHECK(access(part, F_OK) != 0);
        f = fopen(packed_path, "rb");
        CHECK(f && fread(got, 1, size, f) == size && fgetc(f) == EOF && fclose(f) == 0);
        bool same = memcmp(got, want, size) == 0;
        CHECK(same == (pass < 2), "pass %d", pass);
    }
    CHECK(entries[0].bytes > 0);
    // One of another model is begun anew.
    f = fopen(part, "wb");
    h->model_sha[0] = '?';
    CHECK(f && fwrite(want, 1, size, f) == size && fclose(f) == 0);
    CHECK(pack(weights_path, 0, bundle_path) == 0, "%s", said);
    tr_options o = options();
    o.weights = packed_path;
    closed(opened("", o));
    free(want);
    free(got);
}

// ---- The program ----

// Runs tilerun; `interrupt`: sends one as soon as there is text. The exit status; standard error in `said`.
static int run(char *const *arguments, bool interrupt) {
    char errors[1100], byte;
    int out;
    pid_t pid = start(arguments, &out);
    snprintf(errors, sizeof errors, "%s/errors", demo_tmp());
    for (; read(out, &byte, 1) == 1; interrupt = false)
        if (interrupt) kill(pid, SIGINT);
    close(out);
    int status = -1;
    waitpid(pid, &status, 0);
    FILE *f = fopen(errors, "rb");
    size_t n = f ? fread(said, 1, sizeof said - 1, f) : 0;
    said[n] = 0;
    if (f) fclose(f);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void the_program(void) {
    if (!getenv("TILERUN")) SKIP("TILERUN is not set");
    char *program = getenv("TILERUN"), *weights = weights_path, *bundle = bundle_path;
    setenv("TILERUN_CUDA", library, 1);
    setenv("FAKE_CUDA", "slow", 1);
    char *long_one[] = {program,    "generate", bundle,         "--weights", weights,
                        "--prompt", "def f",    "--max-tokens", "1900",      NULL};
    int code = run(long_one, true);
    CHECK(code == 130, "%d\n# %s", code, said);
    SAID("by the GPU's clock");
    setenv("FAKE_CUDA", "hang", 1);
    CHECK(run(long_one, false) == 4);
    SAID("E0906");
    setenv("FAKE_CUDA", "", 1);
    char trace_path[1100];
    snprintf(trace_path, sizeof trace_path, "%s/bench.json", demo_tmp());
    char *bench[] = {program,   "bench",    bundle,     "--weights", weights,  "--rounds", "20",
                     "--trace", trace_path, "--accept", "3",         "--json", NULL};
    CHECK(run(bench, false) == 0, "%s", said);
    CHECK(file_size(trace_path) > 100);
    char into[1200];
    snprintf(into, sizeof into, "--json=%s/alone.json", demo_tmp());
    char *by_itself[] = {program,    "bench", pair_path,   "--rank", "1",  "--alone", "synthetic:1",
                         "--rounds", "20",    "--context", "100",    into, NULL};
    CHECK(run(by_itself, false) == 0, "%s", said);
    CHECK(file_size(into + strlen("--json=")) > 1000);
    char *half[] = {program, "bench", bundle, "--weights", weights, "--rank", "0", NULL};
    CHECK(run(half, false) == 2);
    unlink(packed_path);
    char *packing[] = {program, "pack", bundle, "--weights", weights, "-o", packed_path, NULL};
    CHECK(run(packing, false) == 0 && file_size(packed_path) > 1000000, "%s", said);
    char *from[] = {program, "generate",     bundle, "--weights", packed_path, "--prompt",
                    "x",     "--max-tokens", "4",    "--json",    NULL};
    CHECK(run(from, false) == 0, "%s", said);
    char *nowhere[] = {program, "pack", bundle, "--weights", weights, NULL};
    CHECK(run(nowhere, false) == 2);
    setenv("TILERUN_CUDA", "/nowhere/libcuda.so", 1);
    CHECK(run(long_one, false) == 3);
    SAID("E0907");
}

// The last: its kernel never ends.
static void a_kernel_that_does_not_leave(void) {
    tr_session *s = opened("hang,deaf", options());
    tr_request r = request(100);
    tr_result result;
    CHECK(tr_generate(s, &r, &result) == 4);
    keep(s);
    SAID("it does not leave either");
    tr_close(s);
}

int main(void) {
    library_find();
    snprintf(bundle_path, sizeof bundle_path, "%s/fake.bundle", demo_tmp());
    snprintf(pair_path, sizeof pair_path, "%s/pair.bundle", demo_tmp());
    snprintf(packed_path, sizeof packed_path, "%s/demo.packed", demo_tmp());
    snprintf(weights_path, sizeof weights_path, "%s/models/demo", demo_root());
    check_name = "set-up";
    if (setjmp(check_landing)) return 1;
    fake_bundle(bundle_path);
    fake_ranks = 2;
    fake_bundle(pair_path);
    fake_ranks = 1;
    RUN(no_driver);
    if (!fake_open()) return 1;
    RUN(drivers_and_devices_that_will_not_do);
    RUN(devices_and_their_skus);
    RUN(bundles_that_will_not_do);
    RUN(what_is_loaded);
    RUN(generates);
    RUN(the_ring_goes_round);
    RUN(logits_of_held_rounds);
    RUN(halted_requests);
    RUN(cancelled_requests);
    RUN(a_kernel_that_hangs);
    RUN(kernels_that_end);
    RUN(a_rank_alone);
    RUN(random_padding);
    RUN(ranks_that_cannot_be_alone);
    RUN(packed_weights_are_the_same);
    RUN(packed_files_that_will_not_do);
    RUN(packing_goes_on);
    RUN(the_program);
    RUN(a_kernel_that_does_not_leave);
    ctx_free(ctx);
    return check_done();
}
