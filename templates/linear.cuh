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
    uint32_t pages;      // shared-memory address of page 0
    uint32_t page_bytes; //
    uint32_t number;     // instructions so far
    uint32_t strips;     // strips of linear ops so far
    uint32_t phases;     // parity of each page's next full phase
    Group group;
    Waiter who;
    int warp; // among the compute warps

    DEVICE Slot &slot() const { return s->slots[number % SLOTS]; }
    // The next instruction is written down, though it may not start yet.
    DEVICE void wait_posted() {
        barrier_wait(who, s->posted[number % SLOTS], number / SLOTS & 1);
        const Instruction &at = slot().at;
        who.at(at.instance, at.body_step, at.lo, at.hi);
    }
    DEVICE void wait_ready() {
        barrier_wait(who, s->ready[number % SLOTS], number / SLOTS & 1);
        if (warp == 0) trace_begin(*p, number);
    }
    DEVICE void leave() { // this warp is done with the instruction
        barrier_arrive(shared_address(&s->freed[number % SLOTS]));
        number = opaque(number) + 1; // opaque: else the next slot is found early, and spilled
    }
    // Every partial sum has been read: `partial` may be used for other things.
    DEVICE void drain() {
        for (uint32_t i = strips > STRIP_SLOTS ? strips - STRIP_SLOTS : 0; i < strips; i++)
            barrier_wait(who, s->strip_free[i % STRIP_SLOTS], i / STRIP_SLOTS & 1);
    }
};

// The pages of a task, chunk by chunk; every warp waits for each and releases each.
struct Chunks {
    uint32_t page, page_lo, page_hi, next; // next: the chunk that the warp is at
    bool held;                             // its page has been waited for
    DEVICE void wait(Compute &c) {
        if (held) return;
        barrier_wait(c.who, c.s->full[page], c.phases >> page & 1);
        held = true;
    }
    DEVICE void release(Compute &c) {
        wait(c);
        barrier_arrive(shared_address(&c.s->empty[page]));
        c.phases ^= 1u << page;
        if (++page == page_hi) page = page_lo;
        next++;
        held = false;
    }
    DEVICE uint32_t seek(Compute &c, uint32_t chunk) { // address of a chunk
        while (next < chunk) release(c);
        wait(c);
        return c.pages + page * c.page_bytes;
    }
};

