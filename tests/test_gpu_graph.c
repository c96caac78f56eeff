// The graph arm without a GPU: how a round is cut into kernels, against the regions of its tasks; what is launched, in
// which order and with which parameters (fake_cuda.c); the arms in turns; everything that can fail.
#include "fake_model.h" // before damage.h, whose ctx its own would shadow
#include "../runtime/gpu_graph_plan.h"
#include "cubin.h"
#include "cuda.h"
#include "damage.h"
#include "emit.h"
#include "fake_session.h"
#include <sys/wait.h>
#include <unistd.h>

static char bundle_path[1000], plain_path[1000], pair_path[1000], weights_path[1000];

// ---- Bundles without a real kernel ----

typedef struct Making {
    const char *path;
    int ranks;
    bool graph;
} Making;

static void bundle_body(Ctx *c, void *user) {
    static const Templates none;
    const Making *m = user;
    Compiled *compiled = fake_compiled(c, m->ranks);
    Cubin cubin = {.data = "cubin", .size = 6, .templates = &none, .nvrtc = "0.0"};
    compiled->cubin = &cubin;
    if (m->graph) compiled->graph = &cubin;
    CHECK(bundle_write(c, compiled, m->path));
}

static void bundle_make(const char *path, int ranks, bool graph) {
    Making m = {path, ranks, graph};
    Ctx *c = ctx_new((Env){0});
    CHECK(ctx_protect(c, bundle_body, &m));
    diag_print(c, stderr, DIAG_TEXT);
    ctx_free(c);
}

// ---- The cut ----

static bool ranges_meet(Index a, Index b) {
    if (a.kind != INDEX_RANGE || b.kind != INDEX_RANGE) return true;
    if (a.lo == a.hi && b.lo == b.hi) return true; // no such dimension
    return a.lo < b.hi && b.lo < a.hi;
}

static bool regions_meet(const Prog *prog, const Region *a, int count_a, const Region *b, int count_b,
                         bool same_layer) {
    for (int i = 0; i < count_a; i++)
        for (int k = 0; k < count_b; k++) {
            if (a[i].buffer != b[k].buffer) continue;
            if (prog->buffers[a[i].buffer].layers > 0 && !same_layer && !a[i].all_layers && !b[k].all_layers) continue;
            bool meet = true;
            for (int d = 0; d < REGION_RANK; d++) meet = meet && ranges_meet(a[i].at[d], b[k].at[d]);
            if (meet) return true;
        }
    return false;
}

typedef struct Tasks {
    const Task *at[4096];
    int count;
} Tasks;
static void tasks_of(const Prog *prog, const Body *body, int step, Tasks *out) {
    out->count = 0;
    for (int q = 0; q < prog->workers * ROLE_COUNT; q++)
        for (int i = 0; i < body->queues[q].count; i++) {
            const Entry *e = &body->queues[q].entries[i];
            if (e->kind == ENTRY_TASK && e->task.step == step) out->at[out->count++] = &e->task;
        }
    for (int p = 0; p < body->pool_count; p++)
        for (int i = 0; i < body->pools[p].item_count; i++)
            if (body->pools[p].items[i].step == step) out->at[out->count++] = &body->pools[p].items[i];
}

static bool steps_meet(const Prog *prog, const Tasks *a, const Tasks *b, bool same_layer) {
    for (int i = 0; i < a->count; i++)
        for (int k = 0; k < b->count; k++) {
            const Task *x = a->at[i], *y = b->at[k];
            if (regions_meet(prog, x->writes, x->write_count, y->writes, y->write_count, same_layer) ||
                regions_meet(prog, x->writes, x->write_count, y->reads, y->read_count, same_layer) ||
                regions_meet(prog, x->reads, x->read_count, y->writes, y->write_count, same_layer))
                return true;
        }
    return false;
}

