#include "pack.h"
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

enum { HALF = STRIP_ROWS / 2, MXFP4_LARGEST = 128, JOB_BYTES = 1 << 18, JOBS = 1024, MAX_THREADS = 64, RUN_BLOCKS = 8 };

typedef struct Row { // of a strip; matrix NULL: zeros
    const Matrix *matrix;
    int row;
} Row;

// Where the two nibbles of each byte of a word of mxfp4 codes go.
typedef struct Codes {
    uint32_t word[4][256];
} Codes;

static void codes_fill(Codes *codes) {
    static const int place[4][4] = {{6, 7, 8, 15}, {3, 4, 5, 12}, {0, 1, 2, 9}, {13, 14, 10, 11}}; // of bits 0 to 3
    for (int p = 0; p < 4; p++)
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t out = 0;
            for (int h = 0; h < 2; h++) {
                uint32_t code = byte >> 4 * h & 15;
                for (int bit = 0; bit < 4; bit++) out |= (code >> bit & 1) << (16 * h + place[p][bit]);
            }
            codes->word[p][byte] = out;
        }
}

static int cols_of(const PackSegment *s) { return s->a[0].cols; }

// The 16 rows of a strip.
static void strip_rows(const PackSegment *s, uint64_t strip, Row *rows) {
    uint64_t each = strip / s->strips;
    int first = (int)(strip % s->strips) * (s->kind == PACK_PAIRS ? HALF : STRIP_ROWS);
    for (int i = 0; i < STRIP_ROWS; i++) {
        int row = first + (s->kind == PACK_PAIRS ? i % HALF : i);
        const Matrix *m = s->kind == PACK_STACK   ? s->a
                          : s->kind == PACK_PAIRS ? (i < HALF ? &s->a[each] : &s->b[each])
                                                  : &s->a[each];
        rows[i] = (Row){NULL, 0};
        if (row >= s->rows) continue;
        if (s->kind == PACK_STACK)
            for (; row >= m->rows; m++) row -= m->rows;
        rows[i] = (Row){m, row};
    }
}

// Bytes of 128 inputs of a row from block `block` on; what lies past the matrix is zero. `bits` an input.
static const uint8_t *row_block(Row row, int block, int bits, uint8_t *room) {
    size_t bytes = (size_t)BLOCK_K * (size_t)bits / 8;
    int left = row.matrix ? row.matrix->cols - block * BLOCK_K : 0;
    if (left < BLOCK_K) memset(room, 0, bytes);
    if (left <= 0) return room;
    const Matrix *m = row.matrix;
    size_t col = (size_t)(m->col0 + block * BLOCK_K);
    const uint8_t *at = m->data + (size_t)(m->row0 + row.row) * m->stride + col * (size_t)bits / 8;
    if (left >= BLOCK_K) return at;
    memcpy(room, at, ((size_t)left * (size_t)bits + 7) / 8);
    return room;
}

static int fp8_scale_row(const Matrix *m, int row) {
    int whole = m->row0 + row;
    return whole / m->chunk_rows * m->chunk_scale_rows + whole % m->chunk_rows / 128;
}

static void block_fp8_factors(const Row *rows, int block, uint8_t *out) {
    memset(out, 0, 16);
    for (int half = 0; half < 2; half++) {
        const Matrix *m = rows[half * HALF].matrix;
        if (!m) continue;
        size_t at =
            (size_t)fp8_scale_row(m, rows[half * HALF].row) * (size_t)m->scale_stride + (size_t)(m->col0 / 128 + block);
        memcpy(out + 4 * half, (const uint8_t *)m->scale + 4 * at, 4);
    }
}

// The scales of a row's four groups, as the packed block has them; false when one is too large.
static bool row_scales(Row row, int block, int half, int g, uint8_t *out, PackFault *fault) {
    const Matrix *m = row.matrix;
    for (int t = 0; t < 4; t++) {
        int col = block * BLOCK_K + 32 * t;
        uint8_t u = 0;
        if (m && col < m->cols) {
            u = ((const uint8_t *)
                     m->scale)[(size_t)(m->row0 + row.row) * (size_t)m->scale_stride + (size_t)((m->col0 + col) / 32)];
            if (u > MXFP4_LARGEST) {
                *fault = (PackFault){NULL, 0, row.row, col, u};
                return false;
            }
            u = (uint8_t)(u + MXFP4_BIAS);
        }
        out[2 * (4 * g + t) + half] = u;
    }
    return true;
}

