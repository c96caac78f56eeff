// RoPE's frequencies, in double precision: an angle is position * frequency.
#ifndef TILERUN_ROPE_H
#define TILERUN_ROPE_H
#include "model.h"

// [rotary / 2] in the ctx's arena.
double *rope_frequencies(Ctx *ctx, const Rope *rope);
#endif