// Every step of every instance of the kind once; steps that meet in a region in the order of the round.
static void check_cut(const Prog *prog, const GraphPlan *plan, int kind) {
    enum { MOST = 4096 };
    static int kernel_of[MOST][64];
    static Tasks one, two;
    int instances = prog_instances(prog), merged = 0;
    memset(kernel_of, -1, sizeof kernel_of);
    for (int k = 0; k < plan->count[kind]; k++) {
        const GraphKernel *kernel = &plan->kernels[kind][k];
        CHECK(kernel->count >= 1 && kernel->count <= NODE_INSTANCES);
        for (int i = 0; i < kernel->count; i++) {
            CHECK(i == 0 || kernel->parts[i].instance > kernel->parts[i - 1].instance);
            for (int s = 0; s < 64; s++) {
                if (!(kernel->parts[i].steps >> s & 1)) continue;
                CHECK(kernel_of[kernel->parts[i].instance][s] < 0);
                kernel_of[kernel->parts[i].instance][s] = k;
            }
        }
    }
    // What a kernel reads early was written two kernels before, or in an earlier round: accept, which writes the next
    // state, is its last kernel alone, and attention, which reads the caches early, never in its first.
    for (int b = 0, layer; b < instances; b++) {
        const Body *body = &prog->bodies[prog_instance(prog, b, &layer)->body];
        for (int s = 0; s < body->step_count; s++) {
            OpId op = body->steps[s].op;
            if (op == OP_ACCEPT) {
                const GraphKernel *last = &plan->kernels[kind][plan->count[kind] - 1];
                CHECK(last->count == 1 && last->parts[0].instance == b && last->parts[0].steps == 1ull << s);
            }
            if (kernel_of[b][s] < 0 || (op != OP_ATTENTION && op != OP_DRAFT_ATTENTION)) continue;
            CHECK(kernel_of[b][s] > 0 && plan->kernels[kind][kernel_of[b][s]].caches);
        }
    }
    for (int b = 0; b < instances; b++) {
        int layer_b;
        const RoundItem *item_b = prog_instance(prog, b, &layer_b);
        bool skipped = (item_b->segment == SEGMENT_DRAFT && kind != ROUND_DRAFT) ||
                       (item_b->segment == SEGMENT_CONTEXT && kind == ROUND_PLAIN);
        const Body *body_b = &prog->bodies[item_b->body];
        for (int t = 0; t < 64; t++) CHECK((kernel_of[b][t] >= 0) == (!skipped && t < body_b->step_count));
        if (skipped) continue;
        for (int t = 0; t < body_b->step_count; t++)
            for (int a = 0; a <= b; a++) {
                int layer_a;
                const Body *body_a = &prog->bodies[prog_instance(prog, a, &layer_a)->body];
                for (int s = 0; s < (a == b ? t : body_a->step_count); s++) {
                    if (kernel_of[a][s] < 0 || kernel_of[a][s] < kernel_of[b][t]) continue;
                    tasks_of(prog, body_a, s, &one);
                    tasks_of(prog, body_b, t, &two);
                    CHECK(!steps_meet(prog, &one, &two, layer_a == layer_b), "kind %d: %s of %d and %s of %d", kind,
                          op_name(body_a->steps[s].op), a, op_name(body_b->steps[t].op), b);
                    merged++;
                }
            }
    }
    CHECK(merged > 0); // append and attention of a layer at least
}

// A worker's queues of all kernels of an instance are its queues of the body; entries neither wait nor signal.
static void check_tables(const Prog *prog, const EngineTables *t, const GraphPlan *plan, int kind) {
    const EngineQueue *queues = (const void *)((const uint8_t *)t + t->queue_at);
    const EngineEntry *entries = (const void *)((const uint8_t *)t + t->entry_at),
                      *out = (const void *)(plan->tables + plan->entry_at);
    const EnginePool *pools = (const void *)(plan->tables + plan->pool_at);
    for (int i = 0; i < prog_instances(prog); i++) {
        int layer, body = prog_instance(prog, i, &layer)->body;
        for (uint32_t q = 0; q < t->workers * ROLE_COUNT; q++) {
            const EngineQueue *want = &queues[(uint32_t)body * t->workers * ROLE_COUNT + q];
            uint32_t seen = 0, items = 0, of_pools = 0;
            for (uint32_t n = 0; n < want->count; n++) of_pools += entries[want->first + n].kind == ENGINE_POOL;
            for (int k = 0; k < plan->count[kind]; k++)
                for (int p = 0; p < plan->kernels[kind][k].count; p++) {
                    const GraphPart *part = &plan->kernels[kind][k].parts[p];
                    if (part->instance != i) continue;
                    const EngineQueue *at =
                        (const EngineQueue *)(const void *)(plan->tables + plan->kernels[kind][k].queue_at) +
                        (uint32_t)p * t->workers * ROLE_COUNT + q;
                    for (uint32_t n = 0; n < at->count; n++) {
                        const EngineEntry *e = &out[at->first + n];
                        CHECK(e->wait_count == 0 && e->signal_count == 0 && part->steps >> e->body_step & 1);
                        if (e->kind == ENGINE_POOL) {
                            CHECK(e->pool >= t->pool_count && e->pool < plan->claims && pools[e->pool].items == 1);
                            CHECK(out[pools[e->pool].item].body_step == e->body_step);
                            CHECK(e->lo == (int)(part->late >> e->body_step & 1));
                            items++;
                        } else
                            seen++;
                    }
                }
            bool present = prog_instance(prog, i, &layer)->segment == SEGMENT_TARGET || kind == ROUND_DRAFT;
            if (present) CHECK(seen + of_pools == want->count && items == 2 * of_pools, "%u %u", seen, items);
        }
    }
    for (uint32_t i = 0; i < t->pool_count; i++) CHECK(pools[i].credits == 0);
}

