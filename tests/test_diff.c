// tilegen diff without a GPU: the machine under test is a second host executor, whose buffers are laid out as the
// engine kernel has them, from the layout's description alone. A flipped number is found and named; a step alone, and a
// round that halts, leave what the whole round would have at that place.
#include "demo.h" // before damage.h, whose ctx its own would shadow
#include "damage.h"
#include "diff_parts.h"

typedef struct Flip { // what is wrong with the machine under test, in the slab of one halt or of all
    const char *buffer;
    bool decoding;
    int instance, step; // of the halt
    int item, row, col;
    float value;
    int add; // to a number that is no real one: as a word
} Flip;

typedef struct Twin {
    Engine *engine;
    const Compiled *c;
    const KernelSteps *steps;
    DecodeRequest halt;
    bool decoding;
    Flip flips[2];
    int runs;
} Twin;

static Compiled *compiled;
static KernelSteps *steps;
static Checkpoint *weights;
static const int default_tokens[] = {5, 42, 79, 116, 153, 190, 227, 264};
static int many_tokens[21];
enum { CONTEXT = 96, THREADS = 2 };

// ---- The demo's GPU Prog ----

static void compile_body(Ctx *c, void *user) {
    Source *lua = file_read(c, file_join(c, demo_root(), "build.lua"), SCHED_FILE_CAP);
    Build *build = lua ? build_read(c, lua, demo_root()) : NULL;
    const Sku *sku = build ? build_sku(c, build, "h200", NO_SPAN) : NULL;
    if (!sku) return;
    Sku *few = ARENA_NEW(c->arena, Sku);
    *few = *sku;
    few->workers = 6;
    Job job = {.name = "test",
               .model = file_join(c, demo_root(), "models/demo.yaml"),
               .schedule = file_join(c, demo_root(), "schedules/decode.lua"),
               .sku = few,
               .tp = 1,
               .settings = user,
               .setting_count = user ? 1 : 0};
    compiled = compile(c, &job, PASS_PROG);
    steps = compiled ? kernel_steps(c, compiled) : NULL;
    weights = steps ? checkpoint_open(c, compiled->model, file_join(c, demo_root(), "models/demo")) : NULL;
}

static void set_up(Setting *setting) {
    checkpoint_close(weights);
    weights = NULL;
    compiled = NULL;
    steps = NULL;
    FRESH();
    CHECK(ctx_protect(ctx, compile_body, setting));
    CHECK(weights, "%s", reported());
}

static Engine *engine(void) {
    Engine *e = engine_new(ctx, compiled->model, compiled->prog, weights, THREADS, CONTEXT);
    CHECK(e);
    return e;
}

// The place of an op: its n-th step in the round.
static StepAt place_of(OpId op, int n) {
    for (int i = 0; i < prog_instances(compiled->prog); i++) {
        int layer;
        const Body *body = &compiled->prog->bodies[prog_instance(compiled->prog, i, &layer)->body];
        for (int s = 0; s < body->step_count; s++)
            if (body->steps[s].op == op && n-- == 0) return (StepAt){i, s};
    }
    CHECK(false, "no %s", op_name(op));
    return (StepAt){0, 0};
}

// ---- The twin: a host executor in a GPU's clothes ----

static Exit twin_run(void *self, const DecodeRequest *r, DecodedRound *out) {
    Twin *t = self;
    Round round = {0};
    bool drafter = compiled->model->has_drafter;
    engine_reset(t->engine, &r->sampling, r->draft);
    t->halt = *r;
    t->decoding = r->limit > 1;
    t->runs++;
    StepAt last = {r->halt_instance, r->halt_step};
    *out = (DecodedRound){.prompt = !t->decoding};
    engine_span_all(t->engine);
    for (int at = 0; at < r->prompt_count; at += 8) {
        int rows = r->prompt_count - at < 8 ? r->prompt_count - at : 8;
        if (!t->decoding && at + rows == r->prompt_count) engine_span(t->engine, (StepAt){0, 0}, last);
        out->start = engine_start(t->engine);
        if (!engine_prompt(t->engine, r->prompt + at, rows, &round)) return EXIT_VERIFY;
    }
    if (t->decoding) {
        engine_span(t->engine, (StepAt){0, 0}, last);
        out->start = engine_start(t->engine);
        if (!engine_decode(t->engine, drafter, &round)) return EXIT_VERIFY;
    }
    out->rows = round.rows;
    out->accepted = t->decoding ? round.accepted : 0;
    out->count = round.count;
    memcpy(out->tokens, round.tokens, sizeof out->tokens);
    return EXIT_OK;
}

