// Packed weights: each value of a packed matrix, read back from the layout's description, is the checkpoint's.
#include "damage.h"
#include "checkpoint_slots.h"
#include "file.h"
#include "unpack.h"

// A random matrix of `rows` x `cols`, at an odd address as in a checkpoint. fp8: chunks of chunk_rows.
static Matrix random_matrix(uint64_t *seed, Dtype dtype, int rows, int cols, int chunk_rows) {
    size_t stride = (size_t)cols * (size_t)dtype_bits(dtype) / 8, bytes = stride * (size_t)rows;
    uint8_t *data = (uint8_t *)arena_alloc(ctx->arena, bytes + 1) + 1;
    for (size_t i = 0; i < bytes; i++) data[i] = (uint8_t)check_random(seed);
    if (dtype == DTYPE_BF16 || dtype == DTYPE_F32) // no NaN, which is not equal to itself
        for (size_t i = dtype == DTYPE_BF16 ? 1 : 3; i < bytes; i += dtype == DTYPE_BF16 ? 2 : 4) data[i] &= 0xBE;
    if (dtype == DTYPE_FP8)
        for (size_t i = 0; i < bytes; i++)
            if ((data[i] & 127) == 127) data[i] = 0;
    int scale_rows = rows / chunk_rows * ((chunk_rows + 127) / 128), scale_stride = 0;
    uint8_t *scale = NULL;
    if (dtype == DTYPE_FP8) {
        scale_stride = (cols + 127) / 128;
        scale = (uint8_t *)arena_alloc(ctx->arena, (size_t)(scale_rows * scale_stride) * 4 + 3) + 3;
        for (int i = 0; i < scale_rows * scale_stride; i++) {
            float value = (float)(check_random(seed) >> 40) * 0x1p-20f + 0.01f;
            memcpy(scale + 4 * i, &value, 4);
        }
    } else if (dtype == DTYPE_MXFP4) {
        scale_stride = cols / 32;
        scale = arena_alloc(ctx->arena, (size_t)(rows * scale_stride));
        for (int i = 0; i < rows * scale_stride; i++) scale[i] = (uint8_t)(1 + check_random(seed) % 128);
    }
    return (Matrix){.dtype = dtype,
                    .rows = rows,
                    .cols = cols,
                    .data = data,
                    .stride = stride,
                    .scale = scale,
                    .scale_stride = scale_stride,
                    .chunk_rows = chunk_rows,
                    .chunk_scale_rows = (chunk_rows + 127) / 128};
}

static PackSegment segment_of(PackKind kind, const Matrix *a, const Matrix *b, int count) {
    static const size_t block[] = {
        [DTYPE_BF16] = BF16_BLOCK, [DTYPE_FP8] = FP8_BLOCK, [DTYPE_MXFP4] = MXFP4_BLOCK, [DTYPE_F32] = F32_BLOCK};
    PackSegment s = {.name = "w", .kind = kind, .dtype = a->dtype, .a = a, .b = b, .count = count, .rows = a->rows};
    for (int i = 1; kind == PACK_STACK && i < count; i++) s.rows += a[i].rows;
    int outputs = kind == PACK_PAIRS ? 8 : 16;
    s.strips = (uint64_t)((s.rows + outputs - 1) / outputs);
    s.units = s.strips * (uint64_t)(kind == PACK_STACK ? 1 : count);
    s.unit_bytes = (size_t)(a->cols + 127) / 128 * block[a->dtype];
    s.bytes = s.units * s.unit_bytes;
    return s;
}

static uint8_t *packed_of(const PackSegment *s) {
    uint8_t *out = arena_alloc(ctx->arena, (size_t)s->bytes);
    memset(out, 0xEE, (size_t)s->bytes); // every byte is written
    PackFault fault = {0};
    pack_units(s, 0, s->units, out, &fault);
    CHECK(!fault.segment);
    return out;
}

// Packed row `to` (of all) holds the matrix's row `row`, and zeros behind its columns.
static void check_row(const Matrix *m, int row, const uint8_t *packed, int to) {
    float want[4096];
    int padded = (m->cols + 127) / 128 * 128;
    memset(want, 0, sizeof want);
    if (row >= 0) matrix_decode(m, row, 0, m->cols, want);
    for (int col = 0; col < padded; col++) {
        float got = unpack(m->dtype, packed, m->cols, to, col);
        double most = m->dtype == DTYPE_F32 ? fabs((double)want[col]) * 0x1p-17 + 0x1p-133 : 0; // two bf16
        CHECK(fabs((double)got - (double)want[col]) <= most, "%s row %d column %d: %g, not %g", dtype_name(m->dtype),
              row, col, (double)got, (double)want[col]);
    }
}

