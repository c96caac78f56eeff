#include "cli.h"
#include "bundle.h"
#include "bundle_kept.h"
#include "cubin.h"
#include "file.h"
#include "text.h"
#include <errno.h>
#include <string.h>

Build *cli_build_file(Ctx *ctx, const Options *options) {
    const char *path = options->build_file ? options->build_file : file_join(ctx, options->home, "build.lua");
    Source *source = file_read(ctx, path, SCHED_FILE_CAP);
    const char *slash = strrchr(path, '/');
    char *folder = slash ? arena_copy(ctx->arena, path, (size_t)(slash - path)) : arena_text(ctx->arena, ".");
    return source ? build_read(ctx, source, folder) : NULL;
}

Exit cli_failed(const Ctx *ctx) {
    DiagCode last = diag_errors(ctx) ? diag_code_at(ctx, diag_errors(ctx) - 1) : E0000;
    return last == E0451 || last == E0452 || last == E0458 ? EXIT_ENVIRONMENT : EXIT_INPUT;
}

// The SKU with fewer workers. NULL after reporting.
static const Sku *fewer_workers(Ctx *ctx, const Sku *sku, int workers) {
    if (workers > sku->workers) {
        diag_error(ctx, E0413, NO_SPAN, "--workers %d: %s has %d", workers, sku->name, sku->workers);
        return NULL;
    }
    Sku *out = ARENA_NEW(ctx->arena, Sku);
    *out = *sku;
    out->workers = workers;
    return out;
}

bool cli_job(Ctx *ctx, const Options *options, const char *name, const char *sku, Job *job) {
    Build *build = cli_build_file(ctx, options);
    if (!build) return false;
    *job = (Job){.tp = 1,
                 .settings = options->settings,
                 .setting_count = options->setting_count,
                 .prove = !options->no_prove,
                 .graph = options->with_graph,
                 .prog = options->prog,
                 .home = options->home};
    if (name) {
        const Target *target = build_target(ctx, build, name, NO_SPAN);
        if (!target) return false;
        job->name = name;
        job->model = file_join(ctx, build->folder, target->model);
        job->schedule = file_join(ctx, build->folder, target->schedule);
        job->tp = target->tp;
        sku = target->sku;
    } else {
        job->model = options->model ? options->model : file_join(ctx, build->folder, "models/demo.yaml");
        job->schedule = file_join(ctx, build->folder, "schedules/decode.lua");
    }
    if (options->schedule) job->schedule = options->schedule;
    if (options->sku) sku = options->sku;
    if (options->tp) job->tp = options->tp;
    job->sku = build_sku(ctx, build, sku, NO_SPAN);
    if (job->sku && options->workers) job->sku = fewer_workers(ctx, job->sku, options->workers);
    return job->sku != NULL;
}

// "a/b" as a file name.
static char *flat_name(Ctx *ctx, const char *name) {
    char *out = arena_text(ctx->arena, name);
    for (char *s = out; *s; s++)
        if (*s == '/') *s = '-';
    return out;
}

// --keep: what the bundle was made of, as files beside it.
static bool keep_parts(Ctx *ctx, const Compiled *c, const char *stem) {
    char *prog = prog_print(ctx, c->prog);
    if (!file_write(ctx, arena_printf(ctx->arena, "%s.prog", stem), prog, strlen(prog))) return false;
    if (!c->cubin) return true;
    if (c->graph &&
        (!file_write(ctx, arena_printf(ctx->arena, "%s.graph.cu", stem), c->graph_cuda, strlen(c->graph_cuda)) ||
         !file_write(ctx, arena_printf(ctx->arena, "%s.graph.cubin", stem), c->graph->data, c->graph->size)))
        return false;
    return file_write(ctx, arena_printf(ctx->arena, "%s.cu", stem), c->cuda, strlen(c->cuda)) &&
           file_write(ctx, arena_printf(ctx->arena, "%s.cubin", stem), c->cubin->data, c->cubin->size);
}

