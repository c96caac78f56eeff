// Traffic: the bytes that one rank reads from memory in a round, by op: weights once, and the keys and values that the
// round's rows see. What `tilegen explain` expects, and what `tilerun bench` holds its times against.
#ifndef TILEGEN_TRAFFIC_H
#define TILEGEN_TRAFFIC_H
#include "prog.h"

enum { SEGMENTS = SEGMENT_CONTEXT + 1 };

typedef struct OpTraffic {
    int times; // steps of the op in a round
    double weights, caches;
} OpTraffic;

typedef struct Traffic {
    OpTraffic of[SEGMENTS][OP_COUNT];
} Traffic;

// Distinct experts that `rows` rows of top_k choices hit, choices independent and uniform: E (1 - (1 - k/E)^rows).
double traffic_experts(const Model *model, int rows);
// `experts`: active in a layer, on average. `start`: positions before the round.
Traffic traffic_of(const Model *model, const Prog *prog, double experts, double start);
OpTraffic traffic_op(const Traffic *traffic, OpId op); // over all segments
#endif
