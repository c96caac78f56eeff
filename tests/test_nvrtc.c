// What the CUDA compiler says, read; and every template compiled alone, where there is a CUDA compiler.
#include "check.h"
#include "nvrtc.h"
#include "nvrtc_log.h"
#include "templates.h"
#include <unistd.h>

static const char *root;

// ---- the log ----

typedef struct Reading {
    const char *log;
    size_t errors;
    Resources resources;
    DiagCode first;
    char *text; // diagnostics as printed
} Reading;

static void read_body(Ctx *ctx, void *user) {
    Reading *reading = user;
    static const char cuh[] = "// a template\n"
                              "int f(int x) {\n"
                              "\treturn bar(x) +\n"
                              "        baz;\n"
                              "}\n";
    static const char cu[] = "#include \"a.cuh\"\nint g = 1 2;\n";
    const Source *sources[] = {source_new(ctx, "home/templates/a.cuh", cuh, strlen(cuh)),
                               source_new(ctx, "kernel.cu", cu, strlen(cu))};
    reading->errors = nvrtc_log_report(ctx, reading->log, sources, 2);
    reading->resources = nvrtc_log_resources(reading->log);
    reading->first = diag_code_at(ctx, 0);
    size_t size;
    FILE *out = open_memstream(&reading->text, &size);
    CHECK(out);
    diag_print(ctx, out, DIAG_TEXT);
    fclose(out);
}

static Reading read_log(const char *log) {
    Reading reading = {.log = log};
    Ctx *ctx = ctx_new((Env){0});
    CHECK(ctx && ctx_protect(ctx, read_body, &reading));
    ctx_free(ctx);
    return reading;
}

static void reads(const char *log, size_t errors, const char *want) {
    Reading reading = read_log(log);
    CHECK_TEXT(reading.text, want);
    CHECK(reading.errors == errors, "%zu", reading.errors);
    free(reading.text);
}

