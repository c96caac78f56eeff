// What `tilerun bench` measures and says, without a GPU: the sums of a trace, bytes by op, the experts that were
// active, the streaming rate, and the kernel launched anew, on the driver of fake_cuda.c, where a round takes a
// millisecond.
#include "fake_bundle.h" // before damage.h, whose ctx its own would shadow
#include "bench_report.h"
#include "damage.h"
#include "fake_session.h"
#include "gpu.h"
#include "phases.h"

static char bundle_path[1000], pair_path[1000], weights_path[1000];

static tr_session *bench_opened(const char *behaviour, const char *bundle, bool trace) {
    bool alone = bundle == pair_path;
    return opened(behaviour, (tr_options){.bundle = bundle,
                                          .weights = alone ? "synthetic:1" : weights_path,
                                          .threads = 2,
                                          .context = 1500,
                                          .cuda = library,
                                          .trace = trace,
                                          .alone = alone});
}

static void closed(tr_session *s) {
    tr_close(s);
    CHECK(fake()->allocations == 0 && fake()->kernels == 0 && fake()->events == 0);
}

static void generate(tr_session *s, int count, bool no_draft) {
    tr_request r = request(count);
    tr_result result;
    r.no_draft = no_draft;
    CHECK(tr_generate(s, &r, &result) == 0);
    check_chain(&result, (size_t)count);
}

// ---- Sums of a trace ----

static Prog *prog_of(const char *path, Model **model) {
    Bundle *bundle = bundle_read(ctx, path);
    const Section *text = bundle_section(bundle, "prog"), *yaml = bundle_section(bundle, "model");
    if (model) *model = model_read(ctx, source_new(ctx, "model", yaml->data, yaml->size));
    return prog_parse(ctx, source_new(ctx, "prog", text->data, text->size));
}

static int step_of(const Prog *prog, OpId op, int nth, uint32_t *instance) {
    for (int i = 0, layer; i < prog_instances(prog); i++) {
        const Body *body = &prog->bodies[prog_instance(prog, i, &layer)->body];
        for (int s = 0; s < body->step_count; s++)
            if (body->steps[s].op == op && nth-- == 0) return *instance = (uint32_t)i, s;
    }
    CHECK(false, "no such step");
    return 0;
}

enum { ROOM = 8 };
// posted, ready, begun, ended
static EngineTrace record(const Prog *prog, OpId op, int nth, uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
    EngineTrace r = {0, 0, a, b, c, d};
    r.step = (uint32_t)step_of(prog, op, nth, &r.instance);
    return r;
}

static void sums_of_a_trace(void) {
    FRESH();
    Prog *prog = prog_of(bundle_path, NULL);
    // Two rounds, (1000, 2000] and (2000, 3000]. Of the first all is known; an expert's down overlaps the last up.
    EngineTrace at[2][ROOM] = {
        {record(prog, OP_QKV, 0, 1000, 1050, 1060, 1200), record(prog, OP_EXPERTS_UP, 0, 1100, 1300, 1310, 1500),
         record(prog, OP_EXPERTS_DOWN, 0, 1200, 1400, 1410, 1450), record(prog, OP_QKV, 0, 2010, 2020, 2030, 2100)},
        {record(prog, OP_QKV, 0, 1000, 1010, 1020, 1400), record(prog, OP_EXPERTS_DOWN, 0, 1400, 1500, 1510, 1700),
         record(prog, OP_DRAFT_QKV, 0, 1410, 1420, 900, 1430), // skipped: it began in another
         record(prog, OP_QKV, 0, 2010, 2010, 2500, 2900)}};
    uint64_t ends[] = {1000, 2000, 3000};
    bool decoded[] = {false, true, true};
    TraceRecords records = {at[0], 2, ROOM};
    TraceRounds rounds = {ends, decoded, 2};
    TraceSums sums;
    CHECK(trace_sums(ctx, prog, &records, &rounds, &sums), "%s", reported());
    const TraceOp *qkv = &sums.of[SEGMENT_TARGET][OP_QKV], *up = &sums.of[SEGMENT_TARGET][OP_EXPERTS_UP],
                  *down = &sums.of[SEGMENT_TARGET][OP_EXPERTS_DOWN];
    CHECK(sums.rounds == 1 && sums.total == 1000);
    CHECK(qkv->time == 400 && qkv->steps == 1 && qkv->tasks == 2 && qkv->waits == 60 && qkv->work == 140 + 380);
    CHECK(up->time == 100 && down->time == 200 && down->tasks == 2 && down->work == 40 + 190);
    CHECK(sums.of[SEGMENT_DRAFT][OP_DRAFT_QKV].tasks == 0);
    uint32_t instance;
    const Body *body = &prog->bodies[0];
    int step = step_of(prog, OP_EXPERTS_UP, 0, &instance), layer, tiles = 0;
    body = &prog->bodies[prog_instance(prog, (int)instance, &layer)->body];
    for (int i = 0; i < body->pools[0].item_count; i++) tiles += body->pools[0].items[i].step == step;
    CHECK(fabs(sums.experts * tiles - 1) < 1e-9);

    rounds.count = 3;
    CHECK(trace_sums(ctx, prog, &records, &rounds, &sums) && sums.rounds == 2 && sums.total == 2000);
    CHECK(sums.of[SEGMENT_TARGET][OP_QKV].time == 400 + 900);

    // A ring that has gone round: what was posted before its oldest record is not all there.
    records.room = 4;
    EngineTrace ring[2][4];
    for (int w = 0; w < 2; w++) memcpy(ring[w], at[w], sizeof ring[w]);
    ring[0][0] = record(prog, OP_QKV, 1, 2200, 2300, 2310, 2400);
    records.at = ring[0];
    CHECK(trace_sums(ctx, prog, &records, &rounds, &sums) && sums.rounds == 1 && sums.total == 1000);
    CHECK(sums.of[SEGMENT_TARGET][OP_QKV].steps == 2 && sums.of[SEGMENT_TARGET][OP_EXPERTS_UP].tasks == 0);
    decoded[2] = false;
    CHECK(!trace_sums(ctx, prog, &records, &rounds, &sums));
    CHECK(strstr(reported(), "E0917"));
}

