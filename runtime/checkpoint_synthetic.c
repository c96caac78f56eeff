#include "checkpoint_slots.h"

#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

// A sum of four random bytes: nearly normal, mean 510, variance 4 (256^2 - 1) / 12.
enum { SUM_MAX = 4 * 255, SUM_MEAN = SUM_MAX / 2, ALIGN = 64 };
#define SUM_STD   147.8005f
#define FP8_STD   112.0f     // of the codes: the largest sum, 3.45 deviations, stays under 448
#define MXFP4_STD 2.9261750f // of e2m1 codes drawn alike: sqrt(68.5 / 8)

// Codes of one round, by sum.
typedef struct Tables {
    uint8_t fp8[SUM_MAX + 1];
    uint64_t seed;
} Tables;

static uint64_t mix(uint64_t z) {
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

// The generator is counted, not stepped: a value depends on the seed, the tensor's name and its index alone.
static uint64_t key_of(uint64_t seed, const char *name) {
    uint64_t key = mix(seed + 0x9E3779B97F4A7C15u);
    for (; *name; name++) key = mix(key ^ (uint8_t)*name);
    return key;
}
static uint64_t bits_at(uint64_t key, uint64_t index) { return mix(key + (index + 1) * 0x9E3779B97F4A7C15u); }
static unsigned sum_of(uint32_t bits) { return (bits & 255) + (bits >> 8 & 255) + (bits >> 16 & 255) + (bits >> 24); }
static unsigned sum_at(uint64_t key, size_t index) {
    uint64_t bits = bits_at(key, index / 2);
    return sum_of((uint32_t)(index % 2 ? bits >> 32 : bits));
}
static float noise_at(uint64_t key, size_t index) { return ((float)sum_at(key, index) - (float)SUM_MEAN) / SUM_STD; }

static void tables_fill(Tables *tables) {
    uint8_t codes[128];
    float value[128], one = 1;
    Matrix every = {.dtype = DTYPE_FP8, .data = codes, .scale = &one, .chunk_rows = 1, .chunk_scale_rows = 1};
    for (int i = 0; i < 128; i++) codes[i] = (uint8_t)i;
    matrix_decode(&every, 0, 0, 127, value);
    for (int sum = 0; sum <= SUM_MAX; sum++) {
        float want = fabsf((float)(sum - SUM_MEAN)) / SUM_STD * FP8_STD;
        int best = 0;
        for (int i = 1; i < 127; i++)
            if (fabsf(value[i] - want) < fabsf(value[best] - want)) best = i;
        tables->fp8[sum] = (uint8_t)(best | (sum < SUM_MEAN ? 0x80 : 0));
    }
}

static void fill_codes(const Tables *tables, const Slot *slot, uint64_t key, uint8_t *out) {
    size_t count = slot->bytes;
    switch (slot->matrix->dtype) {
    case DTYPE_F32:
        for (size_t i = 0; i < count / 4; i++) {
            float value = slot->mean + slot->std * noise_at(key, i);
            memcpy(out + 4 * i, &value, sizeof value);
        }
        break;
    case DTYPE_BF16:
        for (size_t i = 0; i < count / 2; i++) {
            uint16_t value = float_to_bf16(slot->mean + slot->std * noise_at(key, i));
            memcpy(out + 2 * i, &value, sizeof value);
        }
        break;
    case DTYPE_FP8:
        for (size_t i = 0; i < count; i++) out[i] = tables->fp8[sum_at(key, i)];
        break;
    default:
        for (size_t i = 0; i < count; i += 8) {
            uint64_t bits = bits_at(key, i / 8);
            memcpy(out + i, &bits, count - i < 8 ? count - i : 8);
        }
    }
}

// Scales that give the weights the slot's deviation.
static void fill_scales(const Slot *slot, uint64_t key, uint8_t *out) {
    if (slot->matrix->dtype == DTYPE_FP8) {
        for (size_t i = 0; i < slot->bytes / 4; i++) {
            float scale = slot->std / FP8_STD * (0.875f + (float)(bits_at(key, i) >> 40) * 0x1p-26f);
            memcpy(out + 4 * i, &scale, sizeof scale);
        }
        return;
    }
    // Two neighbouring powers of two, mixed so that the mean square is right.
    int exponent;
    float part = frexpf(slot->std / MXFP4_STD, &exponent) * 2; // [1, 2), times 2^(exponent - 1)
    uint64_t upper = (uint64_t)((part * part - 1) / 3 * 0x1p24f);
    for (size_t i = 0; i < slot->bytes; i++) out[i] = (uint8_t)(127 + exponent - 1 + (bits_at(key, i) >> 40 < upper));
}

static void fill(Ctx *ctx, const Tables *tables, const Slot *slot, uint8_t *at) {
    uint64_t key = key_of(tables->seed, slot->name);
    if (slot->kind == SLOT_VECTOR) {
        bool half = slot->dtype[0] == 'B';
        float *out = ARENA_ARRAY(ctx->arena, float, slot->shape[0]);
        for (size_t i = 0; i < (size_t)slot->shape[0]; i++) {
            float value = slot->mean + slot->std * noise_at(key, i);
            out[i] = half ? bf16_to_float(float_to_bf16(value)) : value;
        }
        *slot->vector = out;
    } else if (slot->kind == SLOT_MATRIX) {
        fill_codes(tables, slot, key, at);
        slot->matrix->data = at;
    } else {
        fill_scales(slot, key, at);
        slot->matrix->scale = at;
    }
}

static size_t room_of(const Slot *slot) {
    return slot->kind == SLOT_VECTOR ? 0 : (slot->bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static void release(void *guard) { checkpoint_close(*(Checkpoint **)guard); }

Checkpoint *checkpoint_synthetic(Ctx *ctx, const Model *model, uint64_t seed) {
    Slots slots;
    Checkpoint *checkpoint = checkpoint_new(ctx, model, &slots), **guard = ARENA_NEW(ctx->arena, Checkpoint *);
    if (!checkpoint) return NULL;
    CheckpointInner *inner = checkpoint->inner;
    size_t total = 0, memory = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    for (size_t i = 0; i < slots.count && total < memory; i++) total += room_of(&slots.at[i]); // no overflow
    void *map =
        total < memory ? mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) : MAP_FAILED;
    if (map == MAP_FAILED) {
        diag_error(ctx, E0731, NO_SPAN, "%s: its weights take %zu MB or more, this machine has %zu", model->name,
                   total / 1000000, memory / 1000000);
        diag_help(ctx, "describe a model with fewer layers or experts");
        return NULL;
    }
    inner->map = map;
    inner->map_bytes = total;
    *guard = checkpoint;
    ctx_defer(ctx, release, guard);
    Tables *tables = ARENA_NEW(ctx->arena, Tables);
    tables->seed = seed;
    tables_fill(tables);
    uint8_t *at = map;
    for (size_t i = 0; i < slots.count; at += room_of(&slots.at[i++])) fill(ctx, tables, &slots.at[i], at);
    if (model->tied_head) checkpoint->head = checkpoint->embed;
    *guard = NULL; // the caller's now
    ctx_done(ctx, guard);
    return checkpoint;
}

Checkpoint *checkpoint_described(Ctx *ctx, const Model *model) {
    Slots slots;
    Checkpoint *checkpoint = checkpoint_new(ctx, model, &slots);
    int64_t longest = 0;
    if (!checkpoint) return NULL;
    for (size_t i = 0; i < slots.count; i++)
        if (slots.at[i].kind == SLOT_VECTOR && slots.at[i].shape[0] > longest) longest = slots.at[i].shape[0];
    const float *zeros = ARENA_ARRAY(ctx->arena, float, longest);
    for (size_t i = 0; i < slots.count; i++)
        if (slots.at[i].kind == SLOT_VECTOR) *slots.at[i].vector = zeros;
    if (model->tied_head) checkpoint->head = checkpoint->embed;
    return checkpoint;
}
