// Decoding of weights against values computed from the formats' definitions with ldexp.
#include "check.h"
#include "matrix.h"

static double e4m3(int byte) {
    int exponent = byte >> 3 & 15, mantissa = byte & 7;
    double value = exponent ? ldexp(1 + mantissa / 8.0, exponent - 7) : ldexp(mantissa / 8.0, -6);
    if (exponent == 15 && mantissa == 7) return NAN;
    return byte & 128 ? -value : value;
}

static double e2m1(int code) {
    int exponent = code >> 1 & 3, mantissa = code & 1;
    double value = exponent ? ldexp(1 + mantissa / 2.0, exponent - 1) : mantissa / 2.0;
    return code & 8 ? -value : value;
}

static bool same(float got, double want) {
    return isnan(want) ? isnan(got) : (double)got == want && !signbit(got) == !signbit(want);
}

static void every_bf16(void) {
    for (int bits = 0; bits < 65536; bits++) {
        int exponent = bits >> 7 & 255, mantissa = bits & 127;
        double want = exponent == 255 ? (mantissa ? NAN : INFINITY)
                      : exponent      ? ldexp(1 + mantissa / 128.0, exponent - 127)
                                      : ldexp(mantissa / 128.0, -126);
        if (bits & 0x8000) want = -want;
        CHECK(same(bf16_to_float((uint16_t)bits), want), "%04x", bits);
        if (!isnan(want)) CHECK(float_to_bf16((float)want) == bits, "%04x", bits);
    }
}

static void bf16_rounds_to_nearest_even(void) {
    uint64_t state = 1;
    for (int i = 0; i < 100000; i++) {
        uint32_t bits = (uint32_t)check_random(&state);
        if (i % 4 == 0) bits = (bits & 0xFFFF0000) | 0x8000; // ties
        float value;
        memcpy(&value, &bits, 4);
        if (!isfinite(value)) continue;
        double lower = bf16_to_float((uint16_t)(bits >> 16)), up = bf16_to_float((uint16_t)((bits >> 16) + 1));
        if (isinf(up)) continue; // past the largest finite value: checked below
        double low = fabs(value - lower), above = fabs(up - value);
        uint16_t want = (uint16_t)(bits >> 16);
        if (above < low || (above == low && (want & 1))) want++;
        CHECK(float_to_bf16(value) == want, "%08x", bits);
    }
}

static void bf16_keeps_nan_and_overflows_to_infinity(void) {
    float largest;
    uint32_t bits = 0x7F7FFFFF;
    memcpy(&largest, &bits, 4);
    CHECK(float_to_bf16(largest) == 0x7F80);
    CHECK(float_to_bf16(-largest) == 0xFF80);
    CHECK(float_to_bf16(INFINITY) == 0x7F80);
    bits = 0x7F800001; // a NaN whose upper half alone would read as infinity
    memcpy(&largest, &bits, 4);
    CHECK(isnan(bf16_to_float(float_to_bf16(largest))));
}

static void every_fp8_code(void) {
    uint8_t codes[256];
    float out[256], scale[2] = {1, 0.375f};
    for (int i = 0; i < 256; i++) codes[i] = (uint8_t)i;
    Matrix m = {.dtype = DTYPE_FP8, .rows = 1, .cols = 256, .data = codes, .stride = 256, .scale = scale};
    m.scale_stride = 2;
    m.chunk_rows = m.chunk_scale_rows = 1;
    matrix_decode(&m, 0, 0, 256, out);
    for (int i = 0; i < 256; i++) CHECK(same(out[i], e4m3(i) * (i < 128 ? 1 : 0.375)), "%d: %g", i, out[i]);
}

static void every_mxfp4_code_and_scale(void) {
    for (int u = 0; u < 255; u++) {
        uint8_t codes[16], scale = (uint8_t)u;
        float out[32];
        for (int i = 0; i < 16; i++) codes[i] = (uint8_t)(i | (15 - i) << 4);
        Matrix m = {.dtype = DTYPE_MXFP4, .rows = 1, .cols = 32, .data = codes, .stride = 16, .scale = &scale};
        m.scale_stride = 1;
        matrix_decode(&m, 0, 0, 32, out);
        for (int i = 0; i < 32; i++) {
            int code = i % 2 ? 15 - i / 2 : i / 2;
            double want = ldexp(e2m1(code), u - 127);
            if (fabs(want) >= 0x1p128) want = want < 0 ? -INFINITY : INFINITY;
            CHECK(same(out[i], want), "u %d column %d: %g", u, i, out[i]);
        }
    }
}

