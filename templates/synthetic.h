// synthetic: weights at random, in the layout of abi.h, 16 bytes at a time in any order. A value depends on the
// segment's key and on its own place alone. Plain C11 and CUDA C++; runtime/checkpoint_synthetic.c draws alike.
#ifndef TILEGEN_SYNTHETIC_H
#define TILEGEN_SYNTHETIC_H
#include "abi.h"
#ifdef __CUDACC__
#define SYNTHETIC static __device__ __forceinline__
#else
#include <stdbool.h>
#define SYNTHETIC static inline
#endif

enum { FILL_CALLS = 8 };    // random 64-bit numbers that 16 bytes may take
#define FILL_FP8_STD 112.0f // of the codes: the largest sum, 3.45 deviations, stays under 448

SYNTHETIC uint64_t fill_mix(uint64_t z) {
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}
SYNTHETIC uint64_t fill_bits(uint64_t key, uint64_t index) { return fill_mix(key + (index + 1) * 0x9E3779B97F4A7C15u); }

// A sum of four random bytes, less its mean 510, over its deviation: nearly normal.
SYNTHETIC float fill_noise(uint32_t bits) {
    const uint32_t sum = (bits & 255) + (bits >> 8 & 255) + (bits >> 16 & 255) + (bits >> 24);
    return ((float)sum - 510.0f) * (1 / 147.8005f);
}

SYNTHETIC uint32_t fill_float(float value) {
    union {
        float value;
        uint32_t bits;
    } u = {value};
    return u.bits;
}
SYNTHETIC uint32_t fill_half(float value) { // bf16, to nearest even
    const uint32_t bits = fill_float(value);
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}
SYNTHETIC float fill_value_of(uint32_t half) {
    union {
        uint32_t bits;
        float value;
    } u = {half << 16};
    return u.value;
}
SYNTHETIC uint32_t fill_e4m3(float value) { // at most 448 in size
    const uint32_t sign = value < 0 ? 0x80 : 0;
    const float size = value < 0 ? -value : value;
    if (size < 0.015625f) return sign | (uint32_t)(size * 512 + 0.5f); // below 2^-6 in steps of 2^-9
    return sign | (((fill_float(size) + (1u << 19)) >> 20) - (120u << 3));
}

// Whether row r of a strip of a matrix lies in it.
SYNTHETIC bool fill_row(const EngineFill *f, uint32_t strip, uint32_t r) {
    return (f->pairs ? strip * 8 + (r & 7) : strip * STRIP_ROWS + r) < f->rows;
}
SYNTHETIC float fill_value(const EngineFill *f, uint32_t bits) { return f->mean + f->std * fill_noise(bits); }

