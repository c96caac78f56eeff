// linear: the compute warps' part of every op with weights. A strip's inputs are cut over `warps_k` warps, strips over
// the rest; each warp leaves its partial sums of a strip in shared memory, where a finisher adds them in warp order.
#ifndef TILEGEN_LINEAR_CUH
#define TILEGEN_LINEAR_CUH
#include "shared.cuh"
#include "weights.cuh"

// What a compute warp keeps between instructions.
struct Compute {
    const EngineParams *p;
    Shared *s;
    uint32_t number; // instructions so far
    uint32_t phases; // parity of each page's next full phase; bit 31: of the next meeting
    Waiter who;
    int warp;       // among the compute warps
    uint32_t pages; // address, found once: finding it takes as long as reading there

    DEVICE Slot &slot() const { return s->slots[number % SLOTS]; }
    // The next instruction is written down, though it may not start yet.
    DEVICE void wait_posted() {
        barrier_wait_fast(who, s->posted[number % SLOTS], number / SLOTS & 1);
        who.at_place(COMPUTE_FIRST + warp, number % SLOTS);
    }
    // Whether there is time to rehearse: to go through what is to be done once for nothing, so that its code is near
    // when the inputs come. Code that has not run for a layer comes at the pace of a trip to L2 for every few
    // instructions.
    DEVICE bool must_wait() const {
        const uint32_t at = shared_address(&s->ready[number % SLOTS]);
        return !__all_sync(~0u, barrier_test(at, number / SLOTS & 1));
    }
    DEVICE void wait_ready() { barrier_wait_fast(who, s->ready[number % SLOTS], number / SLOTS & 1); }
    DEVICE void leave() { // this warp is done with the instruction
        warp_arrive(shared_address(&s->freed[number % SLOTS]));
        number = opaque(number) + 1; // opaque: else the next slot is found early, and spilled
    }
    // The eight compute warps meet; everything written before is seen after.
    DEVICE void meet() {
        warp_arrive(shared_address(&s->group));
        barrier_wait(who, s->group, phases >> 31);
        phases ^= 1u << 31;
    }
    // Every partial sum has been read, and every warp is here: `partial` and `norm` may be used for other things.
    DEVICE void drain() {
        const uint32_t strips = slot().at.first_strip;
        for (uint32_t i = strips > STRIP_SLOTS ? strips - STRIP_SLOTS : 0; i < strips; i++)
            barrier_wait_fast(who, s->strip_free[i % STRIP_SLOTS], i / STRIP_SLOTS & 1);
        meet();
    }
};

// The pages of the instruction at hand, chunk by chunk; every warp waits for each and releases each.
template <class Model> struct Chunks {
    uint32_t page, next; // next: the chunk that the warp is at
    bool held;           // its page has been waited for
    DEVICE void begin(const Instruction &at) { page = at.page, next = 0, held = false; }
    DEVICE void release(Compute &c) {
        if (!held) barrier_wait_fast(c.who, c.s->full[page], c.phases >> page & 1);
        warp_arrive(shared_address(&c.s->empty[page]));
        c.phases ^= 1u << page;
        if (++page == Model::PAGES) page = 0;
        next++;
        held = false;
    }
    DEVICE uint32_t seek(Compute &c, uint32_t chunk) { // address of a chunk
        while (next < chunk) release(c);
        if (!held) barrier_wait_fast(c.who, c.s->full[page], c.phases >> page & 1);
        held = true;
        return c.pages + page * Model::PAGE_BYTES;
    }
};