static void cut_body(Ctx *c, void *user) {
    int ranks = *(int *)user;
    Compiled *compiled = fake_compiled(c, ranks);
    const void *tasks;
    size_t bytes;
    CHECK(tasks_encode(c, compiled, &tasks, &bytes));
    GraphPlan *plan = graph_plan(c, compiled->prog, tasks);
    for (int kind = 0; kind < ROUND_KINDS; kind++) {
        check_cut(compiled->prog, plan, kind);
        check_tables(compiled->prog, tasks, plan, kind);
    }
    CHECK(plan->count[ROUND_PLAIN] < plan->count[ROUND_CONTEXT] &&
          plan->count[ROUND_CONTEXT] < plan->count[ROUND_DRAFT]);
}
static void one_and_two_ranks(void (*body)(Ctx *, void *)) {
    for (int ranks = 1; ranks <= 2; ranks++) {
        Ctx *c = ctx_new((Env){0});
        bool sound = ctx_protect(c, body, &ranks);
        ctx_free(c);
        CHECK(sound);
    }
}

// Whether task `task` of a queue may count on what it reads of a buffer: an earlier one wrote it, or waited for it.
static bool was_there(const Prog *prog, const Queue *queue, int task, const Region *r) {
    for (int i = 0; i < task; i++) {
        const Task *before = &queue->entries[i].task;
        if (queue->entries[i].kind != ENTRY_TASK) continue;
        for (int w = 0; w < before->write_count; w++)
            if (memcmp(before->writes[w].at, r->at, sizeof r->at) == 0 && before->writes[w].buffer == r->buffer)
                return true;
        for (int w = 0; w < before->wait_count; w++) {
            const char *counter = prog->counters[before->waits[w].counter].name,
                       *buffer = prog->buffers[r->buffer].name;
            size_t length = strlen(buffer);
            if (strncmp(counter, buffer, length) == 0 && strcmp(counter + length, ".w") == 0) return true;
        }
    }
    return false;
}

// A buffer or its counter.
static bool of_inbox(const char *name) {
    return strncmp(name, "ix", 2) == 0 || strncmp(name, "im", 2) == 0 || strncmp(name, "di", 2) == 0;
}
static bool routes(const Body *body, const Queue *queue) {
    for (int i = 0; i < queue->count; i++)
        if (queue->entries[i].kind == ENTRY_TASK && body->steps[queue->entries[i].task.step].op == OP_ROUTE)
            return true;
    return false;
}

