// Each feature of a model on its own small random checkpoint: logits of the engine, at every degree that divides the
// model and with sums over ranks in one shot and in two steps, against a plain forward pass in double precision that
// shares nothing with it but the decoding of weights.
#include "checkpoint.h"
#include "demo.h"

enum { TOKENS = 21 };

// Heads 8 and kv heads 8 let the same model run at degrees 1, 2, 4 and 8.
static const char base[] = "name: small\nfamily: %s\nhidden: 64\nlayers: 3\nvocab: 96\ncontext: 64\n%s"
                           "attention:\n%s%s%s";
static const char full_all[] =
    "  full:\n    heads: 8\n    kv_heads: 8\n    qk_dim: 24\n    v_dim: 16\n    rope: { rotary: 8, theta: 1e4 }\n";
static const char full_some[] =
    "  full:\n    layers: [0, 2]\n    heads: 8\n    kv_heads: 8\n    qk_dim: 24\n    v_dim: 16\n    value_scale: 0.7\n"
    "    rope: { rotary: 8, theta: 1e6 }\n";
static const char grouped[] =
    "  full:\n    heads: 8\n    kv_heads: 2\n    qk_dim: 20\n    v_dim: 12\n    rope: { rotary: 20, theta: 1e4 }\n";
static const char window[] =
    "  window:\n    heads: 8\n    kv_heads: 8\n    qk_dim: 24\n    v_dim: 16\n    window: 5\n    sink: true\n"
    "    rope: { rotary: 12, theta: 1e3 }\n";
static const char norms[] =
    "  full:\n    heads: 8\n    kv_heads: 8\n    qk_dim: 24\n    v_dim: 24\n    qk_norm: true\n    sink: true\n"
    "    rope: { rotary: 24, theta: 1e4, factor: 8, low: 1, high: 4, original: 32 }\n";
static const char dense[] = "dense:\n  inner: 128\n";
static const char experts[] = "dense:\n  inner: 128\n  layers: [0]\nexperts:\n  count: 12\n  top_k: 3\n  inner: 256\n  "
                              "score: sigmoid\n  selection_bias: true\n"
                              "dtypes:\n  qkv: fp8\n  dense: fp8\n  experts: mxfp4\n  router: f32\n";
static const char softmax[] =
    "experts:\n  count: 6\n  top_k: 2\n  inner: 64\n  score: softmax\n  renormalise: false\n  scale: 1.5\n"
    "  swiglu: { alpha: 1.7, limit: 1 }\n";

typedef struct Feature {
    const char *name, *family, *head, *attention, *more, *mlp;
    int degrees; // largest
} Feature;

static const Feature features[] = {
    {"llama, tied head", "llama", "tied_head: true\n", full_all, "", dense, 8},
    {"grouped heads, all dims rotate", "llama", "", grouped, "", dense, 2},
    {"q/k norm, sinks, scaled rope", "llama", "", norms, "", dense, 8},
    {"fused qkv, window with sinks, value scale", "mimo_v2", "", full_some, window, dense, 8},
    {"fp8 and mxfp4, sigmoid router with bias", "mimo_v2", "", full_some, window, experts, 8},
    {"softmax router, no renormalisation, clamped swiglu", "llama", "", full_all, "", softmax, 2},
};
enum { FEATURES = sizeof features / sizeof *features };

// ---- The plain forward pass ----

typedef struct Plain {
    const Model *m;
    const Checkpoint *w;
    double x[TOKENS][64], (*k)[TOKENS][256], (*v)[TOKENS][256];
    double *logits; // [TOKENS][vocab]
} Plain;

static void apply(const Matrix *w, const double *in, double *out) {
    float *row = malloc((size_t)w->cols * sizeof *row);
    for (int n = 0; n < w->rows; n++) {
        matrix_decode(w, n, 0, w->cols, row);
        out[n] = 0;
        for (int i = 0; i < w->cols; i++) out[n] += (double)row[i] * in[i];
    }
    free(row);
}

static void rms(const double *x, const float *norm, int n, double eps, double *out) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += x[i] * x[i];
    for (int i = 0; i < n; i++) out[i] = (double)norm[i] * x[i] / sqrt(sum / n + eps);
}