// The lane's inputs of a quarter of a block of row g as they lie: zero past the end, and where not `wanted`.
template <bool WIDE> struct Raw {
    uint32_t word[WIDE ? 8 : 4];
    // `row`: the block's inputs of row g for lane t; `u`: the quarter.
    DEVICE void load(const char *row, int u, bool wanted) {
#pragma unroll
        for (int i = 0; i < (WIDE ? 2 : 1); i++) {
            Quad q = {0, 0, 0, 0};
            if (wanted) q = global_quad(row + (WIDE ? 2 * u + i : u) * 64);
            word[4 * i] = q.x, word[4 * i + 1] = q.y, word[4 * i + 2] = q.z, word[4 * i + 3] = q.w;
        }
    }
    // As operands of the products: times the norm's weights where there are any.
    DEVICE Inputs<WIDE> operands(bool normed, const Quad &norm) const {
        Inputs<WIDE> in;
        const uint32_t w[4] = {norm.x, norm.y, norm.z, norm.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if constexpr (WIDE) {
                float a = __uint_as_float(word[2 * i]), b = __uint_as_float(word[2 * i + 1]);
                if (normed) a *= bf16_low(w[i]), b *= bf16_high(w[i]);
                in.x[i] = bf16_pair(a, b);
                in.low[i] = bf16_pair(a - bf16_low(in.x[i]), b - bf16_high(in.x[i]));
            } else
                in.x[i] = normed ? bf16_mul2(word[i], w[i]) : word[i];
        }
        return in;
    }
};

// A lane's part of the sums of row g's squares, over its inputs. Of bf16 they are products of all rows with each other:
// a quad is both operands, as rows g (words 0 and 2) and g + 8 (1 and 3), and row g with itself is in element g & 1,
// and 2 on, of the lane with t = g / 2. Products go to two chains.
template <bool WIDE> struct Squares {
    float total = 0;
    DEVICE void add(const Raw<WIDE> &raw, int) {
        float sum[2] = {};
#pragma unroll
        for (int i = 0; i < 8; i++) sum[i & 1] += __uint_as_float(raw.word[i]) * __uint_as_float(raw.word[i]);
        total += sum[0] + sum[1];
    }
    DEVICE float sum() const { return total; }
};
template <> struct Squares<false> {
    float even[2][4] = {}, odd[2][4] = {};
    DEVICE void add(const Raw<false> &raw, int chain) {
        const uint32_t(&w)[4] = raw.word;
        mma(even[chain], w[0], w[1], w[2], w[3], w[0], w[2]);
        mma(odd[chain], w[0], w[1], w[2], w[3], w[1], w[3]);
    }
    DEVICE float sum() const {
        const float low = even[0][0] + even[1][0] + odd[0][2] + odd[1][2],
                    high = even[0][1] + even[1][1] + odd[0][3] + odd[1][3];
        return (lane_id() & 3) == lane_id() >> 3 ? (lane_id() & 4 ? high : low) : 0;
    }
};

// A warp's share of a strip's inputs: runs kw, kw + warps_k, kw + 2 warps_k ... of `run` units each, so that all warps
// work on every few chunks. A unit is UNIT quarters: 4, a block, where weights are many; 1 where latency is all there
// is.
template <class Model> struct Portion {
    uint32_t kw, warps_k, run, units; // units: of the strip
    DEVICE Portion(const EngineStep &step, int warp)
        : kw(warp & (step.warps_k - 1)), warps_k(step.warps_k), run(step.run), units(step.blocks * (4 / Model::UNIT)) {}
    // Unit j of the warp's run r; `units` or more: none.
    DEVICE uint32_t unit(uint32_t r, uint32_t j) const { return j < run ? (r * warps_k + kw) * run + j : units; }
};