static void bytes_of_a_round(void) {
    FRESH();
    Model *m;
    Prog *prog = prog_of(pair_path, &m);
    Traffic far = traffic_of(m, prog, 10, 1000), near = traffic_of(m, prog, 5, 20);
    // Hidden 512, an expert's inner 256, of which each rank has half; five layers of experts.
    double expert = 512 * 128 * 4.25 / 8;
    CHECK(traffic_op(&far, OP_EXPERTS_UP).weights == 5 * 10 * 2 * expert && traffic_op(&far, OP_EXPERTS_UP).times == 5);
    CHECK(traffic_op(&near, OP_EXPERTS_DOWN).weights == 5 * 5 * expert);
    CHECK(traffic_op(&far, OP_HEAD).weights == 1024 * 512 * 2 && traffic_op(&far, OP_ROUTE).weights == 0);
    double kept[2] = {0};
    for (int i = 0; i < m->layer_count; i++) {
        const Attention *a = &m->attention[m->layers[i].attention];
        double bytes = a->kv_heads / 2 * (KEY_DIM(a->qk_dim) + a->v_dim) * 2;
        kept[0] += bytes * (a->window ? a->window - 1 : 1000);
        kept[1] += bytes * 20;
    }
    CHECK(m->attention[ATTENTION_WINDOW].window > 20 && m->attention[ATTENTION_FULL].heads > 0);
    CHECK(traffic_op(&far, OP_ATTENTION).caches == kept[0] && traffic_op(&near, OP_ATTENTION).caches == kept[1],
          "%g %g", traffic_op(&far, OP_ATTENTION).caches, kept[0]);
    CHECK(traffic_op(&far, OP_DRAFT_ATTENTION).caches > 0 && traffic_op(&far, OP_QKV).caches == 0);
    CHECK(fabs(traffic_experts(m, 8) - 24 * (1 - pow(1 - 4 / 24.0, 8))) < 1e-9);
}

static void room_for_a_trace(void) {
    FRESH();
    Prog *prog = prog_of(bundle_path, NULL);
    int64_t most = 0, pooled = 0;
    for (int w = 0; w < prog->workers; w++) {
        int64_t tasks = 0;
        for (int i = 0, layer; i < prog_instances(prog); i++) {
            const Queue *q = prog_queue(prog, &prog->bodies[prog_instance(prog, i, &layer)->body], w, ROLE_COMPUTE);
            for (int e = 0; e < q->count; e++) tasks += q->entries[e].kind == ENTRY_TASK;
        }
        most = tasks > most ? tasks : most;
    }
    for (int i = 0, layer; i < prog_instances(prog); i++) {
        const Body *body = &prog->bodies[prog_instance(prog, i, &layer)->body];
        for (int p = 0; p < body->pool_count; p++) pooled += body->pools[p].keys * body->pools[p].item_count;
    }
    CHECK(pooled > 0 && trace_room(prog, 3) >= 3 * (most + pooled / prog->workers));
    CHECK(trace_room(prog, 3) == 3 * trace_room(prog, 1) && trace_room(prog, 1) < 3 * (most + pooled));
}

