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
    const EngineState *state = pointer<const EngineState>(c.p->state);
    const bool draft = step.kind == 2;
    uint64_t from;
    if (draft && row > 0)
        from = slot.layer.weight[SLOT_MASK];
    else {
        int token = !draft && __ldcg(&state->prompt) ? __ldcg(&state->tokens[row])
                    : row == 0                       ? __ldcg(&state->anchor)
                                                     : __ldcg(pointer<const int>(c.p->slab + step.in) + row);
        from = slot.layer.weight[SLOT_EMBED] + (uint64_t)token * Model::HIDDEN * 2;
    }
    const uint32_t *in = pointer<const uint32_t>(from);
    uint32_t *out = pointer<uint32_t>(c.p->slab + step.out + (uint64_t)row * step.out_row);
    for (int n = at.lo / 2 + lane_id(); n < at.hi / 2; n += 32) out[n] = in[n];
}

// Ranks' partial sums in rank order, added to the residual stream.
template <class Model> static DEVICE void sum_ranks(Compute &c) {
    c.wait_ready();
    const Slot &slot = c.slot();
    const EngineStep &step = slot.step;
    const Instruction &at = slot.at;
    const int row = c.warp;
    if (row >= at.rows) return;
    uint16_t *x = pointer<uint16_t>(c.p->slab + step.out + (uint64_t)row * step.out_row);
    for (int n = at.lo + lane_id(); n < at.hi; n += 32) {
        float sum = 0;
        for (int rank = 0; rank < Model::RANKS; rank++) {
            float part = __ldcg(pointer<const float>(c.p->slab + step.in + (uint64_t)rank * step.in_slab + (uint64_t)row * step.in_row) + n);
            sum = rank ? sum + part : part;
        }
        uint16_t v = bf16_round(bf16_value(x[n]) + sum);
        x[n] = v;
        if (at.tap) pointer<uint16_t>(c.p->slab + Model::TAPS)[((uint64_t)(at.tap - 1) * ENGINE_ROWS + row) * Model::HIDDEN + n] = v;
    }
}

static DEVICE Best best_of_warp(Best b) {
    for (int step = 16; step; step /= 2) {
        Best other = {__shfl_xor_sync(~0u, b.value, step), __shfl_xor_sync(~0u, b.id, step)};
        better(b, other);
    }
    return b;
}

// The best token of a row over all strips of all ranks, by one warp.
template <class Model> static DEVICE int best_token(const Best *strips, int row) {
    constexpr int COUNT = Model::RANKS * (Model::VOCAB / STRIP_ROWS);
    Best b = {NO_SCORE, 0x7FFFFFFF};
    for (int i = lane_id(); i < COUNT; i += 32) {
        float2 v = __ldcg(reinterpret_cast<const float2 *>(strips + i * ENGINE_ROWS + row));
        better(b, {v.x, __float_as_int(v.y)});
    }
    return best_of_warp(b).id;
}

// SplitMix64's finaliser.
static DEVICE uint64_t mix64(uint64_t z) {
    z += 0x9E3779B97F4A7C15ull;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}
// Gumbel noise of (seed, position, token); runtime/sample.h has the same.
static DEVICE float gumbel(uint64_t key, int token) {
    uint32_t bits = (uint32_t)(mix64(key ^ (uint64_t)token * 0xD1342543DE82EF95ull) >> 40);
    float u = ((float)bits + 0.5f) * 0x1p-24f;
    return -logf(-logf(u));
}

