// Sessions on the driver without a GPU (fake_cuda.h): how they are opened, and what they say.
#ifndef FAKE_SESSION_H
#define FAKE_SESSION_H
#include "check.h"
#include "demo.h"
#include "fake_cuda.h"
#include "tilerun.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

static char library[1000];
static const FakeCuda *(*fake)(void); // NULL until fake_open
static char said[1 << 16];            // by the session that was kept last

static void keep(tr_session *s) {
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    tr_print_errors(s, out, false);
    fclose(out);
    snprintf(said, sizeof said, "%s", text);
    free(text);
}
#define SAID(text) CHECK(strstr(said, text), "no \"%s\" in\n# %s", text, said)

// FAKE_CUDA = behaviour; the session must open.
static inline tr_session *opened(const char *behaviour, tr_options o) {
    tr_session *s;
    setenv("FAKE_CUDA", behaviour, 1);
    int code = tr_open(&o, &s);
    if (code) keep(s);
    CHECK(code == 0, "%d\n# %s", code, said);
    return s;
}

static const int prompt[] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3};
static inline tr_request request(int count) {
    return (tr_request){.tokens = prompt, .token_count = 10, .max_tokens = count, .ignore_end = true};
}
// The fake kernel's tokens.
static inline void check_chain(const tr_result *r, size_t count) {
    CHECK(r->count == count, "%zu tokens", r->count);
    for (size_t i = 0, token = 3; i < count; i++) {
        token = (token * 31 + 7) % 199;
        CHECK(r->tokens[i] == (int)token, "token %zu", i);
    }
}

// A program; standard output is `*out`, standard error the file "errors" of demo_tmp().
static inline pid_t start(char *const *arguments, int *out) {
    int ends[2];
    char errors[1100];
    snprintf(errors, sizeof errors, "%s/errors", demo_tmp());
    CHECK(pipe(ends) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        int err = open(errors, O_WRONLY | O_CREAT | O_TRUNC, 0666);
        dup2(ends[1], 1);
        dup2(err, 2);
        close(ends[0]);
        close(ends[1]);
        execv(arguments[0], arguments);
        _exit(127);
    }
    close(ends[1]);
    *out = ends[0];
    return pid;
}

static void library_find(void) {
    const char *build = getenv("BUILD") ? getenv("BUILD") : "build";
    snprintf(library, sizeof library, "%s/tests/libfakecuda.so", build);
}
// False after saying why not.
static bool fake_open(void) {
    void *handle = dlopen(library, RTLD_NOW), *symbol = handle ? dlsym(handle, "fake_cuda") : NULL;
    if (!symbol) return printf("not ok set-up: %s\n", dlerror()), false;
    memcpy(&fake, &symbol, sizeof symbol);
    return true;
}
#endif
