// weights: a packed block (abi.h) in shared memory, decoded to bf16 or f16 and multiplied by the round's rows.
#ifndef TILEGEN_WEIGHTS_CUH
#define TILEGEN_WEIGHTS_CUH
#include "ptx.cuh"
#include "steps.h"

// Codes hold what a lane reads of a unit, UNIT quarters of the block at `at`: all four, or quarter `first`; quarter u
// is products 2u and 2u + 1. `x`: of each quarter the lane's inputs 32t + 8u .. 32t + 8u + 7 of row g = lane / 4, in
// pairs. Where WIDE, each is the sum of two bf16, the second in `low`: an input of 16 bits. `sum` is added to: rows g
// and g + 8 of the strip for tokens 2t and 2t + 1. The order of all additions is fixed.
template <bool WIDE> struct Inputs { uint32_t x[4], low[WIDE ? 4 : 1]; };

// One product with inputs i and i + 1 (pairs), and with what they left over.
template <bool WIDE>
static DEVICE void product(float (&d)[4], float (&rest)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                           const Inputs<WIDE> &in, int i) {
    mma(d, a0, a1, a2, a3, in.x[i], in.x[i + 1]);
    if constexpr (WIDE) mma(rest, a0, a1, a2, a3, in.low[i], in.low[i + 1]);
}

struct WeightBf16 {
    enum { OP = RUN_LINEAR_BF16, BYTES = BF16_BLOCK, MOST_RUN = 8 };
    template <int UNIT> struct Codes {
        Quad a[UNIT], b[UNIT];
        DEVICE void load(uint32_t at, uint32_t first) {
            at += (UNIT == 1 ? first : 0) * 1024 + lane_id() * 16;
#pragma unroll
            for (int u = 0; u < UNIT; u++) a[u] = shared_quad(at + u * 1024), b[u] = shared_quad(at + u * 1024 + 512);
        }
    };
    template <bool WIDE, int UNIT>
    static DEVICE void multiply(float (&sum)[2][4], const Codes<UNIT> &codes, const Inputs<WIDE> (&x)[UNIT]) {
#pragma unroll
        for (int u = 0; u < UNIT; u++) {
            const Quad &a = codes.a[u], &b = codes.b[u];
            product<WIDE>(sum[0], sum[1], a.x, a.y, a.z, a.w, x[u], 0);
            product<WIDE>(sum[1], sum[0], b.x, b.y, b.z, b.w, x[u], 2);
        }
    }
};

// Codes become f16, two by an instruction, and so must the inputs: 2^-4 times as large, so that they may be as large as
// a million. Those of bf16 are f16 exactly down to 2^-13, below to 2^-21; larger ones would be infinite. WIDE inputs
// stay bf16.
struct WeightFp8 {
    enum { OP = RUN_LINEAR_FP8, BYTES = FP8_BLOCK, MOST_RUN = 8 };
    static constexpr uint32_t FACTOR = 0x3D803D80; // 2^-4 in bf16, twice
    // The pairs of a word as bf16: e4m3's exponent has a bias of 7, bf16's of 127, so times 2^120.
    static DEVICE void widen(uint32_t q, uint32_t (&r)[2]) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t pair = __byte_perm(q, 0, i ? 0x3424 : 0x1404); // in the high byte of a half each
            r[i] = bf16_mul2((pair & 0x80008000u) | ((pair >> 4) & 0x07F007F0u), 0x7B807B80u);
        }
    }
    template <int UNIT> struct Codes {
        Quad word[UNIT];
        float top, bottom;
        DEVICE void load(uint32_t at, uint32_t first) {
            asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(top), "=f"(bottom) : "r"(at + 2048));
            at += (UNIT == 1 ? first : 0) * 512 + lane_id() * 16;
#pragma unroll
            for (int u = 0; u < UNIT; u++) word[u] = shared_quad(at + u * 512);
        }
    };
    template <bool WIDE, int UNIT>
    static DEVICE void multiply(float (&sum)[2][4], const Codes<UNIT> &codes, const Inputs<WIDE> (&x)[UNIT]) {
        float part[2][4] = {};
#pragma unroll
        for (int u = 0; u < UNIT; u++) {
            const Quad &q = codes.word[u];
            if constexpr (WIDE) {
                uint32_t r[4][2];
                widen(q.x, r[0]), widen(q.y, r[1]), widen(q.z, r[2]), widen(q.w, r[3]);
                product<WIDE>(part[0], part[1], r[0][0], r[2][0], r[0][1], r[2][1], x[u], 0);
                product<WIDE>(part[1], part[0], r[1][0], r[3][0], r[1][1], r[3][1], x[u], 2);
            } else {
                const uint2 a = f16_of_e4m3(q.x), b = f16_of_e4m3(q.y), c = f16_of_e4m3(q.z), d = f16_of_e4m3(q.w);
                mma_f16(part[0], a.x, c.x, a.y, c.y, x[u].x[0], x[u].x[1]);
                mma_f16(part[1], b.x, d.x, b.y, d.y, x[u].x[2], x[u].x[3]);
            }
        }
        const float top = codes.top * (WIDE ? 1 : 16), bottom = codes.bottom * (WIDE ? 1 : 16);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            sum[i][0] += part[i][0] * top, sum[i][1] += part[i][1] * top;
            sum[i][2] += part[i][2] * bottom, sum[i][3] += part[i][3] * bottom;
        }
    }
};