static Exit build_one(Ctx *ctx, const Options *options, const char *target) {
    Job job;
    if (!cli_job(ctx, options, target, options->sku ? options->sku : "host", &job)) return EXIT_INPUT;
    if (job.graph && !job_has_kernel(&job)) {
        diag_error(ctx, E0441, NO_SPAN, "--with-graph: %s has no kernel", job.sku->name);
        diag_help(ctx, "name a target of a GPU SKU; `tilegen sku targets` lists them");
        return EXIT_INPUT;
    }
    KeptBundle kept;
    size_t said = diag_count(ctx);
    if (!bundle_kept_find(ctx, &job, &kept)) return cli_failed(ctx);
    Compiled *compiled = NULL;
    const char *name = kept.name;
    if (!kept.data || options->keep) {
        compiled = compile(ctx, &job, job_has_kernel(&job) ? PASS_CUBIN : PASS_PROG);
        if (!compiled) return cli_failed(ctx);
        if (!job.name) compiled->job.name = compiled->model->name;
        name = compiled->job.name;
        if (!bundle_encode(ctx, compiled, &kept.data, &kept.size)) return cli_failed(ctx);
        if (diag_count(ctx) == said)
            bundle_kept_put(ctx, &kept, name, kept.data, kept.size); // warnings come every time
    }
    const char *folder = options->output ? options->output : "build";
    if (!file_mkdirs(ctx, folder)) return EXIT_ENVIRONMENT;
    char *stem = file_join(ctx, folder, flat_name(ctx, name));
    char *path = arena_printf(ctx->arena, "%s.bundle", stem);
    if (!file_write(ctx, path, kept.data, kept.size)) return EXIT_ENVIRONMENT;
    if (options->keep && !keep_parts(ctx, compiled, stem)) return EXIT_ENVIRONMENT;
    printf("%s\n", path);
    return EXIT_OK;
}

Compiled *cli_bundle(Ctx *ctx, const Job *job, const void **data, size_t *size) {
    KeptBundle kept;
    size_t said = diag_count(ctx);
    if (!bundle_kept_find(ctx, job, &kept)) return NULL;
    Job again = *job;
    if (kept.data) again.prove = false; // as it was when the bundle was made
    Compiled *compiled = compile(ctx, &again, kept.data || !job_has_kernel(job) ? PASS_PROG : PASS_CUBIN);
    if (!compiled) return NULL;
    if (!compiled->job.name) compiled->job.name = compiled->model->name;
    if (!kept.data) {
        if (!bundle_encode(ctx, compiled, &kept.data, &kept.size)) return NULL;
        if (diag_count(ctx) == said) bundle_kept_put(ctx, &kept, compiled->job.name, kept.data, kept.size);
    }
    *data = kept.data;
    *size = kept.size;
    return compiled;
}

Exit cli_build(Ctx *ctx, const Options *options) {
    if (options->model || options->arg_count == 0) {
        if (options->model && options->arg_count == 0 && options->sku) return build_one(ctx, options, NULL);
        diag_error(ctx, E0005, NO_SPAN, "build wants targets, or --model FILE with --sku NAME");
        diag_help(ctx,
                  "for example: tilegen build demo -o build; or: tilegen build --model m.yaml --sku host -o build");
        return EXIT_USAGE;
    }
    Exit worst = EXIT_OK;
    for (size_t i = 0; i < options->arg_count; i++) {
        Exit exit = build_one(ctx, options, options->args[i]);
        if (exit > worst) worst = exit;
    }
    return worst;
}

Exit cli_import(Ctx *ctx, const Options *options) {
    if (options->arg_count != 1) {
        diag_error(ctx, E0005, NO_SPAN, "import wants one folder with a config.json");
        return EXIT_USAGE;
    }
    Model *model = model_import(ctx, options->args[0]);
    if (!model) return EXIT_INPUT;
    char *yaml = model_print(ctx, model, NULL);
    if (!options->output) return fputs(yaml, stdout) < 0 ? EXIT_ENVIRONMENT : EXIT_OK;
    return file_write(ctx, options->output, yaml, strlen(yaml)) ? EXIT_OK : EXIT_ENVIRONMENT;
}

