#include "diff_parts.h"
#include <math.h>
#include <string.h>

// ---- The tasks of a step ----

typedef void (*TaskVisit)(Diff *d, const Task *task, int key, int worker, void *user);

static const Body *body_of(const Diff *d, int instance) {
    int layer;
    return &d->prog->bodies[prog_instance(d->prog, instance, &layer)->body];
}
static OpId op_of(const Diff *d) { return body_of(d, d->instance)->steps[d->step].op; }

// Every task of the step at hand; of a pool's those of the keys that the host has as active. Worker -1: claimed.
static void each_task(Diff *d, TaskVisit visit, void *user) {
    const Body *body = body_of(d, d->instance);
    for (int w = 0; w < d->prog->workers; w++)
        for (int role = 0; role < ROLE_COUNT; role++) {
            const Queue *queue = prog_queue(d->prog, body, w, (Role)role);
            for (int i = 0; i < queue->count; i++)
                if (queue->entries[i].kind == ENTRY_TASK && queue->entries[i].task.step == d->step)
                    visit(d, &queue->entries[i].task, -1, w, user);
        }
    for (int p = 0; p < body->pool_count; p++)
        for (int i = 0; i < body->pools[p].item_count; i++)
            for (int key = 0; body->pools[p].items[i].step == d->step && key < d->rank->routing.active; key++)
                visit(d, &body->pools[p].items[i], key, -1, user);
}

static Patches written(Diff *d, const Task *task, int key) {
    Patches patches = {0};
    for (int i = 0; i < task->write_count; i++) region_patches(d, &task->writes[i], key, &patches);
    return patches;
}

static void at_step(Diff *d, StepAt at) {
    d->instance = at.instance;
    d->step = at.step;
    prog_instance(d->prog, at.instance, &d->layer);
}

// ---- The two sides ----

// Runs the request on the device up to a step, and reads the slab back.
static Exit device_to(Diff *d, StepAt at, DecodedRound *round) {
    const DiffDevice *device = d->device;
    DecodeRequest request = {.prompt = d->options->tokens,
                             .prompt_count = d->options->token_count,
                             .limit = d->prompt ? 1 : 1 + MAX_ROWS,
                             .draft = d->model->has_drafter,
                             .logits = true, // the round is held, so that nothing is written while it is read
                             .sampling = {0, 0, 1, 0},
                             .halt = true,
                             .halt_instance = at.instance,
                             .halt_step = at.step};
    const Body *body = body_of(d, at.instance);
    Exit code = device->run(device->self, &request, round);
    d->cache.layer = -1;
    if (code == EXIT_OK) code = device->slab(device->self, d->slab, d->steps->slab_bytes);
    if (code != EXIT_OK) {
        int layer;
        prog_instance(d->prog, at.instance, &layer);
        diag_note(d->ctx, NO_SPAN, "while it ran the %s up to %s of body %s, layer %d",
                  d->prompt ? "prompt" : "first round of decoding", op_name(body->steps[at.step].op), body->name,
                  layer);
        return code;
    }
    if (round->start == d->start && round->rows == d->rows && round->prompt == d->prompt) return EXIT_OK;
    diag_error(d->ctx, E0918, NO_SPAN, "the GPU ran %d rows at position %d, the host %d at %d", round->rows,
               round->start, d->rows, d->start);
    return EXIT_VERIFY;
}

static bool host_round(Diff *d, Round *round) {
    return d->prompt ? engine_prompt(d->engine, d->options->tokens + d->start, d->rows, round)
                     : engine_decode(d->engine, d->model->has_drafter, round);
}

static void take_task(Diff *d, const Task *task, int key, int worker, void *user) {
    (void)worker, (void)user;
    Patches patches = written(d, task, key);
    patches_take(&patches);
}

static DiffFault *fault_new(Diff *d) {
    DiffFault *fault = ARENA_NEW(d->ctx->arena, DiffFault);
    *fault = (DiffFault){
        .prompt = d->prompt, .instance = d->instance, .step = d->step, .key = -1, .hi = 1, .differing = 1, .tasks = 1};
    return d->report->fault = fault;
}