// 128 inputs of row g + 8 half of a strip into their places in a block.
static void place_bf16(const uint8_t *in, int g, int half, uint8_t *out) {
    for (int t = 0; t < 4; t++) {
        uint8_t *at = out + (4 * g + t) * 16 + 4 * half;
        for (int k = 0; k < 8; k++, at += 512, in += 8) {
            memcpy(at, in, 4);
            memcpy(at + 8, in + 4, 4);
        }
    }
}
static void place_fp8(const uint8_t *in, int g, int half, uint8_t *out) {
    for (int t = 0; t < 4; t++)
        for (int k = 0; k < 8; k++, in += 4) {
            uint8_t *at = out + (4 * g + t) * 16 + 512 * (k / 2) + 8 * half + 4 * (k % 2);
            memcpy(at, in, 4);
        }
}
static void place_f32(const uint8_t *in, int g, int half, uint8_t *out) {
    uint16_t term[2][BLOCK_K];
    for (int i = 0; i < BLOCK_K; i++) {
        float v;
        memcpy(&v, in + 4 * i, 4);
        term[0][i] = float_to_bf16(v);
        term[1][i] = float_to_bf16(v - bf16_to_float(term[0][i]));
    }
    for (int i = 0; i < 2; i++) place_bf16((const uint8_t *)term[i], g, half, out + i * BF16_BLOCK);
}
static void place_mxfp4(const Codes *codes, const uint8_t *in, int g, int half, uint8_t *out) {
    out += 4 * g * 16 + 512 * half;
    for (int j = 0; j < 16; j++, in += 4, out += 4) {
        uint32_t word = codes->word[0][in[0]] | codes->word[1][in[1]] | codes->word[2][in[2]] | codes->word[3][in[3]];
        memcpy(out, &word, 4);
    }
}

static bool strip_pack(const PackSegment *s, const Codes *codes, uint64_t strip, uint8_t *out, PackFault *fault) {
    Row rows[STRIP_ROWS];
    uint8_t room[BLOCK_K * 4];
    int blocks = (cols_of(s) + BLOCK_K - 1) / BLOCK_K, bits = dtype_bits(s->dtype);
    size_t block_bytes = s->unit_bytes / (size_t)blocks;
    strip_rows(s, strip, rows);
    // Runs of blocks: each row is read a run at a time, since rows are often a power of two apart.
    for (int first = 0; first < blocks; first += RUN_BLOCKS)
        for (int i = 0; i < STRIP_ROWS; i++) {
            int g = i % HALF, half = i / HALF;
            uint8_t *at = out + (size_t)first * block_bytes;
            for (int block = first; block < blocks && block < first + RUN_BLOCKS; block++, at += block_bytes) {
                const uint8_t *in = row_block(rows[i], block, bits, room);
                switch (s->dtype) {
                case DTYPE_BF16: place_bf16(in, g, half, at); break;
                case DTYPE_F32: place_f32(in, g, half, at); break;
                case DTYPE_FP8:
                    place_fp8(in, g, half, at);
                    if (i == 0) block_fp8_factors(rows, block, at + 2048);
                    break;
                default:
                    place_mxfp4(codes, in, g, half, at);
                    if (row_scales(rows[i], block, half, g, at + 1024, fault)) break;
                    fault->segment = s;
                    fault->matrix = (int)(strip / s->strips);
                    return false;
                }
            }
        }
    return true;
}

