#include "file.h"
#include "text.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void close_fd(void *fd) { close((int)(intptr_t)fd); }

Source *file_read(Ctx *ctx, const char *path, size_t cap) {
    bool standard = strcmp(path, "-") == 0;
    const char *name = standard ? "<stdin>" : path;
    int fd = standard ? dup(0) : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        diag_error(ctx, E0002, file_span(ctx, name), "cannot read: %s", strerror(errno));
        return NULL;
    }
    void *handle = (void *)(intptr_t)fd;
    ctx_defer(ctx, close_fd, handle);
    Source *out = NULL;
    struct stat st;
    if (fstat(fd, &st) < 0 || (!standard && !S_ISREG(st.st_mode))) {
        diag_error(ctx, E0002, file_span(ctx, name), "cannot read: %s",
                   S_ISDIR(st.st_mode) ? "it is a folder" : "not a regular file");
    } else if (S_ISREG(st.st_mode) && (size_t)st.st_size > cap) {
        diag_error(ctx, E0003, file_span(ctx, name), "the file has %lld bytes, more than the %zu allowed here",
                   (long long)st.st_size, cap);
    } else {
        size_t room = S_ISREG(st.st_mode) ? (size_t)st.st_size + 1 : 65536, length = 0;
        char *text = arena_alloc(ctx->arena, room + 1);
        for (;;) {
            if (length == room) {
                char *grown = arena_alloc(ctx->arena, room * 2 + 1);
                memcpy(grown, text, length);
                text = grown;
                room *= 2;
            }
            ssize_t got = read(fd, text + length, room - length);
            if (got < 0 && errno == EINTR) continue;
            if (got < 0) {
                diag_error(ctx, E0002, file_span(ctx, name), "cannot read: %s", strerror(errno));
                break;
            }
            length += (size_t)got;
            if (length > cap) {
                diag_error(ctx, E0003, file_span(ctx, name), "more than the %zu bytes allowed here", cap);
                break;
            }
            if (got == 0) {
                text[length] = 0;
                out = source_new(ctx, name, text, length);
                break;
            }
        }
    }
    ctx_done(ctx, handle);
    return out;
}

const char *file_try_write(Ctx *ctx, const char *path, const void *data, size_t length) {
    char *staged = arena_printf(ctx->arena, "%s.%ld.partial", path, (long)getpid());
    int fd = open(staged, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666), error = 0;
    if (fd < 0) error = errno;
    for (size_t done = 0; !error && done < length;) {
        ssize_t put = write(fd, (const char *)data + done, length - done);
        if (put < 0 && errno != EINTR) error = errno;
        if (put > 0) done += (size_t)put;
    }
    if (!error && fsync(fd) < 0 && errno != EINVAL && errno != EROFS) error = errno;
    if (fd >= 0 && close(fd) < 0 && !error) error = errno;
    if (!error && rename(staged, path) < 0) error = errno;
    if (!error) return NULL;
    if (fd >= 0) unlink(staged);
    return strerror(error);
}

bool file_write(Ctx *ctx, const char *path, const void *data, size_t length) {
    const char *why = file_try_write(ctx, path, data, length);
    if (why) diag_error(ctx, E0004, file_span(ctx, path), "cannot write: %s", why);
    return !why;
}

const char *file_try_mkdirs(Ctx *ctx, const char *path) {
    char *copy = arena_text(ctx->arena, path);
    for (char *s = copy + 1; *copy; s++) {
        char was = *s;
        if (was != '/' && was) continue;
        *s = 0;
        if (mkdir(copy, 0777) < 0 && errno != EEXIST)
            return arena_printf(ctx->arena, "cannot make the folder %s: %s", copy, strerror(errno));
        *s = was;
        if (!was) break;
    }
    return *path && !file_is_folder(path) ? "a file stands where a folder is needed" : NULL;
}

bool file_mkdirs(Ctx *ctx, const char *path) {
    const char *why = file_try_mkdirs(ctx, path);
    if (why) diag_error(ctx, E0004, file_span(ctx, path), "%s", why);
    return !why;
}

bool file_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

bool file_is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *file_join(Ctx *ctx, const char *folder, const char *name) {
    if (name[0] == '/' || !folder[0]) return arena_text(ctx->arena, name);
    return arena_printf(ctx->arena, "%s/%s", folder, name);
}