static void early_body(Ctx *c, void *user) {
    const Compiled *compiled = fake_compiled(c, *(int *)user);
    const Prog *prog = compiled->prog;
    const void *tasks;
    size_t bytes;
    int early = 0, others = 0;
    CHECK(tasks_encode(c, compiled, &tasks, &bytes));
    const EngineTables *t = tasks;
    const EngineQueue *queues = (const void *)((const uint8_t *)t + t->queue_at);
    const EngineEntry *entries = (const void *)((const uint8_t *)t + t->entry_at);
    for (int b = 0; b < prog->body_count; b++)
        for (int w = 0; w < prog->workers; w++) {
            const Body *body = &prog->bodies[b];
            const Queue *queue = prog_queue(prog, body, w, ROLE_COMPUTE);
            const EngineEntry *e = entries + queues[(b * prog->workers + w) * ROLE_COUNT + ROLE_COMPUTE].first;
            for (int i = 0; i < queue->count; i++, e++) {
                const Task *task = &queue->entries[i].task;
                if (queue->entries[i].kind != ENTRY_TASK) {
                    while (e->kind != ENGINE_POOL) e++; // inputs come before it
                    CHECK(e->page == (routes(body, queue) ? 1 : 0));
                    continue;
                }
                CHECK(e->body_step == task->step && e->lo == task->lo);
                OpId op = body->steps[task->step].op;
                if (e->kind == ENGINE_EARLY) {
                    CHECK(op == OP_REDUCE && task->write_count == 1); // what the drafter listens to has other readers
                    for (int k = 0; k < task->wait_count; k++)
                        CHECK(of_inbox(prog->counters[task->waits[k].counter].name));
                    early++;
                    for (int r = 0; r < task->read_count; r++) {
                        const char *name = prog->buffers[task->reads[r].buffer].name;
                        CHECK(of_inbox(name) || strcmp(name, "state") == 0 ||
                                  was_there(prog, queue, i, &task->reads[r]),
                              "%s", name);
                    }
                } else
                    others += op == OP_REDUCE;
            }
        }
    CHECK(prog->ranks > 1 ? early > 0 : early == 0, "%d early, %d not", early, others);
}
// Tasks whose inputs say themselves that they are there: what else they read was there for a task before.
static void what_begins_early(void) { one_and_two_ranks(early_body); }

static void rounds_are_cut_into_kernels(void) { one_and_two_ranks(cut_body); }

static void text_body(Ctx *c, void *user) {
    (void)user;
    Compiled *compiled = fake_compiled(c, 1);
    const char *engine = emit_cuda(c, compiled), *graph = emit_graph(c, compiled);
    CHECK(engine && graph);
    CHECK(strstr(engine, "bool RESIDENT = true") && strstr(engine, ENGINE_KERNEL "(") && !strstr(engine, GRAPH_KERNEL));
    CHECK(strstr(graph, "bool RESIDENT = false") && strstr(graph, "graph_node<Model>(node)") &&
          !strstr(graph, ENGINE_KERNEL));
}
static void two_translation_units(void) {
    Ctx *c = ctx_new((Env){0});
    bool sound = ctx_protect(c, text_body, NULL);
    ctx_free(c);
    CHECK(sound);
}

// ---- Sessions ----

static tr_options options(void) {
    return (tr_options){.bundle = bundle_path, .weights = weights_path, .threads = 2, .cuda = library, .graph = true};
}
static void nothing_left(void) {
    const FakeCuda *f = fake();
    CHECK(f->allocations == 0 && f->hosts == 0 && f->contexts == 0 && f->modules == 0 && f->streams == 0 &&
              f->kernels == 0 && f->graphs == 0,
          "%d %d %d %d %d %d %d are left", f->allocations, f->hosts, f->contexts, f->modules, f->streams, f->kernels,
          f->graphs);
}
static void closed(tr_session *s) {
    tr_close(s);
    nothing_left();
}
static void refused(tr_options o, int want) {
    tr_session *s;
    setenv("FAKE_CUDA", "", 1);
    int code = tr_open(&o, &s);
    keep(s);
    tr_close(s);
    CHECK(code == want, "exit %d, not %d\n# %s", code, want, said);
    nothing_left();
}