// ---- Sessions ----

static const tr_phase *phase(const tr_phases *all, const char *name) {
    for (int i = 0; i < all->op_count; i++)
        if (strcmp(all->ops[i].name, name) == 0) return &all->ops[i];
    for (int i = 0; i < all->sum_count; i++)
        if (strcmp(all->sums[i].name, name) == 0) return &all->sums[i];
    return NULL;
}

static void phases_add_up(void) {
    tr_phases p;
    tr_session *s = bench_opened("experts=7", bundle_path, true);
    CHECK(tr_trace(s, true) == 0);
    generate(s, 200, false);
    CHECK(fake()->params.trace && tr_traced(s, 500, &p) == 0);
    CHECK(p.rounds >= 6 && fabs(p.us - 1000) < 1e-6 && fabs(p.experts - 7) < 1e-9);
    double us = p.other_us, bytes = 0;
    for (int i = 0; i < p.op_count; i++) us += p.ops[i].us, bytes += p.ops[i].bytes;
    CHECK(p.op_count > 20 && fabs(us - 1000) < 1e-6 && p.other_us > 0, "%g", us);
    CHECK(fabs(bytes - p.weights - p.cache) < 1 && p.cache > 0);
    const tr_phase *up = phase(&p, "experts_up"), *down = phase(&p, "experts_down"),
                   *both = phase(&p, "experts (up, SwiGLU, down)");
    CHECK(up && down && both && up->times == 5 && fabs(up->us - 5) < 1e-6);
    CHECK(up->bytes == 5 * 7 * 2 * (384 * 128 * 4.25 / 8) && fabs(up->task_us - 0.9) < 1e-9);
    CHECK(fabs(both->us - up->us - down->us) < 1e-9 && both->bytes == up->bytes + down->bytes &&
          both->tasks == up->tasks + down->tasks);
    CHECK(fabs(both->wait_us * both->tasks - up->wait_us * up->tasks - down->wait_us * down->tasks) < 1e-6);
    const tr_phase *qkv = phase(&p, "qkv"), *o = phase(&p, "o_proj"),
                   *projections = phase(&p, "attention projections (qkv, o_proj)");
    CHECK(projections && fabs(projections->us - qkv->us - o->us) < 1e-9);
    double drafter = 0;
    for (int i = 0; i < p.op_count; i++)
        if (strncmp(p.ops[i].name, "draft_", 6) == 0 || strcmp(p.ops[i].name, "fc") == 0 ||
            strncmp(p.ops[i].name, "context", 7) == 0)
            drafter += p.ops[i].us;
    CHECK(fabs(phase(&p, "drafter and its head")->us - drafter) < 1e-6);

    generate(s, 50, true); // still traced; nothing of the drafter runs, and none of its bytes count
    CHECK(tr_traced(s, 500, &p) == 0 && !phase(&p, "draft_qkv") && !phase(&p, "drafter and its head"));
    CHECK(p.weights > 0 && p.weights < bytes);
    closed(s);
}

static void requests_are_traced_when_asked(void) {
    tr_phases p;
    tr_session *s = bench_opened("", bundle_path, true);
    int launches = fake()->launches;
    generate(s, 30, false);
    CHECK(fake()->params.trace == 0 && fake()->launches == launches);
    CHECK(tr_traced(s, 0, &p) == 1);
    keep(s);
    SAID("the last request was not traced");
    CHECK(tr_trace(s, true) == 0);
    CHECK(fake()->launches == launches); // with the next request
    generate(s, 30, false);
    CHECK(fake()->params.trace != 0 && fake()->launches == launches + 1);
    CHECK(tr_trace(s, false) == 0);
    for (int i = 0; i < 3; i++) generate(s, 30, false);
    CHECK(fake()->params.trace == 0 && fake()->launches == launches + 2);
    closed(s);

    s = bench_opened("", bundle_path, false);
    CHECK(tr_trace(s, true) == 1);
    keep(s);
    SAID("opened without a trace");
    closed(s);

    CHECK(tr_open(&(tr_options){.bundle = bundle_path, .weights = weights_path, .threads = 2, .host = true}, &s) == 0);
    double rate = 1;
    CHECK(tr_trace(s, true) == 1 && tr_traced(s, 0, &p) == 1 && tr_stream(s, &rate) == 0 && rate == 0);
    keep(s);
    SAID("the host executor keeps no trace");
    tr_close(s);
}