static BufferPlace at_buffer(const Twin *t, const char *name) { return kernel_place(t->steps, t->c->prog, name); }

// A row of inputs, by abi.h: of 128 inputs number 32t + ei + j lies at place 4ei + et + j, where e numbers are 16
// bytes.
static bool of_inputs(const char *name) {
    static const char *const names[] = {"x", "dx", "attn", "dattn", "act", "dact", "eact", "taps", "c"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], name) == 0) return true;
    return false;
}
static size_t place_in_row(const char *name, int input, bool bf16) {
    int e = bf16 ? 8 : 4, at = 0;
    if (!of_inputs(name)) return (size_t)input;
    for (int t = 0; t < 4; t++)
        for (int i = 0; i < 32 / e; i++)
            for (int j = 0; j < e; j++)
                if (32 * t + e * i + j == input % 128) at = 4 * e * i + e * t + j;
    return (size_t)(input / 128 * 128 + at);
}

static void put(const Twin *t, uint8_t *slab, const char *name, int item, const float *from, int rows, int width) {
    BufferPlace p = at_buffer(t, name);
    if (p.row == 0) return; // the Prog has none
    bool bf16 = t->c->prog->buffers[prog_buffer(t->c->prog, name)].dtype == DTYPE_BF16;
    for (int i = 0; i < width; i++) {
        uint8_t *at = slab + p.offset + (size_t)item * p.item + place_in_row(name, i, bf16) * (bf16 ? 2 : 4);
        for (int r = 0; r < rows; r++, at += p.row) {
            uint16_t v = float_to_bf16(from[r * width + i]);
            if (bf16)
                memcpy(at, &v, 2);
            else
                memcpy(at, &from[r * width + i], 4);
        }
    }
}

// Every strip of 16 tokens has a best one: a tile's own stands in its strip, the others have none.
static void put_best(uint8_t *slab, BufferPlace p, const Best *from, int vocab) {
    struct {
        float value;
        int id;
    } *to = (void *)(slab + p.offset);
    for (int i = 0; i < vocab / 16 * 8; i++) to[i].value = -1e30f, to[i].id = 0x7FFFFFFF;
    for (int row = 0; row < 8; row++)
        for (int at = 0; at < vocab; at += from[row * vocab + at].length ? from[row * vocab + at].length : vocab) {
            const Best *b = &from[row * vocab + at];
            if (b->length == 0) break;
            to[b->id / 16 * 8 + row].value = b->value;
            to[b->id / 16 * 8 + row].id = b->id;
        }
}

static void put_routes(uint8_t *at, const Engine *e, const Rank *r) {
    int keys = e->shape.keys, top = e->model->experts.top_k;
    int *words = (int *)(void *)at;
    words[0] = r->routing.active, words[1] = r->routing.rows;
    memcpy(words + 2, r->expert_of, (size_t)keys * 4);
    memset(words + 2 + keys, 0, (size_t)keys * 4);
    for (int row = 0; row < r->routing.rows; row++)
        for (int k = 0; k < top; k++) words[2 + keys + r->routing.keys[row * top + k]] |= 1 << row;
    memcpy(words + 2 + 2 * keys, r->routing.keys, (size_t)(8 * top) * 4);
    memcpy(words + 2 + 2 * keys + 8 * top, r->route_weights, (size_t)(8 * top) * 4);
}

static void flip(const Twin *t, uint8_t *slab, const Flip *f) {
    if (!f->buffer || f->decoding != t->decoding || f->instance != t->halt.halt_instance ||
        f->step != t->halt.halt_step)
        return;
    BufferPlace p = at_buffer(t, f->buffer);
    const Buffer *b = &t->c->prog->buffers[prog_buffer(t->c->prog, f->buffer)];
    size_t width = b->dtype == DTYPE_BF16 ? 2 : 4;
    uint8_t *at = slab + p.offset + (size_t)f->item * p.item + (size_t)f->row * p.row +
                  place_in_row(f->buffer, f->col, width == 2) * width;
    uint16_t bits = float_to_bf16(f->value);
    int word;
    if (f->add) {
        memcpy(&word, at, 4);
        word += f->add;
        memcpy(at, &word, 4);
    } else if (width == 2)
        memcpy(at, &bits, 2);
    else
        memcpy(at, &f->value, 4);
}