static void what_is_launched(void) {
    int before = fake()->launches;
    tr_session *s = opened("", options());
    tr_request r = request(100);
    tr_result result;
    CHECK(tr_generate(s, &r, &result) == 0);
    check_chain(&result, 100);
    const FakeCuda *f = fake();
    int kernels = tr_session_figures(s).kernels[1], takes = f->takes;
    CHECK(f->launches == before && takes >= 1 && f->graph_launches > 3); // no engine
    CHECK(kernels > 40 && f->node && f->node_count % kernels == 0 && f->node_count / kernels > 1, "%d", kernels);
    int attending = 0;
    for (int i = 0; i < f->node_count; i++) {
        const FakeNode *n = &f->node[i];
        const EngineNode *node = &n->node;
        CHECK(n->grid == 132 && n->block == ENGINE_THREADS && n->shared + 30000 <= 232448);
        CHECK(n->early == (i > 0) && (node->flags & NODE_FIRST) == (i % kernels == 0) && node->skips == 0);
        CHECK(node->tables.instances >= 1 && node->tables.instances == node->tables.bodies);
        CHECK(node->params.slab == f->params.slab && node->params.state && node->params.trace == 0);
        CHECK(node->params.claims == node->serving + NODE_SERVING && node->params.tables > node->params.claims);
        const EngineQueue *queues = (const EngineQueue *)(uintptr_t)(node->params.tables + node->tables.queue_at);
        uint32_t entries = 0;
        for (uint32_t q = 0; q < node->tables.instances * 132 * ROLE_COUNT; q++) entries += queues[q].count;
        CHECK(entries > 0);
        attending += (node->flags & NODE_CACHES) != 0;
        CHECK(node->flags == 0 || node->flags == NODE_FIRST || node->flags == NODE_CACHES);
        for (uint32_t k = 0; k < node->tables.instances; k++) CHECK(node->instances[k].body == k);
        CHECK(i < kernels || memcmp(node, &f->node[i - kernels].node, sizeof *node) == 0);
    }
    CHECK(attending == f->node_count / kernels * (6 + 2), "%d", attending);
    r.no_draft = true;
    CHECK(tr_generate(s, &r, &result) == 0);
    check_chain(&result, 100);
    CHECK(result.rounds == 99 && fake()->takes == takes + 1);
    kernels = tr_session_figures(s).kernels[0];
    for (int i = 0; i < f->node_count; i++)
        CHECK(f->node[i].node.skips == (GATE_SKIP_DRAFT | GATE_SKIP_CONTEXT) &&
              (f->node[i].node.flags & NODE_FIRST) == (i % kernels == 0));
    closed(s);
}

static void arms_in_turns(void) {
    tr_session *s = opened("", options());
    int before = fake()->launches;
    tr_request r = request(200);
    tr_result result;
    for (int i = 0; i < 3; i++)
        for (int arm = 0; arm < 2; arm++) {
            CHECK(tr_use(s, arm ? TR_GRAPH : TR_ENGINE) == 0);
            CHECK(fake()->kernels == !arm && fake()->launches == before + i + 1);
            CHECK(tr_generate(s, &r, &result) == 0);
            check_chain(&result, 200);
            CHECK(tr_generate(s, &r, &result) == 0);
            check_chain(&result, 200);
        }
    closed(s);
    tr_options o = options();
    o.bundle = pair_path;
    o.weights = "synthetic:3";
    o.alone = true;
    o.context = 1000;
    s = opened("", o);
    for (int arm = 0; arm < 2; arm++) { // the caches are made anew
        int fills = fake()->fills;
        CHECK(tr_use(s, arm ? TR_GRAPH : TR_ENGINE) == 0 && fake()->fills == fills + 2 * 8);
        r = request(50);
        r.accept = 4;
        CHECK(tr_generate(s, &r, &result) == 0);
    }
    closed(s);
}

static void what_it_cannot(void) {
    tr_options o = options();
    o.bundle = plain_path;
    refused(o, 1);
    SAID("E0919");
    SAID("--with-graph");
    o = options();
    o.host = true;
    refused(o, 1);
    SAID("E0919");
    o = options();
    o.bundle = pair_path;
    o.weights = "synthetic:3";
    refused(o, 1);
    SAID("E0919");
    SAID("--alone");
    tr_session *s = opened("", options());
    int tokens[4] = {1, 2, 3, 4};
    float *logits = malloc(4 * 2048 * sizeof *logits);
    CHECK(tr_logits(s, tokens, 4, logits) == 1);
    free(logits);
    keep(s);
    SAID("E0919");
    closed(s);
    o = options();
    o.graph = false;
    s = opened("", o);
    CHECK(tr_use(s, TR_GRAPH) == 1);
    keep(s);
    SAID("without the graph arm");
    closed(s);
}

static void kernels_that_fail(void) {
    static const char *const cases[][2] = {{"hang", "E0906"}, {"dies", "E0916"}};
    for (int i = 0; i < 2; i++) {
        tr_session *s = opened(cases[i][0], options());
        tr_request r = request(100);
        tr_result result;
        CHECK(tr_generate(s, &r, &result) == 4);
        keep(s);
        SAID(cases[i][1]);
        CHECK(tr_use(s, TR_ENGINE) == 1);
        closed(s);
    }
}

static void cancelled(void) {
    tr_session *s = opened("", options());
    tr_request r = request(1000);
    tr_result result;
    tr_cancel(s);
    CHECK(tr_generate(s, &r, &result) == 130);
    CHECK(tr_generate(s, &r, &result) == 0);
    check_chain(&result, 1000);
    closed(s);
}

// ---- The program ----

