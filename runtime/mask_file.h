// mask_embedding.pt: a zip, uncompressed, that holds a pickle of {mask_token_id, embedding} and the tensor's bytes. The
// reader knows the opcodes and names of exactly that and refuses everything else; nothing in the file is ever run.
#ifndef TILERUN_MASK_FILE_H
#define TILERUN_MASK_FILE_H
#include "diag.h"

// The embedding [hidden] as floats in the arena. NULL after reporting (E0708).
float *mask_file_read(Ctx *ctx, const char *path, int hidden, int mask_token);
#endif