static bool ends_with(const char *text, const char *tail) {
    size_t n = strlen(text), m = strlen(tail);
    return n >= m && strcmp(text + n - m, tail) == 0;
}

// A printed Prog: parsed, verified and proved, against its SKU where build.lua knows it.
static Exit check_prog(Ctx *ctx, const Options *options, const char *path) {
    Source *source = file_read(ctx, path, PROG_FILE_CAP);
    Prog *prog = source ? prog_parse(ctx, source) : NULL;
    if (!prog) return EXIT_INPUT;
    Build *build = cli_build_file(ctx, options);
    const Sku *sku = NULL;
    for (size_t i = 0; build && i < build->sku_count; i++)
        if (strcmp(build->skus[i].name, prog->sku) == 0) sku = &build->skus[i];
    if (!build || !prog_prove(ctx, prog, sku)) return EXIT_INPUT;
    printf("%s: ok, %d bodies, %d instances a round, proved%s\n", strcmp(path, "-") ? path : "<stdin>",
           prog->body_count, prog_instances(prog), sku ? "" : " (its SKU is unknown here: no budgets)");
    return EXIT_OK;
}

static Exit check_one(Ctx *ctx, Options options, const char *arg) {
    Job job;
    const char *target = NULL;
    if (strcmp(arg, "-") == 0 || ends_with(arg, ".prog")) return check_prog(ctx, &options, arg);
    if (strcmp(arg, "build.lua") == 0 || ends_with(arg, "/build.lua")) {
        options.build_file = arg;
        Build *build = cli_build_file(ctx, &options);
        if (build) printf("%s: ok, %zu SKUs, %zu targets\n", arg, build->sku_count, build->target_count);
        return build ? EXIT_OK : EXIT_INPUT;
    }
    if (ends_with(arg, ".yaml") || ends_with(arg, ".yml"))
        options.model = arg;
    else if (ends_with(arg, ".lua"))
        options.schedule = arg;
    else
        target = arg;
    if (!cli_job(ctx, &options, target, "host", &job)) return EXIT_INPUT;
    Compiled *compiled = compile(ctx, &job, PASS_PROG);
    if (!compiled) return EXIT_INPUT;
    printf("%s: ok, %s on %s, %d rank%s, %d instances a round, proved\n", arg, compiled->model->name, job.sku->name,
           job.tp, job.tp > 1 ? "s" : "", prog_instances(compiled->prog));
    return EXIT_OK;
}

Exit cli_check(Ctx *ctx, const Options *options) {
    if (options->arg_count == 0) {
        diag_error(ctx, E0005, NO_SPAN, "check wants files or targets");
        return EXIT_USAGE;
    }
    Exit worst = EXIT_OK;
    for (size_t i = 0; i < options->arg_count; i++) {
        ArenaMark mark = arena_push(ctx->arena);
        size_t errors = diag_errors(ctx);
        Exit exit = check_one(ctx, *options, options->args[i]);
        if (exit > worst) worst = exit;
        if (diag_errors(ctx) == errors) arena_pop(ctx->arena, mark); // diagnostics point into the arena
    }
    return worst;
}

Exit cli_explain(Ctx *ctx, const Options *options) {
    if (options->arg_count > 1 || (options->arg_count == 0 && !options->model)) {
        diag_error(ctx, E0005, NO_SPAN, "explain wants one target or one code like E0101");
        return EXIT_USAGE;
    }
    DiagCode code = options->arg_count ? diag_code_from(options->args[0]) : E0000;
    if (code) {
        printf("%s: %s\n\n%s\n", diag_code_name(code), diag_code_title(code), diag_code_text(code));
        return EXIT_OK;
    }
    Job job;
    if (!cli_job(ctx, options, options->arg_count ? options->args[0] : NULL, "host", &job)) return EXIT_INPUT;
    Compiled *compiled = compile(ctx, &job, PASS_PROG);
    if (!compiled) return EXIT_INPUT;
    explain_target(ctx, compiled);
    return job_has_kernel(&job) ? explain_kernel(ctx, compiled) : EXIT_OK;
}

