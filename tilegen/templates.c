#include "templates.h"
#include "file.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

enum { TEMPLATE_CAP = 1 << 20, MOST_TEMPLATES = 256 };

static bool is_header(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot && name[0] != '.' && (strcmp(dot, ".h") == 0 || strcmp(dot, ".cuh") == 0);
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void close_folder(void *folder) { closedir(folder); }

const Templates *templates_read(Ctx *ctx, const char *home) {
    char *path = file_join(ctx, home, "templates");
    char **names = ARENA_ARRAY(ctx->arena, char *, MOST_TEMPLATES);
    size_t count = 0;
    DIR *folder = opendir(path);
    if (folder) {
        ctx_defer(ctx, close_folder, folder);
        for (struct dirent *entry; count < MOST_TEMPLATES && (entry = readdir(folder));)
            if (is_header(entry->d_name)) names[count++] = arena_text(ctx->arena, entry->d_name);
        ctx_done(ctx, folder);
    }
    if (count == 0 || count == MOST_TEMPLATES) {
        diag_error(ctx, E0458, file_span(ctx, path), count ? "more than %d headers" : "no CUDA headers here",
                   MOST_TEMPLATES - 1);
        diag_help(ctx, "run tilegen where build.lua is, or install it whole with `make install`");
        return NULL;
    }
    qsort(names, count, sizeof *names, by_name);
    Templates *out = ARENA_NEW(ctx->arena, Templates);
    out->files = ARENA_ARRAY(ctx->arena, const Source *, count);
    for (; out->count < count; out->count++)
        if (!(out->files[out->count] = file_read(ctx, file_join(ctx, path, names[out->count]), TEMPLATE_CAP)))
            return NULL;
    return out;
}