static int run(char *const *arguments, char *out, size_t room) {
    char errors[1100];
    int pipes[2];
    size_t length = 0;
    snprintf(errors, sizeof errors, "%s/errors", demo_tmp());
    CHECK(pipe(pipes) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(pipes[1], 1);
        close(pipes[0]);
        if (!freopen(errors, "w", stderr)) _exit(126);
        execv(arguments[0], arguments);
        _exit(127);
    }
    close(pipes[1]);
    for (ssize_t n; length + 1 < room && (n = read(pipes[0], out + length, room - length - 1)) > 0;)
        length += (size_t)n;
    out[length] = 0;
    close(pipes[0]);
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
    char *program = getenv("TILERUN"), *weights = weights_path, *bundle = bundle_path, out[10000];
    setenv("TILERUN_CUDA", library, 1);
    setenv("FAKE_CUDA", "", 1);
    char *compare[] = {program, "bench", bundle, "--weights", weights, "--rounds", "20", "--compare", NULL, NULL};
    CHECK(run(compare, out, sizeof out) == 0, "%s", said);
    CHECK(strstr(out, "engine  median") && strstr(out, "graph   median") && strstr(out, "kernels a round") &&
              strstr(out, "graph / engine") && strstr(out, "tokens equal"),
          "%s", out);
    compare[8] = "--json";
    CHECK(run(compare, out, sizeof out) == 0, "%s", said);
    json_error_t error;
    json_t *root = json_loads(out, 0, &error);
    CHECK(root && json_is_true(json_object_get(root, "tokens_equal")) &&
              json_real_value(json_object_get(root, "graph_over_engine")) > 0,
          "%s", out);
    json_decref(root);
    setenv("FAKE_CUDA", "differs", 1);
    CHECK(run(compare, out, sizeof out) == 4 && strstr(out, "\"tokens_equal\": false"), "%s", said);
    SAID("E0920");
    setenv("FAKE_CUDA", "", 1);
    compare[8] = "--no-draft";
    CHECK(run(compare, out, sizeof out) == 0 && strstr(out, "without drafting"), "%s", said);
    compare[7] = "--arm", compare[8] = "graph";
    CHECK(run(compare, out, sizeof out) == 0 && strstr(out, "the graph arm: "), "%s\n%s", said, out);
    compare[8] = "engine";
    CHECK(run(compare, out, sizeof out) == 0 && !strstr(out, "the graph arm"), "%s", said);
    compare[8] = "grph";
    CHECK(run(compare, out, sizeof out) == 2);
    SAID("no arm \"grph\"");
    char *both[] = {program, "bench", bundle, "--weights", weights, "--arm", "graph", "--compare", NULL};
    CHECK(run(both, out, sizeof out) == 2);
    char *trace[] = {program, "bench", bundle, "--weights", weights, "--compare", "--trace", "x", NULL};
    CHECK(run(trace, out, sizeof out) == 2);
    SAID("--trace is of the engine alone");
    char *alone[] = {program,     "bench",    pair_path, "--rank",    "1",   "--alone", "synthetic:1",
                     "--compare", "--rounds", "20",      "--context", "100", NULL};
    CHECK(run(alone, out, sizeof out) == 0 && strstr(out, "tokens equal"), "%s\n%s", said, out);
    char *plain[] = {program, "bench", plain_path, "--weights", weights, "--compare", NULL};
    CHECK(run(plain, out, sizeof out) == 1);
    SAID("E0919");
}

int main(void) {
    library_find();
    snprintf(bundle_path, sizeof bundle_path, "%s/graph.bundle", demo_tmp());
    snprintf(plain_path, sizeof plain_path, "%s/no-graph.bundle", demo_tmp());
    snprintf(pair_path, sizeof pair_path, "%s/graph-pair.bundle", demo_tmp());
    snprintf(weights_path, sizeof weights_path, "%s/models/demo", demo_root());
    check_name = "set-up";
    if (setjmp(check_landing)) return 1;
    bundle_make(bundle_path, 1, true);
    bundle_make(plain_path, 1, false);
    bundle_make(pair_path, 2, true);
    if (!fake_open()) return 1;
    RUN(rounds_are_cut_into_kernels);
    RUN(what_begins_early);
    RUN(two_translation_units);
    RUN(what_is_launched);
    RUN(arms_in_turns);
    RUN(what_it_cannot);
    RUN(kernels_that_fail);
    RUN(cancelled);
    RUN(the_program);
    ctx_free(ctx);
    return check_done();
}
