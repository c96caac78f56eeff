// What the ops of a Prog compute on the host, one rank's memory at a time. Regions and tiles: tilegen/lower.h.
// Formulas: DESIGN.md, "Arithmetic". Private to the engine.
#ifndef TILERUN_OPS_H
#define TILERUN_OPS_H
#include "engine.h"
#include "vector.h"
#include "views.h"

enum { CHUNK = 64, MAX_PARTS = 64 }; // keys are folded in chunks cut at multiples of CHUNK positions

// Where q, k and v of a rank's heads lie among its rows of the fused matrix.
typedef struct Heads {
    int chunks, heads, kv_heads, qk, v; // of one chunk
    int rows;                           // of one chunk
} Heads;

typedef struct Cache { // keys and values of one layer of one rank, [kv_heads][context][dim]
    float *k32, *v32;
    uint16_t *k16, *v16;
} Cache;

typedef struct Best {
    float value;
    int id, length; // the best token of a tile, and how many the tile has
} Best;

typedef struct Partial { // a running attention over a part of the keys, of one row and head
    float max, sum;
    float *out; // [v]
} Partial;

// What the host program and accept tell the ops; each rank has its own copy.
typedef struct State {
    int start, rows, anchor;
    bool prompt, drafting; // a block of the prompt; the request drafts
    int tokens[MAX_ROWS];  // of a prompt block
    int accepted;
    Sampling sampling;
} State;

typedef struct Rank {
    State state;
    float *x, *dx, *qkv, *dqkv, *attn, *dattn, *ix, *im, *dix, *dim;
    float *scores, *scores_part, *eact, *ey, *act, *dact, *taps, *logits, *logits_part, *c, *c_part, *ckv;
    Best *best, *best_part, *dbest, *dbest_part;
    Partial *parts;
    int choice[MAX_ROWS], drafts[MAX_ROWS];
    Routing routing;
    float *route_weights; // [rows][top]
    int *expert_of;       // [keys]
    Cache *kv, *dkv;
    float *rope[3]; // [rows][rotary]: full, window, drafter
    RankLayer *layers, *draft_layers;
    Matrix head, fc;
} Rank;

typedef struct Scratch {  // one thread's
    float *row, *second;  // decoded weight rows
    float *normed;        // [rows][hidden]
    float *keys, *values; // [CHUNK][dim]
    float *head;          // [rows][dim] and a bit
    SampleRoom sample;
} Scratch;

struct Engine {
    Ctx *ctx;
    const Model *model;
    const Prog *prog;
    const Checkpoint *weights;
    Shape shape;
    int ranks, rows, context;
    int slice;                   // columns that a rank sums for all; 0: each sums all of them
    int split;                   // parts of an attention over the keys, where a layer's body joins them
    int router_parts;            // of a router over its inputs
    bool joins[ATTENTION_KINDS]; // it does
    bool round_activations, cache16;
    Heads heads[ATTENTION_KINDS], draft_heads;
    double *inv_freq[3];
    Rank *rank;
    Scratch *scratch;
    Exec *exec;
    StepAt first, last; // what computes
};

typedef struct OpCall {
    Engine *e;
    Rank *r;
    Scratch *s;
    const Run *run;
    int rank, layer, lo, hi, rows; // rows of the round
} OpCall;

// Each file of ops defines some of these; the table is in engine.c.
void op_embed(const OpCall *c);
void op_draft_embed(const OpCall *c);
void op_qkv(const OpCall *c);
void op_draft_qkv(const OpCall *c);
void op_o_proj(const OpCall *c);
void op_draft_o(const OpCall *c);
void op_mlp_up(const OpCall *c);
void op_mlp_down(const OpCall *c);
void op_draft_up(const OpCall *c);
void op_draft_down(const OpCall *c);
void op_head(const OpCall *c);
void op_draft_head(const OpCall *c);
void op_fc(const OpCall *c);
void op_push(const OpCall *c);
void op_reduce(const OpCall *c);
void op_append(const OpCall *c);
void op_attention(const OpCall *c);
void op_merge(const OpCall *c);
// An output's sum: added to the residual stream `x`, and to the drafter's tap with it, or of several ranks this one's
// partial sum into their inboxes, `inbox` being the offset in Rank.
void op_residual(const OpCall *c, float *x, size_t inbox, int row, int column, float sum, bool tap);
// Whether the drafter listens to the stream after the layer at hand.
bool op_tapped(const OpCall *c);
void op_draft_attention(const OpCall *c);
void op_context(const OpCall *c);
void op_context_append(const OpCall *c);
void op_router(const OpCall *c);
void op_route(const OpCall *c);
void op_experts_up(const OpCall *c);
void op_experts_down(const OpCall *c);
void op_combine(const OpCall *c);
void op_experts_sum(const OpCall *c);
void op_draft_pick(const OpCall *c);
void op_sample(const OpCall *c);
void op_accept(const OpCall *c);

// The value as the activations keep it.
static inline float keep(const Engine *e, float value) {
    return e->round_activations ? bf16_to_float(float_to_bf16(value)) : value;
}

// RMSNorm before a matrix: the matrix's inputs, in the thread's scratch, and what multiplies each row's sums. With
// float32 activations the inputs are the norm and the factors 1. With bf16 ones the inputs are bf16(norm * x), without
// the row's 1 / rms: a GPU can then round before it knows that factor, which comes last, in float32.
typedef struct Normed {
    const float *in; // [rows][hidden]
    float factor[MAX_ROWS];
} Normed;
// Of one row, into `out`; returns its factor.
float normed_row(const Engine *e, const float *x, const float *norm, double eps, float *out);
Normed normed_rows(const OpCall *c, const float *x, const float *norm, double eps);
#endif