// The inputs of a warp's share, HELD / RUN runs of it at a time. While weights stream, a trip to L2 takes microseconds:
// all inputs are asked for at once, and the norm's weights are in shared memory by then (blocks) or in registers.
template <class Model> struct Held {
    static constexpr int UNIT = Model::UNIT, RUN = Model::RUN, HELD = Model::HELD_UNITS;
    static constexpr bool WIDE = Model::WIDE;
    Inputs<WIDE> x[HELD][UNIT];

    // Every element is set on every path: one that is not would stay alive through all of the kernel's loop.
    DEVICE void clear() {
#pragma unroll
        for (int i = 0; i < HELD; i++)
#pragma unroll
            for (int u = 0; u < UNIT; u++) x[i][u] = {};
    }
    // The norm's weights for the warp's runs from r0 on, on their way before the inputs; times `factor` (bf16, twice)
    // where blocks are taken whole.
    DEVICE void load_norm(uint64_t weights, uint16_t *room, const EngineStep &step, int warp, uint32_t r0,
                          uint32_t factor) {
        const Portion<Model> share(step, warp);
        const uint32_t k = step.k;
        const uint16_t *from = pointer<const uint16_t>(weights);
        if constexpr (UNIT == 4) { // 16 lanes a block
            constexpr int EACH = (HELD * 16 + 31) / 32;
            const uint32_t lane = lane_id(), piece = lane % 16 * 8;
            Quad w[EACH];
#pragma unroll
            for (int n = 0; n < EACH; n++) {
                const uint32_t i = 2 * n + lane / 16, at = share.unit(r0 + i / RUN, i % RUN) * BLOCK_K + piece;
                w[n] = {0, 0, 0, 0};
                if (i < HELD && at < k) w[n] = global_quad(from + at);
            }
#pragma unroll
            for (int n = 0; n < EACH; n++) {
                const uint32_t i = 2 * n + lane / 16;
                const Quad v = {bf16_mul2(w[n].x, factor), bf16_mul2(w[n].y, factor), bf16_mul2(w[n].z, factor),
                                bf16_mul2(w[n].w, factor)};
                if (i < HELD) *reinterpret_cast<Quad *>(room + i * BLOCK_K + piece) = v;
            }
            __syncwarp();
        } else {
#pragma unroll
            for (int i = 0; i < HELD; i++) {
                const uint32_t n = share.unit(r0 + i, 0), at = n / 4 * BLOCK_K + 32 * (lane_id() & 3) + 8 * (n & 3);
                Quad q = {0, 0, 0, 0};
                if (n < share.units && at < k) q = global_quad(from + at);
                x[i][0].x[0] = q.x, x[i][0].x[1] = q.y, x[i][0].x[2] = q.z, x[i][0].x[3] = q.w;
            }
        }
    }
    // Their inputs of the rows that `rows` has a bit for; times what load_norm left where `normed`. Adds the sum of
    // their squares. Other rows, whose outputs nobody looks at, get those of the first one. Of one run alone what the
    // others would take is not gone through.
    DEVICE void load(uint64_t in, const EngineStep &step, const uint16_t *room, int warp, uint32_t r0, uint32_t rows,
                     bool normed, float &squares) {
        const uint32_t g = lane_id() >> 2, row = rows >> g & 1 ? g : (uint32_t)__ffs(rows | 128) - 1;
        in += (uint64_t)row * step.in_row + (lane_id() & 3) * 16;
        if (UNIT == 4 && HELD > RUN && step.warp_runs - r0 == 1)
            load_units<RUN>(in, step, room, warp, r0, normed, squares);
        else
            load_units<HELD>(in, step, room, warp, r0, normed, squares);
    }
    template <int UNITS>
    DEVICE void load_units(uint64_t in, const EngineStep &step, const uint16_t *room, int warp, uint32_t r0,
                           bool normed, float &squares) {
        // Read here once: what is read between loads is read anew after each.
        const Portion<Model> share(step, warp);
        const uint32_t t = lane_id() & 3, slab_k = step.in_slab_k, slab = step.in_slab, all = step.k;
        Raw<WIDE> raw[UNITS][UNIT];
#pragma unroll
        for (int i = 0; i < UNITS; i++) {
            const uint32_t n = share.unit(r0 + i / RUN, i % RUN), quarter = UNIT == 1 ? n & 3 : 0;
            if (n >= share.units) {
#pragma unroll
                for (int u = 0; u < UNIT; u++) raw[i][u] = {};
                continue;
            }
            uint32_t k = n * UNIT / 4 * BLOCK_K;
            const uint32_t at = k + 32 * t + 8 * quarter;
            uint64_t row = in;
            if (slab_k)
                for (; k >= slab_k; k -= slab_k) row += slab;
            row += (uint64_t)k * Activations<WIDE>::BYTES + quarter * (WIDE ? 128 : 64);
#pragma unroll
            for (int u = 0; u < UNIT; u++)
                raw[i][u].load(pointer<const char>(row), u, !Model::RAGGED || at + 8 * u < all);
        }
        Squares<WIDE> sum;
#pragma unroll
        for (int i = 0; i < HELD; i++)
#pragma unroll
            for (int u = 0; u < UNIT; u++) {
                if (i >= UNITS) {
                    x[i][u] = {};
                    continue;
                }
                const Raw<WIDE> &from = raw[i < UNITS ? i : 0][u];
                if (!normed) {
                    x[i][u] = from.operands(false, {0, 0, 0, 0});
                    continue;
                }
                Quad w = {x[i][u].x[0], x[i][u].x[1], x[i][u].x[2], x[i][u].x[3]};
                if constexpr (UNIT == 4) w = *reinterpret_cast<const Quad *>(room + i * BLOCK_K + 32 * t + 8 * u);
                sum.add(from, u & 1);
                x[i][u] = from.operands(true, w);
            }
        if (normed) squares += sum.sum();
    }
    // For fp8 weights: as f16, times WeightFp8::FACTOR, which a norm's weights have already.
    DEVICE void halve(bool normed) {
#pragma unroll
        for (int i = 0; i < HELD; i++)
#pragma unroll
            for (int u = 0; u < UNIT; u++)
#pragma unroll
                for (int w = 0; w < 4; w++) {
                    uint32_t &pair = x[i][u].x[w];
                    if (!normed) pair = bf16_mul2(pair, WeightFp8::FACTOR);
                    pair = f16_pair(bf16_low(pair), bf16_high(pair));
                }
    }
    // Unit `i`, which is no constant: one loop over units instead of a copy of its body each, since code that is
    // fetched anew costs more than it computes. A move a register and candidate.
    template <int STEP> DEVICE void choose(uint32_t i, int plus, Inputs<WIDE> (&to)[UNIT]) const {
#pragma unroll
        for (int u = 0; u < UNIT; u++) to[u] = x[plus][u];
#pragma unroll
        for (int n = STEP; n + plus < HELD; n += STEP)
#pragma unroll
            for (int u = 0; u < UNIT; u++) {
#pragma unroll
                for (int w = 0; w < 4; w++) to[u].x[w] = i == n ? x[n + plus][u].x[w] : to[u].x[w];
#pragma unroll
                for (int w = 0; w < (WIDE ? 4 : 0); w++) to[u].low[w] = i == n ? x[n + plus][u].low[w] : to[u].low[w];
            }
    }
};

