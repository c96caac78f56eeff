// attention: q against the cache and the round's own rows. A task is some query heads of one kv head and one part of a
// split. A warp takes 16 queries, two heads by eight rows, and pieces of 16 positions: chunk n of 64 positions belongs
// to part n mod split, and its pieces go round the warps that share the queries. Whatever the rows of the round are, a
// row's arithmetic is the same: pieces that it does not see change nothing.
//
// While weights stream, a trip to L2 costs more than all arithmetic here. So whatever does not depend on the round's q,
// k and v is on its way before these are there: each warp's first piece of the cache, and the cached rows of the piece
// that the round begins in. Then one trip brings q, k and v.
//
// Softmax in base 2 with a whole number as the running maximum: every rescaling is exact, and a probability is rounded
// to bf16 (for the product with v) alike, whichever chunk came first.
//
// Of every 32 dims lane t of a quad holds 8t .. 8t + 7.
//
// Layers with full attention may do it another way: attend_chunks, whose keys and values come through pages.
#ifndef TILEGEN_ATTENTION_CUH
#define TILEGEN_ATTENTION_CUH
#include "linear.cuh"

// Of the heads that a kernel has: dims of q and k, of v, and how many rotate (of the first); query heads of a task.
template <int QK_DIM, int V_DIM, int ROTARY_DIM, int TASK_HEADS, bool WIDE_ROWS> struct HeadDims {
    static constexpr int QK = QK_DIM, V = V_DIM, ROTARY = ROTARY_DIM, KEY = KEY_DIM(QK_DIM);
    static constexpr int PAIRS = (TASK_HEADS + 1) / 2;
    static constexpr int TERMS = WIDE_ROWS ? 2 : 1; // bf16 terms of a query and of a probability
    using Act = Activations<WIDE_ROWS>;             // of the rows of q, k, v and of the output
    static DEVICE float scale() { return 1.0f / sqrtf((float)QK); }
    // Lanes that share a row of q or k, eight dims each, and rows that the compute warps take at once.
    static constexpr int SPAN = KEY <= 64 ? 8 : KEY <= 128 ? 16 : 32, AT_ONCE = COMPUTE_WARPS * 32 / SPAN;
    static_assert(KEY <= 256 && V <= 256, "a warp has a row of q or k, and a thread eight dims of v");
    // Where dim d of a row lies in shared memory. Two rows that are read side by side are to lie in different banks.
    static constexpr bool FLIPS = KEY % 64 == 0;
    static DEVICE int place(int row, int d) { return row * KEY + (FLIPS ? d ^ (row & 1) * 32 : d); }
};

// Cosines and sines of the round's positions: products of two unit vectors, in double, rounded once.
template <class Dims> struct RopeRows {
    alignas(16) float cosine[ENGINE_ROWS][Dims::ROTARY / 2], sine[ENGINE_ROWS][Dims::ROTARY / 2];
};
template <class Dims> static DEVICE void rope_rows(Compute &c, int kind, int start, RopeRows<Dims> &rope) {
    constexpr int half = Dims::ROTARY / 2;
#pragma unroll 1
    for (int n = c.warp * 32 + lane_id(); n < ENGINE_ROWS * half; n += COMPUTE_WARPS * 32) {
        const int row = n / half, i = n % half, position = start + row;
        const double2 a = pointer<const double2>(c.p->rope_high[kind])[(uint64_t)(position / ROPE_LOW) * half + i];
        const double2 b = pointer<const double2>(c.p->rope_low[kind])[(uint64_t)(position % ROPE_LOW) * half + i];
        rope.cosine[row][i] = (float)(a.x * b.x - a.y * b.y);
        rope.sine[row][i] = (float)(a.y * b.x + a.x * b.y);
    }
}

