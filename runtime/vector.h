// The arithmetic that everything rests on. Each sum has one order that depends on its length alone: not on how many
// rows run, on tiles, threads or the CPU's vector width (the build sets -ffp-contract=off, and lanes are spelt out).
#ifndef TILERUN_VECTOR_H
#define TILERUN_VECTOR_H
#include <stddef.h>
#include <stdint.h>

// out[r * out_stride] = sum_k w[k] * x[r * stride + k] for r < rows. 32 partial sums over k mod 32, folded as a tree.
void vector_dots(const float *w, const float *x, size_t stride, int rows, int count, float *out, size_t out_stride);
float vector_dot(const float *a, const float *b, int count);
// 1 / sqrt(mean(x^2) + eps)
float vector_rms_factor(const float *x, int count, double eps);
// out = norm * x / sqrt(mean(x^2) + eps): RMSNorm.
void vector_rms(const float *x, const float *norm, int count, double eps, float *out);
// acc[k] += scale * v[k]
void vector_add_scaled(float *acc, const float *v, float scale, int count);
void vector_from_bf16(const uint16_t *bits, float *out, int count);
// silu(alpha * gate) * up; limit > 0 clamps gate to <= limit and up to [-limit, limit].
float swiglu(float gate, float up, double alpha, double limit);
// Rotates pairs (i, i + rotary / 2) of x[0..rotary): cosines, then sines, rotary / 2 each.
void vector_rope(float *x, const float *table, int rotary);
#endif