static Exit twin_slab(void *self, void *out, size_t bytes) {
    Twin *t = self;
    const Engine *e = t->engine;
    const Rank *r = &e->rank[0];
    const Model *m = e->model;
    const Shape *s = &e->shape;
    uint8_t *slab = out;
    int layer;
    prog_instance(t->c->prog, t->halt.halt_instance, &layer);
    int kind = (int)m->layers[layer].attention;
    memset(slab, 0xEE, bytes); // where nothing is written
    put(t, slab, "x", 0, r->x, 8, m->hidden);
    put(t, slab, "dx", 0, r->dx, 8, m->hidden);
    put(t, slab, "qkv", 0, r->qkv, 8, s->qkv_rows[kind]);
    put(t, slab, "dqkv", 0, r->dqkv, 8, s->draft_qkv_rows);
    put(t, slab, "attn", 0, r->attn, 8, s->o_cols[kind]);
    put(t, slab, "dattn", 0, r->dattn, 8, s->draft_heads * m->drafter.attention.v_dim);
    put(t, slab, "act", 0, r->act, 8, s->dense_inner);
    put(t, slab, "dact", 0, r->dact, 8, s->draft_inner);
    put(t, slab, "ckv", 0, r->ckv, 8, s->draft_kv_rows);
    put(t, slab, "c", 0, r->c, 8, m->hidden);
    for (int i = 0; i < m->drafter.tap_count; i++)
        put(t, slab, "taps", i, r->taps + (size_t)m->drafter.taps[i] * 8 * (size_t)m->hidden, 8, m->hidden);
    put(t, slab, "scores", 0, r->scores, 8, m->experts.count);
    put(t, slab, "logits", 0, r->logits, 8, m->vocab);
    for (int k = 0; k < r->routing.active; k++) {
        put(t, slab, "eact", k, r->eact + (size_t)k * 8 * (size_t)s->expert_inner, 8, s->expert_inner);
        put(t, slab, "ey", k, r->ey + (size_t)k * 8 * (size_t)m->hidden, 8, m->hidden);
    }
    put_best(slab, at_buffer(t, "best"), r->best, m->vocab);
    put_best(slab, at_buffer(t, "dbest"), r->dbest, m->vocab);
    put_routes(slab + at_buffer(t, "routes").offset, e, r);
    memcpy(slab + at_buffer(t, "choice").offset, r->choice, 32);
    memcpy(slab + at_buffer(t, "drafts").offset, r->drafts, 32);
    if (e->split > 1) { // a part without keys has no maximum
        float *to = (float *)(void *)(slab + at_buffer(t, "part").offset);
        int v = m->attention[kind].v_dim;
        for (int i = 0; i < s->heads[kind] * e->split * 8; i++) { // eight rows' ends, then what comes out of each
            float *end = to + i / 8 * 8 * (v + 2) + i % 8 * 2;
            end[0] = r->parts[i].sum > 0 ? r->parts[i].max : -1e30f;
            end[1] = r->parts[i].sum;
            memcpy(to + i / 8 * 8 * (v + 2) + 16 + i % 8 * v, r->parts[i].out, (size_t)v * 4);
        }
    }
    for (int i = 0; i < 2; i++) flip(t, slab, &t->flips[i]);
    return EXIT_OK;
}

static void twin_shape(void *self, int layer, uint32_t *capacity, uint32_t *mask) {
    (void)self;
    bool ring = layer < compiled->model->layer_count && compiled->model->layers[layer].attention == ATTENTION_WINDOW;
    *capacity = ring ? 256 : 128;
    *mask = ring ? 255 : UINT32_MAX;
}