// Where the strip at hand lies in a task's weights: its first chunk, and its place there where chunks have several.
// Nothing here divides: that is on the way of everything.
struct Cursor {
    uint32_t chunk, place;
    DEVICE void begin() { chunk = place = 0; }
    DEVICE void advance(const EngineStep &step, uint32_t strips) { // `strips` on
        if (step.chunks_of_strip > 1)
            chunk += strips * step.chunks_of_strip;
        else
            for (place += strips; place >= step.strips_of_chunk; place -= step.strips_of_chunk) chunk++;
    }
};

// Products of the warp's runs [r0, r0 + runs) of a strip. A run lies in one chunk (geometry.h).
template <class Weight, class Model>
static DEVICE void multiply_runs(Compute &c, Chunks<Model> &chunks, const Cursor &cursor, uint32_t r0, uint32_t runs,
                                 const Held<Model> &in, float (&sum)[2][4]) {
    constexpr int UNIT = Model::UNIT, STEP = Model::RUN < Weight::MOST_RUN ? Model::RUN : Weight::MOST_RUN;
    const EngineStep &step = c.slot().step;
    const Portion<Model> share(step, c.warp);
    const uint32_t room = step.chunk_blocks, offset = cursor.place * step.strip_bytes;
    uint32_t chunk = cursor.chunk, before = 0; // before: blocks of the strip before the chunk
#pragma unroll 1
    for (uint32_t i = 0; i < runs * Model::RUN; i += STEP) {
        const uint32_t unit = share.unit(r0 + i / Model::RUN, i % Model::RUN), block = unit * UNIT / 4;
        if (unit >= share.units) continue;
        while (block - before >= room) before += room, chunk++;
        const uint32_t at = chunks.seek(c, chunk) + offset + (block - before) * Weight::BYTES;
#pragma unroll
        for (int j = 0; j < STEP; j++) {
            Inputs<Model::WIDE> x[UNIT];
            in.choose<STEP>(opaque(i), j, x);
            if (j > 0 && (j >= opaque(share.run) || unit + j >= opaque(share.units))) continue;
            typename Weight::template Codes<UNIT> codes;
            codes.load(at + j * Weight::BYTES, unit & 3);
            Weight::template multiply<Model::WIDE, UNIT>(sum, codes, x);
        }
    }
}

