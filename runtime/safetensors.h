// Safetensors: one mapped file, its header checked.
#ifndef TILERUN_SAFETENSORS_H
#define TILERUN_SAFETENSORS_H
#include "diag.h"

typedef struct Tensor {
    const char *name;
    char dtype[12]; // as in the header: "F32", "BF16", "F8_E4M3", "U8", ...
    int rank;
    int64_t shape[4];
    const uint8_t *data; // unaligned in general
    size_t bytes;
} Tensor;

typedef struct Safetensors Safetensors;

// Checks a header held in memory: `file_bytes` is the size of the whole file, `base` where its first byte is mapped
// (may be NULL: then data pointers are NULL). The fuzz target's door. Tensors sorted by name. False after reporting
// (E07xx).
bool safetensors_parse(Ctx *ctx, Span file, const uint8_t *head, size_t head_bytes, size_t file_bytes,
                       const uint8_t *base, Tensor **tensors, size_t *count);
// NULL after reporting. The mapping lives until safetensors_close.
Safetensors *safetensors_open(Ctx *ctx, const char *path);
void safetensors_close(Safetensors *file);
const Tensor *safetensors_tensors(const Safetensors *file, size_t *count);
// The tensor of that name, or NULL.
const Tensor *safetensors_find(const Safetensors *file, const char *name);

typedef struct TensorOut {
    const char *name, *dtype;
    int rank;
    int64_t shape[4];
    const void *data;
    size_t bytes;
} TensorOut;
// Writes tensors in the given order, staged and renamed. False after reporting.
bool safetensors_write(Ctx *ctx, const char *path, const TensorOut *tensors, size_t count);
#endif