static void a_kernel_that_hung_is_not_launched_anew(void) {
    tr_session *s = bench_opened("dies,silent", bundle_path, true);
    tr_request r = request(50);
    tr_result result;
    CHECK(tr_generate(s, &r, &result) == 4 && tr_trace(s, true) == 4);
    closed(s);
}

// The kernel that reads, alone on the device; then the engine again, which finds all as it was at first.
static void the_streaming_rate(void) {
    FRESH();
    setenv("FAKE_CUDA", "", 1);
    Bundle *bundle = bundle_read(ctx, bundle_path);
    Model *model;
    Prog *prog = prog_of(bundle_path, &model);
    Checkpoint *weights = checkpoint_open(ctx, model, weights_path);
    PackList list;
    Decoder d;
    double rate = 1;
    volatile sig_atomic_t cancelled = 0;
    CHECK(weights && pack_list(ctx, model, weights, 0, 1, &list));
    GpuOptions o = {.library = library, .context = 100, .threads = 2, .cancelled = &cancelled};
    CHECK(gpu_open(ctx, model, prog, bundle, &list, &o, &d) == EXIT_OK, "%s", reported());
    int reads = fake()->reads;
    CHECK(gpu_stream(&d, &rate) == EXIT_OK && rate == 0 && fake()->reads == reads && fake()->kernels == 1);
    list.bytes = (3ull << 30) + 5; // as if: the kernel that reads does not in this driver
    CHECK(gpu_stream(&d, &rate) == EXIT_OK && fake()->reads > reads + 3 && fake()->kernels == 0);
    CHECK(fake()->reads_beside == 0 && fake()->events == 0);
    CHECK(fake()->read.chunks == (3ull << 30) / STREAM_CHUNK && rate == (double)(3ull << 30) / 2e-3, "%g", rate);
    const EngineParams *p = &fake()->params;
    const uint8_t *slab = (const uint8_t *)(uintptr_t)p->slab, *state = (const uint8_t *)(uintptr_t)p->state;
    const EngineTables *tables = (const EngineTables *)(uintptr_t)p->tables;
    CHECK(tables->magic == TABLES_MAGIC);
    for (int turn = 0; turn < 3; turn++) {
        DecodedRound round = {0};
        DecodeRequest r = {.prompt = prompt, .prompt_count = 10, .limit = 20, .draft = true};
        CHECK(d.begin(d.self, &r) == EXIT_OK);
        while (!round.last) CHECK(d.next(d.self, &round) == EXIT_OK);
        d.end(d.self);
        memset((void *)(uintptr_t)p->slab, 0x55, 1000);
        memset((void *)(uintptr_t)p->state, 0x55, p->tables - p->state);
        CHECK(gpu_stream(&d, &rate) == EXIT_OK);
        for (int i = 0; i < 1000; i++) CHECK(slab[i] == 0);
        for (uint64_t i = 0; i < p->tables - p->state; i++) CHECK(state[i] == 0);
    }
    d.close(d.self);
    CHECK(fake()->allocations == 0 && fake()->kernels == 0);
    checkpoint_close(weights);
}

// ---- What is printed ----

typedef struct Printed {
    char *text, *json, *trace;
    json_t *root;
} Printed;

static Printed printed(const char *bundle, BenchJob job, BenchReport *report) {
    Printed out = {0};
    size_t length;
    json_error_t error;
    job.text = open_memstream(&out.text, &length);
    job.json = open_memstream(&out.json, &length);
    job.trace = open_memstream(&out.trace, &length);
    if (report) {
        report->job = &job;
        CHECK(bench_report(report));
    } else {
        tr_session *s = bench_opened("", bundle, true);
        CHECK(bench_run(s, &job) == 0);
        closed(s);
    }
    fclose(job.text);
    fclose(job.json);
    fclose(job.trace);
    out.root = json_loads(out.json, 0, &error);
    CHECK(out.root, "%s", error.text);
    return out;
}

static double number(const json_t *at, const char *path) {
    char word[64];
    while (*path) {
        size_t n = strcspn(path, "/");
        snprintf(word, sizeof word, "%.*s", (int)n, path);
        at = json_object_get(at, word);
        path += n + (path[n] == '/');
    }
    CHECK(json_is_number(at), "no %s", word);
    return json_number_value(at);
}

static void printed_free(Printed *p) {
    free(p->text);
    free(p->json);
    free(p->trace);
    json_decref(p->root);
}

