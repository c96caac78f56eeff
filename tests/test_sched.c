// Schedules: every script of tests/schedules, then what a Sched holds, precedence, tuning, limits.
#include "check.h"
#include "file.h"
#include "test_model.h"
#include <dirent.h>

static const char *root;

typedef struct Job {
    Source *source; // or
    const char *text, *path;
    const Sku *sku;
    int tp;
    Setting settings[4];
    size_t setting_count;
    bool tuning, no_experts;
    size_t memory;
    int64_t instructions;
    // results, outside the Ctx
    bool read;
    size_t errors;
    DiagCode code;
    char *printed, *diagnostics, *failed_check;
    Sched sched; // shallow: its pointers are gone
    SchedStep first;
} Job;

static void job_body(Ctx *ctx, void *user) {
    Job *job = user;
    Source *source = job->path ? file_read(ctx, job->path, SCHED_FILE_CAP)
                               : source_new(ctx, "s.lua", arena_text(ctx->arena, job->text), strlen(job->text));
    Model *model = ARENA_NEW(ctx->arena, Model);
    test_model(model);
    if (job->no_experts) {
        model->experts.count = 0;
        model->has_drafter = false;
        model->attention[ATTENTION_WINDOW].heads = 0;
    }
    Sched *sched = source ? sched_read_within(ctx, source, model, job->sku ? job->sku : &test_h200,
                                              job->tp ? job->tp : 8, job->settings, job->setting_count, job->tuning,
                                              job->memory ? job->memory : SCHED_MEMORY_CAP,
                                              job->instructions ? job->instructions : SCHED_INSTRUCTIONS)
                          : NULL;
    job->read = sched != NULL;
    if (!sched) return;
    job->sched = *sched;
    if (sched->step_count) job->first = sched->steps[0];
    job->printed = strdup(sched_print(ctx, sched));
    if (sched->failed_check) job->failed_check = strdup(sched->failed_check);
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

static void job_free(Job *job) {
    free(job->printed);
    free(job->diagnostics);
    free(job->failed_check);
}

static void contains(const char *text, const char *part) { CHECK(strstr(text, part), "no \"%s\" in:\n%s", part, text); }

// ---- scripts ----

static const char *script;

// What follows `-- key ` in the leading comments of a script, or NULL.
static char *expectation(const char *text, const char *key) {
    char mark[64];
    snprintf(mark, sizeof mark, "-- %s ", key);
    for (const char *line = text; strncmp(line, "-- ", 3) == 0; line += strcspn(line, "\n") + 1)
        if (strncmp(line, mark, strlen(mark)) == 0)
            return strndup(line + strlen(mark), strcspn(line + strlen(mark), "\n"));
    return NULL;
}

static void a_script(void) {
    static char path[4096], text[65536];
    check_name = script;
    snprintf(path, sizeof path, "%s/tests/schedules/%s.lua", root, script);
    FILE *file = fopen(path, "rb");
    CHECK(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    bool bytecode = text[0] == 27;
    char *expect = bytecode ? strdup("error E0204") : expectation(text, "expect"), *at = expectation(text, "at"),
         *says = expectation(text, "says"), *help = expectation(text, "help");
    CHECK(expect, "a script says what it expects");
    Job job = {.path = path};
    job_run(&job);
    if (strcmp(expect, "ok") == 0) {
        CHECK(job.read && job.errors == 0, "%s", job.diagnostics);
    } else {
        CHECK(strncmp(expect, "error E", 7) == 0, "%s", expect);
        CHECK(!job.read, "it was accepted");
        CHECK(job.errors == 1, "%zu errors:\n%s", job.errors, job.diagnostics);
        CHECK(strcmp(diag_code_name(job.code), expect + 6) == 0, "%s", job.diagnostics);
        char line[300];
        snprintf(line, sizeof line, "%s.lua:%s: error[%s]: ", script, at ? at : "", expect + 6);
        if (at) contains(job.diagnostics, line);
        if (says) contains(job.diagnostics, says);
        if (help) {
            const char *found = strstr(job.diagnostics, "help: ");
            CHECK(found, "no help in:\n%s", job.diagnostics);
            contains(found, help);
        }
        CHECK(!strchr(job.diagnostics, 27) && !strstr(job.diagnostics, "0x"), "%s", job.diagnostics);
    }
    job_free(&job);
    free(expect);
    free(at);
    free(says);
    free(help);
}

static void scripts(void) {
    static char folder[4096];
    snprintf(folder, sizeof folder, "%s/tests/schedules", root);
    struct dirent **files;
    int count = scandir(folder, &files, NULL, alphasort), ran = 0;
    for (int i = 0; i < count; i++) {
        char *dot = strstr(files[i]->d_name, ".lua");
        if (dot && dot[4] == 0) {
            *dot = 0;
            script = files[i]->d_name;
            RUN(a_script);
            ran++;
        }
        free(files[i]);
    }
    if (count >= 0) free(files);
    if (ran < 40) check_failures++, printf("not ok scripts: %d in %s\n", ran, folder);
}

// ---- what a Sched holds ----

static void defaults(void) {
    Job job = {.text = "return kernel \"plain\" { steps = { op \"qkv\" {} } }"};
    job_run(&job);
    CHECK(job.read, "%s", job.diagnostics);
    CHECK_TEXT(job.printed, "schedule plain, rows 8, activations f32, cache bf16\n"
                            "  role compute: warps 1, registers 0\n"
                            "  op qkv              line 1: tile 0, split 0, workers 0, static, per all via counter\n");
    job_free(&job);
}

static void every_field_is_printed(void) {
    Job job = {.text =
                   "local t = tune { tile = pow2(32, 256, 64), n = range(2, 8, 4),\n"
                   "  c = choice { 7, 1 } }\n"
                   "return kernel \"all\" {\n"
                   "  rows = 4.0, activations = \"bf16\", cache = \"f32\",\n"
                   "  roles = { load = { warps = 4, registers = 40 }, compute = { warps = 16 / 2, registers = 208 },\n"
                   "    control = {} },\n"
                   "  pages = { bytes = 16384, count = 12 },\n"
                   "  steps = {\n"
                   "    op \"attention\" { tile = 128 / 2, split = 4, workers = 66, per = \"tile\", via = \"data\" },\n"
                   "    op \"experts_up\" { claim = \"dynamic\", per = \"expert\" },\n"
                   "    op \"experts_down\" { claim = \"static\", per = \"token\", via = \"counter\" },\n"
                   "    op \"push\" {},\n"
                   "  },\n"
                   "}\n"};
    job_run(&job);
    CHECK(job.read, "%s", job.diagnostics);
    CHECK_TEXT(job.printed,
               "schedule all, rows 4, activations bf16, cache f32\n"
               "  role load: warps 4, registers 40\n"
               "  role compute: warps 8, registers 208\n"
               "  role control: warps 1, registers 0\n"
               "  pages: 12 of 16384 bytes\n"
               "  tunable c = 7 (default), line 2: 7, 1\n"
               "  tunable n = 4 (default), line 1: 2 to 8 by 1\n"
               "  tunable tile = 64 (default), line 1: 32, 64, 128, 256\n"
               "  op attention        line 9: tile 64, split 4, workers 66, static, per tile via data\n"
               "  op experts_up       line 10: tile 0, split 0, workers 0, dynamic, per expert via counter\n"
               "  op experts_down     line 11: tile 0, split 0, workers 0, static, per token via counter\n"
               "  op push             line 12: tile 0, split 0, workers 0, static, per all via counter\n");
    CHECK(job.first.span.line == 9 && job.first.span.col == 9 && job.first.span.length == strlen("attention"));
    job_free(&job);
}

static void spans_of_ops_built_by_helpers(void) {
    Job job = {.text = "local function make(name)\n  return op(name) { tile = 16 }\nend\n"
                       "return kernel \"k\" { steps = { make(\"qkv\") } }"};
    job_run(&job);
    CHECK(job.read, "%s", job.diagnostics);
    CHECK(job.first.op == OP_QKV && job.first.tile == 16 && job.first.span.line == 2, "line %u", job.first.span.line);
    job_free(&job);
}

static void what_a_model_has_not_is_nil(void) {
    Job job = {
        .text = "assert(model.experts == nil and model.moe == nil and model.drafter == nil and model.window == nil)\n"
                "for name in pairs(model) do assert(name ~= \"experts\" and name ~= \"drafter\") end\n"
                "return kernel \"k\" {}",
        .no_experts = true};
    job_run(&job);
    CHECK(job.read, "%s", job.diagnostics);
    job_free(&job);
}

static void the_same_text_gives_the_same_sched(void) {
    Job first = {.path = "schedules/decode.lua"};
    char path[4096];
    snprintf(path, sizeof path, "%s/schedules/decode.lua", root);
    first.path = path;
    job_run(&first);
    CHECK(first.read, "%s", first.diagnostics);
    for (int i = 0; i < 5; i++) {
        Job again = {.path = path};
        job_run(&again);
        CHECK_TEXT(again.printed, first.printed);
        job_free(&again);
    }
    job_free(&first);
}

static void messages_do_not_depend_on_hashes(void) {
    // Seven unknown keys: the first in order is told, in every run.
    for (int i = 0; i < 20; i++) {
        Job job = {.text = "return kernel \"k\" { zz = 1, yy = 2, xx = 3, cc = 4, bb = 5, aa = 6, dd = 7 }"};
        job_run(&job);
        contains(job.diagnostics, "unknown key of kernel \"aa\"");
        job_free(&job);
    }
}

// ---- precedence ----

// default < on arch < on SKU < record < -D: with each subset of the five, the strongest holds.
static void precedence(void) {
    static const Origin origins[] = {ORIGIN_ARCH, ORIGIN_SKU, ORIGIN_RECORD, ORIGIN_OPTION};
    static const char *const names[] = {"default", "arch", "sku", "record", "option"};
    for (int set = 0; set < 16; set++) {
        for (int swapped = 0; swapped < 2; swapped++) {
            char text[500], want[100];
            const char *arch = set & 1 ? "on \"sm_90a\" { v = 1 }" : "", *sku = set & 2 ? "on \"h200\" { v = 2 }" : "";
            snprintf(text, sizeof text, "local t = tune { v = range(0, 9, 0) }\n%s\n%s\nreturn kernel \"k\" {}",
                     swapped ? sku : arch, swapped ? arch : sku);
            Job job = {.text = text};
            // A weaker setting after a stronger one changes nothing either.
            if (swapped && set & 8) job.settings[job.setting_count++] = (Setting){"v", "4", ORIGIN_OPTION};
            if (set & 4) job.settings[job.setting_count++] = (Setting){"v", "3", ORIGIN_RECORD};
            if (!swapped && set & 8) job.settings[job.setting_count++] = (Setting){"v", "4", ORIGIN_OPTION};
            job_run(&job);
            CHECK(job.read, "%s", job.diagnostics);
            int value = 0;
            for (int i = 0; i < 4; i++)
                if (set & 1 << i) value = (int)origins[i];
            snprintf(want, sizeof want, "tunable v = %d (%s)", value, names[value]);
            contains(job.printed, want);
            job_free(&job);
        }
    }
}

static void on_host_is_the_sku_there(void) {
    Job job = {.text = "local t = tune { v = range(0, 9, 0) }\non \"host\" { v = 5 }\non \"h200\" { v = 6 }\n"
                       "return kernel \"k\" {}",
               .sku = &test_host,
               .tp = 1};
    job_run(&job);
    CHECK(job.read, "%s", job.diagnostics);
    contains(job.printed, "tunable v = 5 (sku)");
    job_free(&job);
}

static void setting_is_refused(const char *name, const char *value, Origin origin, DiagCode code, const char *says) {
    Job job = {.text = "local t = tune { tile = pow2(32, 256, 64) }\nreturn kernel \"k\" {}",
               .settings = {{name, value, origin}},
               .setting_count = 1};
    job_run(&job);
    CHECK(!job.read && job.errors == 1 && job.code == code, "%s", job.diagnostics);
    contains(job.diagnostics, says);
    job_free(&job);
}
static void settings_of_unknown_names(void) {
    setting_is_refused("tiel", "64", ORIGIN_OPTION, E0212, "did you mean \"tile\"?");
    setting_is_refused("quux", "64", ORIGIN_RECORD, E0212, "tuning record");
}
static void settings_outside_the_range(void) {
    static const char *const values[] = {"48",  "512", "",     "x",   "64x", "6 4", "1e2", "99999999999999999999",
                                         "-64", "0",   "64.0", "0x40"};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        setting_is_refused("tile", values[i], ORIGIN_OPTION, E0211, "tile may be 32, 64, 128, 256");
}
static void settings_without_tunables(void) {
    Job job = {.text = "return kernel \"k\" {}", .settings = {{"tile", "64", ORIGIN_OPTION}}, .setting_count = 1};
    job_run(&job);
    CHECK(!job.read && job.code == E0212, "%s", job.diagnostics);
    job_free(&job);
}

// ---- tuning ----

static void a_failed_check_prunes_while_tuning(void) {
    Job job = {.text = "check(false, \"first %d\", 7)\ncheck(false, \"second\")\nreturn kernel \"k\" {}",
               .tuning = true};
    job_run(&job);
    CHECK(job.read && job.errors == 0, "%s", job.diagnostics);
    CHECK_TEXT(job.failed_check, "first 7");
    job_free(&job);
}
static void what_follows_a_failed_check_does_not_matter(void) {
    Job job = {.text = "check(false, \"odd\")\nlocal x = 1 // 0\nreturn kernel \"k\" {}", .tuning = true};
    job_run(&job);
    CHECK(job.read && job.errors == 0, "%s", job.diagnostics);
    CHECK_TEXT(job.failed_check, "odd");
    job_free(&job);
}
static void errors_while_tuning_are_errors(void) {
    Job job = {.text = "local x = 1 // 0\ncheck(false, \"odd\")\nreturn kernel \"k\" {}", .tuning = true};
    job_run(&job);
    CHECK(!job.read && job.code == E0201, "%s", job.diagnostics);
    job_free(&job);
}

// ---- limits ----

// With every cap the script works as it does with plenty, or ends in E0202 and nothing else; the change is one way.
static void every_cap_ends_in_a_diagnostic(void) {
    const char *text = "local t = tune { tile = pow2(32, 256, 64), n = range(1, 500, 4), c = choice { 1, 2 } }\n"
                       "on \"h200\" { tile = 128 }\n"
                       "local s, all = \"\", {}\n"
                       "for i = 1, 200 do s = s .. i all[i] = { i } end\n"
                       "for k, v in pairs(all) do assert(v[1] == k) end\n"
                       "return kernel \"k\" { roles = { compute = {} }, steps = { op \"qkv\" { tile = t.tile } } }";
    Job plenty = {.text = text};
    job_run(&plenty);
    CHECK(plenty.read, "%s", plenty.diagnostics);
    size_t refused = 0, read = 0;
    for (size_t cap = 64; cap < 400000; cap += cap < 120000 ? 211 : 4999) {
        Job job = {.text = text, .memory = cap};
        job_run(&job);
        if (job.read) {
            CHECK_TEXT(job.printed, plenty.printed);
            read++;
        } else {
            CHECK(job.errors == 1 && job.code == E0202, "cap %zu: %s", cap, job.diagnostics);
            refused++;
        }
        job_free(&job);
    }
    CHECK(refused > 100 && read > 10, "%zu refused, %zu read", refused, read);
    job_free(&plenty);
}

static void the_budget_is_the_one_given(void) {
    const char *text = "for i = 1, 10000 do end\nreturn kernel \"k\" {}"; // an instruction a turn
    Job enough = {.text = text, .instructions = 12000}, less = {.text = text, .instructions = 9000};
    job_run(&enough);
    CHECK(enough.read, "%s", enough.diagnostics);
    job_run(&less);
    CHECK(!less.read && less.code == E0203, "%s", less.diagnostics);
    contains(less.diagnostics, "s.lua:1:1: error[E0203]");
    job_free(&enough);
    job_free(&less);
}

static void a_source_is_read_as_bytes(void) {
    static const char *const texts[] = {"",       "\n",         "\xEF\xBB\xBF", "\xFF\xFE",       "return",
                                        "--",     "--[[",       "\"",           "return kernel",  "#!/x\n",
                                        "\t\r\n", "return nil", "[==[",         "kernel [[a]] {", "op \"qkv\" {"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        Job job = {.text = texts[i]};
        job_run(&job);
        CHECK(!job.read && job.errors == 1 && (job.code == E0201 || job.code == E0225), "%zu: %s", i, job.diagnostics);
        job_free(&job);
    }
}

// Every prefix of the schedule that users start from, and every byte of it replaced, gives a Sched or one diagnostic.
static void broken_copies_of_decode(void) {
    char path[4096], *text = NULL;
    snprintf(path, sizeof path, "%s/schedules/decode.lua", root);
    size_t room = 0;
    FILE *file = fopen(path, "rb");
    CHECK(file);
    ssize_t length = getdelim(&text, &room, 0, file);
    fclose(file);
    CHECK(length > 1000);
    uint64_t seed = 7;
    for (int i = 0; i < 600; i++) {
        char *copy = strdup(text);
        size_t at = check_random(&seed) % (size_t)length;
        if (i % 3 == 0)
            copy[at] = 0;
        else
            copy[at] = "{}()[]\"'=,-+%#.0aZ\n "[check_random(&seed) % 20];
        Job job = {.text = copy, .instructions = 1000000};
        job_run(&job);
        CHECK(job.read ? job.errors == 0 : job.errors == 1, "change %d at %zu: %s", i, at, job.diagnostics);
        job_free(&job);
        free(copy);
    }
    free(text);
}

int main(void) {
    root = getenv("ROOT") ? getenv("ROOT") : ".";
    scripts();
    RUN(defaults);
    RUN(every_field_is_printed);
    RUN(spans_of_ops_built_by_helpers);
    RUN(what_a_model_has_not_is_nil);
    RUN(the_same_text_gives_the_same_sched);
    RUN(messages_do_not_depend_on_hashes);
    RUN(precedence);
    RUN(on_host_is_the_sku_there);
    RUN(settings_of_unknown_names);
    RUN(settings_outside_the_range);
    RUN(settings_without_tunables);
    RUN(a_failed_check_prunes_while_tuning);
    RUN(what_follows_a_failed_check_does_not_matter);
    RUN(errors_while_tuning_are_errors);
    RUN(every_cap_ends_in_a_diagnostic);
    RUN(the_budget_is_the_one_given);
    RUN(a_source_is_read_as_bytes);
    RUN(broken_copies_of_decode);
    return check_done();
}
