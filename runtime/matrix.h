// Matrix: a weight as it lies in a mapped checkpoint, decoded a few rows at a time where it is used.
//
// Logical shape [rows, cols], row-major, y = W x. A view of some rows or columns is a Matrix too.
// fp8: value = e4m3(byte) * scale_inv[scale row, (col0 + col) / 128], the scale row of row r of the whole tensor being
//      (r / chunk_rows) * chunk_scale_rows + (r % chunk_rows) / 128   (fused qkv tiles its grid inside each chunk;
//      a plain tensor is one chunk).
// mxfp4: byte b of a row holds columns 2b (low nibble) and 2b + 1; value = code * 2^(u - 127), u = scale[row, col /
// 32].
#ifndef TILERUN_MATRIX_H
#define TILERUN_MATRIX_H
#include "model.h"

typedef struct Matrix {
    Dtype dtype;
    int rows, cols;      // of this view
    int row0, col0;      // where the view begins in the whole tensor
    const uint8_t *data; // the whole tensor
    size_t stride;       // bytes a row of the whole tensor
    const void *scale;   // fp8: const float *; mxfp4: const uint8_t *; else NULL. May be unaligned: read by memcpy
    int scale_stride;    // elements a scale row
    int chunk_rows, chunk_scale_rows; // fp8
} Matrix;

// Columns [col, col + count) of row `row` of the view as floats. For mxfp4, col0 + col and count are multiples of 32.
void matrix_decode(const Matrix *matrix, int row, int col, int count, float *out);
Matrix matrix_rows(Matrix whole, int row, int count);
Matrix matrix_cols(Matrix whole, int col, int count);

float bf16_to_float(uint16_t bits);
uint16_t float_to_bf16(float value); // round to nearest even
#endif
