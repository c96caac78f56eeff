// What the reader and the writer of safetensors share.
#ifndef TILERUN_SAFETENSORS_DTYPE_H
#define TILERUN_SAFETENSORS_DTYPE_H
#include "safetensors.h"

// Bits of one element, 0 for a dtype that the format does not have.
unsigned safetensors_bits(const char *dtype);
// Bytes of a tensor. False when the product overflows or is no whole number of bytes.
bool safetensors_bytes(const int64_t *shape, int rank, unsigned bits, size_t *bytes);
// A name fit for a message: bounded, without control characters.
const char *safetensors_shown(Ctx *ctx, const char *name);
#endif