static void rotate(double *x, const Rope *rope, int position) {
    int half = rope->rotary / 2;
    for (int i = 0; i < half; i++) {
        double f = pow(rope->theta, -2.0 * i / rope->rotary), wavelength = 2 * M_PI / f;
        if (rope->factor > 1) { // Llama 3's rule, by wavelength
            if (wavelength > rope->original / rope->low)
                f /= rope->factor;
            else if (wavelength >= rope->original / rope->high) {
                double s = (rope->original / wavelength - rope->low) / (rope->high - rope->low);
                f = (1 - s) * f / rope->factor + s * f;
            }
        }
        double a = x[i], b = x[i + half], c = cos(position * f), s = sin(position * f);
        x[i] = a * c - b * s;
        x[i + half] = b * c + a * s;
    }
}

static void plain_attention(Plain *p, int layer, int t) {
    const Attention *a = &p->m->attention[p->m->layers[layer].attention];
    const LayerWeights *w = &p->w->layers[layer];
    double in[64], q[8][32], out[256], back[64];
    rms(p->x[t], w->input_norm, 64, p->m->eps, in);
    double *rows = malloc(4096 * sizeof *rows);
    int chunks = w->qkv.data ? model_qkv_chunks(p->m) : 1, heads = a->heads / chunks, kv = a->kv_heads / chunks;
    int chunk_rows = heads * a->qk_dim + kv * (a->qk_dim + a->v_dim);
    if (w->qkv.data)
        apply(&w->qkv, in, rows);
    else {
        apply(&w->q, in, rows);
        apply(&w->k, in, rows + a->heads * a->qk_dim);
        apply(&w->v, in, rows + (a->heads + a->kv_heads) * a->qk_dim);
    }
    for (int c = 0; c < chunks; c++) {
        double *at = rows + c * chunk_rows;
        for (int h = 0; h < heads; h++)
            memcpy(q[c * heads + h], at + h * a->qk_dim, (size_t)a->qk_dim * sizeof(double));
        for (int h = 0; h < kv; h++) {
            double *k = &p->k[layer][t][(c * kv + h) * a->qk_dim], *v = &p->v[layer][t][(c * kv + h) * a->v_dim];
            memcpy(k, at + heads * a->qk_dim + h * a->qk_dim, (size_t)a->qk_dim * sizeof(double));
            if (w->k_norm) rms(k, w->k_norm, a->qk_dim, p->m->eps, k);
            rotate(k, &a->rope, t);
            for (int i = 0; i < a->v_dim; i++) v[i] = at[(heads + kv) * a->qk_dim + h * a->v_dim + i] * a->value_scale;
        }
    }
    for (int h = 0; h < a->heads; h++) {
        int g = h * a->kv_heads / a->heads;
        double total = w->sink ? exp((double)w->sink[h]) : 0;
        if (w->q_norm) rms(q[h], w->q_norm, a->qk_dim, p->m->eps, q[h]);
        rotate(q[h], &a->rope, t);
        for (int i = 0; i < a->v_dim; i++) out[h * a->v_dim + i] = 0;
        for (int j = a->window && t - a->window + 1 > 0 ? t - a->window + 1 : 0; j <= t; j++) {
            double s = 0;
            for (int i = 0; i < a->qk_dim; i++) s += q[h][i] * p->k[layer][j][g * a->qk_dim + i];
            double e = exp(s / sqrt(a->qk_dim));
            total += e;
            for (int i = 0; i < a->v_dim; i++) out[h * a->v_dim + i] += e * p->v[layer][j][g * a->v_dim + i];
        }
        for (int i = 0; i < a->v_dim; i++) out[h * a->v_dim + i] /= total;
    }
    apply(&w->o, out, back);
    for (int i = 0; i < 64; i++) p->x[t][i] += back[i];
    free(rows);
}

static void plain_mlp(const Matrix *gate, const Matrix *up, const Matrix *down, const Activation *act, const double *in,
                      double weight, double *x) {
    double g[256], u[256], out[64];
    apply(gate, in, g);
    apply(up, in, u);
    for (int i = 0; i < gate->rows; i++) {
        if (act->limit > 0) {
            g[i] = fmin(g[i], act->limit);
            u[i] = fmax(-act->limit, fmin(u[i], act->limit));
        }
        g[i] = g[i] / (1 + exp(-act->alpha * g[i])) * u[i];
    }
    apply(down, g, out);
    for (int i = 0; i < 64; i++) x[i] += weight * out[i];
}