static const Dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_FP8, DTYPE_MXFP4};

static void matrices_of_every_dtype(void) {
    static const int shapes[][2] = {{16, 128}, {1, 32}, {37, 160}, {128, 416}, {8, 96}, {130, 256}};
    for (int d = 0; d < 4; d++)
        for (int i = 0; i < 6; i++) {
            uint64_t seed = (uint64_t)(d * 100 + i);
            FRESH();
            Matrix m = random_matrix(&seed, dtypes[d], shapes[i][0], shapes[i][1], shapes[i][0]);
            PackSegment s = segment_of(PACK_EACH, &m, NULL, 1);
            const uint8_t *packed = packed_of(&s);
            for (int row = 0; row < (int)s.strips * 16; row++) check_row(&m, row < m.rows ? row : -1, packed, row);
        }
}

static void views_of_rows_and_columns(void) {
    for (int d = 0; d < 4; d++) {
        uint64_t seed = (uint64_t)d + 7;
        FRESH();
        int col0 = dtypes[d] == DTYPE_FP8 ? 128 : dtypes[d] == DTYPE_MXFP4 ? 96 : 33;
        int cols = dtypes[d] == DTYPE_MXFP4 ? 224 : 201;
        Matrix whole = random_matrix(&seed, dtypes[d], 96, 512, 96),
               m = matrix_cols(matrix_rows(whole, 24, 51), col0, cols);
        PackSegment s = segment_of(PACK_EACH, &m, NULL, 1);
        const uint8_t *packed = packed_of(&s);
        for (int row = 0; row < 64; row++) check_row(&m, row < 51 ? row : -1, packed, row);
    }
}

static void fused_qkv_in_chunks(void) {
    uint64_t seed = 3;
    FRESH();
    Matrix whole = random_matrix(&seed, DTYPE_FP8, 4 * 272, 384, 272); // 128 + 128 + 16 rows of scales a chunk
    for (int rank = 0; rank < 2; rank++) {
        Matrix m = matrix_rows(whole, rank * 544, 544);
        PackSegment s = segment_of(PACK_STACK, &m, NULL, 1);
        const uint8_t *packed = packed_of(&s);
        for (int row = 0; row < 544; row++) check_row(&m, row, packed, row);
    }
}

static void stacks_pairs_and_runs(void) {
    for (int d = 0; d < 4; d++) {
        uint64_t seed = (uint64_t)d + 70;
        FRESH();
        Matrix q[3];
        for (int i = 0; i < 3; i++) q[i] = random_matrix(&seed, dtypes[d], i ? 24 : 40, 160, i ? 24 : 40);
        PackSegment s = segment_of(PACK_STACK, q, NULL, 3);
        const uint8_t *packed = packed_of(&s);
        CHECK(s.rows == 88 && s.strips == 6);
        for (int row = 0; row < 96; row++) {
            int part = row < 40 ? 0 : row < 64 ? 1 : 2;
            check_row(&q[part], row >= 88 ? -1 : row - (part == 0 ? 0 : part == 1 ? 40 : 64), packed, row);
        }
        Matrix gate[3], up[3];
        for (int i = 0; i < 3; i++) {
            gate[i] = random_matrix(&seed, dtypes[d], 20, 96, 20);
            up[i] = random_matrix(&seed, dtypes[d], 20, 96, 20);
        }
        s = segment_of(PACK_PAIRS, gate, up, 3);
        packed = packed_of(&s);
        CHECK(s.units == 9);
        for (int row = 0; row < 9 * 16; row++) {
            int expert = row / 48, in = row % 48 / 16 * 8 + row % 8;
            check_row(row % 16 < 8 ? &gate[expert] : &up[expert], in < 20 ? in : -1, packed, row);
        }
        s = segment_of(PACK_EACH, gate, NULL, 3);
        packed = packed_of(&s);
        for (int row = 0; row < 3 * 32; row++) check_row(&gate[row / 32], row % 32 < 20 ? row % 32 : -1, packed, row);
    }
}

