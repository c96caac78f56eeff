// build.lua: the one shipped, and what is refused in others.
#include "check.h"
#include "file.h"
#include "test_model.h"

static const char *root;

typedef struct Job {
    const char *text; // or the shipped build.lua
    const char *sku, *target;
    void (*look)(Ctx *ctx, const Build *build);
    bool read, found;
    size_t errors;
    DiagCode code;
    char *diagnostics;
} Job;

static void job_body(Ctx *ctx, void *user) {
    Job *job = user;
    Source *source = job->text ? source_new(ctx, "b.lua", arena_text(ctx->arena, job->text), strlen(job->text))
                               : file_read(ctx, file_join(ctx, root, "build.lua"), SCHED_FILE_CAP);
    Build *build = source ? build_read(ctx, source, "folder") : NULL;
    job->read = build != NULL;
    if (!build) return;
    if (job->sku) job->found = build_sku(ctx, build, job->sku, NO_SPAN) != NULL;
    if (job->target) job->found = build_target(ctx, build, job->target, NO_SPAN) != NULL;
    if (job->look) job->look(ctx, build);
}

static void job_run(Job *job) {
    Ctx *ctx = ctx_new((Env){0});
    bool ok = ctx_protect(ctx, job_body, job);
    job->errors = diag_errors(ctx);
    job->code = diag_code_at(ctx, 0);
    size_t length;
    FILE *out = open_memstream(&job->diagnostics, &length);
    diag_print(ctx, out, DIAG_TEXT);
    fclose(out);
    ctx_free(ctx);
    CHECK(ok, "out of memory");
}

static void contains(const char *text, const char *part) { CHECK(strstr(text, part), "no \"%s\" in:\n%s", part, text); }

#define GPU                                                                                                            \
    "sku \"g\" { arch = \"sm_90a\", workers = 132, shared_memory = 232448, registers = 65536, memory = 141e9, "        \
    "bandwidth = 4e12, clock = 1.98e9 }\n"
#define HOST "sku \"host\" { arch = \"host\", workers = 8 }\n"

static void refused(const char *text, DiagCode code, const char *says) {
    Job job = {.text = text};
    job_run(&job);
    CHECK(!job.read && job.errors >= 1 && job.code == code, "%s gave:\n%s", text, job.diagnostics);
    contains(job.diagnostics, says);
    free(job.diagnostics);
}
static void accepted(const char *text, void (*look)(Ctx *, const Build *)) {
    Job job = {.text = text, .look = look};
    job_run(&job);
    CHECK(job.read && job.errors == 0, "%s gave:\n%s", text, job.diagnostics);
    free(job.diagnostics);
}

// ---- the shipped one ----

// Datasheet and measured figures, written down here a second time.
static void look_skus(Ctx *ctx, const Build *build) {
    static const struct {
        const char *name;
        int workers;
        double gigabytes, bandwidth;
    } want[] = {{"h200", 132, 150.75, 4.71e12},
                {"h100-sxm", 132, 85.52, 3.35e12},
                {"h100-pcie", 114, 85.52, 2.0e12},
                {"h20", 78, 102.63, 4.0e12},
                {"gh200", 132, 102.63, 4.0e12}};
    CHECK(build->sku_count == 6);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const Sku *sku = build_sku(ctx, build, want[i].name, NO_SPAN);
        CHECK(sku, "%s", want[i].name);
        CHECK(strcmp(sku->arch, "sm_90a") == 0 && sku->workers == want[i].workers, "%s", sku->name);
        CHECK(sku->shared_memory == 227 * 1024 && sku->registers == 65536, "%s", sku->name);
        CHECK(fabs((double)sku->memory / 1e9 - want[i].gigabytes) < 0.01, "%s %lld", sku->name, (long long)sku->memory);
        CHECK(sku->bandwidth == want[i].bandwidth && sku->clock > 1.7e9 && sku->clock < 2e9, "%s", sku->name);
        CHECK(sku->l2 == 50 << 20 || sku->l2 == 60 << 20, "%s", sku->name);
    }
    const Sku *host = build_sku(ctx, build, "host", NO_SPAN);
    CHECK(host && strcmp(host->arch, "host") == 0 && host->workers == 8 && host->shared_memory == 0);
    CHECK(build_sku(ctx, build, "h200", NO_SPAN)->memory == (int64_t)143771 << 20);
}
static void skus(void) {
    Job job = {.look = look_skus};
    job_run(&job);
    CHECK(job.read && job.errors == 0, "%s", job.diagnostics);
    free(job.diagnostics);
}