// A logit as an unsigned number of the same order, and the place of a token: larger logits first, then lower ids.
static DEVICE uint32_t ordered(float v) {
    uint32_t bits = __float_as_uint(v);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// What a whole row of logits needs: sums and counts over the compute warps, in a fixed order.
struct RowSums {
    Compute &c;
    float *room; // a value a warp
    DEVICE float sum(float v) {
        for (int step = 16; step; step /= 2) v += __shfl_xor_sync(~0u, v, step);
        if (lane_id() == 0) room[c.warp] = v;
        c.group.sync(c.who, *c.s);
        v = 0;
        for (int i = 0; i < COMPUTE_WARPS; i++) v += room[i];
        c.group.sync(c.who, *c.s);
        return v;
    }
};

// The token drawn from a row after temperature, top k, top p: logit / T plus Gumbel noise, the largest wins. The
// survivors are those at or before a place in the order (falling logit, rising id), found by halving.
template <class Model> static DEVICE int draw_token(Compute &c, const float *logits, int row, const EngineState &state, int position) {
    float *room = reinterpret_cast<float *>(c.s->partial);
    RowSums rows = {c, room};
    const int thread = c.warp * 32 + lane_id(), total_tokens = Model::VOCAB * Model::RANKS;
    auto logit = [&](int id) { return __ldcg(logits + ((uint64_t)(id / Model::VOCAB) * ENGINE_ROWS + row) * Model::VOCAB + id % Model::VOCAB); };
    float top = NO_SCORE;
    for (int id = thread; id < total_tokens; id += COMPUTE_WARPS * 32) top = fmaxf(top, logit(id));
    for (int step = 16; step; step /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
    if (lane_id() == 0) room[c.warp] = top;
    c.group.sync(c.who, *c.s);
    for (int i = 0; i < COMPUTE_WARPS; i++) top = fmaxf(top, room[i]);
    c.group.sync(c.who, *c.s);
    const float scale = 1.0f / state.temperature;
    uint64_t limit = 0; // keep places at or above this: ordered logit << 32 | ~id
    auto place = [&](int id) { return (uint64_t)ordered(logit(id)) << 32 | (uint32_t)~id; };
    // The largest limit whose survivors still reach `want`; `mass`: probabilities instead of counts.
    auto halve = [&](float want, bool mass, uint64_t floor) {
        uint64_t low = floor, high = ~0ull;
        while (low < high) {
            uint64_t middle = low + (high - low) / 2 + ((high - low) & 1);
            float sum = 0;
            for (int id = thread; id < total_tokens; id += COMPUTE_WARPS * 32)
                if (place(id) >= middle) sum += mass ? __expf((logit(id) - top) * scale) : 1.0f;
            if (rows.sum(sum) >= want)
                low = middle;
            else
                high = middle - 1;
        }
        return low;
    };
    if (state.top_k > 0 && state.top_k < total_tokens) limit = halve((float)state.top_k, false, 0);
    if (state.top_p < 1) {
        float sum = 0;
        for (int id = thread; id < total_tokens; id += COMPUTE_WARPS * 32)
            if (place(id) >= limit) sum += __expf((logit(id) - top) * scale);
        limit = halve(state.top_p * rows.sum(sum), true, limit);
    }
    const uint64_t key = mix64(mix64(state.seed) ^ mix64((uint64_t)position * 0xD1342543DE82EF95ull));
    Best best = {NO_SCORE, 0x7FFFFFFF};
    for (int id = thread; id < total_tokens; id += COMPUTE_WARPS * 32)
        if (place(id) >= limit) better(best, {logit(id) * scale + gumbel(key, id), id});
    best = best_of_warp(best);
    Best *bests = reinterpret_cast<Best *>(room);
    if (lane_id() == 0) bests[c.warp] = best;
    c.group.sync(c.who, *c.s);
    for (int i = 0; i < COMPUTE_WARPS; i++) better(best, bests[i]);
    return best.id;
}

// draft_pick: all slots, a row a warp. sample: the rows of the tile, one after the other.
template <class Model> static DEVICE void choose(Compute &c) {
    c.drain();
    c.wait_ready();
    const Slot &slot = c.slot();
    const EngineStep &step = slot.step;
    const Instruction &at = slot.at;
    const Best *strips = pointer<const Best>(c.p->slab + step.best);
    int *out = pointer<int>(c.p->slab + step.out);
    if (step.kind == 2) {
        if (c.warp == 0 || c.warp >= at.rows) return;
        int id = best_token<Model>(strips, c.warp);
        if (lane_id() == 0) out[c.warp] = id;
        return;
    }
    const EngineState *state = pointer<const EngineState>(c.p->state);
    EngineState draw;
    draw.temperature = __ldcg(&state->temperature);
    if (draw.temperature <= 0) {
        for (int row = at.lo + c.warp; row < at.hi && row < at.rows; row += COMPUTE_WARPS) {
            int id = best_token<Model>(strips, row);
            if (lane_id() == 0) out[row] = id;
        }
        return;
    }
    draw.top_p = __ldcg(&state->top_p), draw.top_k = __ldcg(&state->top_k), draw.seed = __ldcg(&state->seed);
    for (int row = at.lo; row < at.hi && row < at.rows; row++) {
        int id = draw_token<Model>(c, pointer<const float>(c.p->slab + step.in), row, draw, at.start + row);
        if (c.warp == 0 && lane_id() == 0) out[row] = id;
        c.group.sync(c.who, *c.s);
    }
}
#endif
