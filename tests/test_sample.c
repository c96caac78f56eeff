// The choice of a token: frequencies against softmax, the filters, ties, and that nothing but (seed, position) matters.
#include "check.h"
#include "sample.h"

enum { VOCAB = 40, DRAWS = 200000 };
static float value[4096];
static int id[4096];
static SampleRoom room = {value, id};

static void logits_of(float *logits, int count) {
    for (int i = 0; i < count; i++) logits[i] = (float)((i * 37 + 11) % count) * 4.0f / (float)count;
}

// Chi-square of DRAWS choices against softmax over the `kept` tokens; a choice outside counts as infinite.
static double misfit(const Sampling *s, const float *logits, int vocab, const bool *kept, int *kinds) {
    static int seen[4096];
    double total = 0, sum = 0;
    memset(seen, 0, sizeof seen);
    for (int n = 0; n < DRAWS; n++) seen[sample(s, logits, vocab, n, &room)]++;
    for (int i = 0; i < vocab; i++) total += kept[i] ? exp((double)logits[i] / s->temperature) : 0;
    *kinds = 0;
    for (int i = 0; i < vocab; i++) {
        if (!kept[i] && seen[i]) return INFINITY;
        if (!kept[i]) continue;
        double want = DRAWS * exp((double)logits[i] / s->temperature) / total;
        sum += (seen[i] - want) * (seen[i] - want) / want;
        ++*kinds;
    }
    return sum;
}

// The mean of chi-square is its degrees of freedom n, its variance 2n: five deviations.
static void fits(const Sampling *s, const float *logits, const bool *kept, int want_kinds, const char *name) {
    int kinds;
    double sum = misfit(s, logits, VOCAB, kept, &kinds), n = kinds - 1;
    printf("# %s: chi-square %.1f of %d tokens\n", name, sum, kinds);
    CHECK(kinds == want_kinds, "%d tokens", kinds);
    CHECK(sum < n + 5 * sqrt(2 * n) + 1, "%.1f of %.0f", sum, n);
}

// The best `count` tokens, by plain counting of who is better.
static void best_of(const float *logits, int count, bool *kept) {
    for (int i = 0; i < VOCAB; i++) {
        int better = 0;
        for (int j = 0; j < VOCAB; j++) better += logits[j] > logits[i] || (logits[j] == logits[i] && j < i);
        kept[i] = better < count;
    }
}

static void frequencies_are_those_of_softmax(void) {
    float logits[VOCAB];
    bool kept[VOCAB];
    logits_of(logits, VOCAB);
    best_of(logits, VOCAB, kept);
    fits(&(Sampling){1, 0, 1, 5}, logits, kept, VOCAB, "temperature 1");
    fits(&(Sampling){0.6, 0, 1, 6}, logits, kept, VOCAB, "temperature 0.6");
    fits(&(Sampling){2.5, 100, 1, 7}, logits, kept, VOCAB, "temperature 2.5, top 100 of 40");
}

static void top_k_keeps_the_best(void) {
    float logits[VOCAB];
    bool kept[VOCAB];
    logits_of(logits, VOCAB);
    best_of(logits, 7, kept);
    fits(&(Sampling){1, 7, 1, 8}, logits, kept, 7, "top 7");
    for (int i = 0; i < VOCAB; i++) logits[i] = (float)(i / 10 % 2); // ties: 10..19 and 30..39 are best
    best_of(logits, 13, kept);
    CHECK(kept[19] && kept[32] && !kept[33] && !kept[0]);
    fits(&(Sampling){1, 13, 1, 9}, logits, kept, 13, "top 13 with ties");
}

static void top_p_keeps_the_fewest_that_reach_it(void) {
    static const double ps[] = {0.1, 0.5, 0.9, 0.999};
    float logits[VOCAB];
    bool kept[VOCAB];
    logits_of(logits, VOCAB);
    for (int with_k = 0; with_k < 2; with_k++)
        for (int n = 0; n < 4; n++) {
            int limit = with_k ? 12 : VOCAB, count = 0;
            double total = 0, sum = 0;
            best_of(logits, limit, kept);
            for (int i = 0; i < VOCAB; i++) total += kept[i] ? exp((double)logits[i] / 0.8) : 0;
            do {
                best_of(logits, ++count, kept);
                sum = 0;
                for (int i = 0; i < VOCAB; i++) sum += kept[i] ? exp((double)logits[i] / 0.8) : 0;
            } while (sum < ps[n] * total);
            char name[64];
            snprintf(name, sizeof name, "top p %g%s", ps[n], with_k ? " of the top 12" : "");
            fits(&(Sampling){0.8, with_k ? 12 : 0, ps[n], 10}, logits, kept, count, name);
        }
    for (int i = 0; i < VOCAB; i++) logits[i] = 1; // all alike: the lowest ids
    best_of(logits, 10, kept);
    fits(&(Sampling){1, 0, 0.25, 11}, logits, kept, 10, "top p 0.25 of equal tokens");
}

