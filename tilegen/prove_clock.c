// Vectors of ticks: joins, meets and comparisons are where prove spends its time.
#include "prove_parts.h"
#include <string.h>

typedef Tick Lanes __attribute__((vector_size(16)));
typedef long long Halves __attribute__((vector_size(16)));

static Lanes lanes_at(const Tick *at) {
    Lanes lanes;
    memcpy(&lanes, at, sizeof lanes);
    return lanes;
}

void clock_join(Tick *into, const Tick *from, size_t count) {
    for (size_t i = 0; i < count; i += 4) {
        Lanes a = lanes_at(into + i), b = lanes_at(from + i), more = b > a;
        a = (b & more) | (a & ~more);
        memcpy(into + i, &a, sizeof a);
    }
}

void clock_meet(Tick *into, const Tick *from, size_t count) {
    for (size_t i = 0; i < count; i += 4) {
        Lanes a = lanes_at(into + i), b = lanes_at(from + i), less = a > b;
        a = (b & less) | (a & ~less);
        memcpy(into + i, &a, sizeof a);
    }
}

ptrdiff_t clock_lacks(const Tick *have, const Tick *need, size_t from, size_t count) {
    for (; from < count && from % 4; from++)
        if (have[from] < need[from]) return (ptrdiff_t)from;
    for (size_t i = from; i < count; i += 4) {
        Halves lacks = (Halves)(lanes_at(need + i) > lanes_at(have + i));
        if (!(lacks[0] | lacks[1])) continue;
        for (size_t j = i;; j++)
            if (have[j] < need[j]) return (ptrdiff_t)j;
    }
    return -1;
}
