// Cache: what the same inputs made before, under the SHA-256 of all of them. A file an entry, in the folder that main
// found (Env.cache_dir); any of them may be deleted at any time. An entry carries the hash of its bytes, so a damaged
// one is as good as none; it is staged and renamed, so two processes may write the same one.
#ifndef TILEGEN_CACHE_H
#define TILEGEN_CACHE_H
#include "diag.h"
#include "sha256.h"

// A key is hashed part by part in a fixed order, each with its length, so that no two lists of parts look alike.
void cache_add(Sha256 *key, const void *data, size_t size);
__attribute__((format(printf, 3, 4))) void cache_add_text(Ctx *ctx, Sha256 *key, const char *format, ...);

// The name of an entry of this kind. It ends the key.
char *cache_name(Ctx *ctx, Sha256 *key, const char *kind);
// The entry's bytes, with a zero byte behind them. False when there is none, or no folder for them.
bool cache_get(Ctx *ctx, const char *name, const void **data, size_t *size);
// Failure is a note: the result is there all the same.
void cache_put(Ctx *ctx, const char *name, const void *data, size_t size);
#endif
