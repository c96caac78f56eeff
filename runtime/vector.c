#include "vector.h"
#include "matrix.h"
#include <math.h>
#include <string.h>

// Always inlined, so no vector crosses a call (the build's -Wno-psabi: what such calls would pass is moot).
#define INLINE static inline __attribute__((always_inline))

typedef float Lanes __attribute__((vector_size(64), aligned(4)));
enum { LANES = 16, WIDE = 32 };

// The same C in each clone: the lanes are the same, so are the results.
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONES
#endif

typedef float Lanes8 __attribute__((vector_size(32)));
typedef float Lanes4 __attribute__((vector_size(16)));

// Lane i and lane i + 8, then + 4, + 2, + 1.
INLINE float fold(Lanes a, Lanes b) {
    Lanes sum = a + b;
    Lanes8 half[2];
    memcpy(half, &sum, sizeof half);
    half[0] += half[1];
    Lanes4 quarter[2];
    memcpy(quarter, half, sizeof quarter);
    quarter[0] += quarter[1];
    return (quarter[0][0] + quarter[0][2]) + (quarter[0][1] + quarter[0][3]);
}

INLINE Lanes load(const float *at) {
    Lanes out;
    memcpy(&out, at, sizeof out);
    return out;
}

// The rest of a row, padded by zeros so that it takes the same path.
INLINE void load_tail(const float *at, int count, Lanes *a, Lanes *b) {
    float t[WIDE] = {0};
    memcpy(t, at, (size_t)count * sizeof *t);
    *a = load(t);
    *b = load(t + LANES);
}

CLONES void vector_dots(const float *w, const float *x, size_t stride, int rows, int count, float *out,
                        size_t out_stride) {
    int whole = count / WIDE * WIDE, row = 0;
    for (; row + 4 <= rows; row += 4) {
        const float *x0 = x + (size_t)row * stride, *x1 = x0 + stride, *x2 = x1 + stride, *x3 = x2 + stride;
        Lanes a0 = {0}, b0 = {0}, a1 = {0}, b1 = {0}, a2 = {0}, b2 = {0}, a3 = {0}, b3 = {0};
        for (int k = 0; k < whole; k += WIDE) {
            Lanes wa = load(w + k), wb = load(w + k + LANES);
            a0 += wa * load(x0 + k), b0 += wb * load(x0 + k + LANES);
            a1 += wa * load(x1 + k), b1 += wb * load(x1 + k + LANES);
            a2 += wa * load(x2 + k), b2 += wb * load(x2 + k + LANES);
            a3 += wa * load(x3 + k), b3 += wb * load(x3 + k + LANES);
        }
        if (whole < count) {
            Lanes wa, wb, xa, xb;
            load_tail(w + whole, count - whole, &wa, &wb);
            load_tail(x0 + whole, count - whole, &xa, &xb);
            a0 += wa * xa, b0 += wb * xb;
            load_tail(x1 + whole, count - whole, &xa, &xb);
            a1 += wa * xa, b1 += wb * xb;
            load_tail(x2 + whole, count - whole, &xa, &xb);
            a2 += wa * xa, b2 += wb * xb;
            load_tail(x3 + whole, count - whole, &xa, &xb);
            a3 += wa * xa, b3 += wb * xb;
        }
        out[(size_t)row * out_stride] = fold(a0, b0);
        out[(size_t)(row + 1) * out_stride] = fold(a1, b1);
        out[(size_t)(row + 2) * out_stride] = fold(a2, b2);
        out[(size_t)(row + 3) * out_stride] = fold(a3, b3);
    }
    for (; row < rows; row++) {
        const float *x0 = x + (size_t)row * stride;
        Lanes a = {0}, b = {0};
        for (int k = 0; k < whole; k += WIDE)
            a += load(w + k) * load(x0 + k), b += load(w + k + LANES) * load(x0 + k + LANES);
        if (whole < count) {
            Lanes wa, wb, xa, xb;
            load_tail(w + whole, count - whole, &wa, &wb);
            load_tail(x0 + whole, count - whole, &xa, &xb);
            a += wa * xa, b += wb * xb;
        }
        out[(size_t)row * out_stride] = fold(a, b);
    }
}

float vector_dot(const float *a, const float *b, int count) {
    float out;
    vector_dots(a, b, 0, 1, count, &out, 1);
    return out;
}

float vector_rms_factor(const float *x, int count, double eps) {
    return 1.0f / sqrtf(vector_dot(x, x, count) / (float)count + (float)eps);
}

void vector_rms(const float *x, const float *norm, int count, double eps, float *out) {
    float scale = vector_rms_factor(x, count, eps);
    for (int i = 0; i < count; i++) out[i] = norm[i] * (x[i] * scale);
}

CLONES void vector_add_scaled(float *acc, const float *v, float scale, int count) {
    for (int i = 0; i < count; i++) acc[i] += v[i] * scale;
}

CLONES void vector_from_bf16(const uint16_t *bits, float *out, int count) {
    for (int i = 0; i < count; i++) {
        uint32_t wide = (uint32_t)bits[i] << 16;
        memcpy(&out[i], &wide, sizeof wide);
    }
}

float swiglu(float gate, float up, double alpha, double limit) {
    if (limit > 0) {
        float most = (float)limit;
        gate = gate > most ? most : gate;
        up = up > most ? most : up < -most ? -most : up;
    }
    return gate / (1.0f + expf(-(float)alpha * gate)) * up;
}

void vector_rope(float *x, const float *table, int rotary) {
    int half = rotary / 2;
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half], c = table[i], s = table[half + i];
        x[i] = a * c - b * s;
        x[i + half] = b * c + a * s;
    }
}
