// Every single allocation of the compiler fails once: each run ends in E0001 (or in success, when a library did
// without), never in a crash; a later run without failures gives the same bytes. malloc and its kin are wrapped by the
// linker.
#include "check.h"
#include "bundle.h"
#include "file.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *at, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *at, size_t size);

static long left = -1; // allocations until one fails; negative: none does
static long seen;

static bool fails(void) {
    seen++;
    return left >= 0 && left-- == 0;
}
void *__wrap_malloc(size_t size) { return fails() ? NULL : __real_malloc(size); }
void *__wrap_calloc(size_t count, size_t size) { return fails() ? NULL : __real_calloc(count, size); }
void *__wrap_realloc(void *at, size_t size) { return fails() ? NULL : __real_realloc(at, size); }

typedef struct Run {
    const char *folder;
    bool done;
    char *text;
} Run;

// build.lua, model, schedule, all passes, text of the Prog and back.
static void run_all(Ctx *ctx, void *user) {
    Run *run = user;
    char *path = file_join(ctx, run->folder, "build.lua");
    Source *source = file_read(ctx, path, SCHED_FILE_CAP);
    Build *build = source ? build_read(ctx, source, run->folder) : NULL;
    const Sku *sku = build ? build_sku(ctx, build, "host", NO_SPAN) : NULL;
    if (!sku) return;
    Job job = {.name = "demo",
               .model = file_join(ctx, run->folder, "models/demo.yaml"),
               .schedule = file_join(ctx, run->folder, "schedules/decode.lua"),
               .sku = sku,
               .tp = 1,
               .prove = true};
    Compiled *compiled = compile(ctx, &job, PASS_PROG);
    if (!compiled) return;
    char *text = prog_print(ctx, compiled->prog);
    Prog *again = prog_parse(ctx, source_new(ctx, "again", text, strlen(text)));
    if (!again) return;
    run->text = strdup(prog_print(ctx, again));
    run->done = true;
}

// One run with allocation `fail` failing. True when it succeeded.
static bool attempt(Run *run, long fail, DiagCode *code) {
    run->done = false;
    seen = 0;
    left = fail;
    Ctx *ctx = ctx_new((Env){0});
    if (!ctx) {
        left = -1;
        *code = E0001;
        return false;
    }
    bool ok = ctx_protect(ctx, run_all, run) && run->done && diag_errors(ctx) == 0;
    left = -1;
    *code = diag_code_at(ctx, 0);
    ctx_free(ctx);
    return ok;
}

static void every_allocation_fails_once(void) {
    Run run = {.folder = getenv("ROOT") ? getenv("ROOT") : "."};
    DiagCode code;
    CHECK(attempt(&run, -1, &code), "the run itself fails: %s", diag_code_name(code));
    char *want = run.text;
    long total = seen, failed = 0;
    run.text = NULL;
    // The parsers' own small allocations come in thousands: all of the first 400, then every 7th.
    for (long i = 0; i < total; i += i < 400 ? 1 : 7) {
        bool ok = attempt(&run, i, &code);
        CHECK(ok || code == E0001, "allocation %ld of %ld: %s", i, total, diag_code_name(code));
        if (ok) CHECK(run.text && strcmp(run.text, want) == 0, "allocation %ld changed the result", i);
        failed += !ok;
        free(run.text);
        run.text = NULL;
    }
    CHECK(failed > 100);
    printf("# allocations: %ld in a run, %ld runs ended in E0001\n", total, failed);
    CHECK(attempt(&run, -1, &code));
    CHECK_TEXT(run.text, want);
    free(run.text);
    free(want);
}

int main(void) {
    RUN(every_allocation_fails_once);
    return check_done();
}
