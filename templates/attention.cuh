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
                key[i] = global_quad(pointer<const char>(layer.k) +
                                     (((uint64_t)kv * layer.capacity + at + row) * Dims::KEY + d) * 2);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) { // a thread a dim
            value[i] = {0, 0, 0, 0};
            if (8 * i < old && thread < Dims::V)
                value[i] = global_quad(
                    pointer<const char>(layer.v) +
                    ((((uint64_t)kv * (layer.capacity / KEY_CHUNK) + at / KEY_CHUNK) * Dims::V + thread) * KEY_CHUNK +
                     at % KEY_CHUNK + 8 * i) *
                        2);
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
        const char *from =
            pointer<const char>(layer.k) +
            (((uint64_t)kv * layer.capacity + ((uint32_t)base & layer.mask) + at) * Dims::KEY + 8 * t) * 2;
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int u = 0; u < UNITS; u++) k[j][u] = global_quad(from + (2 * j * Dims::KEY + 32 * u) * 2);
    }
    DEVICE void load_values(const Slot &slot, int kv, int base) {
        const EngineLayer &layer = slot.layer;
        const int g = lane_id() >> 2, t = lane_id() & 3;
        const uint32_t ring = (uint32_t)base & layer.mask;
        const char *from =
            pointer<const char>(layer.v) +
            ((((uint64_t)kv * (layer.capacity / KEY_CHUNK) + ring / KEY_CHUNK) * Dims::V + g) * KEY_CHUNK +
             ring % KEY_CHUNK + 4 * t) *
                2;
#pragma unroll
        for (int n = 0; n < TILES; n++) v[n] = global_pair(from + n * 8 * KEY_CHUNK * 2);
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

// A head's part of a split attention, [heads][split][8 rows] of this: (top, sum), then out.
template <class Dims> static DEVICE float *part_at(uint64_t parts, int split, int head, int part, int row) {
    return pointer<float>(parts) + (((uint64_t)head * split + part) * ENGINE_ROWS + row) * (Dims::V + 2);
}

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

template <class Dims> static DEVICE void attend(Compute &c) {
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
        return ((piece >> 2) * (int)step.split + (step.split > 1 ? (int)at.part : 0)) * KEY_CHUNK + (piece & 3) * PIECE;
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
    const int split = (int)step.split, part = (int)at.part, key_lanes = share().key_lanes(), shift = share().shift,
              pair = share().pair();
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
            *reinterpret_cast<float2 *>(part_at<Dims>(c.p->slab + step.out, split, head, part, g)) =
                make_float2(top, sum);
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
                float2 *to =
                    reinterpret_cast<float2 *>(part_at<Dims>(c.p->slab + step.out, split, head, part, row) + 2 + d);
                to[0] = make_float2(sum.x, sum.y), to[1] = make_float2(sum.z, sum.w);
            } else if (row < at.rows)
                Dims::Act::store4_input(pointer<char>(c.p->slab + step.out + (uint64_t)row * step.out_row),
                                        head * Dims::V + d, sum);
        }
    }
}

// Joins the parts of a split attention: a warp a row, a lane two dims at a time. All of a row's parts in one trip.
template <class Model> static DEVICE void join_parts(Compute &c) {
    using Dims = typename Model::Target;
    constexpr int SPLIT = Model::SPLIT, BATCH = SPLIT < 16 ? SPLIT : 16, EACH = (Dims::V + 63) / 64;
    const Slot &slot = c.slot();
    const EngineStep &step = slot.step;
    const Instruction &at = slot.at;
    const uint64_t sinks = slot.layer.weight[SLOT_SINK];
    const int lane = lane_id(), row = c.warp;
    c.wait_ready();
    if (row >= at.rows) return;
#pragma unroll 1
    for (int head = at.lo; head < at.hi; head++) {
        const float *first = part_at<Dims>(c.p->slab + step.in, SPLIT, head, 0, row);
        constexpr int PITCH = ENGINE_ROWS * (Dims::V + 2); // from part to part
        const float sink = sinks ? __ldg(pointer<const float>(sinks) + head) : 0;
        float2 end[(SPLIT + 31) / 32], out[EACH];
        float top = NO_SCORE, sum = 0;
#pragma unroll
        for (int i = 0; i < (SPLIT + 31) / 32; i++) { // a part a lane
            end[i] = make_float2(NO_SCORE, 0);
            if (lane + 32 * i < SPLIT)
                end[i] = __ldcg(reinterpret_cast<const float2 *>(first + (lane + 32 * i) * PITCH));
        }
#pragma unroll
        for (int e = 0; e < EACH; e++) out[e] = make_float2(0, 0);
#pragma unroll
        for (int base = 0; base < SPLIT; base += BATCH) {
            float2 theirs[BATCH][EACH];
#pragma unroll
            for (int i = 0; i < BATCH; i++)
#pragma unroll
                for (int e = 0; e < EACH; e++) {
                    const int d = 2 * lane + 64 * e;
                    theirs[i][e] = make_float2(0, 0);
                    if (base + i < SPLIT && (Dims::V % 64 == 0 || d < Dims::V))
                        theirs[i][e] = __ldcg(reinterpret_cast<const float2 *>(first + (base + i) * PITCH + 2 + d));
                }
            if (base == 0) {
#pragma unroll
                for (int i = 0; i < (SPLIT + 31) / 32; i++) top = fmaxf(top, end[i].x);
#pragma unroll
                for (int step2 = 16; step2; step2 /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, step2));
                const float high = top == NO_SCORE ? 0 : top;
#pragma unroll
                for (int i = 0; i < (SPLIT + 31) / 32; i++) end[i].x = exp2_fast(end[i].x - high), end[i].y *= end[i].x;
            }
#pragma unroll
            for (int i = 0; i < BATCH && base + i < SPLIT; i++) {
                const float weight = __shfl_sync(~0u, end[(base + i) / 32].x, (base + i) % 32);
                sum += __shfl_sync(~0u, end[(base + i) / 32].y, (base + i) % 32);
#pragma unroll
                for (int e = 0; e < EACH; e++) out[e].x += theirs[i][e].x * weight, out[e].y += theirs[i][e].y * weight;
            }
        }
        const float factor = softmax_factor(top, sum, sinks != 0, sink);
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            const int d = 2 * lane + 64 * e;
            char *to = pointer<char>(c.p->slab + step.out + (uint64_t)row * step.out_row);
            if (d < Dims::V) // a pair stays a pair
                Dims::Act::store2_input(to, head * Dims::V + d, make_float2(out[e].x * factor, out[e].y * factor));
        }
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
                       value_place = (uint32_t)(at.start + value_row) & layer.mask;
        if (has_key)
            *reinterpret_cast<Quad *>(pointer<char>(layer.k) +
                                      (((uint64_t)head * layer.capacity + place) * Dims::KEY + d) * 2) = pack8(x);
        if (has_value) {
            uint16_t *to =
                pointer<uint16_t>(layer.v) +
                (((uint64_t)head * (layer.capacity / KEY_CHUNK) + value_place / KEY_CHUNK) * Dims::V + value_d) *
                    KEY_CHUNK +
                value_place % KEY_CHUNK;
            value.get(v);
#pragma unroll
            for (int i = 0; i < 8; i++) to[i * KEY_CHUNK] = bf16_round(v[i] * step.value_scale);
        }
        if (head + 1 == at.hi) break;
        if (FUSED)
            column = columns_of<Dims>(step, head + 1, 0);
        else
            column.k += Dims::QK, column.v += Dims::V;
    }
}
#endif