void pack_units(const PackSegment *s, uint64_t first, uint64_t count, uint8_t *out, PackFault *fault) {
    Codes codes;
    switch (s->kind) {
    case PACK_BYTES: memcpy(out, s->packed + first, (size_t)count); return;
    case PACK_FLOATS: memcpy(out, s->vector, (size_t)s->bytes); return;
    case PACK_HALVES:
        for (int i = 0; i < s->rows; i++) {
            uint16_t half = float_to_bf16(s->vector[i]);
            memcpy(out + 2 * i, &half, 2);
        }
        return;
    case PACK_ROWS:
        for (uint64_t i = 0; i < count; i++, out += s->unit_bytes)
            memcpy(out, s->a->data + (size_t)((uint64_t)s->a->row0 + first + i) * s->a->stride + (size_t)s->a->col0 * 2,
                   s->unit_bytes);
        return;
    default: break;
    }
    if (s->dtype == DTYPE_MXFP4) codes_fill(&codes);
    for (uint64_t i = 0; i < count; i++, out += s->unit_bytes)
        if (!strip_pack(s, &codes, first + i, out, fault)) return;
}

// ---- Threads over jobs ----

typedef struct PackJob {
    const PackSegment *segment;
    uint64_t first, count;
    uint8_t *out;
} PackJob;

typedef struct PackWork {
    PackJob jobs[JOBS];
    int count;
    atomic_int next;
    pthread_mutex_t lock;
    PackFault fault; // the first in the list's order
    int fault_job;
} PackWork;

static void *work_main(void *user) {
    PackWork *work = user;
    for (int i; (i = atomic_fetch_add(&work->next, 1)) < work->count;) {
        const PackJob *job = &work->jobs[i];
        PackFault fault = {0};
        pack_units(job->segment, job->first, job->count, job->out, &fault);
        if (!fault.segment) continue;
        pthread_mutex_lock(&work->lock);
        if (!work->fault.segment || i < work->fault_job) work->fault = fault, work->fault_job = i;
        pthread_mutex_unlock(&work->lock);
    }
    return NULL;
}

static void work_run(PackWork *work, int threads) {
    pthread_t handles[MAX_THREADS];
    int started = 0;
    if (threads > work->count) threads = work->count;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    // A thread that cannot be started is no harm: the others do its part.
    while (started + 1 < threads && pthread_create(&handles[started], NULL, work_main, work) == 0) started++;
    work_main(work);
    for (int i = 0; i < started; i++) pthread_join(handles[i], NULL);
}

size_t pack_next(const PackList *list, PackCursor *cursor, bool one, uint8_t *out, size_t room, int threads,
                 uint64_t *offset, PackFault *fault) {
    PackWork work = {.lock = PTHREAD_MUTEX_INITIALIZER};
    size_t begun = cursor->segment;
    if (begun == list->count) return 0;
    uint64_t from = list->at[begun].offset + cursor->unit * list->at[begun].unit_bytes, done = 0;
    while (cursor->segment < list->count && !(one && cursor->segment > begun)) {
        const PackSegment *s = &list->at[cursor->segment];
        uint64_t at = s->offset + cursor->unit * s->unit_bytes - from;
        if (at >= room || work.count == JOBS) break;
        if (at > done) memset(out + done, 0, (size_t)(at - done)); // between segments
        uint64_t fit = (room - at) / s->unit_bytes, left = s->units - cursor->unit,
                 some = JOB_BYTES / s->unit_bytes ? JOB_BYTES / s->unit_bytes : 1;
        if (fit == 0) break;
        some = some < left ? some : left;
        some = some < fit ? some : fit;
        work.jobs[work.count++] = (PackJob){s, cursor->unit, some, out + at};
        done = at + some * s->unit_bytes;
        cursor->unit += some;
        if (cursor->unit < s->units) continue;
        cursor->segment++;
        cursor->unit = 0;
    }
    work_run(&work, threads);
    *offset = from;
    *fault = work.fault;
    return fault->segment ? 0 : (size_t)done;
}

void pack_report(Ctx *ctx, const PackFault *fault) {
    const char *which = fault->segment->count > 1 && fault->segment->kind != PACK_STACK
                            ? arena_printf(ctx->arena, " %d", fault->matrix)
                            : "";
    diag_error(ctx, E0742, NO_SPAN, "%s%s, row %d: the mxfp4 scale of columns %d to %d is %d, more than %d",
               fault->segment->name, which, fault->row, fault->col, fault->col + 31, fault->scale, MXFP4_LARGEST);
    diag_help(ctx, "a factor above 2 is no trained weight's; --host runs any scale");
}
