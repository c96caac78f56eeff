// finish: the finishers' part of linear ops: they add the k warps' partial sums of a strip in warp order, apply the
// row's norm factor, and do what the op does with its outputs. Strip n of all belongs to finisher n mod 4; the last one
// of a task to be done signals.
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
    uint32_t number;
    Waiter who;
    int index; // among the finishers
};

// Outputs n of a pair of tokens; `rows` of the round. INPUT: they are the inputs of a matrix.
template <bool WIDE, bool INPUT>
static DEVICE void store_pair(uint64_t out, uint32_t row_bytes, int token, int rows, int n, float a, float b) {
    char *at = pointer<char>(out) + (uint64_t)token * row_bytes;
    if (INPUT) n = Activations<WIDE>::place(n);
    if (token < rows) Activations<WIDE>::store(at, n, a);
    if (token + 1 < rows) Activations<WIDE>::store(at + row_bytes, n, b);
}

// The same of floats that say themselves that they are there (ptx.cuh).
static DEVICE void send_pair(uint64_t out, uint32_t row_bytes, int token, int rows, int n, float a, float b) {
    float *at = pointer<float>(out + (uint64_t)token * row_bytes) + n;
    if (token < rows) send(at, a);
    if (token + 1 < rows) send(at + row_bytes / 4, b);
}

struct Best {
    float value;
    int id;
};
static DEVICE void better(Best &a, const Best &b) { // ties go to the lowest id
    if (b.value > a.value || (b.value == a.value && b.id < a.id)) a = b;
}

// The best of a strip's 16 outputs for token 2t + which, into the strip's place: [strip][8 tokens].
static DEVICE void store_best(uint64_t best, int strip, int token, int rows, int first_id, int n, int outputs,
                              float low, float high) {
    Best b = {low, first_id + n};
    if (n + 8 < outputs) better(b, {high, first_id + n + 8});
#pragma unroll
    for (int step = 4; step < 32; step *= 2) {
        Best other = {__shfl_xor_sync(~0u, b.value, step), __shfl_xor_sync(~0u, b.id, step)};
        better(b, other);
    }
    if (lane_id() < 4 && token < rows) pointer<Best>(best)[strip * ENGINE_ROWS + token] = b;
}

// What a linear op's finishers know before its sums are there.
struct Ending {
    uint32_t kind, row;
    uint32_t out, tap;  // in the slab; tap: 0 or where the drafter listens
    int rows, n, token; // n: output of row g in the first strip
    uint32_t rows_of_key;
};