static void look_targets(Ctx *ctx, const Build *build) {
    static const struct {
        const char *name, *model, *sku;
        int tp;
    } want[] = {{"demo", "models/demo.yaml", "host", 1},
                {"demo/tp2", "models/demo.yaml", "host", 2},
                {"demo/h200", "models/demo.yaml", "h200", 1},
                {"demo/h100-sxm", "models/demo.yaml", "h100-sxm", 1},
                {"llama-3.2-1b", "models/llama-3.2-1b.yaml", "host", 1},
                {"llama-3.2-1b/h200", "models/llama-3.2-1b.yaml", "h200", 1},
                {"mimo-v2.5-pro/h200-tp8", "models/mimo-v2.5-pro.yaml", "h200", 8},
                {"mimo-v2.6-flash/h200-tp2", "models/mimo-v2.6-flash.yaml", "h200", 2}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const Target *target = build_target(ctx, build, want[i].name, NO_SPAN);
        CHECK(target, "%s", want[i].name);
        CHECK_TEXT(target->model, want[i].model);
        CHECK_TEXT(target->sku, want[i].sku);
        CHECK_TEXT(target->schedule, "schedules/decode.lua");
        CHECK(target->tp == want[i].tp && target->span.line > 0, "%s", want[i].name);
        CHECK(file_exists(file_join(ctx, root, target->model)), "%s", target->model);
    }
    CHECK_TEXT(build->folder, "folder");
}
static void targets(void) {
    Job job = {.look = look_targets};
    job_run(&job);
    CHECK(job.read && job.errors == 0, "%s", job.diagnostics);
    free(job.diagnostics);
}

static void unknown_names_suggest(void) {
    Job sku = {.sku = "h20O"}, target = {.target = "demo/h20"}, far = {.target = "zzzzzzzzzzzz"};
    job_run(&sku);
    CHECK(!sku.found && sku.code == E0303, "%s", sku.diagnostics);
    contains(sku.diagnostics, "did you mean \"h20");
    job_run(&target);
    CHECK(!target.found && target.code == E0304, "%s", target.diagnostics);
    contains(target.diagnostics, "did you mean \"demo/h200\"?");
    job_run(&far);
    CHECK(!far.found && far.code == E0304, "%s", far.diagnostics);
    contains(far.diagnostics, "help: build.lua lists them");
    free(sku.diagnostics);
    free(target.diagnostics);
    free(far.diagnostics);
}

// ---- others ----

static void look_fields(Ctx *ctx, const Build *build) {
    (void)ctx;
    const Sku *g = &build->skus[0];
    CHECK(build->sku_count == 1 && strcmp(g->name, "g") == 0 && g->memory == 141000000000 && g->l2 == 0);
    CHECK(g->bandwidth == 4e12 && g->clock == 1.98e9 && g->workers == 132 && g->span.line == 1 && g->span.col == 6);
    CHECK(build->target_count == 1 && build->targets[0].tp == 1 && build->targets[0].span.line == 2);
}
static void fields(void) {
    accepted(GPU "target \"a\" { model = \"m\", schedule = \"s\", sku = \"g\" }\n", look_fields);
}
static void look_loop(Ctx *ctx, const Build *build) {
    CHECK(build->target_count == 4 && build_target(ctx, build, "a/tp8", NO_SPAN)->tp == 8);
}
static void a_loop_makes_targets(void) {
    accepted(GPU "for _, n in ipairs { 1, 2, 4, 8 } do\n"
                 "  target(\"a/tp\" .. n) { model = \"m\", schedule = \"s\", sku = \"g\", tp = n }\nend\n",
             look_loop);
}
static void look_empty(Ctx *ctx, const Build *build) {
    (void)ctx;
    CHECK(build->sku_count == 0 && build->target_count == 0);
}
static void an_empty_build(void) { accepted("", look_empty); }

