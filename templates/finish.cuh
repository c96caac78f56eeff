// finish: the finishers' part of linear ops: they add the k warps' partial sums of a strip in warp order, apply the
// row's norm factor, and do what the op does with its outputs. Strip n of a task belongs to finisher n mod 4; the last
// one of a task to be done signals.
//
// A lane holds outputs g and g + 8 of the strip for tokens 2t and 2t + 1.
#ifndef TILEGEN_FINISH_CUH
#define TILEGEN_FINISH_CUH
#include "linear.cuh"

static DEVICE float swiglu(float gate, float up, float alpha, float limit) {
    if (limit > 0) gate = fminf(gate, limit), up = fmaxf(fminf(up, limit), -limit);
    return gate / (1.0f + __expf(-alpha * gate)) * up;
}

struct Finisher {
    const EngineParams *p;
    Shared *s;
    uint32_t number, strips;
    Waiter who;
    int index; // among the finishers
};

// Outputs n of a pair of tokens; `rows` of the round. INPUT: they are the inputs of a matrix.
template <bool WIDE, bool INPUT> static DEVICE void store_pair(uint64_t out, uint32_t row_bytes, int token, int rows, int n, float a, float b) {
    char *at = pointer<char>(out) + (uint64_t)token * row_bytes;
    if (INPUT) n = Activations<WIDE>::place(n);
    if (token < rows) Activations<WIDE>::store(at, n, a);
    if (token + 1 < rows) Activations<WIDE>::store(at + row_bytes, n, b);
}

struct Best {
    float value;
    int id;
};
static DEVICE void better(Best &a, const Best &b) { // ties go to the lowest id
    if (b.value > a.value || (b.value == a.value && b.id < a.id)) a = b;
}

// The best of a strip's 16 outputs for token 2t + which, into the strip's place: [strip][8 tokens].
static DEVICE void store_best(uint64_t best, int strip, int token, int rows, int first_id, int n, int outputs, float low, float high) {
    Best b = {low, first_id + n};
    if (n + 8 < outputs) better(b, {high, first_id + n + 8});
#pragma unroll
    for (int step = 4; step < 32; step *= 2) {
        Best other = {__shfl_xor_sync(~0u, b.value, step), __shfl_xor_sync(~0u, b.id, step)};
        better(b, other);
    }
    if (lane_id() < 4 && token < rows) pointer<Best>(best)[strip * ENGINE_ROWS + token] = b;
}

template <class Model> static DEVICE void finish_strip(const Finisher &f, const Slot &slot, int strip, float (&v)[4], const float (&old)[4]) {
    const EngineStep &step = slot.step;
    const Instruction &at = slot.at;
    const int g = lane_id() >> 2, token = (lane_id() & 3) * 2, rows = at.rows;
    const int n = at.lo + strip * (int)step.strip_outputs + g, outputs = step.outputs;
    const uint64_t out = f.p->slab + step.out + (at.key > 0 ? (uint64_t)at.key * step.out_item : 0);
    switch (step.finish) {
    case FINISH_STORE:
        store_pair<Model::WIDE, false>(out, step.out_row, token, rows, n, v[0], v[1]);
        store_pair<Model::WIDE, false>(out, step.out_row, token, rows, n + 8, v[2], v[3]);
        break;
    case FINISH_STORE_INPUT:
        store_pair<Model::WIDE, true>(out, step.out_row, token, rows, n, v[0], v[1]);
        store_pair<Model::WIDE, true>(out, step.out_row, token, rows, n + 8, v[2], v[3]);
        break;
    case FINISH_RESIDUAL: {
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] += old[i];
        store_pair<Model::WIDE, true>(out, step.out_row, token, rows, n, v[0], v[1]);
        store_pair<Model::WIDE, true>(out, step.out_row, token, rows, n + 8, v[2], v[3]);
        if (step.taps && at.tap) {
            constexpr uint32_t ROW = Model::PADDED * Activations<Model::WIDE>::BYTES;
            uint64_t tap = f.p->slab + Model::TAPS + (uint64_t)(at.tap - 1) * ENGINE_ROWS * ROW;
            store_pair<Model::WIDE, true>(tap, ROW, token, rows, n, v[0], v[1]);
            store_pair<Model::WIDE, true>(tap, ROW, token, rows, n + 8, v[2], v[3]);
        }
        break;
    }
    case FINISH_F32:
        if (n < outputs) store_pair<true, false>(out, step.out_row, token, rows, n, v[0], v[1]);
        if (n + 8 < outputs) store_pair<true, false>(out, step.out_row, token, rows, n + 8, v[2], v[3]);
        break;
    case FINISH_SWIGLU:
        store_pair<Model::WIDE, true>(out, step.out_row, token, rows, n, swiglu(v[0], v[2], step.alpha, step.limit),
                   swiglu(v[1], v[3], step.alpha, step.limit));
        break;
    case FINISH_EXPERT_UP: {
        float a = swiglu(v[0], v[2], step.alpha, step.limit), b = swiglu(v[1], v[3], step.alpha, step.limit);
        char *to = pointer<char>(out) + (uint64_t)token * step.out_row;
        if (at.rows_of_key >> token & 1) Activations<Model::WIDE>::store_input(to, n, a);
        if (at.rows_of_key >> (token + 1) & 1) Activations<Model::WIDE>::store_input(to + step.out_row, n, b);
        break;
    }
    case FINISH_EXPERT_DOWN: {
        float *to = pointer<float>(out) + (uint64_t)token * (step.out_row / 4) + n;
        if (at.rows_of_key >> token & 1) to[0] = v[0], to[8] = v[2];
        if (at.rows_of_key >> (token + 1) & 1) to[step.out_row / 4] = v[1], to[step.out_row / 4 + 8] = v[3];
        break;
    }
    case FINISH_LOGITS:
        store_pair<true, false>(out, step.out_row, token, rows, n, v[0], v[1]);
        store_pair<true, false>(out, step.out_row, token, rows, n + 8, v[2], v[3]);
        [[fallthrough]];
    default: { // FINISH_BEST
        int id = f.p->rank * Model::VOCAB, place = at.lo / STRIP_ROWS + strip;
        uint64_t best = f.p->slab + step.best;
        store_best(best, place, token, rows, id, n, outputs, v[0], v[2]);
        store_best(best, place, token + 1, rows, id, n, outputs, v[1], v[3]);
        break;
    }
    }
}

