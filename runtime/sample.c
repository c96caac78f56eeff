#include "sample.h"
#include <math.h>

static uint64_t mix(uint64_t z) {
    z += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

double sample_random(uint64_t seed, int64_t position) {
    return (double)(mix(mix(seed) ^ mix((uint64_t)position * 0xD1342543DE82EF95u)) >> 11) * 0x1p-53;
}

// Is candidate a worse than b? Larger logits first, then lower ids.
static int worse(const SampleRoom *r, int a, int b) {
    return r->value[a] != r->value[b] ? r->value[a] < r->value[b] : r->id[a] > r->id[b];
}

static void swap(SampleRoom *r, int a, int b) {
    float value = r->value[a];
    int id = r->id[a];
    r->value[a] = r->value[b], r->id[a] = r->id[b];
    r->value[b] = value, r->id[b] = id;
}

static void sift(SampleRoom *r, int at, int count) { // a heap with its best candidate at 0
    for (;;) {
        int best = at, left = 2 * at + 1;
        if (left < count && worse(r, best, left)) best = left;
        if (left + 1 < count && worse(r, best, left + 1)) best = left + 1;
        if (best == at) return;
        swap(r, at, best);
        at = best;
    }
}

int sample(const Sampling *s, const float *logits, int vocab, int64_t position, SampleRoom *room) {
    int best = 0;
    for (int i = 1; i < vocab; i++)
        if (logits[i] > logits[best]) best = i;
    if (s->temperature <= 0) return best;
    // Candidates leave the heap from the best down; what is left at [count, vocab) is sorted, best last.
    for (int i = 0; i < vocab; i++) room->value[i] = logits[i], room->id[i] = i;
    for (int i = vocab / 2 - 1; i >= 0; i--) sift(room, i, vocab);
    int limit = s->top_k > 0 && s->top_k < vocab ? s->top_k : vocab, taken = 0;
    double total = 0, top = logits[best];
    if (limit == vocab && s->top_p < 1)
        for (int i = 0; i < vocab; i++) total += exp(((double)logits[i] - top) / s->temperature);
    for (int count = vocab; taken < limit && count > 0; taken++) { // the k best, sorted into the end of the room
        swap(room, 0, --count);
        sift(room, 0, count);
    }
    if (limit < vocab || s->top_p >= 1) {
        total = 0;
        for (int i = 0; i < taken; i++) total += exp(((double)room->value[vocab - 1 - i] - top) / s->temperature);
    }
    double kept = 0;
    int last = taken;
    for (int i = 0; i < taken; i++) {
        kept += exp(((double)room->value[vocab - 1 - i] - top) / s->temperature);
        if (s->top_p < 1 && kept >= s->top_p * total) {
            last = i + 1;
            break;
        }
    }
    double draw = sample_random(s->seed, position) * kept, sum = 0;
    for (int i = 0; i < last; i++) {
        sum += exp(((double)room->value[vocab - 1 - i] - top) / s->temperature);
        if (draw < sum) return room->id[vocab - 1 - i];
    }
    return room->id[vocab - last];
}
