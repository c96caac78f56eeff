#include "diff_command.h"
#include "bundle.h"
#include "cuda.h"
#include "diff.h"
#include "file.h"
#include "gpu.h"
#include "text.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DEFAULT_TOKENS = 8, TOKENS_CAP = 16 << 20, ROOM = 64 }; // ROOM: positions behind the prompt

typedef struct Command {
    Ctx *ctx;
    const Options *options;
    Job job;
    Compiled *compiled;
    const Bundle *bundle;
    Checkpoint *weights;
    int context, threads;
    DiffOptions diff;
    Decoder decoder;
    volatile sig_atomic_t cancelled; // never: a diff is short, and Ctrl-C ends the process and the kernel with it
} Command;

// ---- The GPU as a DiffDevice ----

static Exit device_run(void *self, const DecodeRequest *request, DecodedRound *round) {
    const Decoder *d = self;
    d->end(d->self); // of the last one, which may be held
    Exit code = d->begin(d->self, request);
    do
        if (code == EXIT_OK) code = d->next(d->self, round);
    while (code == EXIT_OK && !round->last && (request->limit == 1 || round->prompt));
    return code;
}
static Exit device_slab(void *self, void *out, size_t bytes) { return gpu_read_slab(self, out, bytes); }
static Exit device_cache(void *self, int layer, void *k, size_t k_bytes, void *v, size_t v_bytes) {
    return gpu_read_cache(self, layer, k, k_bytes, v, v_bytes);
}
static void device_shape(void *self, int layer, uint32_t *capacity, uint32_t *mask) {
    gpu_cache_shape(self, layer, capacity, mask);
}

// ---- What is asked for ----

static Exit usage(Ctx *ctx, const char *text, const char *help) {
    diag_error(ctx, E0005, NO_SPAN, "%s", text);
    if (help) diag_help(ctx, "%s", help);
    return EXIT_USAGE;
}

static Exit find_op(Command *c) {
    const char *names[OP_COUNT];
    const char *want = c->options->stop_after;
    c->diff.stop_after = -1;
    if (!want) return EXIT_OK;
    c->diff.stop_after = op_from(want);
    if (c->diff.stop_after >= 0) return EXIT_OK;
    for (int i = 0; i < OP_COUNT; i++) names[i] = op_name((OpId)i);
    const char *near = text_nearest(want, names, OP_COUNT);
    return usage(c->ctx, arena_printf(c->ctx->arena, "--stop-after: no op \"%s\"", want),
                 near ? arena_printf(c->ctx->arena, "did you mean \"%s\"?", near) : NULL);
}

// The op is one of the round's.
static Exit op_is_run(const Command *c) {
    const Prog *prog = c->compiled->prog;
    if (c->diff.stop_after < 0) return EXIT_OK;
    for (int b = 0; b < prog->body_count; b++)
        for (int s = 0; s < prog->bodies[b].step_count; s++)
            if ((int)prog->bodies[b].steps[s].op == c->diff.stop_after) return EXIT_OK;
    diag_error(c->ctx, E0005, NO_SPAN, "--stop-after: the round of %s has no op \"%s\"", c->compiled->model->name,
               c->options->stop_after);
    return EXIT_USAGE;
}

static Exit read_tokens(Command *c, int vocab) {
    Ctx *ctx = c->ctx;
    LIST(int) ids = {0};
    const char *path = c->options->tokens;
    for (int i = 0; !path && i < DEFAULT_TOKENS; i++) LIST_ADD(ctx->arena, &ids, (i * 37 + 5) % vocab);
    Source *file = path ? file_read(ctx, path, TOKENS_CAP) : NULL;
    if (path && !file) return EXIT_INPUT;
    for (const char *at = file ? file->text : ""; *at;) {
        char *end;
        errno = 0;
        long id = strtol(at, &end, 10);
        if (end == at) {
            at += strspn(at, " \t\r\n");
            if (!*at) break;
        }
        if (end == at || errno || id < 0 || id >= vocab) {
            diag_error(ctx, E0902, source_span(file, (size_t)(at - file->text), 1), "no id from 0 to %d", vocab - 1);
            return EXIT_INPUT;
        }
        LIST_ADD(ctx->arena, &ids, (int)id);
        at = end + strspn(end, " \t\r\n");
    }
    if (ids.count > 0 && ids.count + ROOM <= (size_t)c->compiled->model->context) {
        c->diff.tokens = ids.at;
        c->diff.token_count = (int)ids.count;
        c->context = (int)ids.count + ROOM;
        return EXIT_OK;
    }
    diag_error(ctx, E0902, NO_SPAN, "a prompt of %zu tokens; diff wants 1 to %d", ids.count,
               c->compiled->model->context - ROOM);
    return EXIT_INPUT;
}