static Exit twin_cache(void *self, int layer, void *k, size_t k_bytes, void *v, size_t v_bytes) {
    Twin *t = self;
    const Model *m = compiled->model;
    bool drafter = layer >= m->layer_count;
    const Attention *a = drafter ? &m->drafter.attention : &m->attention[m->layers[layer].attention];
    const Cache *from = drafter ? &t->engine->rank[0].dkv[layer - m->layer_count] : &t->engine->rank[0].kv[layer];
    uint32_t capacity, mask;
    twin_shape(self, layer, &capacity, &mask);
    size_t dims = (size_t)(a->qk_dim + 31) / 32 * 32, context = (size_t)engine_context(t->engine),
           vd = (size_t)a->v_dim;
    CHECK(k_bytes == (size_t)a->kv_heads * capacity * dims * 2 && v_bytes == (size_t)a->kv_heads * capacity * vd * 2);
    memset(k, 0xEE, k_bytes);
    memset(v, 0xEE, v_bytes);
    for (size_t h = 0; h < (size_t)a->kv_heads; h++)
        for (size_t p = 0; p < context; p++) {
            for (size_t d = 0; d < (size_t)a->qk_dim; d++)
                ((uint16_t *)k)[(((h * (capacity / 64) + p / 64) * (dims / 8) + d / 8) * 64 + p % 64) * 8 + d % 8] =
                    from->k16[(h * context + p) * (size_t)a->qk_dim + d];
            for (size_t d = 0; d < vd; d++)
                ((uint16_t *)v)[((h * (capacity / 8) + p / 8) * vd + d) * 8 + p % 8] =
                    from->v16[(h * context + p) * vd + d];
        }
    return EXIT_OK;
}

static Exit run_diff(Twin *t, DiffOptions options, DiffReport *report) {
    t->c = compiled;
    t->steps = steps;
    t->engine = engine();
    Engine *host = engine();
    DiffDevice device = {t, twin_run, twin_slab, twin_cache, twin_shape};
    if (!options.tokens) options.tokens = default_tokens, options.token_count = 8;
    Exit code = diff_run(ctx, compiled, steps, host, &device, &options, report);
    engine_free(host);
    engine_free(t->engine);
    return code;
}

static const char *printed(const DiffReport *report, bool json) {
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    diff_print(ctx, compiled->prog, report, json, out);
    fclose(out);
    const char *kept = arena_text(ctx->arena, text);
    free(text);
    return kept;
}

static const DiffOptions everything = {.stop_after = -1};

// ---- Tests ----

