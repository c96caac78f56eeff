// attention: q against the cache and the round's own rows. A task is some query heads of one kv head and one part of a
// split. A warp takes 16 queries, two heads by eight rows, and pieces of 16 positions: chunk n of 64 positions belongs
// to part n mod split, and its pieces go round the warps that share the queries. Whatever the rows of the round are, a
// row's arithmetic is the same: pieces that it does not see change nothing.
//
// Softmax in base 2 with a whole number as the running maximum: every rescaling is exact, and a probability is rounded
// to bf16 (for the product with v) alike, whichever chunk came first.
//
// Of every 32 dims lane t of a quad holds 8t .. 8t + 7.
#ifndef TILEGEN_ATTENTION_CUH
#define TILEGEN_ATTENTION_CUH
#include "linear.cuh"

// Of the heads that a kernel has: dims of q and k, of v, and how many rotate (of the first).
template <int QK_DIM, int V_DIM, int ROTARY_DIM, bool WIDE_ROWS> struct HeadDims {
    static constexpr int QK = QK_DIM, V = V_DIM, ROTARY = ROTARY_DIM, KEY = KEY_DIM(QK_DIM);
    static constexpr int TERMS = WIDE_ROWS ? 2 : 1; // bf16 terms of a query and of a probability
    using Act = Activations<WIDE_ROWS>;             // of the rows of q, k, v and of the output
    static DEVICE float scale() { return 1.0f / sqrtf((float)QK); }
};