template <class Model>
static DEVICE void finish_strip(const Finisher &f, const Slot &slot, const Ending &e, int strip, int n, float (&v)[4]) {
    using Act = Activations<Model::WIDE>;
    const int token = e.token, rows = e.rows;
    switch (e.kind) {
    case FINISH_STORE:
        store_pair<Model::WIDE, false>(f.p->slab + e.out, e.row, token, rows, n, v[0], v[1]);
        store_pair<Model::WIDE, false>(f.p->slab + e.out, e.row, token, rows, n + 8, v[2], v[3]);
        break;
    case FINISH_STORE_INPUT:
    case FINISH_RESIDUAL:
        store_pair<Model::WIDE, true>(f.p->slab + e.out, e.row, token, rows, n, v[0], v[1]);
        store_pair<Model::WIDE, true>(f.p->slab + e.out, e.row, token, rows, n + 8, v[2], v[3]);
        if (e.tap) {
            store_pair<Model::WIDE, true>(f.p->slab + e.tap, e.row, token, rows, n, v[0], v[1]);
            store_pair<Model::WIDE, true>(f.p->slab + e.tap, e.row, token, rows, n + 8, v[2], v[3]);
        }
        break;
    case FINISH_SCORES:
        if (n < (int)slot.step.outputs) send_pair(f.p->slab + e.out, e.row, token, rows, n, v[0], v[1]);
        if (n + 8 < (int)slot.step.outputs) send_pair(f.p->slab + e.out, e.row, token, rows, n + 8, v[2], v[3]);
        break;
    case FINISH_F32:
        if (n < (int)slot.step.outputs) store_pair<true, false>(f.p->slab + e.out, e.row, token, rows, n, v[0], v[1]);
        if (n + 8 < (int)slot.step.outputs)
            store_pair<true, false>(f.p->slab + e.out, e.row, token, rows, n + 8, v[2], v[3]);
        break;
    case FINISH_PUSH:
        if constexpr (Model::SLICE > 0) { // in two steps: to the rank that sums these columns
            const uint64_t out = f.p->peers[n / Model::SLICE] + e.out;
            send_pair(out, e.row, token, rows, n, v[0], v[1]);
            send_pair(out, e.row, token, rows, n + 8, v[2], v[3]);
        } else {
#pragma unroll 1
            for (int rank = 0; rank < Model::RANKS; rank++) {
                const uint64_t out = f.p->peers[rank] + e.out;
                send_pair(out, e.row, token, rows, n, v[0], v[1]);
                send_pair(out, e.row, token, rows, n + 8, v[2], v[3]);
            }
        }
        break;
    case FINISH_SWIGLU:
        store_pair<Model::WIDE, true>(f.p->slab + e.out, e.row, token, rows, n,
                                      swiglu(v[0], v[2], slot.step.alpha, slot.step.limit),
                                      swiglu(v[1], v[3], slot.step.alpha, slot.step.limit));
        break;
    case FINISH_EXPERT_UP: {
        char *to = pointer<char>(f.p->slab + e.out) + (uint64_t)token * e.row;
        const float a = swiglu(v[0], v[2], slot.step.alpha, slot.step.limit),
                    b = swiglu(v[1], v[3], slot.step.alpha, slot.step.limit);
        if (e.rows_of_key >> token & 1) Act::store_input(to, n, a);
        if (e.rows_of_key >> (token + 1) & 1) Act::store_input(to + e.row, n, b);
        break;
    }
    case FINISH_EXPERT_DOWN: {
        float *to = pointer<float>(f.p->slab + e.out) + (uint64_t)token * (e.row / 4) + n;
        if (e.rows_of_key >> token & 1) to[0] = v[0], to[8] = v[2];
        if (e.rows_of_key >> (token + 1) & 1) to[e.row / 4] = v[1], to[e.row / 4 + 8] = v[3];
        break;
    }
    case FINISH_LOGITS:
        store_pair<true, false>(f.p->slab + e.out, e.row, token, rows, n, v[0], v[1]);
        store_pair<true, false>(f.p->slab + e.out, e.row, token, rows, n + 8, v[2], v[3]);
        [[fallthrough]];
    default: { // FINISH_BEST
        const int id = f.p->rank * Model::VOCAB, place = slot.at.lo / STRIP_ROWS + strip;
        const uint64_t best = f.p->slab + slot.step.best;
        store_best(best, place, token, rows, id, n, (int)slot.step.outputs, v[0], v[2]);
        store_best(best, place, token + 1, rows, id, n, (int)slot.step.outputs, v[1], v[3]);
        break;
    }
    }
}

// The sums of a strip: of the warps that share it, in their order.
static DEVICE void add_partials(const Finisher &f, uint32_t place, uint32_t warps_k, float (&v)[4]) {
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) { // loads together, sums in order
        float4 part[COMPUTE_WARPS / 2];
#pragma unroll
        for (uint32_t i = 0; i < COMPUTE_WARPS / 2; i++) {
            const uint32_t kw = half * (COMPUTE_WARPS / 2) + i;
            part[i] = kw < warps_k ? reinterpret_cast<const float4 *>(f.s->partial[place][kw])[lane_id()]
                                   : make_float4(0, 0, 0, 0);
        }
#pragma unroll
        for (uint32_t i = 0; i < COMPUTE_WARPS / 2; i++)
            v[0] += part[i].x, v[1] += part[i].y, v[2] += part[i].z, v[3] += part[i].w;
    }
}