// The same where every warp has whole runs, and as many (EngineStep.regular). `offset`: of the warp's first run in its
// chunk.
template <class Weight, class Model>
static DEVICE void multiply_whole(Compute &c, Chunks<Model> &chunks, const EngineStep &step, uint32_t chunk,
                                  uint32_t offset, uint32_t run, uint32_t runs, const Held<Model> &in,
                                  float (&sum)[2][4]) {
    constexpr int UNIT = Model::UNIT, RUN = Model::RUN;
#pragma unroll 1
    for (uint32_t i = 0; i < runs * RUN; i += RUN) {
        const uint32_t at = chunks.seek(c, chunk) + offset;
#pragma unroll
        for (int j = 0; j < RUN; j++) {
            if (j > 0 && j >= (int)opaque(run)) break; // opaque: a block's inputs are not chosen before its turn
            Inputs<Model::WIDE> x[UNIT];
            in.choose<RUN>(opaque(i), j, x);
            typename Weight::template Codes<UNIT> codes;
            codes.load(at + j * Weight::BYTES, 0);
            Weight::template multiply<Model::WIDE, UNIT>(sum, codes, x);
        }
        chunk += step.run_chunks, offset += step.run_bytes;
    }
}

// Tiles of a step that streams, in the order in which the loader brings them: a strip each, of which the warp has a run
// of each chunk. There are all the weights of a round's experts in this loop: what it does beside products is what the
// products wait for. A block's codes are loaded two blocks ahead, no more: the products want registers. `dry`:
// rehearses it.
template <class Weight, class Model> static DEVICE void stream(Compute &c, const Held<Model> &in, bool dry) {
    constexpr int RUN = Model::RUN, BLOCKS = Model::STREAM_RUNS * RUN, AHEAD = BLOCKS < 2 ? BLOCKS : 2;
    const uint32_t mine = c.pages + c.warp * RUN * Weight::BYTES;
    const uint32_t first_strip = c.slot().at.first_strip;
    uint32_t page = c.slot().at.page, strips = first_strip;
    auto push = [&](const float4 &sum, const uint2 &ticket) {
        const uint32_t place = strips % STRIP_SLOTS;
        barrier_wait_fast(c.who, c.s->strip_free[place], (strips++ / STRIP_SLOTS & 1) ^ 1);
        reinterpret_cast<float4 *>(c.s->partial[place][c.warp])[lane_id()] = sum;
        if (c.warp == 0) *reinterpret_cast<uint2 *>(&c.s->summed[place]) = ticket;
        warp_arrive(shared_address(&c.s->strip_full[place]));
    };
    for (;;) {
        typename Weight::template Codes<4> codes[BLOCKS];
        uint2 ticket;
        // Block n of the strip. With the first of a page the page is waited for, with the last it is given back.
        auto take = [&](int n) {
            if (n % RUN == 0 && !dry) barrier_wait_fast(c.who, c.s->full[page], c.phases >> page & 1);
            if (n == 0) ticket = shared_pair(shared_address(&c.s->loaded[page]));
            codes[n].load(mine + page * Model::PAGE_BYTES + n % RUN * Weight::BYTES, 0);
            if (n % RUN < RUN - 1 || dry) return;
            warp_arrive(shared_address(&c.s->empty[page]));
            c.phases ^= 1u << page;
            if (++page == Model::PAGES) page = 0;
        };
        float sum[2][4] = {};
#pragma unroll
        for (int n = 0; n < AHEAD; n++) take(n);
#pragma unroll
        for (int n = 0; n < BLOCKS; n++) {
            if (n + AHEAD < BLOCKS) take(n + AHEAD);
            Weight::template multiply<false, 4>(sum, codes[n], in.x[n]);
        }
        if (dry) return;
        if ((int)ticket.x < 0) break; // there are no more: what its pages hold was multiplied for nothing
        push(make_float4(sum[0][0] + sum[1][0], sum[0][1] + sum[1][1], sum[0][2] + sum[1][2], sum[0][3] + sum[1][3]),
             ticket);
    }
    for (int i = 0; i < FINISHERS; i++) push(make_float4(0, 0, 0, 0), {~0u, 0}); // one for each
}