static DEVICE void unpack(const Quad &q, float (&v)[8]) {
    uint32_t w[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (int i = 0; i < 4; i++) v[2 * i] = bf16_low(w[i]), v[2 * i + 1] = bf16_high(w[i]);
}

// Dims [d, d + 8) of row `row` of a q or k head after norm and RoPE, by all lanes: d = 8 (lane mod SPAN), other dims
// are beside it. `norm`: the norm's weights of these dims, where `normed`. The rotated dims come in multiples of 16.
template <class Dims>
static DEVICE void finish_head(const RopeRows<Dims> &rope, bool normed, const Quad &norm, float eps, int row, int d,
                               float (&x)[8]) {
    constexpr int half = Dims::ROTARY / 2;
    const bool rotates = d < Dims::ROTARY, low = d < half;
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = d < Dims::QK ? x[i] : 0;
    if (normed) {
        float sum = 0, w[8];
#pragma unroll
        for (int i = 0; i < 8; i++) sum = __fmaf_rn(x[i], x[i], sum);
#pragma unroll
        for (int step = 1; step < Dims::SPAN; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
        const float factor = 1.0f / sqrtf(sum / Dims::QK + eps);
        unpack(norm, w);
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = w[i] * (x[i] * factor);
    }
    const int lane = lane_id(), beside = rotates ? lane + (low ? half / 8 : -half / 8) : lane,
              angle = rotates ? low ? d : d - half : 0;
    float y[8];
#pragma unroll
    for (int i = 0; i < 8; i++) y[i] = __shfl_sync(~0u, x[i], beside);
    if (!rotates) return;
    const float4 *c = reinterpret_cast<const float4 *>(&rope.cosine[row][angle]),
                 *s = reinterpret_cast<const float4 *>(&rope.sine[row][angle]);
    const float cosine[8] = {c[0].x, c[0].y, c[0].z, c[0].w, c[1].x, c[1].y, c[1].z, c[1].w},
                sine[8] = {s[0].x, s[0].y, s[0].z, s[0].w, s[1].x, s[1].y, s[1].z, s[1].w};
#pragma unroll
    for (int i = 0; i < 8; i++) { // rounded alike for the cache and for the round: nothing is contracted
        const float a = __fmul_rn(x[i], cosine[i]), b = __fmul_rn(y[i], sine[i]);
        x[i] = __fadd_rn(a, low ? -b : b);
    }
}
// The weights of a head's norm for dims [d, d + 8): zeros where there is no norm.
template <class Dims> static DEVICE Quad head_norm(uint64_t weights, int d) {
    Quad norm = {0, 0, 0, 0};
    if (weights && d < Dims::QK) norm = global_quad(pointer<const char>(weights) + d * 2);
    return norm;
}

static DEVICE Quad pack8(const float (&x)[8]) {
    return {bf16_pair(x[0], x[1]), bf16_pair(x[2], x[3]), bf16_pair(x[4], x[5]), bf16_pair(x[6], x[7])};
}
// What bf16 leaves over.
static DEVICE Quad pack8_rest(const float (&x)[8], const Quad &q) {
    const uint32_t w[4] = {q.x, q.y, q.z, q.w};
    float rest[8];
#pragma unroll
    for (int i = 0; i < 4; i++)
        rest[2 * i] = x[2 * i] - bf16_low(w[i]), rest[2 * i + 1] = x[2 * i + 1] - bf16_high(w[i]);
    return pack8(rest);
}

// Where q, k and v of a kv head lie among a row of the fused outputs, which is chunks of [Q | K | V]; q: of its query
// head `head`. Query heads that share a kv head lie side by side.
struct Columns {
    int q, k, v;
};
template <class Dims> static DEVICE Columns columns_of(const EngineStep &step, int kv, int head) {
    const int chunk = step.kv_heads > step.chunk_kv ? kv / (int)step.chunk_kv : 0, first = chunk * (int)step.chunk_rows,
              at = kv - chunk * (int)step.chunk_kv, heads = (int)step.chunk_heads;
    return {first + (head - chunk * heads) * Dims::QK, first + (heads + at) * Dims::QK,
            first + (heads + (int)step.chunk_kv) * Dims::QK + at * Dims::V};
}

enum { PIECE = 16, OWN_POSITIONS = PIECE + ENGINE_ROWS };

// What a task keeps in shared memory: keys and values of the pieces that the round touches, from position start & ~15
// on, old ones and the round's own; the queries of its heads.
template <class Dims> struct Own {
    uint16_t key[OWN_POSITIONS * Dims::KEY];
    uint16_t value[Dims::V][OWN_POSITIONS];
    RopeRows<Dims> rope;
    float sink[16]; // of the heads
    int kv;
    // Pairs of dims as the products take them, see place_query.
    alignas(16) uint32_t query[Dims::PAIRS][Dims::TERMS][ENGINE_ROWS * Dims::KEY];
};
// Where the pair of dims d, d + 1 of a row of a pair's head h lies: a lane's operand of one product is 16 bytes, of
// rows g of both heads. Two rows that are read side by side are in different banks.
template <class Dims> static DEVICE int place_query(int row, int d, int h) {
    return row * Dims::KEY + d / 8 * 8 + (d / 4 % 2 ^ row % 2) * 4 + d / 2 % 2 * 2 + h;
}

// The old ones of these, and the weights of the norms, on their way.
template <class Dims> struct Before {
    static constexpr int PASSES = (PIECE + Dims::AT_ONCE - 1) / Dims::AT_ONCE;
    Quad key[PASSES], value[2], q_norm, k_norm;
    float sink;

    DEVICE Quad norm(bool key) const {
        return {key ? k_norm.x : q_norm.x, key ? k_norm.y : q_norm.y, key ? k_norm.z : q_norm.z,
                key ? k_norm.w : q_norm.w};
    }
    DEVICE void load(const Slot &slot, int kv, int thread) {
        const EngineLayer &layer = slot.layer;
        const int old = slot.at.start & (PIECE - 1), d = thread % Dims::SPAN * 8;
        const uint32_t at = (uint32_t)(slot.at.start - old) & layer.mask;
#pragma unroll
        for (int i = 0; i < PASSES; i++) {
            const int row = thread / Dims::SPAN + i * Dims::AT_ONCE;
            key[i] = {0, 0, 0, 0};
            if (row < old && d < Dims::KEY)
                key[i] = global_quad(pointer<const uint16_t>(layer.k) +
                                     key_place(layer.capacity, Dims::KEY, kv, at + row, d));
        }
#pragma unroll
        for (int i = 0; i < 2; i++) { // a thread a dim
            value[i] = {0, 0, 0, 0};
            if (8 * i < old && thread < Dims::V)
                value[i] = global_quad(pointer<const uint16_t>(layer.v) +
                                       value_place(layer.capacity, Dims::V, kv, at + 8 * i, thread));
        }
        q_norm = head_norm<Dims>(layer.weight[SLOT_Q_NORM], d);
        k_norm = head_norm<Dims>(layer.weight[SLOT_K_NORM], d);
        const uint64_t sinks = layer.weight[SLOT_SINK];
        sink = sinks && thread < slot.at.hi - slot.at.lo ? pointer<const float>(sinks)[slot.at.lo + thread] : 0;
    }
    // Values that are not old are 0 until the round's own are there.
    DEVICE void store(const Slot &slot, int thread, Own<Dims> &own) const {
        const int old = slot.at.start & (PIECE - 1), d = thread % Dims::SPAN * 8;
#pragma unroll
        for (int i = 0; i < PASSES; i++) {
            const int row = thread / Dims::SPAN + i * Dims::AT_ONCE;
            if (row < old && d < Dims::KEY) *reinterpret_cast<Quad *>(&own.key[Dims::place(row, d)]) = key[i];
        }
        if (thread < 16) own.sink[thread] = sink;
        if (thread >= Dims::V) return;
#pragma unroll
        for (int i = 0; i < OWN_POSITIONS / 8; i++) {
            uint32_t w[4] = {0, 0, 0, 0};
            if (i < 2) w[0] = value[i & 1].x, w[1] = value[i & 1].y, w[2] = value[i & 1].z, w[3] = value[i & 1].w;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int there = old - 8 * i - 2 * j;
                w[j] = there >= 2 ? w[j] : there == 1 ? w[j] & 0xFFFF : 0;
            }
            *reinterpret_cast<Quad *>(&own.value[thread][8 * i]) = {w[0], w[1], w[2], w[3]};
        }
    }
};

// Waits for the round's own q, k and v. All of a thread's loads of a batch go out together, from places that are known
// by then; what becomes of them is one piece of code.
template <class Dims>
static DEVICE void own_rows(Compute &c, const Slot &slot, const Columns &column, int heads, const Before<Dims> &before,
                            Own<Dims> &own) {
    using Act = typename Dims::Act;
    constexpr int BATCH = 3;
    const EngineStep &step = slot.step;
    const int rows = slot.at.rows, old = slot.at.start & (PIECE - 1), thread = c.warp * 32 + lane_id(),
              all = (heads + 1) * ENGINE_ROWS, d = thread % Dims::SPAN * 8;
    const uint64_t in = c.p->slab + step.in;
    const int value_row = thread % ENGINE_ROWS, value_d = thread / ENGINE_ROWS * 8;
    const bool has_value = value_row < rows && value_d < Dims::V;
    const uint64_t value_from = in + (has_value ? value_row * step.in_row + (column.v + value_d) * Act::BYTES : 0);
    uint64_t from[BATCH];
    auto find = [&](int base) { // a row of a head each; keys last
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const int n = base + i * Dims::AT_ONCE, head = n / ENGINE_ROWS,
                      first = head < heads ? column.q + head * Dims::QK : column.k;
            from[i] = in + n % ENGINE_ROWS * step.in_row + (first + (d < Dims::QK ? d : 0)) * Act::BYTES;
        }
    };
    find(thread / Dims::SPAN);
    typename Act::Eight value, x[BATCH];
    c.wait_ready();
    value.load(value_from);
#pragma unroll 1
    for (int base = thread / Dims::SPAN; base < all; base += BATCH * Dims::AT_ONCE) {
        if (base >= BATCH * Dims::AT_ONCE) find(base);
#pragma unroll
        for (int i = 0; i < BATCH; i++) x[i].load(from[i]);
        // Rows of a warp come to the end together: shuffles.
        static_assert(ENGINE_ROWS % (32 / Dims::SPAN) == 0, "a warp's rows are of one head");
#pragma unroll 1
        for (int i = 0, n = base; i < BATCH && n < all; i++, n += Dims::AT_ONCE) {
            const int row = n % ENGINE_ROWS, head = n / ENGINE_ROWS;
            const bool key = head == heads;
            float v[8];
            x[0].get(v);
#pragma unroll
            for (int j = 1; j < BATCH; j++) x[j - 1] = x[j];
            finish_head<Dims>(own.rope, slot.layer.weight[key ? SLOT_K_NORM : SLOT_Q_NORM], before.norm(key), step.eps,
                              row, d, v);
            const Quad q = pack8(v);
            if (d >= Dims::KEY) continue;
            if (key)
                *reinterpret_cast<Quad *>(&own.key[Dims::place(old + row, d)]) = row < rows ? q : Quad{0, 0, 0, 0};
            else
#pragma unroll
                for (int term = 0; term < Dims::TERMS; term++) {
                    const Quad w = term ? pack8_rest(v, q) : q;
                    uint32_t *to = own.query[head / 2][term];
                    to[place_query<Dims>(row, d, head & 1)] = w.x, to[place_query<Dims>(row, d + 2, head & 1)] = w.y;
                    to[place_query<Dims>(row, d + 4, head & 1)] = w.z,
                                                            to[place_query<Dims>(row, d + 6, head & 1)] = w.w;
                }
        }
    }
    if (!has_value) return;
    float v[8];
    value.get(v);
#pragma unroll
    for (int i = 0; i < 8; i++) own.value[value_d + i][old + value_row] = bf16_round(v[i] * step.value_scale);
}