// Two chunks of 3392 rows: 27 scale rows each, not 53 for both. Every chunk begins a new block.
static void fused_scales_are_tiled_inside_chunks(void) {
    enum { CHUNK = 3392, COLS = 200, SCALE_ROWS = 27, SCALE_COLS = 2 };
    uint8_t *codes = malloc(2 * CHUNK * COLS);
    float scale[2 * SCALE_ROWS * SCALE_COLS], out[COLS];
    CHECK(codes);
    memset(codes, 0x38, 2 * CHUNK * COLS); // 1.0
    for (int i = 0; i < 2 * SCALE_ROWS * SCALE_COLS; i++) scale[i] = (float)(i + 1);
    Matrix m = {.dtype = DTYPE_FP8, .rows = 2 * CHUNK, .cols = COLS, .data = codes, .stride = COLS, .scale = scale};
    m.scale_stride = SCALE_COLS;
    m.chunk_rows = CHUNK;
    m.chunk_scale_rows = SCALE_ROWS;
    for (int chunk = 0; chunk < 2; chunk++)
        for (int inside = 0; inside < CHUNK; inside += 61) {
            matrix_decode(&m, chunk * CHUNK + inside, 0, COLS, out);
            for (int c = 0; c < COLS; c++) {
                float want = (float)((chunk * 27 + inside / 128) * 2 + c / 128 + 1);
                CHECK(out[c] == want, "row %d column %d: %g", inside, c, out[c]);
            }
        }
    free(codes);
}

static int below(uint64_t *state, int limit) { return (int)(check_random(state) % (uint64_t)limit); }

// Every part of every view is that part of the whole, at any alignment of data and scales.
static void views_are_parts_of_the_whole(void) {
    static const Dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_FP8, DTYPE_MXFP4};
    enum { ROWS = 150, COLS = 416 };
    static uint8_t data[ROWS * COLS * 4 + 1], scale[ROWS * COLS + 3];
    static float whole[ROWS][COLS], out[COLS];
    uint64_t state = 7;
    for (size_t d = 0; d < 4; d++) {
        Dtype dtype = dtypes[d];
        for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(check_random(&state) & 0x77);
        for (size_t i = 0; i < sizeof scale; i++) scale[i] = 60;
        for (int i = 0; i < ROWS * 4; i++) {
            float s = (float)(i + 1);
            if (dtype == DTYPE_FP8) memcpy(scale + 3 + 4 * i, &s, 4);
        }
        Matrix m = {.dtype = dtype, .rows = ROWS, .cols = COLS, .data = data + 1, .scale = scale + 3};
        m.stride = (size_t)COLS * (size_t)dtype_bits(dtype) / 8;
        m.scale_stride = dtype == DTYPE_FP8 ? 4 : 13;
        m.chunk_rows = 75;
        m.chunk_scale_rows = 1;
        for (int r = 0; r < ROWS; r++) matrix_decode(&m, r, 0, COLS, whole[r]);
        int step = dtype == DTYPE_MXFP4 ? 32 : 1;
        for (int i = 0; i < 2000; i++) {
            int row0 = below(&state, ROWS), row = row0 + below(&state, ROWS - row0);
            int col0 = (int)(check_random(&state) % COLS) / step * step;
            int col = below(&state, COLS - col0) / step * step;
            int count = below(&state, COLS - col0 - col + 1) / step * step;
            Matrix view = matrix_cols(matrix_rows(m, row0, ROWS - row0), col0, COLS - col0);
            CHECK(view.rows == ROWS - row0 && view.cols == COLS - col0);
            for (int c = 0; c < COLS; c++) out[c] = -12345;
            matrix_decode(&view, row - row0, col, count, out);
            CHECK(memcmp(out, &whole[row][col0 + col], sizeof *out * (size_t)count) == 0, "%s row %d col %d + %d",
                  dtype_name(dtype), row, col0, col);
            if (count < COLS) CHECK(out[count] == -12345, "wrote past the end");
        }
    }
}

int main(void) {
    RUN(every_bf16);
    RUN(bf16_rounds_to_nearest_even);
    RUN(bf16_keeps_nan_and_overflows_to_infinity);
    RUN(every_fp8_code);
    RUN(every_mxfp4_code_and_scale);
    RUN(fused_scales_are_tiled_inside_chunks);
    RUN(views_are_parts_of_the_whole);
    return check_done();
}