static void a_scale_beyond_128_is_named(void) {
    uint64_t seed = 5;
    FRESH();
    Matrix m[2] = {random_matrix(&seed, DTYPE_MXFP4, 24, 256, 24), random_matrix(&seed, DTYPE_MXFP4, 24, 256, 24)};
    ((uint8_t *)(uintptr_t)m[1].scale)[19 * 8 + 3] = 129;
    PackSegment s = segment_of(PACK_EACH, m, NULL, 2);
    s.name = "layer 4 down of expert";
    PackList list = {.at = &s, .count = 1, .bytes = s.bytes, .largest = s.unit_bytes};
    PackCursor cursor = {0};
    PackFault fault;
    uint64_t offset;
    uint8_t *out = arena_alloc(ctx->arena, (size_t)s.bytes + PACK_ALIGN);
    CHECK(pack_next(&list, &cursor, false, out, (size_t)s.bytes + PACK_ALIGN, 2, &offset, &fault) == 0);
    CHECK(fault.segment == &s);
    pack_report(ctx, &fault);
    CHECK_ERROR(E0742, "layer 4 down of expert 1, row 19: the mxfp4 scale of columns 96 to 127 is 129");
}

static const Model *demo_model(void) {
    const char *root = getenv("ROOT") ? getenv("ROOT") : ".";
    Source *source = file_read(ctx, file_join(ctx, root, "models/demo.yaml"), MODEL_FILE_CAP);
    const Model *model = source ? model_read(ctx, source) : NULL;
    CHECK(model);
    return model;
}

static const PackSegment *find(const PackList *list, int slot, int table) {
    for (size_t i = 0; i < list->count; i++)
        if (list->at[i].slot == slot && (list->at[i].table == table || list->at[i].table == PACK_ALL_TABLES))
            return &list->at[i];
    CHECK(false, "no slot %d of table %d", slot, table);
    return NULL;
}

// All of the demo model, through rooms of several sizes and threads: the same bytes, and the checkpoint's values.
static void a_whole_rank(void) {
    for (int ranks = 1; ranks <= 2; ranks++) {
        FRESH();
        const Model *model = demo_model();
        Checkpoint *weights = checkpoint_synthetic(ctx, model, 11);
        PackList list;
        int rank = ranks - 1;
        CHECK(pack_list(ctx, model, weights, rank, ranks, &list));
        CHECK(list.tables == 9 && list.bytes % PACK_ALIGN == 0);
        uint8_t *whole[2];
        for (int pass = 0; pass < 2; pass++) {
            size_t room = pass ? list.largest + PACK_ALIGN : 4 << 20;
            uint8_t *out = whole[pass] = arena_alloc(ctx->arena, (size_t)list.bytes);
            PackCursor cursor = {0};
            PackFault fault;
            uint64_t offset, expected = 0;
            uint8_t *buffer = arena_alloc(ctx->arena, room);
            for (size_t n; (n = pack_next(&list, &cursor, false, buffer, room, pass ? 1 : 3, &offset, &fault)) > 0;) {
                CHECK(offset >= expected && offset - expected < PACK_ALIGN && n <= room);
                memcpy(out + offset, buffer, n);
                expected = offset + n;
            }
            CHECK(cursor.segment == list.count && !fault.segment);
        }
        CHECK(memcmp(whole[0], whole[1], (size_t)list.bytes) == 0);
        RankViews views = views_of(ctx, model, weights, rank, ranks);
        const PackSegment *s = find(&list, SLOT_QKV, 3);
        for (int row = 0; row < views.layers[3].qkv[0].rows; row += 5)
            check_row(&views.layers[3].qkv[0], row, whole[0] + s->offset, row);
        s = find(&list, SLOT_EXPERT_DOWN, 2);
        for (int row = 0; row < 384; row += 7)
            check_row(&views.layers[2].expert_down[9], row, whole[0] + s->offset, 9 * 384 + row);
        s = find(&list, SLOT_EXPERT_UP, 5);
        int inner = views.layers[5].expert_up[0].rows;
        for (int row = 0; row < inner; row += 3)
            check_row(&views.layers[5].expert_up[3], row, whole[0] + s->offset,
                      (3 * inner + row / 8 * 8) * 2 + 8 + row % 8);
        s = find(&list, SLOT_QKV, 7); // of the drafter: q, k, v apart
        check_row(&views.draft_layers[1].qkv[2], 1, whole[0] + s->offset,
                  views.draft_layers[1].qkv[0].rows + views.draft_layers[1].qkv[1].rows + 1);
        s = find(&list, SLOT_HEAD, 8);
        check_row(&views.head, 77, whole[0] + s->offset, 77);
        s = find(&list, SLOT_EMBED, 0);
        CHECK(memcmp(whole[0] + s->offset, weights->embed.data, (size_t)s->bytes) == 0);
        s = find(&list, SLOT_SINK, 1);
        CHECK(memcmp(whole[0] + s->offset, weights->layers[1].sink + rank * 8 / ranks, (size_t)(8 / ranks) * 4) == 0);
        s = find(&list, SLOT_MASK, 4);
        uint16_t half;
        memcpy(&half, whole[0] + s->offset + 20, 2);
        CHECK(bf16_to_float(half) == weights->drafter.mask_embedding[10]);
        checkpoint_close(weights);
    }
}