// The running state of 16 queries: lane holds queries g and g + 8.
template <class Dims> struct Running { float top[2], sum[2], out[Dims::V / 8][4]; };

// Keys and values of 16 positions from `base` on, on their way to a warp. Column n of tile j of the scores stands for
// position 4 (n / 2) + 2j + n mod 2: then lane t holds positions 4t .. 4t + 3, eight bytes side by side of a dim's
// values.
template <class Dims> struct Piece {
    static constexpr int UNITS = Dims::KEY / 32, TILES = Dims::V / 8;
    // Small heads leave registers for a second piece, on its way while one is folded. Keys and values of a large one
    // follow when those before them have been used.
    static constexpr bool AHEAD = Dims::KEY <= 64;
    Quad k[2][UNITS];
    uint2 v[TILES];

    // From the cache: all of its positions are older than the round.
    DEVICE void load_keys(const Slot &slot, int kv, int base) {
        const EngineLayer &layer = slot.layer;
        const int g = lane_id() >> 2, t = lane_id() & 3, at = 4 * (g >> 1) + (g & 1);
        const uint16_t *from = pointer<const uint16_t>(layer.k) +
                               key_place(layer.capacity, Dims::KEY, kv, ((uint32_t)base & layer.mask) + at, 8 * t);
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int u = 0; u < UNITS; u++) k[j][u] = global_quad(from + 2 * j * 8 + 32 * u * KEY_CHUNK);
    }
    DEVICE void load_values(const Slot &slot, int kv, int base) {
        const EngineLayer &layer = slot.layer;
        const int g = lane_id() >> 2, t = lane_id() & 3;
        const uint16_t *from = pointer<const uint16_t>(layer.v) +
                               value_place(layer.capacity, Dims::V, kv, ((uint32_t)base & layer.mask) + 4 * t, g);
#pragma unroll
        for (int n = 0; n < TILES; n++) v[n] = global_pair(from + n * 8 * 8);
    }
    // From shared memory: `at` positions after the first one there. Those past the end are seen by no row.
    DEVICE void take(const Own<Dims> &own, int at) {
        const int g = lane_id() >> 2, t = lane_id() & 3, odd = g & 1, mine = at + 4 * t;
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const int row = at + 4 * (g >> 1) + 2 * j + odd;
            const uint32_t from = shared_address(&own.key[(row < OWN_POSITIONS ? row : odd) * Dims::KEY + 8 * t]);
#pragma unroll
            for (int u = 0; u < UNITS; u++)
                k[j][u] = shared_quad(from + (Dims::FLIPS ? (u & 1 ? -odd : odd) * 64 : 0) + u * 64);
        }
        const uint32_t from = shared_address(&own.value[g][mine < OWN_POSITIONS ? mine : 0]);
#pragma unroll
        for (int n = 0; n < TILES; n++) v[n] = shared_pair(from + n * 8 * OWN_POSITIONS * 2);
    }
};