static void plain_experts(Plain *p, int layer, const double *in, double *x) {
    const Experts *e = &p->m->experts;
    const LayerWeights *w = &p->w->layers[layer];
    double g[16], score[16], sum = 0, total = 0;
    int chosen[16];
    apply(&w->router, in, g);
    for (int i = 0; i < e->count; i++) total += exp(g[i]);
    for (int i = 0; i < e->count; i++) {
        g[i] = e->score == SCORE_SIGMOID ? 1 / (1 + exp(-g[i])) : exp(g[i]) / total;
        score[i] = g[i] + (w->router_bias ? (double)w->router_bias[i] : 0);
    }
    for (int k = 0; k < e->top_k; k++) {
        chosen[k] = 0;
        for (int i = 1; i < e->count; i++)
            if (score[i] > score[chosen[k]]) chosen[k] = i;
        score[chosen[k]] = -1e9;
        sum += g[chosen[k]];
    }
    for (int k = 0; k < e->top_k; k++) {
        int i = chosen[k];
        double weight = g[i] * e->scale / (e->renormalise ? sum + 1e-20 : 1);
        plain_mlp(&w->expert_gate[i], &w->expert_up[i], &w->expert_down[i], &e->activation, in, weight, x);
    }
}

static void plain_forward(Plain *p, const int *tokens) {
    p->k = calloc((size_t)p->m->layer_count, sizeof *p->k);
    p->v = calloc((size_t)p->m->layer_count, sizeof *p->v);
    for (int t = 0; t < TOKENS; t++) {
        float row[64];
        double in[64];
        matrix_decode(&p->w->embed, tokens[t], 0, 64, row);
        for (int i = 0; i < 64; i++) p->x[t][i] = (double)row[i];
        for (int layer = 0; layer < p->m->layer_count; layer++) {
            const LayerWeights *w = &p->w->layers[layer];
            plain_attention(p, layer, t);
            rms(p->x[t], w->post_norm, 64, p->m->eps, in);
            if (p->m->layers[layer].mlp == MLP_DENSE)
                plain_mlp(&w->gate, &w->up, &w->down, &p->m->dense_activation, in, 1, p->x[t]);
            else
                plain_experts(p, layer, in, p->x[t]);
        }
        rms(p->x[t], p->w->norm, 64, p->m->eps, in);
        apply(&p->w->head, in, p->logits + (size_t)t * (size_t)p->m->vocab);
    }
    free(p->k);
    free(p->v);
}

// ---- Comparing ----

typedef struct Case {
    const char *yaml;
    const int *tokens;
    double *logits;
    bool done;
} Case;

static void plain_body(Ctx *ctx, void *user) {
    Case *c = user;
    Source *source = file_read(ctx, c->yaml, MODEL_FILE_CAP);
    Plain *p = ARENA_NEW(ctx->arena, Plain);
    if (!source || !(p->m = model_read(ctx, source))) return;
    p->w = checkpoint_synthetic(ctx, p->m, 5);
    p->logits = c->logits;
    plain_forward(p, c->tokens);
    c->done = true;
}

static double relative_error(const float *got, const double *want, size_t n) {
    double error = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        error += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        norm += want[i] * want[i];
    }
    return sqrt(error / norm);
}

static int tokens[TOKENS];

// Writes the model's description to `yaml`, and its logits in double precision to `want`.
static void reference(const Feature *f, const char *yaml, double *want) {
    FILE *out = fopen(yaml, "w");
    CHECK(out);
    fprintf(out, base, f->family, f->head, f->attention, f->more, f->mlp);
    fclose(out);
    Case c = {yaml, tokens, want, false};
    Ctx *ctx = ctx_new((Env){0});
    ctx_protect(ctx, plain_body, &c);
    diag_print(ctx, stderr, DIAG_TEXT);
    ctx_free(ctx);
    CHECK(c.done, "%s", f->name);
}

