// The target's choice of a token from one row of logits.
//
// With temperature T > 0 the choice is the token that survives the filters with the largest
//     logit / T + g(seed, position, token),   g = -log(-log(u)),
// all in float, ties to the lowest id. g is Gumbel noise, so each survivor is chosen with the probability that softmax
// gives it among the survivors (Gumbel-max), and a GPU may look at the tokens in any order. The noise depends on
// nothing but (seed, position, token), so drafting cannot change a choice.
//
// Filters, in this order, both on the logits in falling order, ties to the lower ids:
//     top k   the first k tokens.
//     top p   of these the fewest first tokens whose probability reaches p: sum of their weights >= p * sum of all. A
//             weight is a whole number, sample_weight; such sums are exact in any order.
//             The product is a double's, p a float's value.
#ifndef TILERUN_SAMPLE_H
#define TILERUN_SAMPLE_H
#include <math.h>
#include <stdint.h>

typedef struct Sampling {
    double temperature; // 0: the best token, ties to the lowest id
    int top_k;          // 0: all
    double top_p;       // 1: all
    uint64_t seed;
} Sampling;

typedef struct SampleRoom { // scratch for `vocab` tokens
    float *value;
    int *id;
} SampleRoom;

int sample(const Sampling *sampling, const float *logits, int vocab, int64_t position, SampleRoom *room);

// ---- The formulas, for kernels to copy ----

#define SAMPLE_GAMMA 0x9E3779B97F4A7C15u // of SplitMix64

// SplitMix64's next output at state z.
static inline uint64_t sample_mix(uint64_t z) {
    z += SAMPLE_GAMMA;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

// The state from which a position's tokens draw: token n has the stream's n-th output.
static inline uint64_t sample_state(uint64_t seed, int64_t position) {
    return sample_mix(sample_mix(seed) ^ sample_mix((uint64_t)position * 0xD1342543DE82EF95u));
}

// An odd number of 24 bits over 2^24: exact in float, and neither 0 nor 1.
static inline float sample_uniform(uint64_t state, int token) {
    uint64_t bits = sample_mix(state + (uint64_t)token * SAMPLE_GAMMA);
    return (float)(int32_t)(bits >> 40 | 1) * 0x1p-24f;
}

static inline float sample_score(uint64_t state, int token, float logit, float temperature) {
    return logit / temperature - logf(-logf(sample_uniform(state, token)));
}

// exp((logit - best) / T) in units of 2^-32, rounded down; best: the row's largest logit. At most 2^32, so the sums of
// 2^21 of them are exact in a double too.
static inline uint64_t sample_weight(float logit, float best, float temperature) {
    return (uint64_t)(expf((logit - best) / temperature) * 0x1p32f);
}
#endif