// A warp's queries, row g of two heads: of a small head in registers, of a large one where they lie. Two products a
// group of 32 dims.
template <class Dims> struct Queries {
    static constexpr bool HELD = Dims::KEY <= 64;
    Quad held[HELD ? Dims::TERMS : 1][HELD ? Dims::KEY / 32 : 1][2];
    uint32_t at[2];
    DEVICE Quad get(int term, int u, int i) const {
        return HELD ? held[HELD ? term : 0][HELD ? u : 0][i] : from(term, u, i);
    }
    DEVICE Quad from(int term, int u, int i) const {
        return shared_quad(at[i] + (term * ENGINE_ROWS * Dims::KEY + 32 * u) * 4);
    }
    DEVICE void begin(const Own<Dims> &own, int pair) {
        const int g = lane_id() >> 2, t = lane_id() & 3;
#pragma unroll
        for (int i = 0; i < 2; i++) at[i] = shared_address(&own.query[pair][0][place_query<Dims>(g, 8 * t + 4 * i, 0)]);
        if constexpr (HELD) {
#pragma unroll
            for (int term = 0; term < Dims::TERMS; term++)
#pragma unroll
                for (int u = 0; u < Dims::KEY / 32; u++)
                    held[term][u][0] = from(term, u, 0), held[term][u][1] = from(term, u, 1);
        }
    }
};

// Folds the pieces of one warp into its running state.
template <class Dims> struct Fold {
    static constexpr int UNITS = Dims::KEY / 32;
    float score[2][4];
    uint32_t weight[Dims::TERMS][2][2];

    DEVICE void multiply_keys(const Piece<Dims> &piece, const Queries<Dims> &queries) {
#pragma unroll
        for (int j = 0; j < 2; j++) score[j][0] = score[j][1] = score[j][2] = score[j][3] = 0;
#pragma unroll
        for (int term = Dims::TERMS - 1; term >= 0; term--)
#pragma unroll
            for (int u = 0; u < UNITS; u++) {
                const Quad a = queries.get(term, u, 0), b = queries.get(term, u, 1);
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    const Quad &k = piece.k[j][u];
                    mma(score[j], a.x, a.y, a.z, a.w, k.x, k.y);
                    mma(score[j], b.x, b.y, b.z, b.w, k.z, k.w);
                }
            }
    }
    DEVICE void weigh(const Slot &slot, int base, Running<Dims> &r) {
        // Both of a lane's queries are row g of the round, of two heads.
        const int start = slot.at.start, g = lane_id() >> 2, t = lane_id() & 3, last = start + slot.at.rows - 1,
                  mine = base + 4 * t, row = start + g, from = slot.step.window ? row - (int)slot.step.window + 1 : 0,
                  to = slot.step.causal && row < last ? row : last;
        float top[2] = {NO_SCORE, NO_SCORE};
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int position = mine + 2 * j + e;
                const bool seen = position >= from && position <= to;
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    float &s = score[j][2 * h + e];
                    s = seen ? s * (Dims::scale() * LOG2_E) : NO_SCORE;
                    top[h] = fmaxf(top[h], s);
                }
            }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float high = fmaxf(r.top[h], ceilf(quad_max(top[h]))), sum = 0;
            const float keep = r.top[h] == NO_SCORE ? 0 : exp2_fast(r.top[h] - high);
            r.top[h] = high;
            if (high == NO_SCORE) high = 0; // nothing seen yet: every weight below is 0
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const float a = exp2_fast(score[j][2 * h] - high), b = exp2_fast(score[j][2 * h + 1] - high);
                sum += a + b;
                weight[0][j][h] = bf16_pair(a, b);
                if (Dims::TERMS == 2)
                    weight[Dims::TERMS - 1][j][h] =
                        bf16_pair(a - bf16_low(weight[0][j][h]), b - bf16_high(weight[0][j][h]));
            }
            r.sum[h] = r.sum[h] * keep + quad_sum(sum);
#pragma unroll
            for (int n = 0; n < Dims::V / 8; n++) r.out[n][2 * h] *= keep, r.out[n][2 * h + 1] *= keep;
        }
    }
    DEVICE void add_values(const Piece<Dims> &piece, Running<Dims> &r) const {
#pragma unroll
        for (int n = 0; n < Dims::V / 8; n++)
#pragma unroll
            for (int term = Dims::TERMS - 1; term >= 0; term--)
                mma(r.out[n], weight[term][0][0], weight[term][0][1], weight[term][1][0], weight[term][1][1],
                    piece.v[n].x, piece.v[n].y);
    }
};

// Divides by the sum, the sink included: base-2 exponents, `top` whole.
static DEVICE float softmax_factor(float top, float sum, bool has_sink, float sink) {
    float keep = 1;
    if (has_sink) {
        const float b = sink * LOG2_E, high = fmaxf(top, ceilf(b));
        keep = top == NO_SCORE ? 0 : exp2_fast(top - high);
        sum = sum * keep + exp2_fast(b - high);
    }
    return sum > 0 ? keep / sum : 0;
}

// A head's part of a split attention, [heads][split] of this: (top, sum) of eight rows, then out of each. Parts
// that have no chunk of the round are not there.
template <class Dims> struct Part {
    static constexpr int FLOATS = ENGINE_ROWS * (Dims::V + 2);
    uint64_t at; // of part 0
    DEVICE Part(uint64_t parts, int split, int head) : at(parts + (uint64_t)head * split * FLOATS * 4) {}
    DEVICE float2 *end(int part, int row) const { return pointer<float2>(at + part * (FLOATS * 4)) + row; }
    DEVICE float *out(int part, int row) const {
        return pointer<float>(at + part * (FLOATS * 4)) + ENGINE_ROWS * 2 + row * Dims::V;
    }
};

// Dims of a pass of joining key lanes: what all warps' sums leave room for. A row of them takes a power of two.
template <class Dims> constexpr DEVICE int pass_dims() {
    int best = 8;
    for (int n = 8; n <= 64; n += 8)
        if (Dims::V % n == 0) best = n;
    return best;
}
static_assert(COMPUTE_WARPS * 16 * 64 * 4 <= SCRATCH_BYTES, "a pass");