// What a task does itself with a strip's sums, where one warp has them all: an expert's output, float, for the rows
// that chose the expert.
static DEVICE void store_direct(const Compute &c, uint32_t strip, const float (&sum)[2][4]) {
    const Slot &slot = c.slot();
    const uint32_t token = (lane_id() & 3) * 2, row = slot.step.out_row, by = slot.at.rows_of_key >> token;
    float *to =
        pointer<float>(c.p->slab + slot.step.out + (uint64_t)slot.at.key * slot.step.out_item + (uint64_t)token * row) +
        slot.at.lo + strip * STRIP_ROWS + (lane_id() >> 2);
    float *below = to + row / 4;
    if (by & 1) to[0] = sum[0][0] + sum[1][0], to[8] = sum[0][2] + sum[1][2];
    if (by & 2) below[0] = sum[0][1] + sum[1][1], below[8] = sum[0][3] + sum[1][3];
}

// Waits for the warp's first weights of a strip: they are ahead of the inputs.
template <class Model>
static DEVICE void first_look(Compute &c, Chunks<Model> &chunks, uint32_t chunk, uint32_t first_chunk, uint32_t kw,
                              const EngineStep &step) {
    if (step.regular)
        chunks.seek(c, chunk + first_chunk);
    else {
        uint32_t block = kw * step.run * Model::UNIT / 4;
        if (kw * step.run >= step.blocks * (4 / Model::UNIT)) return;
        while (block >= step.chunk_blocks) block -= step.chunk_blocks, chunk++;
        chunks.seek(c, chunk);
    }
}

