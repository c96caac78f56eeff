#include "rope.h"
#include <math.h>

// inv_freq_i = theta^(-2i / rotary); with factor > 1 low frequencies are divided by it, smoothly between the two bounds
// (Llama 3's scaling: wavelengths over original / low are scaled, under original / high are not).
double *rope_frequencies(Ctx *ctx, const Rope *rope) {
    double *out = ARENA_ARRAY(ctx->arena, double, rope->rotary / 2 + 1);
    for (int i = 0; i < rope->rotary / 2; i++) {
        double f = pow(rope->theta, -2.0 * i / rope->rotary);
        if (rope->factor > 1) {
            double turns = rope->original * f / (2 * 3.14159265358979323846);
            double smooth = (turns - rope->low) / (rope->high - rope->low);
            smooth = smooth < 0 ? 0 : smooth > 1 ? 1 : smooth;
            f = (1 - smooth) * f / rope->factor + smooth * f;
        }
        out[i] = f;
    }
    return out;
}
