// SHA-256 (FIPS 180-4), for manifests and cache keys.
#ifndef TILEGEN_SHA256_H
#define TILEGEN_SHA256_H
#include <stddef.h>
#include <stdint.h>

typedef struct Sha256 {
    uint32_t state[8];
    uint64_t length;
    uint8_t block[64];
} Sha256;

void sha256_init(Sha256 *sha);
void sha256_add(Sha256 *sha, const void *data, size_t length);
// 64 hexadecimal digits and a zero byte.
void sha256_hex(Sha256 *sha, char out[65]);
void sha256_hex_of(const void *data, size_t length, char out[65]);
#endif