// The norm's factor of two rows: from the shares of their squares that the warps of a strip have, a warp's on each
// group of four lanes. `first`: of these warps.
struct NormFactor {
    float2 share;
    // `place`: of the instruction. While that of the strip is not free.
    DEVICE void load(const Finisher &f, uint32_t place, uint32_t first, uint32_t warps_k) {
        const uint32_t g = lane_id() >> 2, token = (lane_id() & 3) * 2;
        share = make_float2(0, 0);
        if (g < warps_k)
            share = *reinterpret_cast<const float2 *>(&f.s->squares[place][(first + g) % COMPUTE_WARPS][token]);
    }
    DEVICE void sum() {
#pragma unroll
        for (int step4 = 4; step4 < 32; step4 *= 2)
            share.x += __shfl_xor_sync(~0u, share.x, step4), share.y += __shfl_xor_sync(~0u, share.y, step4);
    }
    DEVICE void make(const EngineStep &step, float (&factor)[2]) const {
        const float each = __fdividef(1.0f, (float)step.k), eps = step.eps;
        factor[0] = rsqrtf(share.x * each + eps), factor[1] = rsqrtf(share.y * each + eps);
    }
};

// One linear instruction, from before it is ready.
template <class Model> static DEVICE void finish_linear(const Finisher &f, const Slot &slot, uint32_t at_place) {
    using Act = Activations<Model::WIDE>;
    const EngineStep &step = slot.step;
    const Instruction &at = slot.at;
    const int g = lane_id() >> 2, token = (lane_id() & 3) * 2;
    const uint32_t strip_outputs = step.strip_outputs, strips = at.strips, warps_k = step.warps_k;
    const Ending e = {step.finish,
                      step.out_row,
                      step.out + step.out_item * (at.key > 0                     ? at.key
                                                  : step.finish == FINISH_PUSH   ? f.p->rank
                                                  : step.finish == FINISH_SCORES ? at.part
                                                                                 : 0),
                      step.taps && at.tap ? Model::TAPS + (at.tap - 1) * ENGINE_ROWS * step.out_row : 0,
                      at.rows,
                      at.lo + g,
                      token,
                      at.rows_of_key};
    const bool normed = step.norm_slot != SLOT_COUNT;
    float factor[2] = {1, 1};
    bool known = !normed;
    // A finisher has every fourth strip of all, and with it every use of a place: it cannot be lapped.
    for (uint32_t strip = (f.index - at.first_strip) % FINISHERS; strip < strips; strip += FINISHERS) {
        const uint32_t q = at.first_strip + strip, place = q % STRIP_SLOTS;
        const int n = e.n + (int)(strip * strip_outputs);
        float old[4] = {0, 0, 0, 0}, v[4] = {0, 0, 0, 0};
        if (e.kind == FINISH_RESIDUAL) { // what the sum is added to, on its way while the products run
            const char *x = pointer<const char>(f.p->slab + e.out) + (uint64_t)token * e.row;
            old[0] = Act::load_input(x, n), old[1] = Act::load_input(x + e.row, n);
            old[2] = Act::load_input(x, n + 8), old[3] = Act::load_input(x + e.row, n + 8);
        }
        barrier_wait(f.who, f.s->strip_full[place], q / STRIP_SLOTS & 1);
        NormFactor norm;
        if (!known) norm.load(f, at_place, strip * warps_k, warps_k);
        add_partials(f, place, warps_k, v);
        warp_arrive(shared_address(&f.s->strip_free[place]));
        if (!known) {
            norm.sum();
            if (e.kind != FINISH_SCORES)
                norm.make(step, factor);
            else if (g == 0 && at.lo == 0)
                send_pair(f.p->slab + e.out, e.row, token, at.rows, (int)slot.step.outputs, norm.share.x, norm.share.y);
            known = true;
        }
        if (normed) v[0] *= factor[0], v[1] *= factor[1], v[2] *= factor[0], v[3] *= factor[1];
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] += old[i];
        finish_strip<Model>(f, slot, e, (int)strip, n, v);
    }
}