// 16 bytes of a packed block: piece `q` of block `block` of strip `strip`; `k`: the block's first input.
SYNTHETIC void fill_bf16(const EngineFill *f, uint32_t strip, uint32_t k, uint32_t q, uint64_t index, uint32_t *out) {
    const uint32_t lane = q & 31, g = lane >> 2, input = k + 32 * (lane & 3) + 4 * (q >> 5);
    for (uint32_t w = 0; w < 4; w++) {
        const uint64_t bits = fill_bits(f->key, index + w);
        const uint32_t at = input + (w & 2);
        out[w] = 0;
        if (!fill_row(f, strip, g + 8 * (w & 1))) continue;
        if (at < f->cols) out[w] = fill_half(fill_value(f, (uint32_t)bits));
        if (at + 1 < f->cols) out[w] |= fill_half(fill_value(f, (uint32_t)(bits >> 32))) << 16;
    }
}
// A block of bf16, and one of what is left: the same random numbers.
SYNTHETIC void fill_f32(const EngineFill *f, uint32_t strip, uint32_t k, uint32_t q, uint64_t index, uint32_t *out) {
    const uint32_t pieces = BF16_BLOCK / 16, left = q >= pieces;
    q -= left * pieces, index -= left * pieces * FILL_CALLS;
    const uint32_t lane = q & 31, g = lane >> 2, input = k + 32 * (lane & 3) + 4 * (q >> 5);
    for (uint32_t w = 0; w < 4; w++) {
        const uint64_t bits = fill_bits(f->key, index + w);
        out[w] = 0;
        if (!fill_row(f, strip, g + 8 * (w & 1))) continue;
        for (uint32_t i = 0; i < 2; i++) {
            const float value = fill_value(f, (uint32_t)(bits >> 32 * i));
            const uint32_t half = fill_half(value);
            if (input + (w & 2) + i < f->cols)
                out[w] |= (left ? fill_half(value - fill_value_of(half)) : half) << 16 * i;
        }
    }
}
SYNTHETIC void fill_fp8(const EngineFill *f, uint32_t strip, uint32_t k, uint32_t q, uint64_t index, uint32_t *out) {
    if (q == 128) { // factors of the block's two halves
        for (uint32_t h = 0; h < 2; h++) {
            const float share = 0.875f + (float)(uint32_t)(fill_bits(f->key, index + h) >> 40) * 0x1p-26f;
            out[h] = fill_row(f, strip, 8 * h) ? fill_float(f->std / FILL_FP8_STD * share) : 0;
        }
        out[2] = out[3] = 0;
        return;
    }
    const uint32_t lane = q & 31, g = lane >> 2, input = k + 32 * (lane & 3) + 8 * (q >> 5);
    for (uint32_t w = 0; w < 4; w++) {
        out[w] = 0;
        if (!fill_row(f, strip, g + 8 * (w >> 1))) continue;
        for (uint32_t i = 0; i < 4; i++) {
            const uint32_t bits = (uint32_t)(fill_bits(f->key, index + 2 * w + i / 2) >> 32 * (i & 1));
            if (input + 4 * (w & 1) + i < f->cols) out[w] |= fill_e4m3(fill_noise(bits) * FILL_FP8_STD) << 8 * i;
        }
    }
}
SYNTHETIC void fill_mxfp4(const EngineFill *f, uint32_t strip, uint32_t k, uint32_t q, uint64_t index, uint32_t *out) {
    if (q < 64) { // any bits are codes; groups of 32 inputs are whole
        const uint32_t lane = q & 31;
        const bool there = fill_row(f, strip, (lane >> 2) + 8 * (q >> 5)) && k + 32 * (lane & 3) < f->cols;
        for (uint32_t w = 0; w < 4; w += 2) {
            const uint64_t bits = there ? fill_bits(f->key, index + w) : 0;
            out[w] = (uint32_t)bits, out[w + 1] = (uint32_t)(bits >> 32);
        }
        return;
    }
    for (uint32_t w = 0; w < 4; w++) {
        out[w] = 0;
        for (uint32_t i = 0; i < 4; i++) { // two lanes, two halves
            const uint32_t lane = 8 * (q - 64) + 2 * w + i / 2, r = (lane >> 2) + 8 * (i & 1);
            const uint32_t more = (uint32_t)(fill_bits(f->key, index + w) >> 16 * i & 0xFFFF) < f->upper >> 8;
            if (fill_row(f, strip, r) && k + 32 * (lane & 3) < f->cols)
                out[w] |= ((f->scale + more + MXFP4_BIAS) & 255) << 8 * i;
        }
    }
}

// Rows as they are: values past `cols` of a row, and past the last row, are zero.
SYNTHETIC void fill_rows(const EngineFill *f, uint64_t quad, uint32_t *out) {
    const bool half = f->kind == FILL_HALVES;
    const uint64_t first = quad * (half ? 8 : 4), row = first / f->pitch;
    uint32_t col = (uint32_t)(first - row * f->pitch), left = row < f->rows ? f->rows - (uint32_t)row : 0;
    for (uint32_t w = 0; w < 4; w++) {
        const uint64_t bits = fill_bits(f->key, quad * FILL_CALLS + w);
        out[w] = 0;
        for (uint32_t i = 0; i < 2; i++) {
            if (i && !half) break;
            const float value = fill_value(f, (uint32_t)(bits >> 32 * i));
            if (left && col < f->cols) out[w] |= half ? fill_half(value) << 16 * i : fill_float(value);
            if (++col == f->pitch) col = 0, left -= left > 0;
        }
    }
}

// Piece `quad` of a segment.
SYNTHETIC void fill_quad(const EngineFill *f, uint64_t quad, uint32_t *out) {
    if (f->kind >= FILL_HALVES) {
        fill_rows(f, quad, out);
        return;
    }
    const uint32_t pieces = (f->kind == FILL_BF16    ? BF16_BLOCK
                             : f->kind == FILL_FP8   ? FP8_BLOCK
                             : f->kind == FILL_MXFP4 ? MXFP4_BLOCK
                                                     : F32_BLOCK) /
                            16;
    const uint64_t block = quad / pieces, strip = block / f->blocks;
    const uint32_t q = (uint32_t)(quad - block * pieces), k = (uint32_t)(block - strip * f->blocks) * BLOCK_K,
                   of = (uint32_t)(strip % f->strips);
    switch (f->kind) {
    case FILL_BF16: fill_bf16(f, of, k, q, quad * FILL_CALLS, out); break;
    case FILL_FP8: fill_fp8(f, of, k, q, quad * FILL_CALLS, out); break;
    case FILL_MXFP4: fill_mxfp4(f, of, k, q, quad * FILL_CALLS, out); break;
    default: fill_f32(f, of, k, q, quad * FILL_CALLS, out);
    }
}
#endif