static void script_errors(void) {
    refused("sku = = 3\n", E0301, "b.lua:1:1: error[E0301]");
    refused("\nlocal x = 1 .. {}\n", E0301, "b.lua:2:");
    refused("while true do end\n", E0203, "b.lua:1:1: error[E0203]");
    refused("local s = \"x\"\nwhile true do s = s .. s end\n", E0202, "b.lua:2:1: error[E0202]");
    refused("\x1bLua", E0204, "bytecode");
    refused("os.exit()\n", E0208, "b.lua:1:1: error[E0208]");
    refused("tune {}\n", E0208, "unknown name \"tune\"");
}
static void unknown_fields(void) {
    refused("sku \"g\" {\n  arch = \"host\",\n  wrokers = 8 }\n", E0302, "b.lua:3:3: error[E0302]");
    refused("sku \"g\" {\n  arch = \"host\",\n  wrokers = 8 }\n", E0302, "did you mean \"workers\"?");
    refused(HOST "target \"a\" { model = \"m\", shedule = \"s\", sku = \"host\" }\n", E0302,
            "did you mean \"schedule\"?");
    refused("sku \"g\" { \"host\" }\n", E0302, "unknown field \"1\"");
}
static void missing_fields(void) {
    refused("sku \"g\" { workers = 8 }\n", E0302, "arch of \"g\" wants a text, not nil");
    refused("sku \"g\" { arch = \"host\" }\n", E0302, "workers wants a whole number from 1 to 1024, not nil");
    refused("sku \"g\" { arch = \"sm_90a\", workers = 8 }\n", E0302, "shared_memory wants");
    refused("sku \"g\" { arch = \"sm_90a\", workers = 8, shared_memory = 1, registers = 1, memory = 1 }\n", E0302,
            "bandwidth of \"g\" wants a number");
    refused(HOST "target \"a\" { schedule = \"s\", sku = \"host\" }\n", E0302, "model of \"a\" wants a text");
    refused(HOST "target \"a\" { model = \"m\", schedule = \"s\" }\n", E0302, "sku of \"a\" wants a text");
}
static void wrong_values(void) {
    refused("sku \"g\" { arch = \"sm_100\", workers = 8 }\n", E0302, "\"host\" or \"sm_90a\"");
    refused("sku \"g\" { arch = \"host\", workers = 0 }\n", E0302, "not 0");
    refused("sku \"g\" { arch = \"host\", workers = 2.5 }\n", E0302, "not 2.5");
    refused("sku \"g\" { arch = \"host\", workers = \"8\" }\n", E0302, "not \"8\"");
    refused("sku \"g\" { arch = 90, workers = 8 }\n", E0302, "arch of \"g\" wants a text, not 90");
    refused(
        "sku \"g\" { arch = \"sm_90a\", workers = 8, shared_memory = 1, registers = 1, memory = 1, bandwidth = 0/0 }\n",
        E0302, "bandwidth of \"g\" wants a number");
    refused(HOST "target \"a\" { model = \"m\", schedule = \"s\", sku = \"host\", tp = 3 }\n", E0302,
            "tp is 1, 2, 4 or 8");
    refused(HOST "target \"a\" { model = \"m\", schedule = \"s\", sku = \"host\", tp = 16 }\n", E0302, "tp wants");
    refused(HOST "target \"a\" { model = \"\", schedule = \"s\", sku = \"host\" }\n", E0302, "model of \"a\"");
    refused(HOST "target \"a\" { model = \"m\\0x\", schedule = \"s\", sku = \"host\" }\n", E0302, "model of \"a\"");
    refused("sku \"g\" (3)\n", E0302, "wants a table of fields");
}
// A target's name becomes a file in the output folder.
static void names_are_tame(void) {
    static const char *const names[] = {"",     "../a", "a/../b", "/a",    "a/",    "a//b", ".a",
                                        "a/.b", "-a",   "A",      "a b",   "a\\nb", "a\\0", "\\27[31m",
                                        "~",    "a:b",  "a\\\\b", "\\xff", "a/./b", "%s"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char text[200];
        snprintf(text, sizeof text, HOST "target \"%s\" { model = \"m\", schedule = \"s\", sku = \"host\" }\n",
                 names[i]);
        refused(text, E0302, "target wants a name");
        snprintf(text, sizeof text, "sku \"%s\" { arch = \"host\", workers = 8 }\n", names[i]);
        refused(text, E0302, "sku wants a name");
    }
    refused("sku \"a/b\" { arch = \"host\", workers = 8 }\n", E0302, "sku wants a name");
    refused("sku { arch = \"host\" }\n", E0302, "sku wants a name, not \"table\"");
    refused("target()\n", E0302, "target wants a name, not \"nothing\"");
}
static void names_stand_once(void) {
    refused(HOST HOST, E0302, "b.lua:2:6: error[E0302]: the SKU \"host\" stands here twice");
    refused(HOST "target \"a\" { model = \"m\", schedule = \"s\", sku = \"host\" }\n"
                 "target \"a\" { model = \"m\", schedule = \"s\", sku = \"host\" }\n",
            E0302, "b.lua:3:9: error[E0302]: the target \"a\" stands here twice");
    refused(HOST "target \"a/b\" { model = \"m\", schedule = \"s\", sku = \"host\" }\n"
                 "target \"a-b\" { model = \"m\", schedule = \"s\", sku = \"host\" }\n",
            E0302, "would have one file name");
}
static void every_unknown_sku_is_told(void) {
    Job job = {.text = HOST "target \"a\" { model = \"m\", schedule = \"s\", sku = \"hots\" }\n"
                            "target \"b\" { model = \"m\", schedule = \"s\", sku = \"gpu\" }\n"};
    job_run(&job);
    CHECK(!job.read && job.errors == 2 && job.code == E0303, "%s", job.diagnostics);
    contains(job.diagnostics, "b.lua:2:9: error[E0303]: no SKU \"hots\"");
    contains(job.diagnostics, "did you mean \"host\"?");
    contains(job.diagnostics, "b.lua:3:9: error[E0303]: no SKU \"gpu\"");
    free(job.diagnostics);
}
static void endless_declarations(void) {
    refused("local i = 0\nwhile true do i = i + 1 sku(\"s\" .. i) { arch = \"host\", workers = 8 } end\n", E0302,
            "more than 4096 SKUs");
}

