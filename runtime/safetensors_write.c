#include "safetensors_dtype.h"
#include "text.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

// Returns errno, 0 when all is written.
static int write_all(int fd, const void *data, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        size_t want = bytes - done < (size_t)1 << 30 ? bytes - done : (size_t)1 << 30;
        ssize_t put = write(fd, (const char *)data + done, want);
        if (put < 0 && errno != EINTR) return errno;
        if (put > 0) done += (size_t)put;
    }
    return 0;
}

// The header's JSON, padded with spaces so that the data begins at a multiple of 8 bytes. NULL after reporting.
static Text header_print(Ctx *ctx, Span file, const TensorOut *tensors, size_t count, bool *ok) {
    Text text = text_new(ctx->arena);
    uint64_t at = 0;
    *ok = true;
    text_add(&text, "{", 1);
    for (size_t i = 0; i < count; i++) {
        const TensorOut *t = &tensors[i];
        size_t bytes;
        unsigned bits = safetensors_bits(t->dtype);
        if (!bits || t->rank < 0 || t->rank > 4 || !safetensors_bytes(t->shape, t->rank, bits, &bytes) ||
            bytes != t->bytes) {
            diag_error(ctx, E0714, file, "tensor \"%s\": its shape and dtype %s do not make %zu bytes",
                       safetensors_shown(ctx, t->name), t->dtype, t->bytes);
            *ok = false;
            return text;
        }
        text_add(&text, i ? ",\"" : "\"", i ? 2 : 1);
        text_json(&text, t->name, strlen(t->name));
        text_printf(&text, "\":{\"dtype\":\"%s\",\"shape\":[", t->dtype);
        for (int d = 0; d < t->rank; d++) text_printf(&text, "%s%lld", d ? "," : "", (long long)t->shape[d]);
        text_printf(&text, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at,
                    (unsigned long long)(at + t->bytes));
        at += t->bytes;
    }
    text_add(&text, "}", 1);
    while (text.length % 8) text_add(&text, " ", 1);
    return text;
}

bool safetensors_write(Ctx *ctx, const char *path, const TensorOut *tensors, size_t count) {
    Span file = file_span(ctx, path);
    bool ok;
    Text header = header_print(ctx, file, tensors, count, &ok);
    if (!ok) return false;
    char *staged = arena_printf(ctx->arena, "%s.%ld.partial", path, (long)getpid());
    uint8_t length[8];
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)((uint64_t)header.length >> (8 * i));
    int fd = open(staged, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666), error = fd < 0 ? errno : 0;
    if (!error) error = write_all(fd, length, sizeof length);
    if (!error) error = write_all(fd, header.at, header.length);
    for (size_t i = 0; !error && i < count; i++) error = write_all(fd, tensors[i].data, tensors[i].bytes);
    if (!error && fsync(fd) < 0 && errno != EINVAL && errno != EROFS) error = errno;
    if (fd >= 0 && close(fd) < 0 && !error) error = errno;
    if (!error && rename(staged, path) < 0) error = errno;
    if (!error) return true;
    if (fd >= 0) unlink(staged);
    diag_error(ctx, E0004, file, "cannot write: %s", strerror(error));
    return false;
}