// How a task's pairs of heads and its keys are shared among the warps: pair p and key lane k are those of warp
// k << shift | p. Tiles are at most 16 heads.
struct Share {
    int warp, pairs, shift;
    DEVICE Share(const Instruction &at, int this_warp) : warp(this_warp), pairs((at.hi - at.lo + 1) / 2) {
        shift = pairs > 4 ? 3 : pairs > 2 ? 2 : pairs - 1;
    }
    DEVICE int key_lanes() const { return COMPUTE_WARPS >> shift; }
    DEVICE int key_lane() const { return warp >> shift; }
    DEVICE int pair() const { return warp & ((1 << shift) - 1); }
};

// SPLITS: the keys may be.
template <class Dims, bool SPLITS> static DEVICE void attend(Compute &c) {
    const Slot &slot = c.slot();
    const EngineStep &step = slot.step;
    const Instruction &at = slot.at;
    char *room = reinterpret_cast<char *>(c.s->partial);
    Own<Dims> &own = *reinterpret_cast<Own<Dims> *>(room);
    static_assert(sizeof(Own<Dims>) <= SCRATCH_BYTES, "geometry_own_bytes");
    // What follows from the slot is found anew where it is needed: registers are for keys, values and sums.
    auto share = [&] { return Share(at, c.warp); };
    auto own_from = [&] { return at.start & -PIECE; };
    auto base_of = [&](int piece) {
        return (SPLITS ? (piece >> 2) * (int)step.split + at.part : piece >> 2) * KEY_CHUNK + (piece & 3) * PIECE;
    };
    // Piece `piece` of this warp: the part's chunks, four pieces each, dealt round the key lanes. Pieces before the
    // window are seen by no row; a layer with a window is not split.
    int piece = step.window && at.start > (int)step.window ? (at.start - (int)step.window + 1) / PIECE : 0;
    piece += (share().key_lane() - piece) & (share().key_lanes() - 1);

    // All of this is on its way before the instruction is ready. It may be: positions before `start` were written in
    // earlier rounds, accept waits for every append and then opens the next round's gate, which the dispatcher acquires
    // before it posts anything of that round, and posting is a barrier in this block. In this round nobody writes them.
    Piece<Dims> now;
    {
        const int kv = step.kv_heads > 1 ? at.lo * (int)step.kv_heads / (int)step.heads : 0, base = base_of(piece);
        now.load_keys(slot, kv, base < own_from() ? base : 0);
        now.load_values(slot, kv, base < own_from() ? base : 0);
        const int thread = c.warp * 32 + lane_id();
        Before<Dims> before;
        before.load(slot, kv, thread);
        const Columns column = columns_of<Dims>(step, kv, at.lo);
        c.drain();
        rope_rows<Dims>(c, step.kind, at.start, own.rope);
        before.store(slot, thread, own);
        if (thread == 0) own.kv = kv;
        c.meet();
        own_rows<Dims>(c, slot, column, at.hi - at.lo, before, own);
        c.meet();
    }

    Running<Dims> r;
#pragma unroll
    for (int h = 0; h < 2; h++) r.top[h] = NO_SCORE, r.sum[h] = 0;
#pragma unroll
    for (int i = 0; i < Dims::V / 8; i++) r.out[i][0] = r.out[i][1] = r.out[i][2] = r.out[i][3] = 0;
    if (share().pair() < share().pairs) {
        Queries<Dims> queries;
        queries.begin(own, share().pair());
#pragma unroll 1
        for (; base_of(piece) < at.start + at.rows; piece += share().key_lanes()) {
            const int here = base_of(piece) - own_from();
            if (here >= 0) now.take(own, here);
            Piece<Dims> other = now, &next = Piece<Dims>::AHEAD ? other : now;
            Fold<Dims> fold;
            auto then = [&] { return base_of(piece + share().key_lanes()); };
            if (Piece<Dims>::AHEAD && then() < own_from())
                next.load_keys(slot, own.kv, then()), next.load_values(slot, own.kv, then());
            fold.multiply_keys(now, queries);
            if (!Piece<Dims>::AHEAD && then() < own_from()) next.load_keys(slot, own.kv, then());
            fold.weigh(slot, base_of(piece), r);
            fold.add_values(now, r);
            if (!Piece<Dims>::AHEAD && then() < own_from()) next.load_values(slot, own.kv, then());
            if (Piece<Dims>::AHEAD) now = next;
        }
    }

    // The key lanes' sums, brought to one maximum and divided, go to shared memory, some dims at a time; then a thread
    // adds them for four dims of a query, in order. A part is not divided: it goes to its place with maximum and sum.
    const int lane = lane_id(), g = lane >> 2, t = lane & 3, thread = c.warp * 32 + lane;
    const int split = SPLITS ? (int)step.split : 1, part = at.part, key_lanes = share().key_lanes(),
              shift = share().shift, pair = share().pair();
    const uint64_t sinks = slot.layer.weight[SLOT_SINK];
#pragma unroll
    for (int h = 0; h < 2; h++)
        if (t == 0) c.s->ends[c.warp][g + 8 * h] = make_float2(r.top[h], r.sum[h]);
    float sink[2] = {own.sink[2 * pair], own.sink[2 * pair + 1]}, by[2] = {0, 0};
    c.meet();
#pragma unroll 1
    for (int h = 0; h < 2; h++) { // `sink` and `by` move on: no index that is no constant
        float2 end[COMPUTE_WARPS];
        float top = NO_SCORE, sum = 0;
#pragma unroll
        for (int i = 0; i < COMPUTE_WARPS; i++) {
            end[i] = make_float2(NO_SCORE, 0);
            if (i < key_lanes) end[i] = c.s->ends[i << shift | pair][g + 8 * h];
            top = fmaxf(top, end[i].x);
        }
        const float high = top == NO_SCORE ? 0 : top;
#pragma unroll
        for (int i = 0; i < COMPUTE_WARPS; i++) sum += end[i].y * exp2_fast(end[i].x - high);
        const int head = at.lo + 2 * pair + h;
        by[0] = by[1], by[1] = exp2_fast(c.s->ends[c.warp][g + 8 * h].x - high);
        if (split == 1)
            by[1] *= softmax_factor(top, sum, sinks != 0, sink[0]);
        else if (share().key_lane() == 0 && t == 0 && head < at.hi)
            *Part<Dims>(c.p->slab + step.out, split, head).end(part, g) = make_float2(top, sum);
        sink[0] = sink[1];
    }
#pragma unroll
    for (int i = 0; i < Dims::V / 8; i++)
        r.out[i][0] *= by[0], r.out[i][1] *= by[0], r.out[i][2] *= by[1], r.out[i][3] *= by[1];
    constexpr int PASS = pass_dims<Dims>(), BLOCKS = PASS > 32 ? 8 : PASS > 16 ? 4 : PASS / 8, PITCH = BLOCKS * 8;
    float *sums = reinterpret_cast<float *>(room); // [warp][16 queries][PITCH], block i of eight dims at i ^ query
    const int query = thread / 16, row = query % ENGINE_ROWS, four = thread % 16;
#pragma unroll
    for (int pass = 0; pass < Dims::V; pass += PASS) {
        if (pass) c.meet();
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int i = 0; i < PASS / 8; i++)
                *reinterpret_cast<float2 *>(sums + (c.warp * 16 + g + 8 * h) * PITCH + (g % BLOCKS ^ i) * 8 + 2 * t) =
                    make_float2(r.out[pass / 8 + i][2 * h], r.out[pass / 8 + i][2 * h + 1]);
        c.meet();
        if (4 * four >= PASS) continue;
#pragma unroll 1
        for (int p2 = 0; p2 < share().pairs; p2++) { // 256 threads: 16 queries by 16
            const int head = at.lo + 2 * p2 + query / ENGINE_ROWS, d = pass + 4 * four;
            const float *from = sums + (p2 * 16 + query) * PITCH + (query % BLOCKS ^ four / 2) * 8 + four % 2 * 4;
            float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
            for (int i = 0; i < COMPUTE_WARPS; i++)
                if (i < key_lanes) {
                    const float4 v = *reinterpret_cast<const float4 *>(from + (i << shift) * 16 * PITCH);
                    sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
                }
            if (head >= at.hi) continue;
            if (split > 1) {
                *reinterpret_cast<float4 *>(Part<Dims>(c.p->slab + step.out, split, head).out(part, row) + d) = sum;
            } else if (row < at.rows)
                Dims::Act::store4_input(pointer<char>(c.p->slab + step.out + (uint64_t)row * step.out_row),
                                        head * Dims::V + d, sum);
        }
    }
}

