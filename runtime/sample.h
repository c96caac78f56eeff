// The target's choice of a token from one row of logits.
#ifndef TILERUN_SAMPLE_H
#define TILERUN_SAMPLE_H
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

// The order is: temperature, top k, top p over what is left (the smallest set of best tokens whose probability reaches
// p). The random number is SplitMix64 of (seed, position): it depends on nothing else, so drafting cannot change a
// choice.
int sample(const Sampling *sampling, const float *logits, int vocab, int64_t position, SampleRoom *room);
// A number in [0, 1) for (seed, position).
double sample_random(uint64_t seed, int64_t position);
#endif