// Runs the instruction at hand and the linear ones after it. Inputs are kept from one to the next where they are the
// same. What does not need the inputs is done before they are there. What the loop needs of the slot is read at once:
// a read of shared memory takes as long as a dozen instructions, and barriers keep the compiler from moving it.
template <class Model> static DEVICE void linear(Compute &c) {
    constexpr uint32_t HELD = Model::HELD_UNITS / Model::RUN; // runs
    uint32_t have = ~0u;                                      // whose inputs are held
    float squares = 0;
    Held<Model> in;
    in.clear();
    for (;;) {
        const Slot &slot = c.slot();
        const EngineStep &step = slot.step;
        const Instruction &at = slot.at;
        const uint32_t strips = at.strips, op = step.op, input = at.input, first_strip = at.first_strip,
                       norm_slot = step.norm_slot, warp_runs = step.warp_runs, run = step.run, warps_k = step.warps_k;
        Chunks<Model> chunks;
        chunks.begin(at);
        const uint32_t kw = c.warp & (warps_k - 1), warps_k_log = log2_of(warps_k),
                       lanes = COMPUTE_WARPS >> warps_k_log, lane_strip = c.warp >> warps_k_log,
                       first_chunk = step.first_chunks >> 4 * kw & 15,
                       first_offset = (kw * run - first_chunk * step.chunk_blocks) * step.block_bytes;
        const bool normed = norm_slot != SLOT_COUNT, held = warp_runs <= HELD,
                   halves = Model::USES_FP8 && !Model::WIDE && op == RUN_LINEAR_FP8;
        auto share = [&] { // of the rows' squares, for the finishers
            if ((lane_id() & 3) == 0) c.s->squares[c.number % SLOTS][c.warp][lane_id() >> 2] = squares;
        };
        Cursor cursor;
        cursor.begin();
        cursor.advance(step, lane_strip);
        bool ready = held && input == have;
        if (ready) {
            c.wait_ready();
            if (normed) share();
        } else
            squares = 0;
        for (uint32_t strip = lane_strip; strip < strips || !ready; strip += lanes) { // once at least: for the inputs
            float sum[2][4] = {};                                                     // two chains of products
            for (uint32_t r0 = 0; r0 < warp_runs; r0 += HELD) {
                if (!ready || !held) {
                    if (normed)
                        in.load_norm(slot.layer.weight[norm_slot] + at.first_input * 2, c.s->norm[c.warp], step, c.warp,
                                     r0, halves ? WeightFp8::FACTOR : 0x3F803F80u);
                    if (!ready) {
                        if (strip < strips) first_look(c, chunks, cursor.chunk, first_chunk, kw, step);
                        c.wait_ready();
                        ready = true;
                    }
                    float more = 0;
                    const uint32_t rows = step.in_item ? at.rows_of_key : (1u << at.rows) - 1;
                    in.load(c.p->slab + at.in, step, c.s->norm[c.warp], c.warp, r0, rows, normed, more);
                    if (halves) in.halve(normed);
                    have = held ? input : ~0u;
                    if (strip == lane_strip) squares += more;
                    if (normed && strip == lane_strip && r0 + HELD >= warp_runs) {
                        squares = quad_sum(squares);
                        share();
                    }
                }
                if (strip >= strips) break;
                const uint32_t runs = min(warp_runs - r0, HELD);
                auto multiply = [&](auto weight) {
                    using Weight = decltype(weight);
                    if constexpr (!(Model::IRREGULAR >> Weight::OP & 1))
                        multiply_whole<Weight, Model>(
                            c, chunks, step, cursor.chunk + first_chunk + r0 * step.run_chunks,
                            cursor.place * step.strip_bytes + first_offset + r0 * step.run_bytes, run, runs, in, sum);
                    else
                        multiply_runs<Weight, Model>(c, chunks, cursor, r0, runs, in, sum);
                };
                if (Model::USES_BF16 && op == RUN_LINEAR_BF16) multiply(WeightBf16());
                if (Model::USES_FP8 && op == RUN_LINEAR_FP8) multiply(WeightFp8());
                if (Model::USES_MXFP4 && op == RUN_LINEAR_MXFP4) multiply(WeightMxfp4());
                if (Model::USES_F32 && op == RUN_LINEAR_F32) multiply(WeightF32());
            }
            if (!ready) c.wait_ready(), ready = true;
            if (strip >= strips) break;
            cursor.advance(step, lanes);
            if (Model::DIRECT && step.direct) {
                store_direct(c, strip, sum);
                continue;
            }
            const uint32_t n = first_strip + strip, place = n % STRIP_SLOTS;
            barrier_wait_fast(c.who, c.s->strip_free[place], (n / STRIP_SLOTS & 1) ^ 1);
            float4 *to = reinterpret_cast<float4 *>(c.s->partial[place][kw]) + lane_id();
            *to =
                make_float4(sum[0][0] + sum[1][0], sum[0][1] + sum[1][1], sum[0][2] + sum[1][2], sum[0][3] + sum[1][3]);
            warp_arrive(shared_address(&c.s->strip_full[place]), lanes);
        }
        if constexpr (Model::STREAM_RUNS > 0)
            if (step.stream && (at.tiles == 0 || strips == 0)) {
                stream<WeightMxfp4, Model>(c, in, at.tiles != 0);
                if (at.tiles == 0) { // nothing is kept in registers beside its inputs
                    c.leave();
                    c.wait_posted();
                    return;
                }
            }
        while (chunks.next < at.chunks) chunks.release(c);
        if (Model::DIRECT && step.direct) warp_arrive(shared_address(&c.s->stored[c.number % SLOTS]));
        c.leave();
        c.wait_posted();
        if (c.slot().step.op > RUN_LINEAR_F32 || c.slot().at.skip) return;
    }
}
#endif