// The host's buffers take the device's results of the step at hand over. False: its routes cannot be.
static bool take_step(Diff *d) {
    if (op_of(d) == OP_ACCEPT) return true;
    if (op_of(d) != OP_ROUTE) {
        each_task(d, take_task, NULL);
        return true;
    }
    const char *what = routes_fault(d);
    if (what)
        fault_new(d)->place = what;
    else
        routes_take(d);
    return !what;
}

// Positions before the round, of every layer.
static void take_caches(Diff *d) {
    const Model *m = d->model;
    int layers = m->layer_count + (m->has_drafter ? m->drafter.layers : 0);
    for (int i = 0; i < layers; i++) {
        ArenaMark mark = arena_push(d->ctx->arena);
        bool drafter = i >= m->layer_count;
        const Attention *a = drafter ? &m->drafter.attention : &m->attention[m->layers[i].attention];
        int oldest = a->window && d->start > a->window ? d->start - a->window : 0;
        Patches patches = {0};
        cache_patches(d, drafter, drafter ? i - m->layer_count : i, 0, a->kv_heads, oldest, d->start, &patches);
        patches_take(&patches);
        d->cache.layer = -1;
        arena_pop(d->ctx->arena, mark);
    }
}

// ---- Comparing a step ----

typedef struct TaskPatches {
    const Task *task;
    int key, worker;
    Patches patches;
} TaskPatches;
typedef LIST(TaskPatches) TaskList;

static void collect(Diff *d, const Task *task, int key, int worker, void *user) {
    TaskList *list = user;
    LIST_ADD(d->ctx->arena, list, (TaskPatches){task, key, worker, written(d, task, key)});
}

static bool comes_first(const TaskPatches *a, const TaskPatches *b) {
    if (a->key != b->key) return a->key < b->key;
    return a->task->lo != b->task->lo ? a->task->lo < b->task->lo : a->task->part < b->task->part;
}

// Digests of what the task read. Where the step itself wrote over it (a residual), it is looked at as it was before.
static void fault_inputs(Diff *d, const Task *task, int key, DiffFault *fault) {
    const Step *step = &body_of(d, d->instance)->steps[d->step];
    DiffInput *inputs = ARENA_ARRAY(d->ctx->arena, DiffInput, task->read_count + 1);
    for (int i = 0; i < task->read_count; i++) {
        Patches patches = {0};
        d->use_before = false;
        for (int c = 0; c < step->cover_count; c++) d->use_before |= step->covers[c].buffer == task->reads[i].buffer;
        region_patches(d, &task->reads[i], key, &patches);
        d->use_before = false;
        if (patches.count == 0) continue;
        inputs[fault->input_count++] = (DiffInput){region_text(d, &task->reads[i], key), patches_digest(&patches, true),
                                                   patches_digest(&patches, false)};
    }
    fault->inputs = inputs;
}

static void fault_fill(Diff *d, const TaskPatches *at, const Finding *f, int differing, int tasks) {
    DiffFault *fault = fault_new(d);
    fault->lo = at->task->lo, fault->hi = at->task->hi, fault->part = at->task->part;
    fault->key = at->key, fault->worker = at->worker;
    fault->differing = differing, fault->tasks = tasks;
    fault->place = finding_place(d->ctx, f);
    fault->device = f->device, fault->host = f->host, fault->tolerance = f->tolerance;
    fault->error = f->norm > 0 ? sqrt(f->error / f->norm) : sqrt(f->error);
    fault_inputs(d, at->task, at->key, fault);
}

static void step_agrees(Diff *d, int tasks, double error, double worst) {
    d->report->steps[d->report->step_count++] = (DiffStep){d->prompt, d->instance, d->step, tasks, error, worst};
}