// ---- the shipped schedule, through the eyes of build.lua's SKUs ----

typedef struct Outputs {
    OpId op;
    int outputs; // of a rank, from the model's formulas
} Outputs;

static void look_tiles(Ctx *ctx, const Build *build) {
    Source *source = file_read(ctx, file_join(ctx, root, "schedules/decode.lua"), SCHED_FILE_CAP);
    CHECK(source);
    Model *m = ARENA_NEW(ctx->arena, Model);
    test_model(m);
    for (size_t k = 0; k < build->sku_count; k++) {
        for (int tp = 1; tp <= 8; tp *= 2) {
            const Sku *sku = &build->skus[k];
            Sched *sched = sched_read(ctx, source, m, sku, tp, NULL, 0, false);
            CHECK(sched, "%s at %d", sku->name, tp);
            bool host = strcmp(sku->arch, "host") == 0, sum = !host && 2048 / tp <= 256; // short down projections
            const Outputs want[] = {{OP_QKV, 27136 / tp},
                                    {OP_O_PROJ, 6144},
                                    {OP_HEAD, 152576 / tp},
                                    {OP_MLP_UP, 16384 / tp},
                                    {OP_MLP_DOWN, 6144},
                                    {OP_ROUTER, 384},
                                    {OP_EXPERTS_UP, 2048 / tp},
                                    {sum ? OP_EXPERTS_SUM : OP_EXPERTS_DOWN, 6144},
                                    {sum ? OP_EXPERTS_SUM : OP_COMBINE, 6144},
                                    {OP_DRAFT_QKV, 18432 / tp},
                                    {OP_DRAFT_O, 6144},
                                    {OP_DRAFT_UP, 16384 / tp},
                                    {OP_DRAFT_DOWN, 6144},
                                    {OP_DRAFT_HEAD, 152576 / tp}};
            for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
                const SchedStep *step = NULL;
                for (size_t s = 0; s < sched->step_count; s++)
                    if (sched->steps[s].op == want[i].op) step = &sched->steps[s];
                CHECK(step && step->tile > 0, "%s", op_name(want[i].op));
                CHECK(want[i].outputs % step->tile == 0, "%s on %s at %d: %d does not divide %d", op_name(want[i].op),
                      sku->name, tp, step->tile, want[i].outputs);
                CHECK(step->tile % 8 == 0, "%s: %d", op_name(want[i].op), step->tile);
                if (want[i].op == OP_EXPERTS_UP)
                    CHECK(step->claim == CLAIM_DYNAMIC && step->per == (sum ? PER_ALL : PER_EXPERT));
                else if (want[i].op == OP_EXPERTS_SUM) // what a block keeps of 8 rows with 8 experts each
                    CHECK(8 * 8 * step->tile * 4 <= 16384, "%s at %d: %d", sku->name, tp, step->tile);
                else if (want[i].op == OP_EXPERTS_DOWN)
                    CHECK(step->claim == CLAIM_DYNAMIC);
                else if (want[i].op != OP_ROUTER) // at least half of the workers have something to do
                    CHECK(2 * want[i].outputs / step->tile >= sku->workers, "%s on %s at %d: %d tiles",
                          op_name(want[i].op), sku->name, tp, want[i].outputs / step->tile);
            }
            CHECK(sched->roles[ROLE_LOAD].used == !host && (sched->page_count == 0) == host);
            CHECK((int64_t)sched->page_bytes * sched->page_count <= sku_page_memory(sku));
            CHECK(host || (int64_t)sched->page_bytes * (sched->page_count + 1) > sku_page_memory(sku)); // all that fit
            if (host) continue;
            int threads = 0, registers = 0; // registers are handed out a warpgroup of 128 threads at a time
            for (int r = 0; r < ROLE_COUNT; r++) {
                CHECK(sched->roles[r].used && sched->roles[r].warps % 4 == 0, "%s", role_name((Role)r));
                threads += sched->roles[r].warps * 32;
                registers += sched->roles[r].warps * 32 * sched->roles[r].registers;
            }
            CHECK(threads <= 1024 && registers <= sku->registers, "%d threads, %d registers", threads, registers);
        }
    }
}
static void tiles_of_the_shipped_schedule(void) {
    Job job = {.look = look_tiles};
    job_run(&job);
    CHECK(job.read && job.errors == 0, "%s", job.diagnostics);
    free(job.diagnostics);
}

int main(void) {
    root = getenv("ROOT") ? getenv("ROOT") : ".";
    RUN(skus);
    RUN(targets);
    RUN(unknown_names_suggest);
    RUN(fields);
    RUN(a_loop_makes_targets);
    RUN(an_empty_build);
    RUN(script_errors);
    RUN(unknown_fields);
    RUN(missing_fields);
    RUN(wrong_values);
    RUN(names_are_tame);
    RUN(names_stand_once);
    RUN(every_unknown_sku_is_told);
    RUN(endless_declarations);
    RUN(tiles_of_the_shipped_schedule);
    return check_done();
}