// Attention of sixteen query heads of a kv head over a part of all keys: a warp two heads, and all chunks of the part.
// The loader brings each chunk's keys and values into a page each; products are a warpgroup's, which reads them there.
// The chunks that the round's own rows are in come as they were before the round, and the rows are written over them.
// So a row's chunk is folded in one way whichever round it is in.
template <class Model> static DEVICE void attend_chunks(Compute &c) {
    using Dims = typename Model::Target;
    constexpr int STEPS = Dims::KEY / 16, HALF = Dims::ROTARY / 2, WIDE = Dims::V / 64;
    static_assert(Dims::TERMS == 1 && Dims::QK % 8 == 0 && Dims::ROTARY % 16 == 0 && Dims::V % 64 == 0, "plan_check");
    struct Room {
        RopeRows<Dims> rope;
        Quad key[COMPUTE_WARPS * 32], value[COMPUTE_WARPS * 32]; // a thread's share of the round's own
    };
    static_assert(sizeof(Room) <= SCRATCH_BYTES, "scratch");
    const Slot &slot = c.slot();
    const EngineStep &step = slot.step;
    const Instruction &at = slot.at;
    // What follows from the slot is found anew where it is needed: registers are for queries and sums.
    auto end = [&] { return at.start + at.rows; };
    if (at.part * KEY_CHUNK >= end()) { // no chunk
        c.wait_ready();
        return;
    }
    Room &room = *reinterpret_cast<Room *>(c.s->partial);
    const int g = lane_id() >> 2, t = lane_id() & 3;
    c.drain();
    rope_rows<Dims>(c, step.kind, at.start, room.rope);
    const Columns column =
        columns_of<Dims>(step, step.kv_heads > 1 ? at.lo * (int)step.kv_heads / (int)step.heads : 0, at.lo);
    const bool has_own =
        at.start / KEY_CHUNK % Model::SPLIT == at.part || (end() - 1) / KEY_CHUNK % Model::SPLIT == at.part;
    c.meet();
    c.wait_ready();
    const uint64_t in = c.p->slab + step.in;
    uint32_t query[STEPS][4]; // rows g of both heads: dims 16s + 2t and the next, then those eight on
    {
        const uint64_t from = in + (uint64_t)g * step.in_row + (column.q + 2 * c.warp * Dims::QK + 2 * t) * 2;
#pragma unroll
        for (int i = 0; i < 2 * STEPS; i++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                query[i / 2][i % 2 * 2 + h] =
                    8 * i < Dims::QK ? __ldcg(pointer<const uint32_t>(from + (h * Dims::QK + 8 * i) * 2)) : 0;
    }
    auto thread = [&] { return c.warp * 32 + lane_id(); };
    auto key_row = [&] { return thread() / Dims::SPAN; };
    auto key_d = [&] { return thread() % Dims::SPAN * 8; };
    auto value_row = [&] { return thread() % ENGINE_ROWS; };
    auto value_d = [&] { return thread() / ENGINE_ROWS * 8; };
    if (has_own) {
        typename Dims::Act::Eight key, value;
        key.load(in + key_row() % ENGINE_ROWS * step.in_row + (column.k + (key_d() < Dims::QK ? key_d() : 0)) * 2);
        value.load(in + value_row() * step.in_row + (column.v + (value_d() < Dims::V ? value_d() : 0)) * 2);
        float x[8];
        key.get(x);
        finish_head<Dims>(room.rope, false, {0, 0, 0, 0}, step.eps, key_row() % ENGINE_ROWS, key_d(), x);
        room.key[thread()] = pack8(x);
        value.get(x);
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] *= step.value_scale;
        room.value[thread()] = pack8(x);
    }
#pragma unroll
    for (int i = 0; i < HALF / 8; i++) { // a pair of dims and the one that it turns with are one lane's
        const float2 cosine = *reinterpret_cast<const float2 *>(&room.rope.cosine[g][8 * i + 2 * t]),
                     sine = *reinterpret_cast<const float2 *>(&room.rope.sine[g][8 * i + 2 * t]);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            constexpr int AWAY = HALF / 8;
            uint32_t &low = query[i / 2][i % 2 * 2 + h], &high = query[(i + AWAY) / 2][(i + AWAY) % 2 * 2 + h];
            const float a = bf16_low(low), b = bf16_high(low), x = bf16_low(high), y = bf16_high(high);
            low = bf16_pair(a * cosine.x - x * sine.x, b * cosine.y - y * sine.y);
            high = bf16_pair(x * cosine.x + a * sine.x, y * cosine.y + b * sine.y);
        }
    }
    float top[2] = {NO_SCORE, NO_SCORE}, sum[2] = {0, 0}, out[WIDE][32]; // of rows g of both heads; sums of this lane