static Exit open_weights(Command *c) {
    Ctx *ctx = c->ctx;
    const Model *model = c->compiled->model;
    const char *path = c->options->weights;
    if (path && strncmp(path, "synthetic:", 10) == 0) {
        c->weights = checkpoint_synthetic(ctx, model, strtoull(path + 10, NULL, 10));
        return c->weights ? EXIT_OK : EXIT_INPUT;
    }
    if (!path) { // models/NAME beside models/NAME.yaml
        size_t length = strlen(c->job.model);
        path = arena_copy(ctx->arena, c->job.model, length > 5 ? length - 5 : 0);
        if (!file_is_folder(path))
            return usage(ctx, "diff wants --weights DIR: this model has none beside its description",
                         "--weights synthetic:1 makes random ones");
    } else if (!file_is_folder(path)) {
        diag_error(ctx, E0702, file_span(ctx, path), "no such folder of weights");
        return EXIT_INPUT;
    }
    if (!model_matches(ctx, model, path)) return EXIT_INPUT;
    c->weights = checkpoint_open(ctx, model, path);
    return c->weights ? EXIT_OK : EXIT_INPUT;
}

// Whether there is a GPU at all, before anything is compiled for it.
static Exit find_gpu(const Command *c) {
    CudaDevice device;
    Cuda *cuda = cuda_open(c->ctx, c->ctx->env.driver);
    return cuda && cuda_device(c->ctx, cuda, c->options->device, &device) ? EXIT_OK : EXIT_ENVIRONMENT;
}

static Exit make_bundle(Command *c) {
    const void *data;
    size_t size;
    c->compiled = cli_bundle(c->ctx, &c->job, &data, &size);
    if (!c->compiled) return cli_failed(c->ctx);
    c->bundle = bundle_decode(c->ctx, "bundle", data, size);
    return c->bundle ? EXIT_OK : EXIT_BUG;
}

// ---- Running ----

static Exit compare(Command *c) {
    Ctx *ctx = c->ctx;
    const Compiled *compiled = c->compiled;
    const KernelSteps *steps = kernel_steps(ctx, compiled);
    PackList *list = ARENA_NEW(ctx->arena, PackList);
    if (!steps || !pack_list(ctx, compiled->model, c->weights, 0, compiled->prog->ranks, list)) return EXIT_INPUT;
    GpuOptions gpu = {.library = ctx->env.driver,
                      .device = c->options->device,
                      .context = c->context,
                      .threads = c->threads,
                      .cancelled = &c->cancelled};
    Exit code = gpu_open(ctx, compiled->model, compiled->prog, c->bundle, list, &gpu, &c->decoder);
    if (code != EXIT_OK) return code;
    Engine *engine = engine_new(ctx, compiled->model, compiled->prog, c->weights, c->threads, c->context);
    DiffReport report = {0};
    DiffDevice device = {&c->decoder, device_run, device_slab, device_cache, device_shape};
    code = engine ? diff_run(ctx, compiled, steps, engine, &device, &c->diff, &report) : EXIT_ENVIRONMENT;
    if (code == EXIT_OK || report.fault) diff_print(ctx, compiled->prog, &report, c->options->json, stdout);
    if (report.fault) {
        diag_error(ctx, E0918, NO_SPAN, "%s: the GPU differs from the host executor", compiled->job.name);
        diag_help(ctx, "standard output names the first task that does");
    }
    engine_free(engine);
    c->decoder.close(c->decoder.self);
    return code;
}

Exit diff_command(Ctx *ctx, const Options *options) {
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    Command *c = ARENA_NEW(ctx->arena, Command);
    *c = (Command){
        .ctx = ctx, .options = options, .threads = online > 0 ? (int)online : 1, .diff.layers = options->layers};
    if (options->arg_count != 1) return usage(ctx, "diff wants one target", "for example: tilegen diff demo/h200");
    Exit code = find_op(c);
    if (code != EXIT_OK) return code;
    if (!cli_job(ctx, options, options->args[0], "host", &c->job)) return EXIT_INPUT;
    if (!job_has_kernel(&c->job)) {
        diag_error(ctx, E0441, NO_SPAN,
                   "%s is for the SKU \"%s\", which has no kernel to compare with the host executor", options->args[0],
                   c->job.sku->name);
        diag_help(ctx, "name a target of a GPU SKU, or say --sku; `tilegen sku targets` lists them");
        return EXIT_INPUT;
    }
    if ((code = find_gpu(c)) == EXIT_OK && (code = make_bundle(c)) == EXIT_OK && (code = op_is_run(c)) == EXIT_OK &&
        (code = read_tokens(c, c->compiled->model->vocab)) == EXIT_OK && (code = open_weights(c)) == EXIT_OK)
        code = compare(c);
    checkpoint_close(c->weights);
    return code;
}