// A round that halts, and steps one by one, leave the same as the whole round at that place.
static void a_halted_round(void) {
    set_up(NULL);
    Engine *whole = engine(), *single = engine();
    Round round;
    Sampling greedy = {0, 0, 1, 0};
    engine_reset(single, &greedy, true);
    for (int i = 0; i < prog_instances(compiled->prog); i++) {
        int layer;
        const RoundItem *item = prog_instance(compiled->prog, i, &layer);
        if (item->segment == SEGMENT_DRAFT) continue;
        for (int s = 0; s < compiled->prog->bodies[item->body].step_count; s++) {
            engine_span(single, (StepAt){i, s}, (StepAt){i, s});
            CHECK(engine_prompt(single, default_tokens, 8, &round), "%s", reported());
            engine_reset(whole, &greedy, true);
            engine_span(whole, (StepAt){0, 0}, (StepAt){i, s});
            CHECK(engine_prompt(whole, default_tokens, 8, &round));
            const Rank *a = &whole->rank[0], *b = &single->rank[0];
            const Model *m = compiled->model;
#define SAME(field, count)                                                                                             \
    CHECK(memcmp(a->field, b->field, (size_t)(count) * sizeof *a->field) == 0, "%s after step %d of instance %d",      \
          #field, s, i)
            SAME(x, 8 * m->hidden);
            SAME(qkv, 8 * whole->shape.qkv_rows[m->layers[layer].attention]);
            SAME(attn, 8 * whole->shape.o_cols[m->layers[layer].attention]);
            SAME(scores, 8 * m->experts.count);
            SAME(ey, whole->shape.keys * 8 * m->hidden);
            SAME(logits, 8 * m->vocab);
            SAME(ckv, 8 * whole->shape.draft_kv_rows);
            SAME(choice, 8);
        }
    }
    CHECK(engine_start(whole) == 8 && engine_start(single) == 8);
    Engine *plain = engine();
    CHECK(engine_prompt(plain, default_tokens, 8, &round));
    CHECK(memcmp(plain->rank[0].logits, single->rank[0].logits, 8 * 2048 * sizeof(float)) == 0);
    CHECK(plain->rank[0].state.anchor == single->rank[0].state.anchor);
    engine_free(plain);
    engine_free(whole);
    engine_free(single);
}

static void two_alike(void) {
    set_up(NULL);
    Twin t = {0};
    DiffReport report;
    Exit code = run_diff(&t, everything, &report);
    CHECK(code == EXIT_OK && !report.fault, "%d\n# %s", code, printed(&report, false));
    int steps_a_round = 0, drafting = 0;
    for (int i = 0; i < report.step_count; i++) {
        CHECK(report.steps[i].error == 0 && report.steps[i].worst == 0 && report.steps[i].tasks > 0, "step %d", i);
        steps_a_round += report.steps[i].prompt;
        drafting += !report.steps[i].prompt;
    }
    CHECK(steps_a_round == 60 && drafting == 73 && t.runs == 134, "%d, %d, %d runs", steps_a_round, drafting, t.runs);
    CHECK(strstr(printed(&report, false), "all 133 steps agree"));
    json_t *json = json_loads(printed(&report, true), 0, NULL);
    CHECK(json && json_is_true(json_object_get(json, "agree")) &&
          json_array_size(json_object_get(json, "steps")) == 133);
    json_decref(json);
}

// A split attention, and a prompt of several blocks.
static void attention_in_parts(void) {
    Setting split = {"split", "4", ORIGIN_OPTION};
    set_up(&split);
    static const OpId ops[] = {OP_ATTENTION, OP_MERGE, OP_ACCEPT};
    for (int i = 0; i < 3; i++) {
        Twin t = {0};
        DiffReport report;
        Exit code = run_diff(&t, (DiffOptions){many_tokens, 21, 0, (int)ops[i]}, &report);
        CHECK(code == EXIT_OK && !report.fault &&
                  report.step_count == (i == 0   ? 12
                                        : i == 1 ? 6
                                                 : 2),
              "%d, %d steps\n# %s", code, report.step_count, printed(&report, false));
    }
    CHECK(prog_buffer(compiled->prog, "part") >= 0);
}

static void some_of_the_steps(void) {
    set_up(NULL);
    Twin t = {0};
    DiffReport report;
    CHECK(run_diff(&t, (DiffOptions){many_tokens, 21, 0, OP_COMBINE}, &report) == EXIT_OK);
    CHECK(report.step_count == 10, "%d", report.step_count);
    CHECK(run_diff(&t, (DiffOptions){many_tokens, 21, 2, -1}, &report) == EXIT_OK);
    CHECK(report.step_count == 6 + 9 + 6 + 9 + 2 * 9 + 13, "%d", report.step_count);
    CHECK(run_diff(&t, (DiffOptions){many_tokens, 21, 1, OP_SAMPLE}, &report) == EXIT_OK);
    CHECK(report.step_count == 2, "%d", report.step_count);
}

// A flipped number is found at its step, in its task, with the place and both values.
static void finds(Flip f, OpId op, int n, const char *round, const char *place, const char *task) {
    Twin t = {0};
    DiffReport report;
    StepAt at = place_of(op, n);
    f.instance = at.instance, f.step = at.step;
    t.flips[0] = f;
    Exit code = run_diff(&t, (DiffOptions){.stop_after = (int)op}, &report); // the others are taken over: faster
    const char *text = printed(&report, false);
    CHECK(code == EXIT_VERIFY && report.fault, "%d: %s is not found\n# %s", code, f.buffer, text);
    CHECK(report.fault->instance == at.instance && report.fault->step == at.step && report.fault->differing == 1,
          "%d.%d, %d\n# %s", report.fault->instance, report.fault->step, report.fault->differing, text);
    const char *parts[] = {round, place, task, op_name(op)};
    for (int i = 0; i < 4; i++) CHECK(strstr(text, parts[i]), "no \"%s\" in\n# %s", parts[i], text);
    for (int i = 0; i < report.fault->input_count; i++)
        CHECK(report.fault->inputs[i].device.hash == report.fault->inputs[i].host.hash, "%s\n# %s",
              report.fault->inputs[i].text, text);
    json_t *json = json_loads(printed(&report, true), 0, NULL);
    CHECK(json && json_is_false(json_object_get(json, "agree")), "%s", printed(&report, true));
    json_decref(json);
}

static void flipped_numbers(void) {
    set_up(NULL);
    finds((Flip){.buffer = "qkv", .row = 3, .col = 17, .value = 9}, OP_QKV, 1, "prompt round",
          "qkv: row 3, column 17: GPU 9,", "layer 1");
    finds((Flip){.buffer = "x", .row = 7, .col = 383, .value = NAN}, OP_O_PROJ, 2, "prompt round",
          "x: row 7, column 383: GPU nan", "layer 2");
    finds((Flip){.buffer = "attn", .row = 0, .col = 0, .value = INFINITY}, OP_ATTENTION, 0, "prompt round",
          "attn: row 0, column 0: GPU inf", "layer 0");
    finds((Flip){.buffer = "taps", .item = 1, .row = 2, .col = 5, .value = -7}, OP_COMBINE, 1, "prompt round",
          "taps: row 2, column 5: GPU -7", "layer 2");
    finds((Flip){.buffer = "logits", .row = 6, .col = 2047, .value = 40}, OP_HEAD, 0, "prompt round",
          "logits: row 6, column 2047", "task [");
    finds((Flip){.buffer = "choice", .row = 0, .col = 3, .add = 1}, OP_SAMPLE, 0, "prompt round", "choice: row 3",
          "layer 0");
    finds((Flip){.buffer = "dattn", .decoding = true, .row = 5, .col = 40, .value = 3}, OP_DRAFT_ATTENTION, 1,
          "decoding round", "dattn: row 5, column 40", "layer 1");
    finds((Flip){.buffer = "drafts", .decoding = true, .col = 7, .add = -1}, OP_DRAFT_PICK, 0, "decoding round",
          "draft: row 7", "layer 0");
    finds((Flip){.buffer = "scores", .decoding = true, .row = 1, .col = 23, .value = 9}, OP_ROUTER, 4, "decoding round",
          "scores: row 1, column 23", "layer 5");
}

// Experts: an item's task has its key, claimed by whoever comes first; routes are checked before they are used.
static void flipped_experts(void) {
    set_up(NULL);
    Twin t = {0};
    DiffReport report;
    StepAt up = place_of(OP_EXPERTS_UP, 0), route = place_of(OP_ROUTE, 0);
    int row = -1;
    Engine *e = engine();
    Round round;
    engine_span(e, (StepAt){0, 0}, up);
    CHECK(engine_prompt(e, default_tokens, 8, &round));
    for (int r = 0; r < 8; r++)
        for (int k = 0; k < 4; k++)
            if (e->rank[0].routing.keys[r * 4 + k] == 2) row = r;
    engine_free(e);
    CHECK(row >= 0);
    t.flips[0] = (Flip){
        .buffer = "eact", .instance = up.instance, .step = up.step, .item = 2, .row = row, .col = 99, .value = 5};
    CHECK(run_diff(&t, (DiffOptions){.stop_after = OP_EXPERTS_UP}, &report) == EXIT_VERIFY && report.fault->key == 2 &&
          report.fault->worker == -1);
    CHECK(strstr(printed(&report, false), "eact: key 2") && strstr(printed(&report, false), "column 99: GPU 5"), "%s",
          printed(&report, false));
    int keys = 24, first_key = (2 + 2 * keys) * 4;
    t.flips[0] =
        (Flip){.buffer = "routes", .instance = route.instance, .step = route.step, .col = first_key / 4, .add = 1000};
    CHECK(run_diff(&t, (DiffOptions){.stop_after = OP_ROUTE}, &report) == EXIT_VERIFY);
    CHECK(strstr(report.fault->place, "routes: row 0 chose key 10"), "%s", report.fault->place);
    t.flips[0] = (Flip){.buffer = "routes",
                        .instance = route.instance,
                        .step = route.step,
                        .col = first_key / 4 + 8 * 4 + 5,
                        .value = 0.9f};
    CHECK(run_diff(&t, (DiffOptions){.stop_after = OP_ROUTE}, &report) == EXIT_VERIFY);
    CHECK(strstr(report.fault->place, "expert's weight: row 1"), "%s", report.fault->place);
    CHECK(run_diff(&t, (DiffOptions){.stop_after = OP_COMBINE}, &report) == EXIT_OK); // not looked at then
}

// An input that something wrote over after its own step is shown as such.
static void an_input_written_over(void) {
    set_up(NULL);
    Twin t = {0};
    DiffReport report;
    StepAt at = place_of(OP_ATTENTION, 3);
    t.flips[0] = (Flip){.buffer = "attn", .instance = at.instance, .step = at.step, .row = 1, .col = 1, .value = 4};
    t.flips[1] = (Flip){.buffer = "qkv", .instance = at.instance, .step = at.step, .row = 1, .col = 1, .value = 4};
    CHECK(run_diff(&t, (DiffOptions){.stop_after = OP_ATTENTION}, &report) == EXIT_VERIFY);
    const char *text = printed(&report, false);
    CHECK(strstr(text, "OTHER NUMBERS") && strstr(text, "the same numbers"), "%s", text);
}

// Numbers within tolerance, and best tokens that are equally good, are no difference.
static void near_ties(void) {
    set_up(NULL);
    Twin t = {0};
    DiffReport report;
    StepAt at = place_of(OP_HEAD, 0);
    Engine *e = engine();
    Round round;
    CHECK(engine_prompt(e, default_tokens, 8, &round));
    int id = e->rank[0].best[0].id;
    engine_free(e);
    t.flips[0] = (Flip){.buffer = "best",
                        .instance = at.instance,
                        .step = at.step,
                        .col = (id / 16 * 8) * 2 + 1,
                        .add = id % 16 ? -1 : 1};
    CHECK(run_diff(&t, (DiffOptions){.stop_after = OP_HEAD}, &report) == EXIT_OK, "%s", printed(&report, false));
    CHECK(report.tie_count == 1 && strstr(report.ties[0], "best token of row 0"), "%d", report.tie_count);
    t.flips[0].add = 0;
    t.flips[0].col--;
    t.flips[0].value = 90;
    CHECK(run_diff(&t, (DiffOptions){.stop_after = OP_HEAD}, &report) == EXIT_VERIFY);
    CHECK(strstr(report.fault->place, "best token's logit: row 0"), "%s", report.fault->place);
}

static void numbers(void) {
    FRESH();
    float host[4] = {1, -2, 0.001f, 0};
    uint16_t device[4];
    Engine rounding = {.round_activations = true};
    Diff d = {.ctx = ctx, .engine = &rounding};
    for (int i = 0; i < 4; i++) device[i] = float_to_bf16(host[i]);
    Patch patch = {.device = (uint8_t *)device,
                   .host = host,
                   .device_step = 2,
                   .host_step = 4,
                   .device_kind = NUMBER_BF16,
                   .count = 4,
                   .of = "x",
                   .key = -1};
    Patches patches = {0};
    LIST_ADD(ctx->arena, &patches, patch);
    Scales scales = {0};
    patches_scale(&patches, &scales);
    device[0]++; // a neighbour
    Finding f = {0};
    patches_compare(&d, OP_QKV, &patches, &scales, &f);
    CHECK(f.ratio > 0.5 && f.ratio <= 1, "%g", f.ratio);
    device[1] += 2; // the neighbour's neighbour
    f = (Finding){0};
    patches_compare(&d, OP_QKV, &patches, &scales, &f);
    CHECK(f.ratio > 1 && f.element == 1, "%g at %d", f.ratio, f.element);
    device[2] = 0x7FC0;
    f = (Finding){0};
    patches_compare(&d, OP_QKV, &patches, &scales, &f);
    CHECK(isinf(f.ratio) && f.element == 2 && isnan(f.device), "%g at %d", f.ratio, f.element);
    DiffDigest digest = patches_digest(&patches, true);
    CHECK(isnan(digest.rms));
    patches_take(&patches);
    CHECK(host[0] == 1.0078125f && isnan(host[2]));
    CHECK(patches_digest(&patches, true).hash == patches_digest(&patches, false).hash);
}

int main(void) {
    for (int i = 0; i < 21; i++) many_tokens[i] = (i * 91 + 17) % 2048;
    RUN(numbers);
    RUN(a_halted_round);
    RUN(two_alike);
    RUN(attention_in_parts);
    RUN(some_of_the_steps);
    RUN(flipped_numbers);
    RUN(flipped_experts);
    RUN(an_input_written_over);
    RUN(near_ties);
    checkpoint_close(weights);
    ctx_free(ctx);
    return check_done();
}
