// An engine on several GPUs without a GPU: a process a rank, each with a driver of our own (fake_cuda.c), whose windows
// are files (fake_nccl.c). What rank 0 gives is what one GPU would; and every way in which a rank can be lost.
#include "demo.h"
#include "fake_bundle.h"
#include "fake_session.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char pair_path[1000], single_path[1000], weights_path[1000], nccl_path[1000];

static tr_options options(void) {
    return (tr_options){.bundle = pair_path,
                        .weights = weights_path,
                        .threads = 2,
                        .gpus = 2,
                        .timeout = 0.2,
                        .cuda = library,
                        .nccl = nccl_path};
}
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

// A child of a process, or 0.
static pid_t child_of(pid_t parent) {
    char path[300];
    int child = 0, of;
    DIR *all = opendir("/proc");
    for (struct dirent *entry; all && !child && (entry = readdir(all));) {
        snprintf(path, sizeof path, "/proc/%s/stat", entry->d_name);
        FILE *f = *entry->d_name >= '0' && *entry->d_name <= '9' ? fopen(path, "r") : NULL;
        if (f && (fscanf(f, "%d (%*[^)]) %*c %d", &child, &of) != 2 || of != (int)parent)) child = 0;
        if (f) fclose(f);
    }
    if (all) closedir(all);
    return child;
}
static bool alive(pid_t pid) {
    char path[100], state = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "r");
    bool read = f && fscanf(f, "%*d (%*[^)]) %c", &state) == 1;
    if (f) fclose(f);
    return read && state != 'Z';
}
static void no_children(void) { CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD, "a process is left"); }

static tr_session *pair(const char *behaviour) {
    char all[300];
    snprintf(all, sizeof all, "devices=2,%s", behaviour);
    return opened(all, options());
}
static void closed(tr_session *s) {
    tr_close(s);
    const FakeCuda *f = fake();
    CHECK(f->allocations == 0 && f->hosts == 0 && f->contexts == 0 && f->modules == 0 && f->streams == 0 &&
              f->kernels == 0,
          "%d %d %d %d %d %d are left", f->allocations, f->hosts, f->contexts, f->modules, f->streams, f->kernels);
    no_children();
}
static void refused(const char *behaviour, tr_options o, int want) {
    char all[300];
    tr_session *s;
    double begun = now();
    snprintf(all, sizeof all, "devices=2,%s", behaviour);
    setenv("FAKE_CUDA", all, 1);
    int code = tr_open(&o, &s);
    keep(s);
    no_children();
    tr_close(s);
    CHECK(code == want, "exit %d, not %d\n# %s", code, want, said);
    CHECK(now() - begun < 3, "after %.1f s", now() - begun);
}

// ---- Tests ----

static void two_ranks_give_what_one_does(void) {
    tr_session *s = pair("");
    const EngineParams *p = &fake()->params;
    CHECK(tr_gpus(s) == 2 && p->rank == 0 && p->peers[0] == p->slab && p->peers[1] && p->peers[1] != p->slab &&
          p->peers[2] == 0);
    const EngineTables *t = (const EngineTables *)(uintptr_t)p->tables;
    CHECK(p->meeting == p->slab + t->slab_bytes && p->abort == p->meeting + offsetof(EngineMeeting, abort));
    const EngineMeeting *own = (const EngineMeeting *)(uintptr_t)p->meeting,
                        *theirs = (const EngineMeeting *)(uintptr_t)(p->peers[1] + t->slab_bytes);
    CHECK(own->greeting == 1 && theirs->greeting == 2);
    for (int i = 0; i < 3; i++) {
        tr_request r = request(20 + i);
        tr_result result;
        r.no_draft = i == 1;
        CHECK(tr_generate(s, &r, &result) == 0, "%s", (keep(s), said));
        check_chain(&result, 20 + (size_t)i);
    }
    closed(s);
}

static void benches_begin_anew(void) {
    tr_session *s = pair("");
    double rate;
    for (int i = 0; i < 2; i++) {
        tr_request r = request(30);
        tr_result result;
        CHECK(tr_stream(s, &rate) == 0 && tr_trace(s, i == 0) == (i == 0 ? 1 : 0)); // it was opened without a trace
        CHECK(tr_generate(s, &r, &result) == 0);
        check_chain(&result, 30);
    }
    closed(s);
}

static void logits_of_both_shares(void) {
    tr_session *s = pair("vocab=1024");
    float *out = malloc(10 * 2048 * sizeof *out);
    CHECK(tr_logits(s, prompt, 10, out) == 0);
    for (int i = 0; i < 10; i++) CHECK(out[i * 2048 + 5] == (float)prompt[i], "row %d", i);
    free(out);
    closed(s);
}

