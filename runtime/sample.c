#include "sample.h"
#include <stdbool.h>

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

// The best candidate of [0, count) to its end; returns the rest's count.
static int pop(SampleRoom *r, int count) {
    swap(r, 0, --count);
    sift(r, 0, count);
    return count;
}

// Moves the candidates that survive top k and top p to the end of the room, the best last; returns how many they are.
static int survivors(const Sampling *s, const float *logits, int vocab, float best, SampleRoom *room) {
    float temperature = (float)s->temperature;
    double p = (double)(float)s->top_p;
    bool top_k = s->top_k > 0 && s->top_k < vocab;
    int limit = top_k ? s->top_k : vocab, left = vocab;
    for (int i = 0; i < vocab; i++) room->value[i] = logits[i], room->id[i] = i;
    for (int i = vocab / 2 - 1; i >= 0; i--) sift(room, i, vocab);
    while (top_k && left > vocab - limit) left = pop(room, left);
    if (p >= 1) return limit;
    uint64_t total = 0, kept = 0;
    for (int i = vocab - limit; i < vocab; i++) total += sample_weight(room->value[i], best, temperature);
    for (int i = 1; i < limit; i++) {
        if (!top_k) left = pop(room, left);
        kept += sample_weight(room->value[vocab - i], best, temperature);
        if ((double)kept >= p * (double)total) return i;
    }
    return limit;
}

int sample(const Sampling *s, const float *logits, int vocab, int64_t position, SampleRoom *room) {
    int best = 0, chosen = -1;
    for (int i = 1; i < vocab; i++)
        if (logits[i] > logits[best]) best = i;
    if (s->temperature <= 0) return best;
    bool all = s->top_p >= 1 && (s->top_k <= 0 || s->top_k >= vocab);
    int count = all ? vocab : survivors(s, logits, vocab, logits[best], room);
    uint64_t state = sample_state(s->seed, position);
    float most = 0;
    for (int i = 0; i < count; i++) {
        int id = all ? i : room->id[vocab - 1 - i];
        float score = sample_score(state, id, logits[id], (float)s->temperature);
        if (chosen < 0 || score > most || (score == most && id < chosen)) chosen = id, most = score;
    }
    return chosen;
}