static void nothing(void) {
    reads("", 0, "");
    reads("\n\n", 0, "");
    reads("Remark: The warnings can be suppressed with \"-diag-suppress <warning-number>\"\n", 0, "");
}
static void errors_have_a_place(void) {
    reads("/a.cuh(3): error: identifier \"bar\" is undefined\n"
          "  \treturn bar(x) +\n"
          "  \t       ^\n"
          "\n"
          "/a.cuh(4): error #20: identifier \"baz\" is undefined\n"
          "          baz;\n"
          "          ^\n"
          "\n"
          "2 errors detected in the compilation of \"/kernel.cu\".\n",
          2,
          "home/templates/a.cuh:3:9: error[E0453]: identifier \"bar\" is undefined\n"
          "    3 |  return bar(x) +\n"
          "      |         ^^^\n"
          "home/templates/a.cuh:4:9: error[E0453]: identifier \"baz\" is undefined\n"
          "    4 |         baz;\n"
          "      |         ^^^\n");
    reads("kernel.cu(2): error: expected a \";\"\n  int g = 1 2;\n            ^\n", 1,
          "kernel.cu:2:11: error[E0453]: expected a \";\"\n    2 | int g = 1 2;\n      |           ^\n");
}
static void an_error_without_a_caret_marks_the_line(void) {
    reads("/a.cuh(4): catastrophic error: out of ideas\n\n", 1,
          "home/templates/a.cuh:4:9: error[E0453]: out of ideas\n    4 |         baz;\n      |         ^^^^\n");
    reads("/a.cuh(40): error: beyond the end\n", 1, "home/templates/a.cuh: error[E0453]: beyond the end\n");
}
static void remarks_become_notes(void) {
    reads("/a.cuh(4): error: static assertion failed with \"N must be large\"\n"
          "          baz;\n"
          "          ^\n"
          "          detected during instantiation of class \"S<N> [with N=2]\" at line 8\n"
          "\n",
          1,
          "home/templates/a.cuh:4:9: error[E0453]: static assertion failed with \"N must be large\"\n"
          "    4 |         baz;\n"
          "      |         ^^^\n"
          "note: detected during instantiation of class \"S<N> [with N=2]\" at line 8\n");
}
static void warnings_are_no_errors(void) {
    reads("/a.cuh(2): warning #177-D: variable \"f\" was declared but never referenced\n"
          "  int f(int x) {\n"
          "      ^\n"
          "\n",
          0,
          "home/templates/a.cuh:2:5: warning[E0457]: variable \"f\" was declared but never referenced\n"
          "    2 | int f(int x) {\n"
          "      |     ^\n");
}
static void places_that_are_not_ours(void) {
    reads("/usr/x(1).h(12): error: something\n\n", 1, "error[E0453]: /usr/x(1).h(12): error: something\n");
    reads("At end of source: error: expected a \"}\"\n", 1,
          "error[E0453]: At end of source: error: expected a \"}\"\n");
}
static void the_assembler(void) {
    reads("ptxas application ptx input, line 1110; error   : Not a name of any known instruction: 'bogus'\n"
          "ptxas fatal   : Ptx assembly aborted due to errors\n",
          1,
          "error[E0453]: ptxas application ptx input, line 1110; error   : Not a name of any known instruction: "
          "'bogus'\n");
    reads("ptxas fatal   : Unresolved extern function '_Z1fv'\n", 1,
          "error[E0453]: ptxas fatal   : Unresolved extern function '_Z1fv'\n");
    Reading reading = read_log("ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored; unable to "
                               "determine register count at entry.\n");
    CHECK(reading.errors == 1 && reading.first == E0456);
    free(reading.text);
}
static void ten_are_shown_and_the_rest_counted(void) {
    char log[4096] = "";
    for (int i = 0; i < 25; i++) strcat(log, "/a.cuh(4): error: again\n          baz;\n          ^\n\n");
    Reading reading = read_log(log);
    int shown = 0;
    for (const char *at = reading.text; (at = strstr(at, "error[E0453]")); at++) shown++;
    CHECK(reading.errors == 25 && shown == 10);
    CHECK(strstr(reading.text, "note: and 15 more errors of the CUDA compiler\n"));
    free(reading.text);
}
static void figures(void) {
    Resources r = read_log("ptxas info    : 0 bytes gmem\n"
                           "ptxas info    : Compiling entry function 'k2' for 'sm_90a'\n"
                           "ptxas info    : Function properties for k2\n"
                           "ptxas         .     256 bytes stack frame, 8 bytes spill stores, 0 bytes spill loads\n"
                           "ptxas info    : Used 17 registers, used 0 barriers, 256 bytes cumulative stack size\n"
                           "ptxas info    : Compile time = 37.800 ms\n"
                           "ptxas info    : Compiling entry function 'k' for 'sm_90a'\n"
                           "ptxas info    : Function properties for k\n"
                           "    232 bytes stack frame, 400 bytes spill stores, 392 bytes spill loads\n"
                           "ptxas info    : Used 32 registers, used 4 barriers, 232 bytes cumulative stack size, "
                           "4000 bytes smem, 552 bytes cmem[0]\n")
                      .resources;
    CHECK(r.functions == 2 && r.registers == 32 && r.shared == 4000 && r.barriers == 4);
    CHECK(r.stack == 256 && r.spill_stores == 408 && r.spill_loads == 392);
    r = read_log("ptxas info    : Used 4 registers\n").resources;
    CHECK(r.functions == 0 && r.registers == 4 && r.shared == 0 && r.barriers == 0);
}
// Whatever a log is cut to, or a byte of it changed to, it is read.
static void damaged_logs(void) {
    static const char log[] = "/a.cuh(3): error: identifier \"bar\" is undefined\n  \treturn bar(x) +\n  \t       ^\n\n"
                              "At end of source: error: x\nptxas info    : Used 4 registers, used 1 barriers\n"
                              "ptxas         .     9 bytes stack frame, 1 bytes spill stores, 0 bytes spill loads\n";
    char text[sizeof log];
    uint64_t seed = 1;
    for (size_t i = 0; i < 3 * sizeof log; i++) {
        memcpy(text, log, sizeof log);
        if (i < sizeof log)
            text[i] = 0;
        else
            for (int k = 0; k < 3; k++)
                text[check_random(&seed) % (sizeof log - 1)] = "(): ^\n9a\xff\t"[check_random(&seed) % 10];
        free(read_log(text).text);
    }
}

// ---- the compiler itself ----