static void what_the_layout_cannot_hold(void) {
    FRESH();
    Model *model = arena_copy(ctx->arena, demo_model(), sizeof *model);
    Checkpoint *weights = checkpoint_synthetic(ctx, model, 11);
    PackList list;
    float *norm = (float *)(uintptr_t)weights->layers[2].post_norm, was = norm[5];
    norm[5] = 1.001f;
    CHECK(!pack_list(ctx, model, weights, 0, 1, &list));
    CHECK_ERROR(E0743, "layer 2 post norm: value 5");
    norm[5] = was;
    weights->layers[1].qkv.chunk_rows = 68; // a grid of 68 rows cuts groups of 8
    CHECK(!pack_list(ctx, model, weights, 0, 1, &list));
    CHECK_ERROR(E0741, "layer 1 qkv");
    weights->layers[1].qkv.chunk_rows = 272;
    weights->embed.dtype = DTYPE_F32;
    CHECK(!pack_list(ctx, model, weights, 0, 1, &list));
    CHECK_ERROR(E0744, "f32");
    checkpoint_close(weights);
}

// The grids of the published models' scales fit the strips of each rank, and packed weights are hardly larger than
// published ones.
static void published_models_fit(void) {
    static const struct {
        const char *file;
        int ranks;
    } models[] = {{"llama-3.2-1b", 1}, {"mimo-v2.5-pro", 8}, {"mimo-v2.6-flash", 2}, {"mimo-v2.6-flash", 4}};
    const char *root = getenv("ROOT") ? getenv("ROOT") : ".";
    for (int i = 0; i < 4; i++)
        for (int rank = 0; rank<models[i].ranks; rank += models[i].ranks> 1 ? models[i].ranks - 1 : 1) {
            FRESH();
            const char *path = arena_printf(ctx->arena, "%s/models/%s.yaml", root, models[i].file);
            Source *source = file_read(ctx, path, MODEL_FILE_CAP);
            const Model *model = source ? model_read(ctx, source) : NULL;
            Slots slots;
            Checkpoint *weights = model ? checkpoint_new(ctx, model, &slots) : NULL;
            CHECK(weights);
            uint64_t published = 0;
            for (size_t k = 0; k < slots.count; k++) { // described, with nothing behind it
                published += slots.at[k].bytes;
                if (slots.at[k].kind == SLOT_MATRIX) slots.at[k].matrix->data = (const uint8_t *)"";
            }
            if (model->tied_head) {
                weights->head = weights->embed;
                published += slots.at[0].bytes;
            }
            PackList list;
            bool listed = pack_list(ctx, model, weights, rank, models[i].ranks, &list);
            CHECK_SILENT();
            CHECK(listed);
            double ratio = (double)list.bytes * models[i].ranks / (double)published;
            CHECK(ratio > 0.99 && ratio < 1.15, "%s: %g", models[i].file, ratio);
        }
}

int main(void) {
    RUN(matrices_of_every_dtype);
    RUN(views_of_rows_and_columns);
    RUN(fused_qkv_in_chunks);
    RUN(stacks_pairs_and_runs);
    RUN(a_scale_beyond_128_is_named);
    RUN(a_whole_rank);
    RUN(what_the_layout_cannot_hold);
    RUN(published_models_fit);
    ctx_free(ctx);
    return check_done();
}
