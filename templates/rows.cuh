// rows: the ops without weights that go row by row: embeddings, the sum over ranks, the best token and the drawn one.
#ifndef TILEGEN_ROWS_CUH
#define TILEGEN_ROWS_CUH
#include "linear.cuh"
#include "finish.cuh"

// The embeddings of the round's tokens, or of the block to draft: the anchor, then masks. A row a warp.
template <class Model> static DEVICE void embed_rows(Compute &c) {
    c.wait_ready();
    const Slot &slot = c.slot();
    const EngineStep &step = slot.step;
    const Instruction &at = slot.at;
    const int row = c.warp;
    if (row >= at.rows) return;
    const EngineState *state = pointer<const EngineState>(c.p->state) + at.round % ENGINE_GATES;
    const bool draft = step.kind == 2;
    uint64_t from;
    if (draft && row > 0)
        from = slot.layer.weight[SLOT_MASK];
    else {
        int token = !draft && __ldcg(&state->given) >> row & 1 ? __ldcg(&state->tokens[row])
                    : row == 0                                 ? __ldcg(&state->anchor)
                                                               : __ldcg(pointer<const int>(c.p->slab + step.in) + row);
        from = slot.layer.weight[SLOT_EMBED] + (uint64_t)token * Model::HIDDEN * 2;
    }
    const uint32_t *in = pointer<const uint32_t>(from);
    char *out = pointer<char>(c.p->slab + step.out + (uint64_t)row * step.out_row);
    for (int n = at.lo / 2 + lane_id(); n < at.hi / 2; n += 32) { // a pair stays a pair
        const uint32_t pair = in[n];
        const int place = Activations<Model::WIDE>::place(2 * n) / 2;
        if (Model::WIDE)
            reinterpret_cast<float2 *>(out)[place] = make_float2(bf16_low(pair), bf16_high(pair));
        else
            reinterpret_cast<uint32_t *>(out)[place] = pair;
    }
}

// Which ranks send: all, or this one where it is alone.
template <class Model> static DEVICE uint32_t senders(const EngineParams &p) {
    uint32_t out = 0;
    for (uint32_t rank = 0; rank < Model::RANKS; rank++)
        if (rank == p.rank || p.peers[rank] != p.slab) out |= 1u << rank;
    return out;
}
// Partial sums of all ranks, `apart` bytes from rank to rank, when they are there; taken out.
template <class Model, class Number>
static DEVICE void take_parts(const Waiter &w, uint32_t senders, uint64_t from, uint64_t apart,
                              Number (&part)[Model::RANKS]) {
    for (bool all = false; !all;) {
        all = true;
#pragma unroll
        for (int rank = 0; rank < Model::RANKS; rank++)
            part[rank] = load_sent(pointer<const Number>(from + rank * apart));
#pragma unroll
        for (int rank = 0; rank < Model::RANKS; rank++) all &= is_there(part[rank]) || !(senders >> rank & 1);
        if (!all && w.s->dying) asm volatile("exit;");
    }
#pragma unroll
    for (int rank = 0; rank < Model::RANKS; rank++) *pointer<Number>(from + rank * apart) = Number{};
}

// In two steps: ranks' partial sums of this rank's slice, which goes to all. Four columns a lane, since they lie side
// by side.
template <class Model> static DEVICE void sum_slice(Compute &c) {
    using Act = Activations<Model::WIDE>;
    c.wait_ready();
    const Slot &slot = c.slot();
    const EngineStep &step = slot.step;
    const Instruction &at = slot.at;
    const int width = (at.hi - at.lo) / 4, count = width * at.rows;
    const uint32_t all = senders<Model>(*c.p);
#pragma unroll 1
    for (int i = c.warp * 32 + lane_id(); i < count; i += COMPUTE_WARPS * 32) {
        const int row = i / width, n = (int)c.p->rank * Model::SLICE + at.lo + 4 * (i - row * width);
        const uint64_t from = c.p->slab + step.in + (uint64_t)row * step.in_row + 4 * n,
                       to = step.out + (uint64_t)row * step.out_row;
        const float4 old = Act::fresh4_input(pointer<const char>(c.p->slab + to), n);
        float4 part[Model::RANKS];
        take_parts<Model>(c.who, all, from, step.in_slab, part);
        float4 sum = part[0];
#pragma unroll
        for (int rank = 1; rank < Model::RANKS; rank++)
            sum.x += part[rank].x, sum.y += part[rank].y, sum.z += part[rank].z, sum.w += part[rank].w;
        sum.x += old.x, sum.y += old.y, sum.z += old.z, sum.w += old.w;
        const uint64_t tap = (uint64_t)((at.tap - 1) * ENGINE_ROWS + row) * Model::PADDED * Act::BYTES;
#pragma unroll 1
        for (int rank = 0; rank < Model::RANKS; rank++) {
            Act::store4_input(pointer<char>(c.p->peers[rank] + to), n, sum);
            if (step.taps && at.tap) Act::store4_input(pointer<char>(c.p->peers[rank] + Model::TAPS + tap), n, sum);
        }
    }
}