// Whatever the filters leave out, the noise of what is left is the same.
static void filters_change_no_noise(void) {
    enum { MANY = 4096 };
    static float logits[MANY];
    logits_of(logits, MANY);
    for (int n = 0; n < 200; n++) {
        int free = sample(&(Sampling){1, 0, 1, 3}, logits, MANY, n, &room), rank = 0;
        for (int i = 0; i < MANY; i++) rank += logits[i] > logits[free];
        CHECK(sample(&(Sampling){1, rank + 1, 1, 3}, logits, MANY, n, &room) == free, "position %d", n);
    }
}

static void greedy_and_ties(void) {
    float logits[VOCAB] = {0};
    logits[9] = logits[4] = 3;
    CHECK(sample(&(Sampling){0, 0, 1, 1}, logits, VOCAB, 0, &room) == 4);
    for (int n = 0; n < 50; n++) {
        CHECK(sample(&(Sampling){1, 1, 1, 1}, logits, VOCAB, n, &room) == 4);
        CHECK(sample(&(Sampling){1, 0, 1e-9, 1}, logits, VOCAB, n, &room) == 4);
        CHECK(sample(&(Sampling){1e-4, 0, 1, 1}, logits, VOCAB, n, &room) % 5 == 4);
    }
}

// Gumbel noise has the mean 0.5772 and the variance pi^2 / 6; neighbours in position, token and seed share nothing.
static void noise_is_gumbel_and_independent(void) {
    double sum = 0, square = 0, cross[3] = {0};
    for (int n = 0; n < DRAWS; n++) {
        uint64_t state = sample_state(7, n);
        double g = (double)sample_score(state, n % 97, 0, 1) - 0.57721566;
        sum += g;
        square += g * g;
        cross[0] += g * ((double)sample_score(state, n % 97 + 1, 0, 1) - 0.57721566);
        cross[1] += g * ((double)sample_score(sample_state(7, n + 1), n % 97, 0, 1) - 0.57721566);
        cross[2] += g * ((double)sample_score(sample_state(8, n), n % 97, 0, 1) - 0.57721566);
    }
    double variance = M_PI * M_PI / 6, deviation = sqrt(variance / DRAWS);
    CHECK(fabs(sum / DRAWS) < 5 * deviation, "%g", sum / DRAWS);
    CHECK(fabs(square / DRAWS - variance) < 0.05, "%g", square / DRAWS);
    for (int i = 0; i < 3; i++)
        CHECK(fabs(cross[i] / DRAWS) < 5 * variance / sqrt(DRAWS), "%d: %g", i, cross[i] / DRAWS);
    for (int n = 0; n < DRAWS; n++) {
        float u = sample_uniform(sample_state(1, n), n);
        CHECK(u > 0 && u < 1 && u * 0x1p24f == floorf(u * 0x1p24f));
    }
}

// Kernels copy the formulas: these values must never change.
static void values_to_copy(void) {
    CHECK(sample_mix(0) == 0xE220A8397B1DCDAFu); // SplitMix64's first output at seed 0
    uint64_t state = sample_state(7, 1000);
    CHECK(state == 0xC12AF81C86250012u && sample_uniform(state, 5) == 0x570375p-24f, "%016llx %a",
          (unsigned long long)state, (double)sample_uniform(state, 5));
    CHECK(fabsf(sample_score(state, 5, 1.5f, 0.7f) - 2.066717f) < 1e-5f);
    CHECK(sample_weight(2, 2, 1) == (uint64_t)1 << 32 && sample_weight(-100, 2, 1) == 0);
}

int main(void) {
    RUN(frequencies_are_those_of_softmax);
    RUN(top_k_keeps_the_best);
    RUN(top_p_keeps_the_fewest_that_reach_it);
    RUN(filters_change_no_noise);
    RUN(greedy_and_ties);
    RUN(noise_is_gumbel_and_independent);
    RUN(values_to_copy);
    return check_done();
}