// True when all tasks agree.
static bool compare_step(Diff *d) {
    TaskList list = {0};
    Scales scales = {0};
    Finding total = {0}, worst = {0};
    const TaskPatches *first = NULL;
    int differing = 0;
    const char *routes = op_of(d) == OP_ROUTE ? routes_fault(d) : NULL;
    if (routes) {
        fault_new(d)->place = routes;
        return false;
    }
    each_task(d, collect, &list);
    for (size_t i = 0; i < list.count; i++) patches_scale(&list.at[i].patches, &scales);
    for (size_t i = 0; i < list.count; i++) {
        Finding f = {0};
        patches_compare(d, op_of(d), &list.at[i].patches, &scales, &f);
        total.error += f.error;
        total.norm += f.norm;
        if (f.ratio > total.ratio) total.ratio = f.ratio;
        if (f.ratio <= 1) continue;
        differing++;
        if (first && !comes_first(&list.at[i], first)) continue;
        first = &list.at[i];
        worst = f;
    }
    if (first)
        fault_fill(d, first, &worst, differing, (int)list.count);
    else
        step_agrees(d, (int)list.count, total.norm > 0 ? sqrt(total.error / total.norm) : 0, total.ratio);
    return !first;
}

static bool compare_accept(Diff *d, const DecodedRound *device, const Round *host) {
    const char *what = NULL;
    double a = device->count, b = host->count;
    if (device->accepted != (d->prompt ? 0 : host->accepted))
        what = "accepted drafts", a = device->accepted, b = host->accepted;
    else if (device->count != host->count)
        what = "tokens of the round";
    for (int i = 0; !what && i < host->count; i++)
        if (device->tokens[i] != host->tokens[i])
            what = arena_printf(d->ctx->arena, "token %d of the round", i), a = device->tokens[i], b = host->tokens[i];
    if (!what) {
        step_agrees(d, 1, 0, 0);
        return true;
    }
    DiffFault *fault = fault_new(d);
    fault->place = what, fault->device = a, fault->host = b;
    return false;
}

// ---- The walk ----

// The step alone, on both sides, from the same inputs. True when it agrees, and the walk may go on.
static bool step_run(Diff *d, StepAt at, bool compared) {
    DecodedRound round;
    Round own;
    at_step(d, at);
    memcpy(d->slab_before, d->slab, d->steps->slab_bytes);
    size_t bytes = (size_t)d->engine->rows * (size_t)d->model->hidden * sizeof(float);
    memcpy(d->x_before, d->rank->x, bytes);
    if (d->rank->dx) memcpy(d->dx_before, d->rank->dx, bytes);
    engine_span(d->engine, at, at);
    if (!host_round(d, &own)) {
        d->code = EXIT_VERIFY;
        return false;
    }
    if (!compared) return true;
    if ((d->code = device_to(d, at, &round)) != EXIT_OK) return false;
    if (op_of(d) == OP_ACCEPT) return compare_accept(d, &round, &own);
    return compare_step(d) && take_step(d);
}

// Steps after `done` and up to `to` were left out: what they wrote is the device's.
static bool catch_up(Diff *d, StepAt done, StepAt to, const StepAt *order, int count) {
    DecodedRound round;
    bool inside = false;
    if (done.instance == to.instance && done.step == to.step) return true;
    if ((d->code = device_to(d, to, &round)) != EXIT_OK) return false;
    for (int i = 0; i < count; i++) {
        inside |=
            order[i].instance > done.instance || (order[i].instance == done.instance && order[i].step > done.step);
        if (!inside) continue;
        ArenaMark mark = arena_push(d->ctx->arena);
        at_step(d, order[i]);
        if (!take_step(d)) return false;
        d->cache.layer = -1;
        arena_pop(d->ctx->arena, mark);
        if (order[i].instance == to.instance && order[i].step == to.step) return true;
    }
    return true;
}