// Ranks' partial sums in rank order, added to the residual stream.
template <class Model> static DEVICE void sum_ranks(Compute &c) {
    c.wait_ready();
    const Slot &slot = c.slot();
    const EngineStep &step = slot.step;
    const Instruction &at = slot.at;
    const int row = c.warp;
    if (row >= at.rows) return;
    char *x = pointer<char>(c.p->slab + step.out + (uint64_t)row * step.out_row);
    const uint32_t all = senders<Model>(*c.p);
    for (int n = at.lo + lane_id(); n < at.hi; n += 32) {
        float part[Model::RANKS];
        take_parts<Model>(c.who, all, c.p->slab + step.in + (uint64_t)row * step.in_row + 4 * n, step.in_slab, part);
        float sum = part[0];
#pragma unroll
        for (int rank = 1; rank < Model::RANKS; rank++) sum += part[rank];
        sum += Activations<Model::WIDE>::fresh_input(x, n);
        Activations<Model::WIDE>::store_input(x, n, sum);
        if (step.taps && at.tap)
            Activations<Model::WIDE>::store_input(pointer<char>(c.p->slab + Model::TAPS),
                                                  ((at.tap - 1) * ENGINE_ROWS + row) * Model::PADDED + n, sum);
    }
}

static DEVICE Best best_of_warp(Best b) {
    for (int step = 16; step; step /= 2) {
        Best other = {__shfl_xor_sync(~0u, b.value, step), __shfl_xor_sync(~0u, b.id, step)};
        better(b, other);
    }
    return b;
}

// The best of all compute warps' threads; everybody gets it.
static DEVICE Best best_of_all(Compute &c, Best b) {
    Best *room = reinterpret_cast<Best *>(c.s->partial);
    b = best_of_warp(b);
    if (lane_id() == 0) room[c.warp] = b;
    c.meet();
    for (int i = 0; i < COMPUTE_WARPS; i++) better(b, room[i]);
    c.meet();
    return b;
}

// The best token of a row over all strips of all ranks, by all compute warps: a thread's strips come in as few trips as
// registers allow.
template <class Model> static DEVICE int best_token(Compute &c, const Best *strips, int row) {
    constexpr int COUNT = Model::RANKS * (Model::VOCAB / STRIP_ROWS), THREADS = COMPUTE_WARPS * 32,
                  EACH = (COUNT + THREADS - 1) / THREADS, TRIPS = (EACH + 19) / 20, BATCH = (EACH + TRIPS - 1) / TRIPS;
    Best b = {NO_SCORE, 0x7FFFFFFF};
#pragma unroll 1
    for (int first = c.warp * 32 + lane_id(); first < COUNT; first += BATCH * THREADS) {
        float2 v[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; i++) // the last one as often as there are too few
            v[i] = __ldcg(
                reinterpret_cast<const float2 *>(strips + min(first + i * THREADS, COUNT - 1) * ENGINE_ROWS + row));
#pragma unroll
        for (int i = 0; i < BATCH; i++) better(b, {v[i].x, __float_as_int(v[i].y)});
    }
    return best_of_all(c, b).id;
}

// The formulas of runtime/sample.h.
static DEVICE uint64_t sample_mix(uint64_t z) {
    z += 0x9E3779B97F4A7C15ull;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}
static DEVICE float sample_score(uint64_t state, int token, float logit, float temperature) {
    const uint64_t bits = sample_mix(state + (uint64_t)token * 0x9E3779B97F4A7C15ull);
    return logit / temperature - logf(-logf((float)(int)(bits >> 40 | 1) * 0x1p-24f));
}
static DEVICE uint64_t sample_weight(float logit, float best, float temperature) {
    return (uint64_t)(expf((logit - best) / temperature) * 0x1p32f);
}

