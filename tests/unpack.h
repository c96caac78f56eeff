// Reads one value of a packed matrix (templates/abi.h), slowly, from the layout's description alone.
#ifndef UNPACK_H
#define UNPACK_H
#include "check.h"
#include "pack.h"

// Row `row` of a packed matrix of `cols` inputs: strips of 16 rows of blocks of 128 inputs.
static inline float unpack(Dtype dtype, const uint8_t *packed, int cols, int row, int col) {
    static const int sign[4] = {15, 12, 9, 11}, high[4] = {8, 5, 2, 10}, low[4] = {7, 4, 1, 14},
                     half_bit[4] = {6, 3, 0, 13};
    static const float e2m1[8] = {0, .5f, 1, 1.5f, 2, 3, 4, 6};
    size_t sizes[] = {[DTYPE_BF16] = 4096, [DTYPE_FP8] = 2064, [DTYPE_MXFP4] = 1088, [DTYPE_F32] = 8192};
    size_t blocks = (size_t)(cols + 127) / 128;
    const uint8_t *at = packed + ((size_t)(row / 16) * blocks + (size_t)(col / 128)) * sizes[dtype];
    int half = row % 16 / 8, g = row % 8, t = col % 128 / 32, k = col % 32, lane = 4 * g + t;
    float out;
    uint16_t bits;
    uint32_t word;
    switch (dtype) {
    case DTYPE_BF16: // product k / 4; a lane: rows g and g + 8 of inputs 0,1, then of inputs 2,3
        memcpy(&bits, at + k / 4 * 512 + lane * 16 + k % 4 / 2 * 8 + half * 4 + k % 2 * 2, 2);
        return bf16_to_float(bits);
    case DTYPE_F32: // two blocks of bf16
        out = 0;
        for (int i = 0; i < 2; i++) {
            memcpy(&bits, at + i * 4096 + k / 4 * 512 + lane * 16 + k % 4 / 2 * 8 + half * 4 + k % 2 * 2, 2);
            out += bf16_to_float(bits);
        }
        return out;
    case DTYPE_FP8: {
        int byte = at[k / 8 * 512 + lane * 16 + half * 8 + k % 8 / 4 * 4 + k % 4], exponent = byte >> 3 & 15,
            mantissa = byte & 7;
        float factor, value = exponent ? ldexpf(1 + (float)mantissa / 8, exponent - 7) : ldexpf((float)mantissa, -9);
        memcpy(&factor, at + 2048 + 4 * half, 4);
        if (exponent == 15 && mantissa == 7) value = NAN;
        return (byte & 128 ? -value : value) * factor;
    }
    default: {
        memcpy(&word, at + half * 512 + lane * 16 + k / 8 * 4, 4);
        int p = k % 8 / 2, h = k % 2, u = at[1024 + 2 * lane + half] - 126;
        word >>= 16 * h;
        float value = e2m1[(word >> high[p] & 1) * 4 + (word >> low[p] & 1) * 2 + (word >> half_bit[p] & 1)];
        return (word >> sign[p] & 1 ? -value : value) * ldexpf(1, u - 127);
    }
    }
}
#endif