Exit cli_dump(Ctx *ctx, const Options *options) {
    static const char *const passes[] = {"sched", "plan", "lower", "prog", "cuda", "ptx"};
    enum { PASSES = sizeof passes / sizeof *passes, DUMP_PTX = PASSES - 1 };
    int pass = PASS_PROG;
    bool known = !options->after;
    for (int i = 0; options->after && i < PASSES; i++)
        if (strcmp(options->after, passes[i]) == 0) pass = i, known = true;
    if (options->arg_count > 1 || (options->arg_count == 0 && !options->model) || !known) {
        if (!known)
            diag_error(ctx, E0005, NO_SPAN, "no pass \"%s\"", options->after);
        else
            diag_error(ctx, E0005, NO_SPAN, "dump wants one target");
        diag_help(ctx, "tilegen dump TARGET --after=sched|plan|lower|prog|cuda|ptx");
        return EXIT_USAGE;
    }
    Job job;
    if (!cli_job(ctx, options, options->arg_count ? options->args[0] : NULL, "host", &job)) return EXIT_INPUT;
    if (pass > PASS_PROG && !job_has_kernel(&job)) {
        diag_error(ctx, E0441, NO_SPAN, "%s has no kernel", job.sku->name);
        diag_help(ctx, "name a target of a GPU SKU; `tilegen sku targets` lists them");
        return EXIT_INPUT;
    }
    Compiled *c = compile(ctx, &job, pass == DUMP_PTX ? PASS_CUDA : (Pass)pass);
    if (!c) return EXIT_INPUT;
    const char *text = pass == PASS_SCHED  ? sched_print(ctx, c->sched)
                       : pass == PASS_PLAN ? plan_print(ctx, c->plan)
                       : pass <= PASS_PROG ? prog_print(ctx, c->prog)
                       : pass == PASS_CUDA ? c->cuda
                                           : cubin_ptx(ctx, c);
    if (!text) return cli_failed(ctx);
    fputs(text, stdout);
    return EXIT_OK;
}

static void list_skus(const Build *build) {
    printf("%-10s %-8s %8s %14s %10s %12s\n", "sku", "arch", "workers", "shared memory", "memory", "bandwidth");
    for (size_t i = 0; i < build->sku_count; i++) {
        const Sku *sku = &build->skus[i];
        printf("%-10s %-8s %8d %11d KB %7.0f GB %7.2f TB/s\n", sku->name, sku->arch, sku->workers,
               sku->shared_memory / 1024, (double)sku->memory / 1e9, sku->bandwidth / 1e12);
    }
}

static bool list_targets(Ctx *ctx, const Build *build) {
    printf("%-28s %-10s %-8s %2s\n", "target", "sku", "arch", "tp");
    for (size_t i = 0; i < build->target_count; i++) {
        const Target *target = &build->targets[i];
        const Sku *sku = build_sku(ctx, build, target->sku, target->span);
        if (!sku) return false;
        printf("%-28s %-10s %-8s %2d\n", target->name, sku->name, sku->arch, target->tp);
    }
    return true;
}

Exit cli_sku(Ctx *ctx, const Options *options) {
    const char *what = options->arg_count == 1 ? options->args[0] : "";
    bool targets = strcmp(what, "targets") == 0;
    if (!targets && strcmp(what, "list") != 0) {
        diag_error(ctx, E0005, NO_SPAN, "sku wants \"list\" or \"targets\"");
        return EXIT_USAGE;
    }
    Build *build = cli_build_file(ctx, options);
    if (!build) return EXIT_INPUT;
    if (targets) return list_targets(ctx, build) ? EXIT_OK : EXIT_INPUT;
    list_skus(build);
    return EXIT_OK;
}