// One linear instruction.
template <class Model> static DEVICE void finish_linear(Finisher &f, const Slot &slot) {
    const EngineStep &step = slot.step;
    const Instruction &at = slot.at;
    const int g = lane_id() >> 2, token = (lane_id() & 3) * 2;
    const uint32_t strips = (at.hi - at.lo + step.strip_outputs - 1) / step.strip_outputs;
    float factor[2] = {1, 1};
    bool known = step.norm_slot == SLOT_COUNT;
    for (uint32_t strip = f.index; strip < strips; strip += FINISHERS) {
        const uint32_t n = f.strips + strip, place = n % STRIP_SLOTS;
        float old[4] = {0, 0, 0, 0}, v[4] = {0, 0, 0, 0};
        if (step.finish == FINISH_RESIDUAL) { // what the sum is added to, on its way while the products run
            const char *x = pointer<const char>(f.p->slab + step.out) + (uint64_t)token * step.out_row;
            const int n = at.lo + strip * STRIP_ROWS + g;
            old[0] = Activations<Model::WIDE>::load_input(x, n), old[1] = Activations<Model::WIDE>::load_input(x + step.out_row, n);
            old[2] = Activations<Model::WIDE>::load_input(x, n + 8), old[3] = Activations<Model::WIDE>::load_input(x + step.out_row, n + 8);
        }
        barrier_wait(f.who, f.s->strip_full[place], n / STRIP_SLOTS & 1, WAITER_RING);
        float4 part[COMPUTE_WARPS];
#pragma unroll
        for (uint32_t kw = 0; kw < COMPUTE_WARPS; kw++)
            part[kw] = kw < step.warps_k ? reinterpret_cast<const float4 *>(f.s->partial[place][kw])[lane_id()] : make_float4(0, 0, 0, 0);
#pragma unroll
        for (uint32_t kw = 0; kw < COMPUTE_WARPS; kw++) v[0] += part[kw].x, v[1] += part[kw].y, v[2] += part[kw].z, v[3] += part[kw].w;
        __syncwarp();
        if (lane_id() == 0) barrier_arrive(shared_address(&f.s->strip_free[place]));
        if (!known) { // the k warps' shares of the rows' squares, a warp's on each group of four lanes
            float2 share = g < (int)step.warps_k ? *reinterpret_cast<const float2 *>(&f.s->squares[f.number % SLOTS][g][token]) : make_float2(0, 0);
#pragma unroll
            for (int lanes = 4; lanes < 32; lanes *= 2) share.x += __shfl_xor_sync(~0u, share.x, lanes), share.y += __shfl_xor_sync(~0u, share.y, lanes);
            factor[0] = rsqrtf(__fdividef(share.x, (float)step.k) + step.eps), factor[1] = rsqrtf(__fdividef(share.y, (float)step.k) + step.eps);
            known = true;
        }
        v[0] *= factor[0], v[1] *= factor[1], v[2] *= factor[0], v[3] *= factor[1];
        finish_strip<Model>(f, slot, (int)strip, v, old);
    }
    f.strips += strips;
}

template <class Model> static DEVICE void finish_role(Finisher &f) {
    for (;; f.number++) {
        const uint32_t place = f.number % SLOTS;
        barrier_wait(f.who, f.s->posted[place], f.number / SLOTS & 1, WAITER_RING);
        const Slot &slot = f.s->slots[place];
        if (slot.step.op == RUN_LEAVE) return;
        bool linear = slot.step.op <= RUN_LINEAR_F32;
        if (linear || slot.at.skip) {
            f.who.at(slot.at.instance, slot.at.body_step, slot.at.lo, slot.at.hi);
            barrier_wait(f.who, f.s->ready[place], f.number / SLOTS & 1, WAITER_RING);
            if (linear && !slot.at.skip) finish_linear<Model>(f, slot);
            if (linear || slot.step.op != RUN_ROUTE_ROWS) {
                __syncwarp();
                uint32_t before = 0;
                if (lane_id() == 0) before = shared_add(shared_address(&f.s->finished[place]), 1);
                before = __shfl_sync(~0u, before, 0);
                if (before % FINISHERS == FINISHERS - 1) {
                    trace_end(*f.p, f.number);
                    signal_all(*f.p, slot.at, slot.at.rows_of_key);
                }
            }
        }
        __syncwarp();
        if (lane_id() == 0) barrier_arrive(shared_address(&f.s->freed[place]));
    }
}
#endif