// Cosines and sines of the round's positions: products of two unit vectors, in double, rounded once.
template <class Dims> struct RopeRows {
    float cosine[ENGINE_ROWS][Dims::ROTARY / 2], sine[ENGINE_ROWS][Dims::ROTARY / 2];
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

// Dims [d, d + 8) of a q or k head after norm and RoPE. `head` points at the head's dim 0 of row `row` of
// the round; `norm`: weights of the head's norm, or 0; then the lanes of a
// warp take a head's pieces in order. The rotated dims come in multiples of 16.
template <class Dims>
static DEVICE void head_piece(const RopeRows<Dims> &rope, const char *head, uint64_t norm, float eps, int row, int d,
                              float (&x)[8]) {
    float y[8];
    constexpr int half = Dims::ROTARY / 2;
    const bool rotates = d < Dims::ROTARY;
    const int other = d < half ? d + half : d - half;
    Dims::Act::load8(head, d < Dims::QK ? d : 0, x);
    Dims::Act::load8(head, rotates ? other : 0, y);
    if (norm) {
        float sum = 0, w[8];
        constexpr int PIECES = Dims::KEY / 8;
        if (PIECES & (PIECES - 1)) {
#pragma unroll 1
            for (int i = 0; i < Dims::QK; i += 8) {
                float v[8];
                Dims::Act::load8(head, i, v);
#pragma unroll
                for (int n = 0; n < 8; n++) sum += v[n] * v[n];
            }
        } else { // the lanes beside this one have the head's other pieces
#pragma unroll
            for (int n = 0; n < 8; n++) sum += d < Dims::QK ? x[n] * x[n] : 0;
#pragma unroll
            for (int step = 1; step < PIECES && step < 32; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
        }
        const float factor = 1.0f / sqrtf(sum / Dims::QK + eps);
        unpack(global_quad(pointer<const char>(norm) + (d < Dims::QK ? d : 0) * 2), w);
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = w[i] * (x[i] * factor);
        unpack(global_quad(pointer<const char>(norm) + (rotates ? other : 0) * 2), w);
#pragma unroll
        for (int i = 0; i < 8; i++) y[i] = w[i] * (y[i] * factor);
    }
    if (rotates) {
        const float *c = rope.cosine[row] + (d < half ? d : other), *s = rope.sine[row] + (d < half ? d : other);
        const float sign = d < half ? -1.0f : 1.0f;
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = x[i] * c[i] + sign * (y[i] * s[i]);
    }
    if (d >= Dims::QK) {
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = 0;
    }
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

// Where q, k and v of a head lie among a row of the fused outputs: chunks of [Q | K | V].
template <class Dims> static DEVICE int q_column(const EngineStep &s, int head) {
    return head / (int)s.chunk_heads * (int)s.chunk_rows + head % (int)s.chunk_heads * Dims::QK;
}
template <class Dims> static DEVICE int k_column(const EngineStep &s, int head) {
    return head / (int)s.chunk_kv * (int)s.chunk_rows + ((int)s.chunk_heads + head % (int)s.chunk_kv) * Dims::QK;
}
template <class Dims> static DEVICE int v_column(const EngineStep &s, int head) {
    return head / (int)s.chunk_kv * (int)s.chunk_rows + (int)(s.chunk_heads + s.chunk_kv) * Dims::QK +
           head % (int)s.chunk_kv * Dims::V;
}

// What a task keeps in shared memory: the round's own keys; values of the two groups of eight positions that the round
// touches, [dim][16] from position start & ~7 on, older ones from the cache; the queries of its heads.
template <class Dims> struct Own {
    uint16_t key[ENGINE_ROWS][Dims::KEY];
    uint16_t value[Dims::V][16];
    RopeRows<Dims> rope;
    uint16_t query[1][Dims::TERMS][ENGINE_ROWS][Dims::KEY]; // [heads]
};

template <class Dims> static DEVICE void own_rows(Compute &c, const Slot &slot, int kv, int heads, Own<Dims> &own) {
    const EngineStep &step = slot.step;
    const int start = slot.at.start, rows = slot.at.rows, thread = c.warp * 32 + lane_id();
    const char *in = pointer<const char>(c.p->slab + step.in);
    constexpr int PIECES = Dims::KEY / 8;
#pragma unroll 1
    for (int n = thread; n < (heads + 1) * ENGINE_ROWS * PIECES; n += COMPUTE_WARPS * 32) { // keys last
        const int d = n % PIECES * 8, row = n / PIECES % ENGINE_ROWS, head = n / (PIECES * ENGINE_ROWS);
        const bool key = head == heads;
        const int column = key ? k_column<Dims>(step, kv) : q_column<Dims>(step, slot.at.lo + head);
        float x[8];
        head_piece<Dims>(own.rope, in + (uint64_t)row * step.in_row + column * Dims::Act::BYTES,
                         slot.layer.weight[key ? SLOT_K_NORM : SLOT_Q_NORM], step.eps, row, d, x);
        Quad q = pack8(x);
        if (key && row >= rows) q = {0, 0, 0, 0};
        *reinterpret_cast<Quad *>(key ? &own.key[row][d] : &own.query[head][0][row][d]) = q;
        if (Dims::TERMS == 2 && !key)
            *reinterpret_cast<Quad *>(&own.query[head][Dims::TERMS - 1][row][d]) = pack8_rest(x, q);
    }
    const int shift = start & 7;
#pragma unroll 1
    for (int i = thread; i < Dims::V / 8 * 16;
         i += COMPUTE_WARPS * 32) { // the round's own, eight dims at a time; zeros after
        const int d = i % (Dims::V / 8) * 8, j = i / (Dims::V / 8), row = j - shift;
        if (row < 0) continue;
        float x[8];
        Dims::Act::load8(in + (uint64_t)(row < rows ? row : 0) * step.in_row, v_column<Dims>(step, kv) + d, x);
#pragma unroll
        for (int n = 0; n < 8; n++) own.value[d + n][j] = row < rows ? bf16_round(x[n] * step.value_scale) : 0;
    }
#pragma unroll 1
    for (int d = COMPUTE_WARPS * 32 - 1 - thread; d < Dims::V && shift;
         d += COMPUTE_WARPS * 32) { // older ones of the same eight
        const uint32_t at = (uint32_t)(start - shift) & slot.layer.mask;
        const Quad v = global_quad(pointer<const uint16_t>(slot.layer.v) +
                                   (((uint64_t)kv * (slot.layer.capacity / KEY_CHUNK) + at / KEY_CHUNK) * Dims::V + d) *
                                       KEY_CHUNK +
                                   at % KEY_CHUNK);
        const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int j = 0; j < 7; j++)
            if (j < shift) own.value[d][j] = (uint16_t)(w[j / 2] >> 16 * (j & 1));
    }
}

// The running state of 16 queries: lane holds queries g and g + 8.
template <class Dims> struct Running { float top[2], sum[2], out[Dims::V / 8][4]; };

// Keys and values of 16 positions from `base` on, on their way to a warp. Column n of tile j of the scores stands for
// position 4 (n / 2) + 2j + n mod 2: then lane t holds positions 4t .. 4t + 3, eight bytes side by side of a dim's
// values.
template <class Dims> struct Piece {
    static constexpr int UNITS = Dims::KEY / 32;
    // Small heads leave registers for a whole piece ahead; of large ones keys come tile by tile, values 32 dims at a
    // time.
    static constexpr bool AHEAD = Dims::KEY <= 64;
    static constexpr int TILES = AHEAD ? 2 : 1, VALUES = AHEAD || Dims::V % 32 ? Dims::V / 8 : 4;
    Quad k[TILES][UNITS];
    uint2 v[VALUES];
    DEVICE void load_keys(const Slot &slot, const Own<Dims> &own, int kv, int base, int j, Quad (&to)[UNITS]) {
        const int start = slot.at.start, g = lane_id() >> 2, t = lane_id() & 3, last = start + slot.at.rows - 1;
        const EngineLayer &layer = slot.layer;
        const int at = 4 * (g >> 1) + 2 * j + (g & 1), position = base + at;
        const char *keys = pointer<const char>(layer.k) +
                           ((uint64_t)kv * layer.capacity + ((uint32_t)base & layer.mask) + at) * Dims::KEY * 2;
        const char *key =
            position >= start ? reinterpret_cast<const char *>(own.key[position <= last ? position - start : 0]) : keys;
#pragma unroll
        for (int u = 0; u < UNITS; u++) to[u] = any_quad(key + (32 * u + 8 * t) * 2);
    }
    // VALUES tiles of eight dims from tile `first` on.
    DEVICE void load_values(const Slot &slot, const Own<Dims> &own, int kv, int base, int first) {
        const int start = slot.at.start, g = lane_id() >> 2, t = lane_id() & 3, last = start + slot.at.rows - 1;
        const EngineLayer &layer = slot.layer;
        const uint32_t ring = (uint32_t)base & layer.mask;
        const char *values = pointer<const char>(layer.v) +
                             (((uint64_t)kv * (layer.capacity / KEY_CHUNK) + ring / KEY_CHUNK) * Dims::V * KEY_CHUNK +
                              ring % KEY_CHUNK) *
                                 2;
        // Groups of eight positions from start & ~7 on are in own.value; past the round's last there is nothing.
        const int mine = base + 4 * t, in_patch = mine - (start & ~7);
        const char *value = in_patch >= 0 ? reinterpret_cast<const char *>(&own.value[g][in_patch < 16 ? in_patch : 0])
                                          : values + (g * KEY_CHUNK + 4 * t) * 2;
        const int stride = in_patch >= 0 ? 8 * 16 * 2 : 8 * KEY_CHUNK * 2;
#pragma unroll
        for (int n = 0; n < VALUES; n++)
            v[n] = mine <= last ? any_pair(value + (first + n) * stride) : make_uint2(0, 0);
    }
    DEVICE void load(const Slot &slot, const Own<Dims> &own, int kv, int base) {
        if (!AHEAD) return;
        load_keys(slot, own, kv, base, 0, k[0]);
        load_keys(slot, own, kv, base, 1, k[TILES - 1]);
        load_values(slot, own, kv, base, 0);
    }
};

// A warp's queries: of a small head in registers, of a large one where they lie.
template <class Dims> struct Queries {
    static constexpr bool HELD = Dims::KEY <= 64;
    Quad held[HELD ? Dims::TERMS : 1][HELD ? Dims::KEY / 32 : 1][2];
    uint32_t at[2]; // of row g of the two heads
    DEVICE Quad get(int term, int u, int h) const {
        return HELD ? held[HELD ? term : 0][HELD ? u : 0][h] : from(term, u, h);
    }
    DEVICE Quad from(int term, int u, int h) const {
        return shared_quad(at[h] + (term * ENGINE_ROWS * Dims::KEY + 32 * u) * 2);
    }
    DEVICE void begin(const uint16_t *a, const uint16_t *b) {
        at[0] = shared_address(a), at[1] = shared_address(b);
        if constexpr (HELD) {
#pragma unroll
            for (int term = 0; term < Dims::TERMS; term++)
#pragma unroll
                for (int u = 0; u < Dims::KEY / 32; u++)
                    held[term][u][0] = from(term, u, 0), held[term][u][1] = from(term, u, 1);
        }
    }
};

// Folds a piece into the running state.
template <class Dims>
static DEVICE void attend_piece(const Slot &slot, const Own<Dims> &own, int kv, Piece<Dims> &piece, int base,
                                const Queries<Dims> &queries, Running<Dims> &r) {
    constexpr int UNITS = Dims::KEY / 32;
    const int start = slot.at.start, rows = slot.at.rows, g = lane_id() >> 2, t = lane_id() & 3,
              last = start + rows - 1, mine = base + 4 * t;
    float score[2][4] = {};
#pragma unroll
    for (int j = 0; j < 2; j++) {
        Quad(&key)[UNITS] = piece.k[Piece<Dims>::AHEAD ? j : 0];
        if (!Piece<Dims>::AHEAD) piece.load_keys(slot, own, kv, base, j, key);
#pragma unroll
        for (int term = Dims::TERMS - 1; term >= 0; term--)
#pragma unroll
            for (int u = 0; u < UNITS; u++) {
                const Quad &k = key[u], a = queries.get(term, u, 0), b = queries.get(term, u, 1);
                mma(score[j], a.x, b.x, a.y, b.y, k.x, k.y);
                mma(score[j], a.z, b.z, a.w, b.w, k.z, k.w);
            }
    }
    // Both of a lane's queries are row g of the round, of two heads.
    const int row = start + g, from = slot.step.window ? row - (int)slot.step.window + 1 : 0,
              to = slot.step.causal && row < last ? row : last;
    uint32_t weight[Dims::TERMS][2][2];
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
    constexpr int VALUES = Piece<Dims>::VALUES;
#pragma unroll
    for (int first = 0; first < Dims::V / 8; first += VALUES) {
        if (!Piece<Dims>::AHEAD) piece.load_values(slot, own, kv, base, first);
#pragma unroll
        for (int n = 0; n < VALUES; n++)
#pragma unroll
            for (int term = Dims::TERMS - 1; term >= 0; term--)
                mma(r.out[first + n], weight[term][0][0], weight[term][0][1], weight[term][1][0], weight[term][1][1],
                    piece.v[n].x, piece.v[n].y);
    }
}

// Divides by the sum, the sink included: base-2 exponents, `top` whole.
static DEVICE float softmax_factor(float &top, float &sum, bool has_sink, float sink) {
    if (has_sink) {
        float b = sink * LOG2_E, high = fmaxf(top, ceilf(b)), keep = top == NO_SCORE ? 0 : exp2_fast(top - high);
        sum = sum * keep + exp2_fast(b - high);
        return sum > 0 ? keep / sum : 0;
    }
    return sum > 0 ? 1 / sum : 0;
}

// A head's part of a split attention, [heads][split][8 rows] of this: (top, sum), then out.
template <class Dims> static DEVICE float *part_at(uint64_t parts, int split, int head, int part, int row) {
    return pointer<float>(parts) + (((uint64_t)head * split + part) * ENGINE_ROWS + row) * (Dims::V + 2);
}

// Dims of a pass of joining key lanes: what all warps' sums leave room for.
template <class Dims> constexpr DEVICE int pass_dims() {
    int best = 8;
    for (int n = 8; n <= Dims::V; n += 8)
        if (Dims::V % n == 0 && COMPUTE_WARPS * 16 * (n + 2) * 4 <= SCRATCH_BYTES) best = n;
    return best;
}

// How a task's pairs of heads and its keys are shared among the warps.
struct Share {
    int pairs, head_lanes, key_lanes;
};
static DEVICE Share share_of(const Instruction &at) {
    const int pairs = (at.hi - at.lo + 1) / 2, head_lanes = pairs > 4 ? 8 : pairs > 2 ? 4 : pairs;
    return {pairs, head_lanes, COMPUTE_WARPS / head_lanes};
}

template <class Dims> static DEVICE void attend(Compute &c) {
    c.drain();
    const Slot &slot = c.slot();
    const EngineStep &step = slot.step;
    const Instruction &at = slot.at;
    char *room = reinterpret_cast<char *>(c.s->partial);
    Own<Dims> &own = *reinterpret_cast<Own<Dims> *>(room);
    rope_rows<Dims>(c, step.kind, at.start, own.rope);
    c.group.sync(c.who, *c.s);
    c.wait_ready();
    const int lane = lane_id(), g = lane >> 2, t = lane & 3;
    const int kv = at.lo * (int)step.kv_heads / (int)step.heads;
    const Share share = share_of(at);
    float *slice = reinterpret_cast<float *>(room); // afterwards: [warp][16 queries][dims of a pass, top, sum]
    own_rows<Dims>(c, slot, kv, at.hi - at.lo, own);
    c.group.sync(c.who, *c.s);
    const int split = step.split, start = at.start, last = start + at.rows - 1;
    const int window = step.window;
    const int from = window && start - window + 1 > 0 ? start - window + 1 : 0;
    { // tiles are at most 16 heads, so each warp has one pair at most
        const int pair = c.warp % share.head_lanes, key_lanes = share.key_lanes, key_lane = c.warp / share.head_lanes;
        const bool both = 2 * pair + 1 < at.hi - at.lo, active = pair < share.pairs;
        Running<Dims> r;
#pragma unroll
        for (int h = 0; h < 2; h++) r.top[h] = NO_SCORE, r.sum[h] = 0;
#pragma unroll
        for (int n = 0; n < Dims::V / 8; n++) r.out[n][0] = r.out[n][1] = r.out[n][2] = r.out[n][3] = 0;
        if (active) {
            Queries<Dims> q;
            q.begin(&own.query[2 * pair][0][g][8 * t], &own.query[2 * pair + (both ? 1 : 0)][0][g][8 * t]);
            // Piece n of this warp: the part's chunks, four pieces each, dealt round the key lanes. The next one is on
            // its way while one is folded. Pieces before `from` are seen by no row.
            const int part = split > 1 ? at.part : 0,
                      first_chunk = from / KEY_CHUNK > part ? (from / KEY_CHUNK - part + split - 1) / split : 0;
            auto base_of = [&](int n) { return (n / 4 * split + part) * KEY_CHUNK + n % 4 * 16; };
            Piece<Dims> now, next;
            int n = first_chunk * 4 / key_lanes * key_lanes + key_lane, base = base_of(n);
            now.load(slot, own, kv, base <= last ? base : 0);
#pragma unroll 1
            while (base <= last) {
                const int then = base_of(n += key_lanes);
                if (Piece<Dims>::AHEAD) next.load(slot, own, kv, then <= last ? then : base);
                attend_piece<Dims>(slot, own, kv, now, base, q, r);
                if (Piece<Dims>::AHEAD)
                    now = next;
                else
                    now.load(slot, own, kv, then <= last ? then : base);
                base = then;
            }
        }
        // All warps' sums go to shared memory, some dims at a time; then a thread joins the key lanes of one query for
        // a few dims, in order, and does the sink and the division, or fills the part's place.
        const uint64_t sinks = slot.layer.weight[SLOT_SINK];
        const Share joined = share_of(at); // anew: fewer registers while pieces are folded
        constexpr int PASS = pass_dims<Dims>(), ROOM = PASS + 2;
        const int thread = c.warp * 32 + lane_id(), query = thread / 16, row = query % ENGINE_ROWS;
#pragma unroll
        for (int pass = 0; pass < Dims::V; pass += PASS) {
            c.group.sync(c.who, *c.s);
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float *mine = slice + (c.warp * 16 + g + 8 * h) * ROOM;
                if (t == 0) mine[PASS] = r.top[h], mine[PASS + 1] = r.sum[h];
#pragma unroll
                for (int n = 0; n < PASS / 8; n++)
                    *reinterpret_cast<float2 *>(mine + 8 * n + 2 * t) =
                        make_float2(r.out[pass / 8 + n][2 * h], r.out[pass / 8 + n][2 * h + 1]);
            }
            c.group.sync(c.who, *c.s);
#pragma unroll 1
            for (int p2 = 0; p2 < joined.pairs; p2++) { // 256 threads: 16 queries by 16
                const int head = at.lo + 2 * p2 + query / ENGINE_ROWS;
                if (head >= at.hi) continue;
                const float *first_lane = slice + (p2 * 16 + query) * ROOM;
                const int step_lane = joined.head_lanes * 16 * ROOM;
                constexpr int EACH = (PASS + 15) / 16; // dims of a thread: d, d + 16, ...
                const int d0 = thread % 16;
                float top = NO_SCORE, sum = 0, out[EACH] = {};
#pragma unroll 1
                for (int lane = 0; lane < joined.key_lanes; lane++)
                    top = fmaxf(top, first_lane[lane * step_lane + PASS]);
#pragma unroll 1
                for (int lane = 0; lane < joined.key_lanes; lane++) {
                    const float *theirs = first_lane + lane * step_lane;
                    const float weight = theirs[PASS] == NO_SCORE ? 0 : exp2_fast(theirs[PASS] - top);
                    sum += theirs[PASS + 1] * weight;
#pragma unroll
                    for (int i = 0; i < EACH; i++) out[i] += theirs[d0 + 16 * i < PASS ? d0 + 16 * i : 0] * weight;
                }
                float factor = 1;
                const float part_top = top, part_sum = sum;
                if (split == 1)
                    factor = softmax_factor(top, sum, sinks != 0, sinks ? pointer<const float>(sinks)[head] : 0);
#pragma unroll
                for (int i = 0; i < EACH; i++) {
                    const int d = d0 + 16 * i;
                    if (d >= PASS) continue;
                    if (split > 1)
                        part_at<Dims>(c.p->slab + step.out, split, head, at.part, row)[2 + pass + d] = out[i];
                    else if (row < at.rows)
                        Dims::Act::store_input(pointer<char>(c.p->slab + step.out + (uint64_t)row * step.out_row),
                                               head * Dims::V + pass + d, out[i] * factor);
                }
                if (split > 1 && pass == 0 && thread % 16 == 0) {
                    float *part = part_at<Dims>(c.p->slab + step.out, split, head, at.part, row);
                    part[0] = part_top, part[1] = part_sum;
                }
            }
        }
    }
}

// Joins the parts of a split attention: a warp a row, a lane a dim.
template <class Dims> static DEVICE void join_parts(Compute &c) {
    c.wait_ready();
    const Slot &slot = c.slot();
    const EngineStep &step = slot.step;
    const Instruction &at = slot.at;
    const uint64_t sinks = slot.layer.weight[SLOT_SINK];
    if (c.warp >= at.rows) return;
    for (int head = at.lo; head < at.hi; head++)
        for (int d = lane_id(); d < Dims::V; d += 32) {
            float top = NO_SCORE, sum = 0, out = 0;
            for (int part = 0; part < (int)step.split; part++) {
                const float *theirs = part_at<Dims>(c.p->slab + step.in, step.split, head, part, c.warp);
                float their_top = __ldcg(theirs);
                if (their_top == NO_SCORE) continue;
                float high = fmaxf(top, their_top), keep = top == NO_SCORE ? 0 : exp2_fast(top - high),
                      fresh = exp2_fast(their_top - high);
                sum = sum * keep + __ldcg(theirs + 1) * fresh;
                out = out * keep + __ldcg(theirs + 2 + d) * fresh;
                top = high;
            }
            float factor = softmax_factor(top, sum, sinks != 0, sinks ? pointer<const float>(sinks)[head] : 0);
            Dims::Act::store_input(pointer<char>(c.p->slab + step.out + (uint64_t)c.warp * step.out_row),
                                   head * Dims::V + d, out * factor);
        }
}

// append and context_append: the round's keys and values of some kv heads into the cache. append reads the fused rows,
// context_append [K | V] alone (FUSED false).
template <class Dims, bool FUSED> static DEVICE void keep_rows(Compute &c) {
    c.drain();
    const Slot &slot = c.slot();
    const EngineStep &step = slot.step;
    const Instruction &at = slot.at;
    RopeRows<Dims> &rope = *reinterpret_cast<RopeRows<Dims> *>(c.s->partial);
    rope_rows<Dims>(c, step.kind, at.start, rope);
    c.group.sync(c.who, *c.s);
    c.wait_ready();
    const EngineLayer &layer = slot.layer;
    const char *in = pointer<const char>(c.p->slab + step.in);
    const int thread = c.warp * 32 + lane_id();
    constexpr int PIECES = Dims::KEY / 8;
    for (int head = at.lo; head < at.hi; head++) {
        const int k = FUSED ? k_column<Dims>(step, head) : head * Dims::QK,
                  v = FUSED ? v_column<Dims>(step, head) : (int)step.kv_heads * Dims::QK + head * Dims::V;
#pragma unroll 1
        for (int n = thread; n < ENGINE_ROWS * PIECES; n += COMPUTE_WARPS * 32) {
            const int d = n % PIECES * 8, row = n / PIECES;
            float x[8];
            head_piece<Dims>(rope, in + (uint64_t)row * step.in_row + k * Dims::Act::BYTES, layer.weight[SLOT_K_NORM],
                             step.eps, row, d, x);
            const Quad q = pack8(x);
            const uint32_t place = (uint32_t)(at.start + row) & layer.mask;
            if (row < at.rows)
                *reinterpret_cast<Quad *>(pointer<char>(layer.k) +
                                          (((uint64_t)head * layer.capacity + place) * Dims::KEY + d) * 2) = q;
        }
#pragma unroll 1
        for (int i = thread; i < Dims::V * at.rows; i += COMPUTE_WARPS * 32) {
            const int d = i % Dims::V, row = i / Dims::V;
            const uint32_t place = (uint32_t)(at.start + row) & layer.mask;
            const float value = Dims::Act::load(in + (uint64_t)row * step.in_row, v + d);
            pointer<uint16_t>(
                layer.v)[(((uint64_t)head * (layer.capacity / KEY_CHUNK) + place / KEY_CHUNK) * Dims::V + d) *
                             KEY_CHUNK +
                         place % KEY_CHUNK] = bf16_round(value * step.value_scale);
        }
    }
}
#endif