// The lane's inputs of quarter `unit` of a row of g as they lie, zero past the end and where not `wanted`.
template <bool WIDE> struct Raw {
    uint32_t word[WIDE ? 8 : 4];
    DEVICE void load(uint64_t in, const EngineStep &step, uint32_t unit, bool wanted) {
        uint32_t k = unit / 4 * BLOCK_K;
        const uint32_t u = unit % 4, t = lane_id() & 3;
        wanted &= k + 32 * t + 8 * u < step.k;
        if (step.in_slab_k) in += (uint64_t)(k / step.in_slab_k) * step.in_slab, k %= step.in_slab_k;
        const char *at = pointer<const char>(in) + (uint64_t)(lane_id() >> 2) * step.in_row +
                         (uint64_t)k * Activations<WIDE>::BYTES + (WIDE ? 2 * u : u) * 64 + t * 16;
#pragma unroll
        for (int i = 0; i < (WIDE ? 2 : 1); i++) {
            Quad q = {0, 0, 0, 0};
            if (wanted) q = global_quad(at + i * 64);
            word[4 * i] = q.x, word[4 * i + 1] = q.y, word[4 * i + 2] = q.z, word[4 * i + 3] = q.w;
        }
    }
    DEVICE float squares() const {
        float even = 0, odd = 0;
#pragma unroll
        for (int i = 0; i < (WIDE ? 8 : 4); i++) {
            if (WIDE) {
                const float v = __uint_as_float(word[i]);
                (i & 1 ? odd : even) += v * v;
            } else {
                const float low = bf16_low(word[i]), high = bf16_high(word[i]);
                even += low * low;
                odd += high * high;
            }
        }
        return even + odd;
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

// The norm's weights for the lane's inputs of quarter `unit`.
static DEVICE Quad norm_piece(uint64_t norm, uint32_t unit, uint32_t k) {
    const uint32_t at = unit / 4 * BLOCK_K + 32 * (lane_id() & 3) + 8 * (unit % 4);
    return at < k ? global_quad(pointer<const char>(norm) + at * 2) : Quad{0, 0, 0, 0};
}

// Where a warp is in a task's weights: chunk and block in it. Divides once, before the inputs are there.
struct Cursor {
    uint32_t chunk, block, room, offset; // offset: of the strip in its chunk
    uint32_t first_chunk, first_block;   // of the warp's share of a strip
    uint32_t place;                      // of the strip in its chunk
    DEVICE void begin(const EngineStep &step, uint32_t strip, uint32_t first) {
        if (step.chunks_of_strip > 1) { // a strip in several chunks
            first_chunk = first / step.chunk_blocks;
            first_block = first - first_chunk * step.chunk_blocks;
            room = step.chunk_blocks, offset = 0;
            chunk = first_chunk + strip * step.chunks_of_strip;
        } else { // several strips in a chunk
            first_chunk = 0, first_block = first, room = step.blocks;
            chunk = strip / step.strips_of_chunk;
            place = strip - chunk * step.strips_of_chunk;
            offset = place * step.strip_bytes;
        }
        block = first_block, before = chunk;
    }
    // `lanes` strips on, from strip - lanes.
    DEVICE void advance(const EngineStep &step, uint32_t strip, uint32_t lanes) {
        block = first_block;
        if (step.chunks_of_strip > 1) {
            chunk = first_chunk + strip * step.chunks_of_strip;
            return;
        }
        if (step.strips_of_chunk == 1) {
            chunk = strip;
            return;
        }
        chunk = before; // the last strip's end may have counted on
        for (place += lanes; place >= step.strips_of_chunk; place -= step.strips_of_chunk) chunk++;
        before = chunk;
        offset = place * step.strip_bytes;
    }
    uint32_t before; // chunk of the strip at hand
};

template <class Weight, bool WIDE, int HELD>
static DEVICE void multiply_units(float (&sum)[2][4], uint32_t address, uint32_t from, uint32_t until, uint32_t first,
                                  const Inputs<WIDE> (&x)[HELD]) {
#pragma unroll
    for (int i = 0; i < HELD; i++)
        if (i >= opaque(from) && i < opaque(until))
            Weight::template multiply<WIDE>(sum, address + ((first + i) / 4 - (first + from) / 4) * Weight::BYTES,
                                            (first + i) % 4, x[i]);
}

// Runs the instruction at hand and those after it that are of the same dtype and read the same inputs.
//
// Every register of `x` is set on every path: one that is not would stay alive through all of the kernel's loop. What
// does not need the inputs is done before they are there.
template <class Model> static DEVICE void linear(Compute &c) {
    constexpr int HELD = Model::HELD_UNITS;
    constexpr bool WIDE = Model::WIDE;
    Inputs<WIDE> x[HELD];
    const uint32_t input = c.slot().at.input, round = c.slot().at.round, t = lane_id() & 3;
    const uint32_t warps_k = c.slot().step.warps_k, kw = c.warp & (warps_k - 1), lanes = COMPUTE_WARPS / warps_k,
                   lane_strip = c.warp / warps_k;
    const uint32_t warp_units = c.slot().step.warp_units, units = c.slot().step.blocks * 4, first = kw * warp_units;
    const uint32_t mine = first < units ? min(warp_units, units - first) : 0;
    const bool normed = c.slot().step.norm_slot != SLOT_COUNT, held = warp_units <= HELD;
    float squares = 0;
    Chunks chunks = {c.slot().at.page, c.slot().at.page_lo, c.slot().at.page_hi, 0, false};
    Cursor cursor;
    cursor.begin(c.slot().step, lane_strip, first / 4);
    {
        const Slot &slot = c.slot();
        const uint64_t in =
            c.p->slab + slot.step.in + (slot.at.key > 0 ? (uint64_t)slot.at.key * slot.step.in_item : 0);
        const uint64_t norm = normed ? slot.layer.weight[slot.step.norm_slot] : 0;
        const uint32_t k = slot.step.k,
                       strips = (slot.at.hi - slot.at.lo + slot.step.strip_outputs - 1) / slot.step.strip_outputs;
        Quad weights[HELD]; // on their way before the inputs
#pragma unroll
        for (int i = 0; i < HELD; i++)
            weights[i] = norm_piece(norm, first + i, opaque((uint32_t)(normed && held)) && i < opaque(mine) ? k : 0);
        if (lane_strip < strips && mine) chunks.seek(c, cursor.chunk); // the weights are ahead
        c.wait_ready();
        Raw<WIDE> raw[HELD];
#pragma unroll
        for (int i = 0; i < HELD; i++)
            raw[i].load(in, slot.step, first + i, opaque((uint32_t)held) && i < opaque(mine));
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            squares += raw[i].squares();
            x[i] = raw[i].operands(normed, weights[i]);
        }
        if (normed) squares = quad_sum(squares);
    }
    for (;;) {
        const Slot &slot = c.slot();
        const EngineStep &step = slot.step;
        const Instruction &at = slot.at;
        if (normed && held && t == 0) c.s->squares[c.number % SLOTS][c.warp][lane_id() >> 2] = squares;
        const uint32_t strips = (at.hi - at.lo + step.strip_outputs - 1) / step.strip_outputs,
                       block_bytes = step.block_bytes, op = step.op;
        for (uint32_t strip = lane_strip; strip < strips; strip += lanes) {
            float sum[2][4] = {}; // two chains of products
            if (strip != lane_strip) cursor.advance(step, strip, lanes);
            for (uint32_t base = 0; base < mine; base += HELD) {
                if (!held) {
#pragma unroll
                    for (int i = 0; i < HELD; i++) {
                        Raw<WIDE> raw;
                        raw.load(c.p->slab + step.in + (at.key > 0 ? (uint64_t)at.key * step.in_item : 0), step,
                                 first + base + i, base + i < opaque(mine));
                        const Quad weight =
                            norm_piece(normed ? slot.layer.weight[step.norm_slot] : 0, first + base + i,
                                       opaque((uint32_t)normed) && base + i < opaque(mine) ? step.k : 0);
                        if (strip == lane_strip) squares += raw.squares();
                        x[i] = raw.operands(normed, weight);
                    }
                }
                const uint32_t end = min(mine - base, (uint32_t)HELD), from = first + base;
                for (uint32_t done = 0; done < end;) { // chunk by chunk
                    const uint32_t until = min(end, done + (cursor.room - cursor.block) * 4 - (from + done) % 4);
                    const uint32_t address = chunks.seek(c, cursor.chunk) + cursor.offset + cursor.block * block_bytes;
                    if (Model::USES_BF16 && op == RUN_LINEAR_BF16)
                        multiply_units<WeightBf16, WIDE, HELD>(sum, address, done, until, from, x);
                    if (Model::USES_FP8 && op == RUN_LINEAR_FP8)
                        multiply_units<WeightFp8, WIDE, HELD>(sum, address, done, until, from, x);
                    if (Model::USES_MXFP4 && op == RUN_LINEAR_MXFP4)
                        multiply_units<WeightMxfp4, WIDE, HELD>(sum, address, done, until, from, x);
                    if (Model::USES_F32 && op == RUN_LINEAR_F32)
                        multiply_units<WeightF32, WIDE, HELD>(sum, address, done, until, from, x);
                    cursor.block += (from + until) / 4 - (from + done) / 4;
                    done = until;
                    if (cursor.block == cursor.room) cursor.block = 0, cursor.chunk++;
                }
            }
            if (normed && !held && strip == 0) { // inputs that are read anew for each strip: their squares once
                squares = quad_sum(squares);
                if (t == 0) c.s->squares[c.number % SLOTS][c.warp][lane_id() >> 2] = squares;
            }
            const uint32_t n = c.strips + strip, place = n % STRIP_SLOTS;
            barrier_wait(c.who, c.s->strip_free[place], (n / STRIP_SLOTS & 1) ^ 1);
            float4 *to = reinterpret_cast<float4 *>(c.s->partial[place][kw]) + lane_id();
            *to =
                make_float4(sum[0][0] + sum[1][0], sum[0][1] + sum[1][1], sum[0][2] + sum[1][2], sum[0][3] + sum[1][3]);
            barrier_arrive_many(shared_address(&c.s->strip_full[place]), lanes);
        }
        while (chunks.next < at.chunks) chunks.release(c);
        c.strips += strips;
        c.leave();
        c.wait_posted();
        const Slot &next = c.slot();
        if (!held || next.step.op != op || next.at.input != input || next.at.round != round || next.at.skip) return;
        chunks = {next.at.page, next.at.page_lo, next.at.page_hi, 0, false};
        cursor.begin(next.step, lane_strip, first / 4);
        c.wait_ready();
    }
}
#endif