static void in_nvrtc(void (*body)(Ctx *, void *), void *user) {
    Ctx *ctx = ctx_new((Env){.cuda_home = getenv("CUDA_HOME"), .nvrtc = getenv("TILEGEN_NVRTC")});
    bool done = ctx_protect(ctx, body, user);
    diag_print(ctx, stderr, DIAG_TEXT);
    ctx_free(ctx);
    CHECK(done);
}

typedef struct Alone {
    bool absent;
    size_t compiled;
    char failed[1000];
} Alone;

static const char *const options[] = {"--gpu-architecture=sm_90a", "--std=c++17", "-default-device", "-lineinfo"};

static void alone_body(Ctx *ctx, void *user) {
    Alone *alone = user;
    Nvrtc *nvrtc = nvrtc_open(ctx, root);
    if (!nvrtc) {
        diag_forget(ctx, 0);
        alone->absent = true;
        return;
    }
    const Templates *templates = templates_read(ctx, root);
    if (!templates) return;
    for (size_t i = 0; i < templates->count; i++) {
        const char *name = strrchr(templates->files[i]->name, '/') + 1;
        char *text = arena_printf(ctx->arena, "#include \"%s\"\n", name);
        NvrtcJob job = {source_new(ctx, "alone.cu", text, strlen(text)),
                        templates->files,
                        templates->count,
                        options,
                        sizeof options / sizeof *options,
                        false};
        NvrtcResult result;
        if (nvrtc_compile(ctx, nvrtc, &job, &result) && result.ok)
            alone->compiled++;
        else
            snprintf(alone->failed, sizeof alone->failed, "%s: %s", name, result.log);
    }
}
static void every_template_compiles_alone(void) {
    Alone alone = {0};
    in_nvrtc(alone_body, &alone);
    if (alone.absent) SKIP("no CUDA compiler here");
    CHECK(alone.compiled > 0 && !alone.failed[0], "%s", alone.failed);
    printf("# templates compiled alone: %zu\n", alone.compiled);
}

typedef struct Twice {
    bool absent, same, named;
} Twice;

static void twice_body(Ctx *ctx, void *user) {
    Twice *twice = user;
    Nvrtc *nvrtc = nvrtc_open(ctx, root);
    if (!nvrtc) {
        diag_forget(ctx, 0);
        twice->absent = true;
        return;
    }
    static const char text[] =
        "#include \"h.cuh\"\n__global__ void k(int *p) {\n#line 7 \"other.cuh\"\n*p = h(*p);\n}\n";
    static const char header[] = "inline int h(int x) { return x * x + 1; }\n";
    char folder[4096];
    CHECK(getcwd(folder, sizeof folder));
    NvrtcResult results[2];
    for (int i = 0; i < 2; i++) {
        // The header's own folder differs too.
        const Source *h = source_new(ctx, i ? "/elsewhere/h.cuh" : "h.cuh", header, strlen(header));
        NvrtcJob job = {source_new(ctx, "k.cu", text, strlen(text)), &h, 1, options, 4, false};
        if (i && chdir("/") != 0) return;
        bool ok = nvrtc_compile(ctx, nvrtc, &job, &results[i]) && results[i].ok;
        if (i && chdir(folder) != 0) return;
        if (!ok) return;
    }
    twice->same = results[0].size == results[1].size && memcmp(results[0].data, results[1].data, results[0].size) == 0;
    twice->named = memmem(results[0].data, results[0].size, folder, strlen(folder)) != NULL;
}
static void a_cubin_does_not_depend_on_the_folder(void) {
    Twice twice = {0};
    in_nvrtc(twice_body, &twice);
    if (twice.absent) SKIP("no CUDA compiler here");
    CHECK(twice.same && !twice.named);
}

int main(void) {
    root = getenv("ROOT") ? getenv("ROOT") : ".";
    RUN(nothing);
    RUN(errors_have_a_place);
    RUN(an_error_without_a_caret_marks_the_line);
    RUN(remarks_become_notes);
    RUN(warnings_are_no_errors);
    RUN(places_that_are_not_ours);
    RUN(the_assembler);
    RUN(ten_are_shown_and_the_rest_counted);
    RUN(figures);
    RUN(damaged_logs);
    RUN(every_template_compiles_alone);
    RUN(a_cubin_does_not_depend_on_the_folder);
    return check_done();
}
