// For tests of readers: files made in $TEST_TMP, and what a reader says of them.
#ifndef DAMAGE_H
#define DAMAGE_H
#include "check.h"
#include "diag.h"
#include <sys/stat.h>

static Ctx *ctx; // of the running test; made by FRESH
#define FRESH()                                                                                                        \
    do {                                                                                                               \
        ctx_free(ctx);                                                                                                 \
        ctx = ctx_new((Env){0});                                                                                       \
        CHECK(ctx);                                                                                                    \
    } while (0)

static inline const char *temp_path(const char *name) {
    const char *folder = getenv("TEST_TMP");
    return arena_printf(ctx->arena, "%s/%s", folder ? folder : "/tmp", name);
}

static inline void temp_folder(const char *name) { mkdir(temp_path(name), 0777); }

static inline const char *temp_file(const char *name, const void *data, size_t bytes) {
    const char *path = temp_path(name);
    FILE *out = fopen(path, "wb");
    CHECK(out && fwrite(data, 1, bytes, out) == bytes && fclose(out) == 0, "%s", path);
    return path;
}
static inline const char *temp_text(const char *name, const char *text) { return temp_file(name, text, strlen(text)); }

// All diagnostics as text; they are forgotten.
static inline const char *reported(void) {
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    diag_print(ctx, out, DIAG_TEXT);
    fclose(out);
    const char *kept = arena_text(ctx->arena, text);
    free(text);
    return kept;
}

// The first error has this code and the report holds this text.
#define CHECK_ERROR(code, part)                                                                                        \
    do {                                                                                                               \
        DiagCode got_code = diag_code_at(ctx, 0);                                                                      \
        const char *said = reported(), *part_ = (part);                                                                \
        CHECK(got_code == (code), "%s\n# %s", diag_code_name(got_code), said);                                         \
        CHECK(strstr(said, part_), "no \"%s\" in\n# %s", part_, said);                                                 \
    } while (0)
#define CHECK_SILENT()                                                                                                 \
    do {                                                                                                               \
        size_t errors_ = diag_errors(ctx);                                                                             \
        const char *said = errors_ ? reported() : "";                                                                  \
        CHECK(!errors_, "%s", said);                                                                                   \
    } while (0)
#endif
