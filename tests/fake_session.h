// Sessions on the driver without a GPU (fake_cuda.h): how they are opened, and what they say.
#ifndef FAKE_SESSION_H
#define FAKE_SESSION_H
#include "check.h"
#include "fake_cuda.h"
#include "tilerun.h"
#include <dlfcn.h>

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