static void run_feature(const Feature *f) {
    char yaml[1000], bundle[1000];
    static double want[TOKENS * 96];
    static float got[2][TOKENS * 96];
    snprintf(yaml, sizeof yaml, "%s/small.yaml", demo_tmp());
    snprintf(bundle, sizeof bundle, "%s/small.bundle", demo_tmp());
    reference(f, yaml, want);
    for (int tp = 1; tp <= f->degrees; tp *= 2) {
        for (int two = 0; two < (tp > 1 ? 2 : 1); two++) {
            Setting steps = {"reduce_steps", two ? "2" : "1", ORIGIN_OPTION};
            CHECK(demo_build_with(yaml, "host", tp, bundle, &steps), "%s, degree %d", f->name, tp);
            tr_session *s = demo_open(bundle, "synthetic:5", 2);
            CHECK(s && tr_logits(s, tokens, TOKENS, got[two]) == 0, "%s, degree %d", f->name, tp);
            tr_close(s);
        }
        double error = relative_error(got[0], want, TOKENS * 96);
        CHECK(error < 2e-5, "%s, degree %d: relative error %.2e", f->name, tp, error);
        CHECK(tp == 1 || memcmp(got[0], got[1], sizeof got[0]) == 0, "%s, degree %d: two steps give other sums",
              f->name, tp);
    }
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Of the positions' own errors: where a router's scores are nearly tied, rounding may choose another expert.
static double median_error(const float *got, const double *want) {
    double errors[TOKENS];
    for (int t = 0; t < TOKENS; t++) errors[t] = relative_error(got + t * 96, want + t * 96, 96);
    qsort(errors, TOKENS, sizeof *errors, compare);
    return errors[TOKENS / 2];
}

// The same through a GPU's Prog, which rounds to bf16 as a GPU does; attention in one part and in four.
static void run_rounded(const Feature *f) {
    char yaml[1000], bundle[1000];
    static double want[TOKENS * 96];
    static float got[2][TOKENS * 96];
    snprintf(yaml, sizeof yaml, "%s/small.yaml", demo_tmp());
    snprintf(bundle, sizeof bundle, "%s/small.bundle", demo_tmp());
    double error[2];
    reference(f, yaml, want);
    for (int i = 0; i < 2; i++) {
        Setting split = {"split", i ? "4" : "1", ORIGIN_OPTION};
        CHECK(demo_build_with(yaml, "h200", 1, bundle, &split), "%s", f->name);
        tr_session *s = demo_open(bundle, "synthetic:5", 2);
        CHECK(s && tr_logits(s, tokens, TOKENS, got[i]) == 0, "%s", f->name);
        tr_close(s);
        error[i] = median_error(got[i], want);
    }
    printf("# %s, rounded to bf16: median relative error of a position %.2e, in parts %.2e\n", f->name, error[0],
           error[1]);
    CHECK(error[0] > 1e-4 && error[0] < 2e-2 && error[1] < 2e-2, "%s: %.2e, %.2e", f->name, error[0], error[1]);
}

static void every_feature_rounded(void) {
    for (int i = 0; i < FEATURES; i++) run_rounded(&features[i]);
}

static void llama_with_a_tied_head(void) { run_feature(&features[0]); }
static void grouped_heads_that_rotate_whole(void) { run_feature(&features[1]); }
static void qk_norm_sinks_and_scaled_rope(void) { run_feature(&features[2]); }
static void fused_qkv_windows_and_value_scale(void) { run_feature(&features[3]); }
static void fp8_mxfp4_and_sigmoid_router(void) { run_feature(&features[4]); }
static void softmax_router_and_clamped_swiglu(void) { run_feature(&features[5]); }

int main(void) {
    for (int i = 0; i < TOKENS; i++) tokens[i] = (i * 29 + 3) % 96;
    RUN(llama_with_a_tied_head);
    RUN(grouped_heads_that_rotate_whole);
    RUN(qk_norm_sinks_and_scaled_rope);
    RUN(fused_qkv_windows_and_value_scale);
    RUN(fp8_mxfp4_and_sigmoid_router);
    RUN(softmax_router_and_clamped_swiglu);
    RUN(every_feature_rounded);
    return check_done();
}