#pragma unroll
    for (int n = 0; n < WIDE; n++)
#pragma unroll
        for (int i = 0; i < 32; i++) out[n][i] = 0;
    uint32_t page = at.page;
    auto wait_page = [&] {
        barrier_wait(c.who, c.s->full[page], c.phases >> page & 1);
        return c.pages + page * Model::PAGE_BYTES;
    };
    auto leave_page = [&] {
        warp_arrive(shared_address(&c.s->empty[page]));
        c.phases ^= 1u << page;
        if (++page == Model::PAGES) page = 0;
    };
#pragma unroll 1
    for (int base = at.part * KEY_CHUNK; base < end(); base += Model::SPLIT * KEY_CHUNK) {
        auto has_own_rows = [&] { return base + KEY_CHUNK > at.start; };
        const uint32_t keys = wait_page();
        if (has_own_rows()) {
            const uint32_t place = at.start + key_row() - base;
            if (key_row() < at.rows && place < KEY_CHUNK && key_d() < Dims::KEY)
                shared_store(keys + (key_d() * KEY_CHUNK + place * 8) * 2, room.key[thread()]);
            fence_bulk_copies();
            c.meet();
        }
        float score[32];
#pragma unroll
        for (int i = 0; i < 32; i++) score[i] = 0;
        group_keep(score);
#pragma unroll
        for (int s = 0; s < STEPS; s++) group_keep(query[s]);
        group_begin();
#pragma unroll
        for (int s = 0; s < STEPS; s++)
            group_mma(score, query[s], group_operand(keys + s * 16 * KEY_CHUNK * 2, 8 * KEY_CHUNK * 2), s > 0);
        group_end();
        group_keep(score);
        leave_page();
        const uint32_t values = wait_page();
        if (has_own_rows()) {
            // Of positions behind the round nothing is seen, but what lies there is finite.
            const uint32_t place = at.start + value_row() - base;
            if (value_row() < at.rows && place < KEY_CHUNK && value_d() < Dims::V) {
                const Quad &v = room.value[thread()];
                const uint32_t w[4] = {v.x, v.y, v.z, v.w},
                               to = values + (place / 8 * 8 * Dims::V + value_d() * 8 + place % 8) * 2;
#pragma unroll
                for (int i = 0; i < 8; i++) shared_store_half(to + i * 16, (uint16_t)(w[i / 2] >> i % 2 * 16));
            }
            fence_bulk_copies();
            const int last = (step.causal && g < at.rows ? at.start + g : end() - 1) - base - 2 * t;
#pragma unroll
            for (int i = 0; i < 32; i++)
                if (i / 4 * 8 + i % 2 > last) score[i] = NO_SCORE;
            c.meet();
        }
        uint32_t weight[4][4]; // of 16 positions a product
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float most = NO_SCORE;
#pragma unroll
            for (int i = 0; i < 32; i++)
                if (i / 2 % 2 == h) most = fmaxf(most, score[i]);
            float high = fmaxf(top[h], ceilf(quad_max(most) * (Dims::scale() * LOG2_E)));
            const float keep = top[h] == NO_SCORE ? 0 : exp2_fast(top[h] - high);
            top[h] = high;
            if (high == NO_SCORE) high = 0; // nothing seen yet: every weight below is 0
            sum[h] *= keep;
#pragma unroll
            for (int n = 0; n < 8; n++) {
                const float a = exp2_fast(__fmaf_rn(score[4 * n + 2 * h], Dims::scale() * LOG2_E, -high)),
                            b = exp2_fast(__fmaf_rn(score[4 * n + 2 * h + 1], Dims::scale() * LOG2_E, -high));
                sum[h] += a + b;
                weight[n / 2][n % 2 * 2 + h] = bf16_pair(a, b);
            }
#pragma unroll
            for (int n = 0; n < WIDE; n++)
#pragma unroll
                for (int i = 0; i < 32; i++)
                    if (i / 2 % 2 == h) out[n][i] *= keep;
        }
#pragma unroll
        for (int n = 0; n < WIDE; n++) group_keep(out[n]);
#pragma unroll
        for (int s = 0; s < 4; s++) group_keep(weight[s]);
        group_begin();
#pragma unroll
        for (int s = 0; s < 4; s++)
#pragma unroll
            for (int n = 0; n < WIDE; n++)
                group_mma(out[n], weight[s],
                          group_operand(values + (s * 16 * Dims::V + n * 64 * 8) * 2, 8 * Dims::V * 2), true);
        group_end();
#pragma unroll
        for (int n = 0; n < WIDE; n++) group_keep(out[n]);
        leave_page();
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const Part<Dims> part(c.p->slab + step.out, Model::SPLIT, at.lo + 2 * c.warp + h);
        sum[h] = quad_sum(sum[h]);
        if (g >= at.rows) continue;
        if (t == 0) *part.end(at.part, g) = make_float2(top[h], sum[h]);
#pragma unroll
        for (int n = 0; n < WIDE; n++)
#pragma unroll
            for (int i = 0; i < 8; i++)
                *reinterpret_cast<float2 *>(part.out(at.part, g) + n * 64 + 8 * i + 2 * t) =
                    make_float2(out[n][4 * i + 2 * h], out[n][4 * i + 2 * h + 1]);
    }
}