static void what_a_bench_says(void) {
    Printed p = printed(bundle_path, (BenchJob){.rounds = 20}, NULL);
    CHECK(number(p.root, "ms/median") == 1 && number(p.root, "rounds") == 20 && number(p.root, "experts_active") == 5);
    CHECK(number(p.root, "bytes/round") == number(p.root, "bytes/weights") + number(p.root, "bytes/cache"));
    CHECK(fabs(number(p.root, "bytes_per_second") / number(p.root, "bytes/round") - 1000) < 1e-3);
    CHECK(!json_object_get(p.root, "streaming") && !json_object_get(p.root, "rank"));
    const json_t *ops = json_object_get(json_object_get(p.root, "phases"), "ops");
    double us = number(p.root, "phases/other_us"), share = 0;
    for (size_t i = 0; i < json_array_size(ops); i++) {
        us += number(json_array_get(ops, i), "us"), share += number(json_array_get(ops, i), "share");
        CHECK(strstr(p.text, json_string_value(json_object_get(json_array_get(ops, i), "name"))));
    }
    CHECK(json_array_size(ops) > 20 && fabs(us - number(p.root, "phases/us_a_round")) < 1e-3 && share < 1);
    json_error_t error;
    json_t *trace = json_loads(p.trace, 0, &error);
    CHECK(trace && json_equal(trace, json_object_get(p.root, "phases")));
    json_decref(trace);
    printed_free(&p);

    p = printed(pair_path, (BenchJob){.rounds = 5, .alone = true, .context = 1000, .no_draft = true}, NULL);
    CHECK(number(p.root, "rank") == 0 && number(p.root, "context") == 1000 && number(p.root, "acceptance") == 1);
    CHECK(strstr(p.text, "rank 0 alone, context 1000") && strstr(p.text, "reduce"));
    printed_free(&p);
}

static void shares_of_the_streaming_rate(void) {
    tr_phase up = {"up", 2, 50, 1e8, 10, 1.5, 2.5}, both = {"both", 3, 80, 1.2e8, 12, 1, 2},
             idle = {"idle", 1, 5, 0, 1, 0, 1};
    tr_phase ops[] = {up, idle};
    BenchReport r = {.gpu = true,
                     .drafts = true,
                     .traced = true,
                     .times = {0.1, 0.09, 0.12, 0.101, 30},
                     .acceptance = 6.3,
                     .streaming = {3e12, 4e12},
                     .phases = {6, 100, 20, 59.5, 1.9e8, 1e7, ops, 2, &both, 1}};
    Printed p = printed(NULL, (BenchJob){.alone = true, .rank = 3}, &r);
    CHECK(number(p.root, "streaming/before") == 3e12 && number(p.root, "streaming/after") == 4e12);
    CHECK(number(p.root, "streaming/bytes_per_second") == 4e12);
    CHECK(fabs(number(p.root, "share_of_streaming") - 0.5) < 1e-6 && number(p.root, "bytes/round") == 2e8);
    CHECK(fabs(number(p.root, "tokens_per_second_at/4.29") - 42900) < 1e-3);
    json_t *phases = json_object_get(p.root, "phases"), *first = json_array_get(json_object_get(phases, "ops"), 0);
    CHECK(number(first, "share_of_streaming") == 0.5 && number(first, "share") == 0.5 &&
          number(first, "wait_us") == 1.5);
    CHECK(!json_object_get(json_array_get(json_object_get(phases, "ops"), 1), "bytes_per_second"));
    CHECK(number(json_array_get(json_object_get(phases, "sums"), 0), "share_of_streaming") == 0.375);
    CHECK(strstr(p.text, "3.000 TB/s before the rounds, 4.000 TB/s after") &&
          strstr(p.text, "50.0 % of the streaming") && strstr(p.text, "59.5 experts") && strstr(p.text, "between ops"));
    printed_free(&p);
}

int main(void) {
    library_find();
    snprintf(bundle_path, sizeof bundle_path, "%s/fake.bundle", demo_tmp());
    snprintf(pair_path, sizeof pair_path, "%s/pair.bundle", demo_tmp());
    snprintf(weights_path, sizeof weights_path, "%s/models/demo", demo_root());
    check_name = "set-up";
    if (setjmp(check_landing)) return 1;
    fake_bundle(bundle_path);
    fake_ranks = 2;
    fake_bundle(pair_path);
    if (!fake_open()) return 1;
    RUN(sums_of_a_trace);
    RUN(bytes_of_a_round);
    RUN(room_for_a_trace);
    RUN(phases_add_up);
    RUN(requests_are_traced_when_asked);
    RUN(a_kernel_that_hung_is_not_launched_anew);
    RUN(the_streaming_rate);
    RUN(what_a_bench_says);
    RUN(shares_of_the_streaming_rate);
    ctx_free(ctx);
    return check_done();
}
