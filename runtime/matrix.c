#include "matrix.h"
#include "vector.h"
#include <string.h>

// e4m3 (OCP FP8): sign, 4 exponent bits of bias 7, 3 mantissa bits; S.1111.111 is NaN, there is no infinity.
#define E4M3_1(s, e, m)                                                                                                \
    ((e) == 0 ? (s) * (m)*0x1p-9f                                                                                      \
     : (e) == 15 && (m) == 7                                                                                           \
         ? __builtin_nanf("")                                                                                          \
         : (s) * (1 + (m) / 8.0f) *                                                                                    \
               ((e) >= 7 ? (float)(1 << ((e) >= 7 ? (e)-7 : 0)) : 1.0f / (float)(1 << ((e) < 7 ? 7 - (e) : 0))))
#define E4M3_8(s, e)                                                                                                   \
    E4M3_1(s, e, 0), E4M3_1(s, e, 1), E4M3_1(s, e, 2), E4M3_1(s, e, 3), E4M3_1(s, e, 4), E4M3_1(s, e, 5),              \
        E4M3_1(s, e, 6), E4M3_1(s, e, 7)
#define E4M3_128(s)                                                                                                    \
    E4M3_8(s, 0), E4M3_8(s, 1), E4M3_8(s, 2), E4M3_8(s, 3), E4M3_8(s, 4), E4M3_8(s, 5), E4M3_8(s, 6), E4M3_8(s, 7),    \
        E4M3_8(s, 8), E4M3_8(s, 9), E4M3_8(s, 10), E4M3_8(s, 11), E4M3_8(s, 12), E4M3_8(s, 13), E4M3_8(s, 14),         \
        E4M3_8(s, 15)
static const float e4m3_values[256] = {E4M3_128(1.0f), E4M3_128(-1.0f)};

// e2m1, the MXFP4 element: for each byte its two values, the low nibble's first.
#define E2M1(n)                                                                                                        \
    ((n) == 0   ? 0.0f                                                                                                 \
     : (n) == 1 ? .5f                                                                                                  \
     : (n) == 2 ? 1.0f                                                                                                 \
     : (n) == 3 ? 1.5f                                                                                                 \
     : (n) == 4 ? 2.0f                                                                                                 \
     : (n) == 5 ? 3.0f                                                                                                 \
     : (n) == 6 ? 4.0f                                                                                                 \
                : 6.0f)
#define E2M1_S(n) ((n) < 8 ? E2M1((n)&7) : -E2M1((n)&7))
#define E2M1_PAIR(b)                                                                                                   \
    { E2M1_S((b)&15), E2M1_S((b) >> 4) }
#define E2M1_4(b)  E2M1_PAIR(b), E2M1_PAIR((b) + 1), E2M1_PAIR((b) + 2), E2M1_PAIR((b) + 3)
#define E2M1_16(b) E2M1_4(b), E2M1_4((b) + 4), E2M1_4((b) + 8), E2M1_4((b) + 12)
#define E2M1_64(b) E2M1_16(b), E2M1_16((b) + 16), E2M1_16((b) + 32), E2M1_16((b) + 48)
static const float e2m1_pairs[256][2] = {E2M1_64(0), E2M1_64(64), E2M1_64(128), E2M1_64(192)};

float bf16_to_float(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float out;
    memcpy(&out, &wide, sizeof out);
    return out;
}

uint16_t float_to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return (uint16_t)(bits >> 16 | 0x40); // NaN stays NaN
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

// 2^(u - 127): a float with that exponent, but for u = 0, which is subnormal.
static float e8m0_value(uint8_t u) {
    uint32_t bits = u ? (uint32_t)u << 23 : 0x00400000;
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
}

static void decode_mxfp4(const Matrix *m, int row, int col, int count, float *out) {
    const uint8_t *codes = m->data + (size_t)row * m->stride + (size_t)(col / 2);
    const uint8_t *scales = (const uint8_t *)m->scale + (size_t)row * (size_t)m->scale_stride + (size_t)(col / 32);
    for (int group = 0; group < count / 32; group++) {
        float scale = e8m0_value(scales[group]);
        float *at = out + group * 32;
        for (int i = 0; i < 16; i++) memcpy(at + 2 * i, e2m1_pairs[codes[group * 16 + i]], 2 * sizeof *at);
        for (int i = 0; i < 32; i++) at[i] *= scale;
    }
}

static void decode_fp8(const Matrix *m, int row, int col, int count, float *out) {
    const uint8_t *codes = m->data + (size_t)row * m->stride + (size_t)col;
    int scale_row = row / m->chunk_rows * m->chunk_scale_rows + row % m->chunk_rows / 128;
    const uint8_t *scales = (const uint8_t *)m->scale + (size_t)scale_row * (size_t)m->scale_stride * sizeof(float);
    for (int at = 0; at < count;) {
        int end = ((col + at) / 128 + 1) * 128 - col;
        float scale;
        memcpy(&scale, scales + (size_t)((col + at) / 128) * sizeof scale, sizeof scale);
        if (end > count) end = count;
        for (; at < end; at++) out[at] = e4m3_values[codes[at]] * scale;
    }
}

void matrix_decode(const Matrix *m, int row, int col, int count, float *out) {
    row += m->row0;
    col += m->col0;
    switch (m->dtype) {
    case DTYPE_F32: memcpy(out, m->data + (size_t)row * m->stride + (size_t)col * 4, (size_t)count * 4); break;
    case DTYPE_BF16: {
        const uint8_t *at = m->data + (size_t)row * m->stride + (size_t)col * 2;
        for (int done = 0; done < count;) { // through a buffer: the data may lie at odd addresses
            uint16_t bits[64];
            int block = count - done < 64 ? count - done : 64;
            memcpy(bits, at + 2 * done, (size_t)block * sizeof *bits);
            vector_from_bf16(bits, out + done, block);
            done += block;
        }
        break;
    }
    case DTYPE_FP8: decode_fp8(m, row, col, count, out); break;
    default: decode_mxfp4(m, row, col, count, out); break;
    }
}

Matrix matrix_rows(Matrix whole, int row, int count) {
    whole.row0 += row;
    whole.rows = count;
    return whole;
}

Matrix matrix_cols(Matrix whole, int col, int count) {
    whole.col0 += col;
    whole.cols = count;
    return whole;
}