static void cancel(void *user, const char *bytes, size_t length) {
    (void)bytes, (void)length;
    tr_cancel(user);
}
static void cancelled_requests(void) {
    tr_session *s = pair("slow");
    tr_request r = request(1000);
    tr_result result;
    r.on_text = cancel, r.user = s;
    CHECK(tr_generate(s, &r, &result) == 130);
    r = request(12);
    CHECK(tr_generate(s, &r, &result) == 0);
    check_chain(&result, 12);
    closed(s);
}

static int signal_number;
static void strike(void *user, const char *bytes, size_t length) {
    (void)user, (void)bytes, (void)length;
    pid_t child = child_of(getpid());
    if (signal_number && child) kill(child, signal_number);
    signal_number = 0;
}
// A request in whose middle rank 1 gets a signal.
static void struck(int number, const char *behaviour, int count) {
    tr_session *s = pair(behaviour);
    tr_request r = request(count);
    tr_result result;
    signal_number = number;
    r.on_text = strike;
    double begun = now();
    int code = tr_generate(s, &r, &result);
    CHECK(code == 3, "%d", code);
    CHECK(now() - begun < 2, "after %.2f s", now() - begun);
    CHECK(tr_generate(s, &r, &result) == 4); // it stays ended
    keep(s);
    closed(s);
}
static void a_rank_that_is_killed(void) {
    struck(SIGKILL, "slow", 1000);
    SAID("E0921");
    SAID("rank 1 was killed by signal 9");
    SAID("GPUs are free");
}
static void a_rank_that_is_stopped(void) {
    struck(SIGSTOP, "slow", 1000);
    SAID("E0922");
    SAID("rank 1 (process ");
}

static void between_requests(void) {
    tr_session *s = pair("");
    tr_request r = request(12);
    tr_result result;
    CHECK(tr_generate(s, &r, &result) == 0);
    CHECK(kill(child_of(getpid()), SIGKILL) == 0);
    usleep(50000);
    CHECK(tr_generate(s, &r, &result) == 3);
    keep(s);
    SAID("E0921");
    closed(s);
}

static void kernels_that_fail(void) {
    static const struct {
        const char *behaviour, *code, *text;
        int exit;
    } cases[] = {{"slow,hang@1", "E0906", "rank 1: no round came", 3},
                 {"slow,dies@1", "E0906", "rank 1: the kernel gave up", 3},
                 {"slow,dies@0", "E0906", "the kernel gave up", 3},
                 {"slow,crashes@0,dies@0", "E0916", "the kernel failed", 3},
                 {"slow,crashes@1,dies@1", "E0916", "rank 1: the kernel failed", 3},
                 {"slow,lies@1", "E0916", "rank 1: the kernel answered", 4},
                 {"errs@1", "E0904", "ranks do not agree", 4}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tr_session *s = pair(cases[i].behaviour);
        tr_request r = request(100);
        tr_result result;
        double begun = now();
        int code = tr_generate(s, &r, &result);
        keep(s);
        CHECK(code == cases[i].exit, "%s: %d\n# %s", cases[i].behaviour, code, said);
        CHECK(now() - begun < 2, "%s: after %.2f s", cases[i].behaviour, now() - begun);
        SAID(cases[i].code);
        SAID(cases[i].text);
        closed(s);
    }
}

static void sessions_that_do_not_open(void) {
    refused("full@1", options(), 3);
    SAID("E0911");
    SAID("rank 1: ");
    refused("full@0", options(), 3);
    SAID("E0911");
    refused("name=NVIDIA H100 80GB HBM3", options(), 3);
    SAID("E0912");
    tr_options o = options();
    setenv("FAKE_CUDA", "devices=1", 1);
    tr_session *s;
    CHECK(tr_open(&o, &s) == 3);
    keep(s);
    tr_close(s);
    SAID("rank 1: there is no device 1");
    o.gpus = 3;
    refused("", o, 1);
    SAID("E0905");
    SAID("for 2 GPUs, not 3");
    o.bundle = single_path;
    o.gpus = 2;
    refused("", o, 1);
    SAID("for 1 GPU, not 2");
    SAID("--tp 2");
    o = options();
    o.host = true;
    refused("", o, 1);
    SAID("leave out --gpus");
    o = options();
    o.weights = "/nowhere";
    refused("", o, 1);
    SAID("E0702");
}