// Joins the parts of a split attention, for some of the rows. A warp takes 16 dims of a row of a head: four lanes have
// those of a part, and all parts come in one trip.
template <class Model> static DEVICE void join_parts(Compute &c) {
    using Dims = typename Model::Target;
    constexpr int SPLIT = Model::SPLIT, ENDS = (SPLIT + 31) / 32, TURNS = (SPLIT + 7) / 8, SLICES = (Dims::V + 15) / 16;
    const Slot &slot = c.slot();
    const EngineStep &step = slot.step;
    const Instruction &at = slot.at;
    const uint64_t sinks = slot.layer.weight[SLOT_SINK];
    const int lane = lane_id(), mine = lane >> 2, chunks = (at.start + at.rows + KEY_CHUNK - 1) / KEY_CHUNK,
              there = min(chunks, SPLIT), rows = ENGINE_ROWS / (int)step.parts;
    c.wait_ready();
#pragma unroll 1
    for (int unit = c.warp; unit < (at.hi - at.lo) * rows * SLICES; unit += COMPUTE_WARPS) {
        const int head = at.lo + unit / SLICES / rows, row = at.part * rows + unit / SLICES % rows,
                  d = unit % SLICES * 16 + (lane & 3) * 4;
        if (row >= at.rows) continue;
        const Part<Dims> parts(c.p->slab + step.in, SPLIT, head);
        const float sink = sinks ? __ldg(pointer<const float>(sinks) + head) : 0;
        float2 end[ENDS];
        float4 out[TURNS], total = make_float4(0, 0, 0, 0);
#pragma unroll
        for (int i = 0; i < ENDS; i++) { // a part a lane
            end[i] = make_float2(NO_SCORE, 0);
            if (lane + 32 * i < there) end[i] = __ldcg(parts.end(lane + 32 * i, row));
        }
#pragma unroll
        for (int i = 0; i < TURNS; i++) {
            out[i] = make_float4(0, 0, 0, 0);
            if (mine + 8 * i < there && (Dims::V % 16 == 0 || d < Dims::V))
                out[i] = __ldcg(reinterpret_cast<const float4 *>(parts.out(mine + 8 * i, row) + d));
        }
        float top = NO_SCORE, sum = 0;
#pragma unroll
        for (int i = 0; i < ENDS; i++) top = fmaxf(top, end[i].x);
#pragma unroll
        for (int away = 16; away; away /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, away));
#pragma unroll
        for (int i = 0; i < ENDS; i++) {
            end[i].x = exp2_fast(end[i].x - (top == NO_SCORE ? 0 : top));
            sum += end[i].y * end[i].x;
        }
#pragma unroll
        for (int i = 0; i < TURNS; i++) {
            const float weight = __shfl_sync(~0u, end[i / 4].x, (mine + 8 * i) % 32);
            total.x += out[i].x * weight, total.y += out[i].y * weight;
            total.z += out[i].z * weight, total.w += out[i].w * weight;
        }
#pragma unroll
        for (int away = 16; away; away /= 2) {
            sum += __shfl_xor_sync(~0u, sum, away);
            if (away < 4) continue;
            total.x += __shfl_xor_sync(~0u, total.x, away), total.y += __shfl_xor_sync(~0u, total.y, away);
            total.z += __shfl_xor_sync(~0u, total.z, away), total.w += __shfl_xor_sync(~0u, total.w, away);
        }
        const float factor = softmax_factor(top, sum, sinks != 0, sink);
        if (mine == 0 && (Dims::V % 16 == 0 || d < Dims::V))
            Dims::Act::store4_input(
                pointer<char>(c.p->slab + step.out + (uint64_t)row * step.out_row), head * Dims::V + d,
                make_float4(total.x * factor, total.y * factor, total.z * factor, total.w * factor));
    }
}

// append and context_append: the round's keys and values of some kv heads into the cache. append reads the fused rows,
// context_append [K | V] alone (FUSED false). A head's rows in one trip.
template <class Dims, bool FUSED> static DEVICE void keep_rows(Compute &c) {
    using Act = typename Dims::Act;
    const Slot &slot = c.slot();
    const EngineStep &step = slot.step;
    const Instruction &at = slot.at;
    const EngineLayer &layer = slot.layer;
    const int thread = c.warp * 32 + lane_id(), d = thread % Dims::SPAN * 8, row = thread / Dims::SPAN,
              value_row = thread % ENGINE_ROWS, value_d = thread / ENGINE_ROWS * 8;
    const bool has_key = row < at.rows && d < Dims::KEY, has_value = value_row < at.rows && value_d < Dims::V;
    RopeRows<Dims> &rope = *reinterpret_cast<RopeRows<Dims> *>(c.s->partial);
    const Quad norm = head_norm<Dims>(layer.weight[SLOT_K_NORM], d);
    c.drain();
    rope_rows<Dims>(c, step.kind, at.start, rope);
    c.meet();
    Columns column = {0, at.lo * Dims::QK, (int)step.kv_heads * Dims::QK + at.lo * Dims::V};
    if (FUSED) column = columns_of<Dims>(step, at.lo, 0);
    const uint64_t in = c.p->slab + step.in;
    const uint64_t key_in = in + (has_key ? row * step.in_row : 0) + (d < Dims::QK ? d : 0) * Act::BYTES,
                   value_in = in + (has_value ? value_row * step.in_row + value_d * Act::BYTES : 0);
    c.wait_ready();
#pragma unroll 1
    for (int head = at.lo; head < at.hi; head++) {
        typename Act::Eight key, value;
        key.load(key_in + column.k * Act::BYTES);
        value.load(value_in + column.v * Act::BYTES);
        float x[8], v[8];
        key.get(x);
        finish_head<Dims>(rope, layer.weight[SLOT_K_NORM], norm, step.eps, row % ENGINE_ROWS, d, x);
        const uint32_t place = (uint32_t)(at.start + row) & layer.mask,
                       value_at = (uint32_t)(at.start + value_row) & layer.mask;
        if (has_key)
            *reinterpret_cast<Quad *>(pointer<char>(layer.k) +
                                      key_place(layer.capacity, Dims::KEY, head, place, d) * 2) = pack8(x);
        if (has_value) {
            uint16_t *to = pointer<uint16_t>(layer.v) + value_place(layer.capacity, Dims::V, head, value_at, value_d);
            value.get(v);
#pragma unroll
            for (int i = 0; i < 8; i++) to[i * 8] = bf16_round(v[i] * step.value_scale);
        }
        if (head + 1 == at.hi) break;
        if (FUSED)
            column = columns_of<Dims>(step, head + 1, 0);
        else
            column.k += Dims::QK, column.v += Dims::V;
    }
}
#endif