struct WeightMxfp4 {
    enum { OP = RUN_LINEAR_MXFP4, BYTES = MXFP4_BLOCK, MOST_RUN = 8 };
    // Eight codes of a word to eight bf16, two a register: magnitudes land in exponent and mantissa, times 2^-126.
    // Three pairs lie as bf16 wants them, but for a shift. The bits of the last one are where these leave room; its
    // product is three shifts in one, which do not meet.
    static DEVICE void widen(uint32_t q, uint32_t scale, uint32_t (&r)[4]) {
        uint32_t last;
        asm("mul.lo.u32 %0, %1, 2081;" : "=r"(last) : "r"((q >> 7) & 0x00D800D8u)); // by 1 + 2^5 + 2^11
        r[0] = bf16_mul2(q & 0x81C081C0u, scale);
        r[1] = bf16_mul2((q << 3) & 0x81C081C0u, scale);
        r[2] = bf16_mul2((q << 6) & 0x81C081C0u, scale);
        r[3] = bf16_mul2(last & 0x81C081C0u, scale);
    }
    // A unit's codes and scales, of the lane's two rows: a word a quarter.
    template <int UNIT> struct Codes {
        uint32_t top[UNIT], bottom[UNIT], scales;
        DEVICE void load(uint32_t at, uint32_t first) {
            const uint32_t lane = lane_id();
            scales = shared_half(at + 1024 + lane * 2);
            at += lane * 16;
            if constexpr (UNIT == 4) {
                const Quad a = shared_quad(at), b = shared_quad(at + 512);
                top[0] = a.x, top[1] = a.y, top[2] = a.z, top[3] = a.w;
                bottom[0] = b.x, bottom[1] = b.y, bottom[2] = b.z, bottom[3] = b.w;
            } else
                top[0] = shared_word(at + first * 4), bottom[0] = shared_word(at + 512 + first * 4);
        }
    };
    template <bool WIDE, int UNIT>
    static DEVICE void multiply(float (&sum)[2][4], const Codes<UNIT> &codes, const Inputs<WIDE> (&x)[UNIT]) {
        const uint32_t top = (codes.scales & 0xFF) * 0x00800080u, bottom = (codes.scales >> 8) * 0x00800080u;
#pragma unroll
        for (int u = 0; u < UNIT; u++) {
            uint32_t a[4], b[4];
            widen(codes.top[u], top, a);
            widen(codes.bottom[u], bottom, b);
            product<WIDE>(sum[0], sum[1], a[0], b[0], a[1], b[1], x[u], 0);
            product<WIDE>(sum[1], sum[0], a[2], b[2], a[3], b[3], x[u], 2);
        }
    }
};

// A float as two bf16: 16 of its 24 bits, as of the inputs where these are WIDE.
struct WeightF32 {
    enum { OP = RUN_LINEAR_F32, BYTES = F32_BLOCK, MOST_RUN = 8 };
    template <int UNIT> struct Codes {
        WeightBf16::Codes<UNIT> value, rest;
        DEVICE void load(uint32_t at, uint32_t first) { value.load(at, first), rest.load(at + BF16_BLOCK, first); }
    };
    template <bool WIDE, int UNIT>
    static DEVICE void multiply(float (&sum)[2][4], const Codes<UNIT> &codes, const Inputs<WIDE> (&x)[UNIT]) {
        WeightBf16::multiply<WIDE, UNIT>(sum, codes.value, x);
        WeightBf16::multiply<WIDE, UNIT>(sum, codes.rest, x);
    }
};
#endif