// The steps of the round at hand in the sequential program's order.
static int round_order(const Diff *d, StepAt *order) {
    int count = 0;
    for (int i = 0; i < prog_instances(d->prog); i++) {
        int layer;
        const RoundItem *item = prog_instance(d->prog, i, &layer);
        if (item->segment == SEGMENT_DRAFT && (d->prompt || !d->model->has_drafter)) continue;
        if (item->segment == SEGMENT_CONTEXT && !d->model->has_drafter) continue;
        for (int s = 0; s < d->prog->bodies[item->body].step_count; s++) order[count++] = (StepAt){i, s};
    }
    return count;
}

static bool wanted(Diff *d, StepAt at) {
    at_step(d, at);
    return (d->options->layers <= 0 || d->layer < d->options->layers) &&
           (d->options->stop_after < 0 || (int)op_of(d) == d->options->stop_after);
}

static bool walk_round(Diff *d, StepAt *order) {
    int count = round_order(d, order);
    StepAt none = {-1, 0}, done = none, previous = none;
    DecodedRound round;
    if (d->start > 0) {
        if ((d->code = device_to(d, order[0], &round)) != EXIT_OK) return false;
        take_caches(d);
        if (d->code != EXIT_OK) return false;
    }
    for (int i = 0; i < count; previous = order[i++]) {
        bool compared = wanted(d, order[i]);
        if (!compared && op_of(d) != OP_ACCEPT) continue; // accept goes on to the next round's positions
        if (previous.instance >= 0 && !catch_up(d, done, previous, order, count)) return false;
        ArenaMark mark = arena_push(d->ctx->arena);
        if (!step_run(d, order[i], compared) || d->code != EXIT_OK) return false;
        d->cache.layer = -1;
        arena_pop(d->ctx->arena, mark);
        done = order[i];
    }
    return true;
}

// The blocks before the prompt's last one, on the host: not compared.
static bool walk_blocks(Diff *d) {
    int left = d->options->token_count;
    Round round;
    engine_span_all(d->engine);
    for (; left > d->engine->rows; left -= d->engine->rows)
        if (!engine_prompt(d->engine, d->options->tokens + engine_start(d->engine), d->engine->rows, &round))
            return false;
    d->start = engine_start(d->engine);
    d->rows = left;
    return true;
}

Exit diff_run(Ctx *ctx, const Compiled *compiled, const KernelSteps *steps, Engine *engine, const DiffDevice *device,
              const DiffOptions *options, DiffReport *report) {
    const Model *m = compiled->model;
    Diff *d = ARENA_NEW(ctx->arena, Diff);
    *d = (Diff){.ctx = ctx,
                .c = compiled,
                .prog = compiled->prog,
                .model = m,
                .steps = steps,
                .engine = engine,
                .rank = &engine->rank[0],
                .device = device,
                .options = options,
                .report = report,
                .cache = {.layer = -1}};
    int most = 0;
    for (int i = 0; i < prog_instances(d->prog); i++) most += body_of(d, i)->step_count;
    StepAt *order = ARENA_ARRAY(ctx->arena, StepAt, most + 1);
    *report = (DiffReport){.steps = ARENA_ARRAY(ctx->arena, DiffStep, 2 * most + 1)};
    d->slab = arena_alloc(ctx->arena, steps->slab_bytes);
    d->slab_before = arena_alloc(ctx->arena, steps->slab_bytes);
    d->x_before = ARENA_ARRAY(ctx->arena, float, engine->rows * m->hidden);
    d->dx_before = ARENA_ARRAY(ctx->arena, float, engine->rows * m->hidden);
    Sampling greedy = {0, 0, 1, 0};
    engine_reset(engine, &greedy, m->has_drafter);
    d->prompt = true;
    if (!walk_blocks(d)) return EXIT_VERIFY;
    bool agrees = walk_round(d, order);
    if (agrees) {
        int room = engine_context(engine) - engine_start(engine), block = m->has_drafter ? m->drafter.block : 1;
        d->prompt = false;
        d->start = engine_start(engine);
        d->rows = block < room ? block : room;
        agrees = walk_round(d, order);
    }
    engine_span_all(engine);
    return d->code != EXIT_OK ? d->code : agrees ? EXIT_OK : EXIT_VERIFY;
}
