// bind, check, lower and place on every shipped model: golden plans, and what every placed Prog must have.
#include "check.h"
#include "compile.h"
#include "file.h"
#include "prove.h"

static const char *root;

typedef struct Case {
    const char *model, *sku;
    int tp;
} Case;

static const Case cases[] = {
    {"demo", "host", 1},
    {"demo", "host", 2},
    {"demo", "h200", 1},
    {"demo", "h100-pcie", 2},
    {"llama-3.2-1b", "host", 1},
    {"llama-3.2-1b", "host", 8},
    {"llama-3.2-1b", "h20", 1},
    {"mimo-v2.5-pro", "host", 1},
    {"mimo-v2.5-pro", "host", 8},
    {"mimo-v2.6-flash", "host", 4},
    {"mimo-v2.6-flash", "h200", 2},
};
enum { CASES = sizeof cases / sizeof *cases };

static Compiled *compile_case(Ctx *ctx, const Case *c, Pass last) {
    Source *lua = file_read(ctx, file_join(ctx, root, "build.lua"), SCHED_FILE_CAP);
    Build *build = lua ? build_read(ctx, lua, root) : NULL;
    const Sku *sku = build ? build_sku(ctx, build, c->sku, NO_SPAN) : NULL;
    if (!sku) return NULL;
    Job job = {.name = c->model,
               .model = arena_printf(ctx->arena, "%s/models/%s.yaml", root, c->model),
               .schedule = file_join(ctx, root, "schedules/decode.lua"),
               .sku = sku,
               .tp = c->tp,
               .prove = true};
    return compile(ctx, &job, last);
}

static void in_ctx(void (*body)(Ctx *, void *), void *user) {
    Ctx *ctx = ctx_new((Env){0});
    bool ok = ctx_protect(ctx, body, user);
    if (!ok || diag_errors(ctx)) diag_print(ctx, stderr, DIAG_TEXT);
    ctx_free(ctx);
}

typedef struct Result {
    bool done;
    char why[200];
} Result;

static void prove_all_body(Ctx *ctx, void *user) {
    Result *result = user;
    for (int i = 0; i < CASES; i++) {
        ArenaMark mark = arena_push(ctx->arena);
        Compiled *c = compile_case(ctx, &cases[i], PASS_PROG);
        if (!c) {
            snprintf(result->why, sizeof result->why, "%s on %s, tp %d", cases[i].model, cases[i].sku, cases[i].tp);
            return;
        }
        arena_pop(ctx->arena, mark);
    }
    result->done = true;
}
static void every_model_is_proved(void) {
    Result result = {0};
    in_ctx(prove_all_body, &result);
    CHECK(result.done, "%s", result.why);
}

static void round_trip_body(Ctx *ctx, void *user) {
    Result *result = user;
    for (int i = 0; i < 4; i++) {
        Compiled *c = compile_case(ctx, &cases[i], PASS_PROG);
        if (!c) return;
        char *text = prog_print(ctx, c->prog);
        Prog *again = prog_parse(ctx, source_new(ctx, "printed", text, strlen(text)));
        if (!again || strcmp(prog_print(ctx, again), text) != 0) return;
        if (!prog_prove(ctx, again, c->job.sku)) return;
    }
    result->done = true;
}
static void printed_progs_parse_back_byte_for_byte(void) {
    Result result = {0};
    in_ctx(round_trip_body, &result);
    CHECK(result.done);
}

// Compares with tests/golden/passes/NAME.txt; UPDATE_GOLDEN writes it.
static bool golden(Ctx *ctx, const char *name, const char *text) {
    char *path = arena_printf(ctx->arena, "%s/tests/golden/passes/%s.txt", root, name);
    if (getenv("UPDATE_GOLDEN")) return file_write(ctx, path, text, strlen(text));
    Source *want = file_read(ctx, path, 64 << 20);
    return want && strcmp(want->text, text) == 0;
}

static void golden_body(Ctx *ctx, void *user) {
    Result *result = user;
    for (int i = 0; i < CASES; i++) {
        Compiled *c = compile_case(ctx, &cases[i], PASS_PLAN);
        if (!c) return;
        char *name = arena_printf(ctx->arena, "%s-%s-tp%d.plan", cases[i].model, cases[i].sku, cases[i].tp);
        snprintf(result->why, sizeof result->why, "%s differs; make update-golden shows how", name);
        if (!golden(ctx, name, plan_print(ctx, c->plan))) return;
    }
    Compiled *c = compile_case(ctx, &cases[1], PASS_PROG);
    snprintf(result->why, sizeof result->why, "demo-host-tp2.prog differs; make update-golden shows how");
    if (!c || !golden(ctx, "demo-host-tp2.prog", prog_print(ctx, c->prog))) return;
    result->done = true;
}
static void plans_and_a_prog_are_as_recorded(void) {
    Result result = {0};
    in_ctx(golden_body, &result);
    CHECK(result.done, "%s", result.why);
}

// A wait less in any place of a placed Prog is either noticed or not needed by anything: drop each wait of the demo's
// in turn.
static void drop_body(Ctx *ctx, void *user) {
    int *counts = user;
    Compiled *c = compile_case(ctx, &cases[1], PASS_PROG);
    if (!c) return;
    for (int b = 0; b < c->prog->body_count; b++) {
        for (int q = 0; q < c->prog->workers * ROLE_COUNT; q++) {
            for (int e = 0; e < c->prog->bodies[b].queues[q].count; e++) {
                if (c->prog->bodies[b].queues[q].entries[e].task.wait_count == 0) continue;
                ArenaMark mark = arena_push(ctx->arena);
                Prog *mutant = prog_copy(ctx, c->prog);
                Task *task = &mutant->bodies[b].queues[q].entries[e].task;
                task->wait_count--;
                counts[prog_unordered(ctx, mutant).hazard != HAZARD_NONE]++;
                arena_pop(ctx->arena, mark);
                e += 6; // a sample
            }
        }
    }
}
static void dropped_waits_are_noticed(void) {
    int counts[2] = {0};
    in_ctx(drop_body, counts);
    printf("# waits dropped: %d leave a pair unordered, %d do not\n", counts[1], counts[0]);
    CHECK(counts[1] > 20);
    CHECK(counts[0] * 2 < counts[1], "%d of %d dropped waits were not needed", counts[0], counts[0] + counts[1]);
}

int main(void) {
    root = getenv("ROOT") ? getenv("ROOT") : ".";
    RUN(every_model_is_proved);
    RUN(printed_progs_parse_back_byte_for_byte);
    RUN(plans_and_a_prog_are_as_recorded);
    RUN(dropped_waits_are_noticed);
    return check_done();
}
