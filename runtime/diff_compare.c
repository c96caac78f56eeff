// Comparing numbers of both machines.
#include "diff_parts.h"
#include "text.h"
#include <math.h>
#include <string.h>

static double number(const void *at, NumberKind kind) {
    float real;
    int whole;
    uint16_t bits;
    switch (kind) {
    case NUMBER_BF16: memcpy(&bits, at, sizeof bits); return (double)bf16_to_float(bits);
    case NUMBER_INT: memcpy(&whole, at, sizeof whole); return (double)whole;
    default: memcpy(&real, at, sizeof real); return (double)real;
    }
}
// ACTIVATIONS in abi.h: a lane has 32 inputs of a block, and of each 64 bytes 16.
static int place_in_blocks(int input, int piece) { // piece: inputs in 16 bytes
    int k = input % BLOCK_K;
    return input - k + k % 32 / piece * 4 * piece + k / 32 * piece + k % piece;
}
static const uint8_t *device_at(const Patch *p, int i) {
    if (p->in_eights) i = i / 8 * (KEY_CHUNK * 8) + i % 8;
    if (p->in_blocks) i = place_in_blocks(p->col + i, 16 / (int)p->device_step);
    return p->device + (size_t)i * p->device_step;
}
static double device_number(const Patch *p, int i) { return number(device_at(p, i), p->device_kind); }
static double host_number(const Patch *p, int i) {
    return number((const char *)p->host + (size_t)i * p->host_step, p->host_kind);
}

void patches_scale(const Patches *patches, Scales *scales) {
    for (size_t k = 0; k < patches->count; k++) {
        const Patch *p = &patches->at[k];
        for (int i = 0; i < p->count; i++) {
            double v = host_number(p, i);
            scales->sum[p->channel][p->slot] += v * v;
            scales->count[p->channel][p->slot]++;
        }
    }
}

// How far two numbers made of the same inputs may be apart. Sums have another order on each machine, so a number that
// is rounded to bf16 may come out as its neighbour: 2^-7 of it at most. The rest is for sums that cancel: a share of
// the row's own size. Where activations are bf16, attention rounds its weights too, before their sum.
static double tolerance(const Diff *d, OpId op, const Patch *p, double a, double b, double rms) {
    bool attention = op == OP_ATTENTION || op == OP_MERGE || op == OP_DRAFT_ATTENTION;
    if (p->device_kind == NUMBER_INT) return 0;
    attention = attention && d->engine->round_activations;
    double share = p->device_kind == NUMBER_BF16 ? 0x1p-7 : 0x1p-10;
    return share * fmax(fabs(a), fabs(b)) + (attention ? 4e-3 : 1e-3) * rms;
}

static double ratio_of(double difference, double allowed) {
    if (!isfinite(difference)) return INFINITY; // a NaN or an infinity on either side
    return difference == 0 ? 0 : allowed > 0 ? difference / allowed : INFINITY;
}

static void tie_add(Diff *d, const Patch *p) {
    const RoundItem *item = prog_instance(d->prog, d->instance, &(int){0});
    DiffReport *r = d->report;
    if (r->tie_count++ >= DIFF_TIES) return;
    snprintf(r->ties[r->tie_count - 1], DIFF_TIE_TEXT, "%s, %s, layer %d: %s of row %d at %d: GPU %.0f, host %.0f",
             d->prompt ? "prompt" : "decoding", d->prog->bodies[item->body].name, d->layer, p->of, p->row, p->col,
             device_number(p, 0), host_number(p, 0));
}

void patches_compare(Diff *d, OpId op, const Patches *patches, const Scales *scales, Finding *f) {
    double before = 0; // ratio of the patch before
    for (size_t k = 0; k < patches->count; k++) {
        const Patch *p = &patches->at[k];
        double count = scales->count[p->channel][p->slot], largest = 0;
        double rms = count > 0 ? sqrt(scales->sum[p->channel][p->slot] / count) : 0;
        for (int i = 0; i < p->count; i++) {
            double a = device_number(p, i), b = host_number(p, i), allowed = tolerance(d, op, p, a, b, rms);
            double ratio = ratio_of(a - b == 0 ? 0 : fabs(a - b), allowed);
            if (ratio > 0 && (p->tie == TIE_NEAR || (p->tie == TIE_OF_VALUE && before <= 1))) {
                tie_add(d, p);
                continue;
            }
            if (p->device_kind != NUMBER_INT) f->error += (a - b) * (a - b), f->norm += b * b;
            if (ratio > largest) largest = ratio;
            if (ratio <= f->ratio) continue;
            f->ratio = ratio;
            f->device = a, f->host = b, f->tolerance = allowed;
            f->patch = *p;
            f->element = i;
        }
        before = largest;
    }
}

const char *finding_place(Ctx *ctx, const Finding *f) {
    const Patch *p = &f->patch;
    bool cache = strstr(p->of, "keys") || strstr(p->of, "values"), part = strncmp(p->of, "part", 4) == 0;
    Text text = text_new(ctx->arena);
    text_printf(&text, "%s: ", p->of);
    if (p->key >= 0) text_printf(&text, "%s %d, ", cache ? "kv head" : part ? "head" : "key", p->key);
    text_printf(&text, "%s %d, %s %d", cache ? "position" : "row", p->row,
                p->count > 1 ? cache ? "dim" : "column" : "place", p->col + f->element);
    return text.at;
}

void patches_take(const Patches *patches) {
    for (size_t k = 0; k < patches->count; k++) {
        const Patch *p = &patches->at[k];
        for (int i = 0; i < p->count && !p->look_only; i++) {
            const void *from = device_at(p, i);
            void *to = (char *)p->host + (size_t)i * p->host_step;
            float value;
            if (p->device_kind == p->host_kind)
                memcpy(to, from, p->host_kind == NUMBER_BF16 ? 2 : 4);
            else {
                value = (float)number(from, p->device_kind);
                memcpy(to, &value, sizeof value);
            }
        }
    }
}

DiffDigest patches_digest(const Patches *patches, bool of_device) {
    DiffDigest digest = {0, INFINITY, -INFINITY, 0xCBF29CE484222325u};
    double sum = 0, count = 0;
    for (size_t k = 0; k < patches->count; k++)
        for (int i = 0; i < patches->at[k].count; i++) {
            double v = of_device ? device_number(&patches->at[k], i) : host_number(&patches->at[k], i);
            uint64_t bits;
            memcpy(&bits, &v, sizeof bits);
            digest.hash = (digest.hash ^ bits) * 0x100000001B3u;
            digest.hash ^= digest.hash >> 29;
            sum += v * v;
            count++;
            if (!(v >= digest.min)) digest.min = v; // a NaN stays
            if (!(v <= digest.max)) digest.max = v;
        }
    if (count > 0)
        digest.rms = sqrt(sum / count);
    else
        digest.min = digest.max = 0;
    return digest;
}