static void an_nccl_that_will_not_do(void) {
    static const struct {
        const char *behaviour, *code, *text;
    } cases[] = {
        {"old", "E0924", "is NCCL 2.27; 2.28 is needed"},
        {"broken", "E0925", "NCCL 2.28, joining the other ranks: unhandled system error (2): no way from here"},
        {"broken@1,hangs@0", "E0925", "rank 1: NCCL 2.28"},
        {"apart", "E0926", "does not reach the memory of rank 1's"},
        {"crossed", "E0926", "in the window of rank"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        setenv("FAKE_NCCL", cases[i].behaviour, 1);
        refused("", options(), 3);
        SAID(cases[i].code);
        SAID(cases[i].text);
    }
    unsetenv("FAKE_NCCL");
    tr_options o = options();
    o.nccl = "/nowhere/libnccl.so.2";
    refused("", o, 3);
    SAID("E0923");
    SAID("make cuda");
}

// ---- The program ----

// Signals it, or its first child, when there is text. The exit status, -1: it was killed; standard error in `said`.
static int run(char *const *arguments, int number, bool its_child, double *seconds) {
    int out, status = -1;
    char byte, errors[1100];
    pid_t pid = start(arguments, &out), child = 0;
    double begun = now();
    while (read(out, &byte, 1) == 1) {
        if (child || !number) continue;
        child = child_of(pid);
        CHECK(child > 0);
        begun = now();
        kill(its_child ? child : pid, number);
    }
    close(out);
    waitpid(pid, &status, 0);
    *seconds = now() - begun;
    while (child && alive(child) && now() - begun < 3) usleep(1000);
    CHECK(!child || !alive(child), "process %d is left", (int)child);
    snprintf(errors, sizeof errors, "%s/errors", demo_tmp());
    FILE *f = fopen(errors, "rb");
    size_t n = f ? fread(said, 1, sizeof said - 1, f) : 0;
    said[n] = 0;
    if (f) fclose(f);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void the_program(void) {
    if (!getenv("TILERUN")) SKIP("TILERUN is not set");
    char *program = getenv("TILERUN");
    double seconds;
    setenv("TILERUN_CUDA", library, 1);
    setenv("TILERUN_NCCL", nccl_path, 1);
    setenv("FAKE_CUDA", "devices=2,slow", 1);
    char *text[] = {program,      "generate", pair_path, "--gpus",       "2",    "--weights",
                    weights_path, "--prompt", "def f",   "--max-tokens", "1900", NULL};
    int code = run(text, SIGINT, false, &seconds);
    CHECK(code == 130 && seconds < 2, "%d after %.2f s\n# %s", code, seconds, said);
    SAID("by the GPU's clock");
    code = run(text, SIGKILL, true, &seconds);
    CHECK(code == 3 && seconds < 2, "%d after %.2f s\n# %s", code, seconds, said);
    SAID("E0921");
    code = run(text, SIGKILL, false, &seconds);
    CHECK(code == -1 && seconds < 2, "%d after %.2f s\n# %s", code, seconds, said);
    setenv("FAKE_CUDA", "devices=2", 1);
    char packed[2][1100], both[1100];
    snprintf(both, sizeof both, "%s/demo-{rank}.packed", demo_tmp());
    for (int rank = 0; rank < 2; rank++) {
        char *number = rank ? "1" : "0";
        snprintf(packed[rank], sizeof packed[rank], "%s/demo-%d.packed", demo_tmp(), rank);
        char *pack[] = {program,  "pack", pair_path, "--weights",  weights_path,
                        "--rank", number, "-o",      packed[rank], NULL};
        code = run(pack, 0, false, &seconds);
        CHECK(code == 0, "%d\n# %s", code, said);
    }
    char *from[] = {program, "generate", pair_path, "--weights", both, "--prompt", "def f", "--max-tokens", "12", NULL};
    code = run(from, 0, false, &seconds);
    CHECK(code == 0, "%d\n# %s", code, said);
    CHECK(unlink(packed[1]) == 0);
    code = run(from, 0, false, &seconds);
    CHECK(code == 3, "%d\n# %s", code, said);
    SAID("rank 1: ");
    char *bench[] = {program,    "bench", pair_path,   "--gpus", "2",      "synthetic:1",
                     "--rounds", "20",    "--context", "100",    "--json", NULL};
    code = run(bench, 0, false, &seconds);
    CHECK(code == 0, "%d\n# %s", code, said);
}

int main(void) {
    library_find();
    const char *build = getenv("BUILD") ? getenv("BUILD") : "build";
    snprintf(nccl_path, sizeof nccl_path, "%s/tests/libfakenccl.so", build);
    snprintf(pair_path, sizeof pair_path, "%s/demo-tp2.bundle", demo_tmp());
    snprintf(single_path, sizeof single_path, "%s/demo.bundle", demo_tmp());
    snprintf(weights_path, sizeof weights_path, "%s/models/demo", demo_root());
    setenv("TEST_TMP", demo_tmp(), 1);
    check_name = "set-up";
    if (setjmp(check_landing)) return 1;
    fake_wide = false;
    fake_bundle(single_path);
    fake_ranks = 2;
    fake_bundle(pair_path);
    if (!fake_open()) return 1;
    RUN(two_ranks_give_what_one_does);
    RUN(benches_begin_anew);
    RUN(logits_of_both_shares);
    RUN(cancelled_requests);
    RUN(a_rank_that_is_killed);
    RUN(a_rank_that_is_stopped);
    RUN(between_requests);
    RUN(kernels_that_fail);
    RUN(sessions_that_do_not_open);
    RUN(an_nccl_that_will_not_do);
    RUN(the_program);
    return check_done();
}
