#include "cache.h"
#include "file.h"
#include "text.h"
#include <stdarg.h>
#include <string.h>

// An entry: magic, the SHA-256 of the rest in hexadecimal, the rest.
enum { MAGIC = 8, HEAD = MAGIC + 64, ENTRY_CAP = 1 << 30 };
static const char magic[MAGIC] = {'T', 'I', 'L', 'E', 'K', 'E', 'P', 'T'};

void cache_add(Sha256 *key, const void *data, size_t size) {
    uint8_t length[8];
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)((uint64_t)size >> 8 * i);
    sha256_add(key, length, sizeof length);
    sha256_add(key, data, size);
}

void cache_add_text(Ctx *ctx, Sha256 *key, const char *format, ...) {
    Text text = text_new(ctx->arena);
    va_list args;
    va_start(args, format);
    text_vprintf(&text, format, args);
    va_end(args);
    cache_add(key, text.at, text.length);
}

char *cache_name(Ctx *ctx, Sha256 *key, const char *kind) {
    char hex[65];
    sha256_hex(key, hex);
    return arena_printf(ctx->arena, "%s-%s", kind, hex);
}

bool cache_get(Ctx *ctx, const char *name, const void **data, size_t *size) {
    if (!ctx->env.cache_dir) return false;
    char *path = file_join(ctx, ctx->env.cache_dir, name), hex[65];
    if (!file_exists(path)) return false;
    size_t errors = diag_errors(ctx);
    Source *file = file_read(ctx, path, ENTRY_CAP);
    if (!file) {
        diag_forget(ctx, errors);
        return false;
    }
    if (file->length < HEAD || memcmp(file->text, magic, MAGIC) != 0) return false;
    *data = file->text + HEAD;
    *size = file->length - HEAD;
    sha256_hex_of(*data, *size, hex);
    return memcmp(hex, file->text + MAGIC, 64) == 0;
}

void cache_put(Ctx *ctx, const char *name, const void *data, size_t size) {
    if (!ctx->env.cache_dir) return;
    const char *why = file_try_mkdirs(ctx, ctx->env.cache_dir);
    if (!why) {
        char *entry = arena_alloc(ctx->arena, HEAD + size), hex[65];
        sha256_hex_of(data, size, hex);
        memcpy(entry, magic, MAGIC);
        memcpy(entry + MAGIC, hex, 64);
        memcpy(entry + HEAD, data, size);
        why = file_try_write(ctx, file_join(ctx, ctx->env.cache_dir, name), entry, HEAD + size);
    }
    if (why) diag_note(ctx, NO_SPAN, "nothing is kept in the cache %s: %s", ctx->env.cache_dir, why);
}
