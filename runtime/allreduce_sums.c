#include "allreduce.h"
#include <string.h>

static float as_float(uint32_t bits) {
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}
static uint32_t as_bits(float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}
static uint32_t half(float v) { // bf16, to nearest even
    uint32_t bits = as_bits(v);
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

void allreduce_sums(bool floats, int ranks, int iterations, uint32_t *words, uint32_t count) {
    for (uint32_t at = 0; at < count; at++) {
        uint32_t sum = 0, key[ALLREDUCE_RANKS];
        for (int r = 0; r < ranks; r++) key[r] = allreduce_key((uint32_t)r, at);
        for (int i = 0; i < iterations; i++) {
            float low = 0, high = 0;
            for (int r = 0; r < ranks; r++) {
                uint32_t word = allreduce_summand(floats, key[r], sum);
                float l = as_float(floats ? word : word << 16), h = as_float(word & 0xFFFF0000u);
                low = r ? low + l : l, high = r ? high + h : h;
            }
            sum = floats ? as_bits(low) : half(low) | half(high) << 16;
        }
        words[at] = sum;
    }
}
