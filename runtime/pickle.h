// mask_embedding.pt: a zip, entries stored, with a pickle of {mask_token_id, embedding} and the tensor's bytes.
//
// The reader knows the few opcodes that this value takes. It builds numbers, texts and tuples on a stack of its own and
// calls nothing: the names of functions in the pickle are compared, never looked up.
#ifndef TILERUN_PICKLE_H
#define TILERUN_PICKLE_H
#include "diag.h"

// `embedding`: `hidden` floats in the arena. False after reporting E0708.
bool mask_embedding_parse(Ctx *ctx, Span file, const uint8_t *data, size_t bytes, int hidden, int64_t *mask_token,
                          float **embedding);
#endif