// The tiles of a step that streams: each is a strip of an expert's gate and up, and signals by itself.
template <class Model> static DEVICE void finish_stream(const Finisher &f, const Slot &slot, uint32_t at_place) {
    const EngineStep &step = slot.step;
    const int g = lane_id() >> 2, token = (lane_id() & 3) * 2;
    const bool normed = step.norm_slot != SLOT_COUNT;
    float factor[2] = {1, 1};
    bool known = !normed;
    const uint32_t first = slot.at.first_strip;
    for (uint32_t q = first + (f.index - first) % FINISHERS;; q += FINISHERS) {
        const uint32_t place = q % STRIP_SLOTS;
        barrier_wait(f.who, f.s->strip_full[place], q / STRIP_SLOTS & 1);
        float v[4] = {0, 0, 0, 0};
        add_partials(f, place, COMPUTE_WARPS, v);
        if (!known) {
            NormFactor norm;
            norm.load(f, at_place, 0, COMPUTE_WARPS);
            norm.sum();
            norm.make(step, factor);
            known = true;
        }
        const Ticket ticket = f.s->summed[place];
        warp_arrive(shared_address(&f.s->strip_free[place]));
        if (ticket.lo < 0) return; // each finisher gets one of these
        if (normed) v[0] *= factor[0], v[1] *= factor[1], v[2] *= factor[0], v[3] *= factor[1];
        const uint32_t row = step.out_row;
        char *to = pointer<char>(f.p->slab + step.out + (uint64_t)ticket.key * step.out_item + (uint64_t)token * row);
        const float a = swiglu(v[0], v[2], step.alpha, step.limit), b = swiglu(v[1], v[3], step.alpha, step.limit);
        if (ticket.rows_of_key >> token & 1) Activations<Model::WIDE>::store_input(to, ticket.lo + g, a);
        if (ticket.rows_of_key >> (token + 1) & 1) Activations<Model::WIDE>::store_input(to + row, ticket.lo + g, b);
        __syncwarp();
        signal_item(*f.p, *f.s, slot.at, ticket.key);
    }
}

template <class Model> static DEVICE void finish_role(Finisher &f) {
    for (;; f.number++) {
        const uint32_t place = f.number % SLOTS;
        barrier_wait(f.who, f.s->posted[place], f.number / SLOTS & 1);
        const Slot &slot = f.s->slots[place];
        if (slot.step.op == RUN_LEAVE) return;
        const bool linear = slot.step.op <= RUN_LINEAR_F32;
        if (linear && slot.step.direct && !slot.at.skip) {
            static_assert(FINISHERS == SLOTS, "a place belongs to a finisher");
            if (place == (uint32_t)f.index) { // the compute warps have stored; a release waits, so it is not theirs
                barrier_wait(f.who, f.s->stored[opaque(place)], f.s->direct[opaque(place)] & 1);
                __syncwarp();
                if (lane_id() == 0) f.s->direct[opaque(place)]++;
                signal_all(*f.p, *f.s, slot.at, slot.at.rows_of_key);
            }
        } else if (linear || slot.at.skip) {
            f.who.at(slot.at.instance, slot.at.body_step, slot.at.lo, slot.at.hi);
            barrier_wait(f.who, f.s->ready[place], f.number / SLOTS & 1);
            if (Model::STREAM_RUNS > 0 && slot.at.tiles == 0)
                finish_stream<Model>(f, slot, place);
            else if (linear && !slot.at.skip)
                finish_linear<Model>(f, slot, place);
            if (linear || slot.step.op != RUN_ROUTE_ROWS) {
                __syncwarp();
                uint32_t before = 0;
                if (lane_id() == 0) before = shared_add(shared_address(&f.s->finished[place]), 1);
                __syncwarp(); // what the others wrote comes before the signals of every lane
                before = __shfl_sync(~0u, before, 0);
                if (before == FINISHERS - 1) {
                    if (lane_id() == 0) f.s->finished[place] = 0;
                    if (slot.at.tiles != 0) signal_all(*f.p, *f.s, slot.at, slot.at.rows_of_key);
                }
            }
        }
        warp_arrive(shared_address(&f.s->freed[place]));
    }
}
#endif