// A token's place in the order of falling logit, then rising id: the larger, the earlier.
static DEVICE uint64_t sample_place(float logit, int token) {
    const uint32_t bits = __float_as_uint(logit + 0.0f); // no -0
    return (uint64_t)(bits & 0x80000000u ? ~bits : bits | 0x80000000u) << 32 | (uint32_t)~token;
}

// The token drawn from a row of logits, by all compute warps. Whole numbers are summed, so their order does not matter.
template <class Model> struct Draw {
    Compute &c;
    const float *logits;
    int row;
    float temperature, best;

    enum { TOKENS = Model::VOCAB * Model::RANKS, THREADS = COMPUTE_WARPS * 32 };
    DEVICE float logit(int id) const {
        return __ldcg(logits + ((uint64_t)(id / Model::VOCAB) * ENGINE_ROWS + row) * Model::VOCAB + id % Model::VOCAB);
    }
    DEVICE int first() const { return c.warp * 32 + lane_id(); }
    DEVICE uint64_t sum(uint64_t v) const {
        uint64_t *room = reinterpret_cast<uint64_t *>(c.s->partial);
        for (int step = 16; step; step /= 2) v += __shfl_xor_sync(~0u, v, step);
        if (lane_id() == 0) room[c.warp] = v;
        c.meet();
        v = 0;
        for (int i = 0; i < COMPUTE_WARPS; i++) v += room[i];
        c.meet();
        return v;
    }
    // Of the places at or above `place`: how many, or their weights.
    DEVICE uint64_t above(uint64_t place, bool weights) const {
        uint64_t total = 0;
        for (int id = first(); id < TOKENS; id += THREADS) {
            const float v = logit(id);
            if (sample_place(v, id) >= place) total += weights ? sample_weight(v, best, temperature) : 1;
        }
        return sum(total);
    }
    // The highest place, `low` at least, above which there is `want` or more.
    DEVICE uint64_t limit(double want, bool weights, uint64_t low) const {
        uint64_t high = ~0ull;
        while (low < high) {
            const uint64_t middle = low + (high - low) / 2 + ((high - low) & 1);
            if ((double)above(middle, weights) >= want)
                low = middle;
            else
                high = middle - 1;
        }
        return low;
    }
    DEVICE int token(float top_p, int top_k, uint64_t seed, int position) {
        Best b = {NO_SCORE, 0x7FFFFFFF};
        for (int id = first(); id < TOKENS; id += THREADS) better(b, {logit(id), id});
        best = best_of_all(c, b).value;
        uint64_t place = 0;
        if (top_k > 0 && top_k < TOKENS) place = limit(top_k, false, 0);
        if (top_p < 1) place = limit((double)top_p * (double)above(place, true), true, place);
        const uint64_t state = sample_mix(sample_mix(seed) ^ sample_mix((uint64_t)position * 0xD1342543DE82EF95ull));
        b = {NO_SCORE, 0x7FFFFFFF};
        for (int id = first(); id < TOKENS; id += THREADS) {
            const float v = logit(id);
            if (sample_place(v, id) >= place) better(b, {sample_score(state, id, v, temperature), id});
        }
        return best_of_all(c, b).id;
    }
};

// draft_pick and sample: the rows of the tile, one after the other, by all warps. Slot 0 of a draft is the anchor.
template <class Model> static DEVICE void choose(Compute &c) {
    c.drain();
    const Slot &slot = c.slot();
    const EngineStep &step = slot.step;
    const Instruction &at = slot.at;
    const EngineState *state = pointer<const EngineState>(c.p->state) + at.round % ENGINE_GATES;
    const bool draft = step.kind == 2;
    // The round's state stood before its gate opened.
    const float temperature = draft ? 0 : __ldcg(&state->temperature);
    c.wait_ready();
#pragma unroll 1
    for (int row = draft ? max(at.lo, 1) : at.lo; row < at.hi && row < at.rows; row++) {
        int id;
        if (temperature > 0) {
            Draw<Model> draw = {c, pointer<const float>(c.p->slab + step.in), row, temperature, 0};
            id = draw.token(__ldcg(&state->top_p), __ldcg(&state->top_k), __ldcg(&state->seed), at.start + row);
        } else
            id = best_token<Model>(c, pointer<const Best>(c.p->slab + step.best), row);
        if (c.warp == 0 && lane_id() == 0) pointer<int>(c.p->slab + step.out)[row] = id;
    }
}
#endif
