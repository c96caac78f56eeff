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
        barrier_wait(who, s->posted[number % SLOTS], number / SLOTS & 1, WAITER_RING);
        const Instruction &at = slot().at;
        who.at(at.instance, at.body_step, at.lo, at.hi);
    }
    DEVICE void wait_ready() {
        barrier_wait(who, s->ready[number % SLOTS], number / SLOTS & 1, WAITER_RING);
        if (warp == 0) trace_begin(*p, number);
    }
    DEVICE void leave() { // this warp is done with the instruction
        __syncwarp();
        if (lane_id() == 0) barrier_arrive(shared_address(&s->freed[number % SLOTS]));
        number++;
    }
    // Every partial sum has been read: `partial` may be used for other things.
    DEVICE void drain() {
        for (uint32_t i = strips > STRIP_SLOTS ? strips - STRIP_SLOTS : 0; i < strips; i++)
            barrier_wait(who, s->strip_free[i % STRIP_SLOTS], i / STRIP_SLOTS & 1, WAITER_RING);
    }
};

// The pages of a task, chunk by chunk; every warp waits for each and releases each.
struct Chunks {
    uint32_t page, page_lo, page_hi, next; // next: the chunk that the warp is at
    bool held;                             // its page has been waited for
    DEVICE void wait(Compute &c) {
        if (held) return;
        barrier_wait(c.who, c.s->full[page], c.phases >> page & 1, WAITER_PAGE);
        held = true;
    }
    DEVICE void release(Compute &c) {
        wait(c);
        __syncwarp();
        if (lane_id() == 0) barrier_arrive(shared_address(&c.s->empty[page]));
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

// 32 norm weights from k on, as pairs; zero past the end.
static DEVICE void load_norm(uint32_t (&w)[16], uint64_t norm, uint32_t k, uint32_t end) {
    const char *at = pointer<const char>(norm) + (uint64_t)k * 2;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        Quad q = {0, 0, 0, 0};
        if (k + 8 * i < end) q = global_quad(at + i * 16);
        w[4 * i] = q.x, w[4 * i + 1] = q.y, w[4 * i + 2] = q.z, w[4 * i + 3] = q.w;
    }
}

// Where the first piece of inputs 32t .. 32t + 31 of the block at k (a multiple of 128) of row g lies.
template <bool WIDE> static DEVICE const char *input_at(uint64_t in, const EngineStep &step, uint32_t k) {
    if (step.in_slab_k) in += (uint64_t)(k / step.in_slab_k) * step.in_slab, k %= step.in_slab_k;
    return pointer<const char>(in) + (uint64_t)(lane_id() >> 2) * step.in_row + (uint64_t)k * Activations<WIDE>::BYTES + (lane_id() & 3) * 16;
}

// Inputs 32t .. 32t + 31 of the block at k of row g as they lie, zero past the end and where not `wanted`.
template <bool WIDE> struct Raw {
    uint32_t word[WIDE ? 32 : 16];
    DEVICE void load(uint64_t in, const EngineStep &step, uint32_t k, bool wanted) {
        const uint32_t mine = k + 32 * (lane_id() & 3), left = wanted && mine < step.k ? step.k - mine : 0;
        const char *at = input_at<WIDE>(in, step, wanted && k < step.k ? k : 0);
        constexpr int PIECE = 16 / Activations<WIDE>::BYTES;
#pragma unroll
        for (int i = 0; i < 32 / PIECE; i++) {
            Quad q = {0, 0, 0, 0};
            if (PIECE * i < left) q = global_quad(at + i * 64);
            word[4 * i] = q.x, word[4 * i + 1] = q.y, word[4 * i + 2] = q.z, word[4 * i + 3] = q.w;
        }
    }
    DEVICE float squares() const {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < (WIDE ? 32 : 16); i++) {
            if (WIDE)
                sum += __uint_as_float(word[i]) * __uint_as_float(word[i]);
            else {
                const float low = bf16_low(word[i]), high = bf16_high(word[i]);
                sum += low * low;
                sum += high * high;
            }
        }
        return sum;
    }
    // As operands of the products: times the norm's weights where there are any.
    DEVICE void operands(uint32_t (&x)[16], uint32_t (&low)[WIDE ? 16 : 1], bool normed, const uint32_t (&norm)[16]) const {
#pragma unroll
        for (int i = 0; i < 16; i++) {
            if constexpr (WIDE) {
                float a = __uint_as_float(word[2 * i]), b = __uint_as_float(word[2 * i + 1]);
                if (normed) a *= bf16_low(norm[i]), b *= bf16_high(norm[i]);
                x[i] = bf16_pair(a, b);
                low[i] = bf16_pair(a - bf16_low(x[i]), b - bf16_high(x[i]));
            } else
                x[i] = normed ? bf16_mul2(word[i], norm[i]) : word[i];
        }
    }
};

template <class Weight, bool WIDE, int HELD_BLOCKS>
static DEVICE void multiply_blocks(float (&sum)[4], uint32_t address, uint32_t from, uint32_t until, const uint32_t (&x)[HELD_BLOCKS][16], const uint32_t (&low)[HELD_BLOCKS][WIDE ? 16 : 1]) {
#pragma unroll
    for (int b = 0; b < HELD_BLOCKS; b++)
        if (b >= from && b < until) Weight::template multiply<WIDE>(sum, address + (b - from) * Weight::BYTES, x[b], low[b]);
}

// Runs the instruction at hand and those after it that are of the same dtype and read the same inputs.
//
// Every register of `x` is set on every path: one that is not would stay alive through all of the kernel's loop.
template <class Model> static DEVICE void linear(Compute &c) {
    constexpr int HELD_BLOCKS = Model::HELD_BLOCKS;
    constexpr bool WIDE = Model::WIDE;
    uint32_t x[HELD_BLOCKS][16], low[HELD_BLOCKS][WIDE ? 16 : 1], early[16];
    const uint32_t input = c.slot().at.input, round = c.slot().at.round, t = lane_id() & 3;
    const uint32_t warps_k = c.slot().step.warps_k, kw = c.warp & (warps_k - 1), lanes = COMPUTE_WARPS / warps_k, lane_strip = c.warp / warps_k;
    const uint32_t warp_blocks = c.slot().step.warp_blocks, first_block = kw * warp_blocks;
    const bool normed = c.slot().step.norm_slot != SLOT_COUNT, held = warp_blocks <= HELD_BLOCKS;
    float squares = 0;
    {
        const Slot &slot = c.slot();
        const uint64_t in = c.p->slab + slot.step.in + (slot.at.key > 0 ? (uint64_t)slot.at.key * slot.step.in_item : 0);
        const uint64_t norm = normed ? slot.layer.weight[slot.step.norm_slot] : 0;
        load_norm(early, norm, first_block * BLOCK_K + 32 * t, normed ? slot.step.k : 0);
        c.wait_ready();
        if constexpr (!WIDE) { // all on their way before the first is used
#pragma unroll
            for (int b = 0; b < HELD_BLOCKS; b++) {
                Raw<WIDE> raw;
                raw.load(in, slot.step, (first_block + b) * BLOCK_K, held && b < warp_blocks);
#pragma unroll
                for (int i = 0; i < 16; i++) x[b][i] = raw.word[i];
            }
        }
#pragma unroll
        for (int b = 0; b < HELD_BLOCKS; b++) {
            Raw<WIDE> raw;
            if constexpr (WIDE)
                raw.load(in, slot.step, (first_block + b) * BLOCK_K, held && b < warp_blocks);
            else {
#pragma unroll
                for (int i = 0; i < 16; i++) raw.word[i] = x[b][i];
            }
            if (b) load_norm(early, norm, (first_block + b) * BLOCK_K + 32 * t, normed && b < warp_blocks ? slot.step.k : 0);
            squares += raw.squares();
            raw.operands(x[b], low[b], normed, early);
        }
        squares = quad_sum(squares);
    }
    for (;;) {
        const Slot &slot = c.slot();
        const EngineStep &step = slot.step;
        const Instruction &at = slot.at;
        if (normed && t == 0 && lane_strip == 0) c.s->squares[c.number % SLOTS][kw][lane_id() >> 2] = squares;
        Chunks chunks = {at.page, at.page_lo, at.page_hi, 0, false};
        const uint32_t strips = (at.hi - at.lo + step.strip_outputs - 1) / step.strip_outputs;
        const uint32_t strip_bytes = step.strip_bytes, block_bytes = step.block_bytes;
        for (uint32_t strip = lane_strip; strip < strips; strip += lanes) {
            float sum[4] = {0, 0, 0, 0};
            // A strip in several chunks: which, and which block of it. Else the strip's place in its chunk.
            const bool cut = step.chunks_of_strip > 1;
            uint32_t chunk = cut ? first_block / step.chunk_blocks : strip / step.strips_of_chunk;
            uint32_t block = cut ? first_block - chunk * step.chunk_blocks : first_block;
            const uint32_t room = cut ? step.chunk_blocks : step.blocks;
            const uint32_t offset = cut ? 0 : strip % step.strips_of_chunk * strip_bytes;
            if (cut) chunk += strip * step.chunks_of_strip;
            const uint32_t mine = first_block < step.blocks ? min(step.warp_blocks, step.blocks - first_block) : 0;
            for (uint32_t base = 0; base < mine; base += HELD_BLOCKS) {
                if (!held) {
#pragma unroll
                    for (int b = 0; b < HELD_BLOCKS; b++) {
                        Raw<WIDE> raw;
                        raw.load(c.p->slab + step.in, step, (first_block + base + b) * BLOCK_K, base + b < mine);
                        raw.operands(x[b], low[b], false, early);
                    }
                }
                const uint32_t end = min(mine - base, (uint32_t)HELD_BLOCKS);
                for (uint32_t done = 0; done < end;) { // chunk by chunk
                    const uint32_t until = min(end, done + room - block);
                    const uint32_t address = chunks.seek(c, chunk) + offset + block * block_bytes, op = step.op;
                    if (Model::USES_BF16 && op == RUN_LINEAR_BF16) multiply_blocks<WeightBf16, WIDE, HELD_BLOCKS>(sum, address, done, until, x, low);
                    if (Model::USES_FP8 && op == RUN_LINEAR_FP8) multiply_blocks<WeightFp8, WIDE, HELD_BLOCKS>(sum, address, done, until, x, low);
                    if (Model::USES_MXFP4 && op == RUN_LINEAR_MXFP4) multiply_blocks<WeightMxfp4, WIDE, HELD_BLOCKS>(sum, address, done, until, x, low);
                    if (Model::USES_F32 && op == RUN_LINEAR_F32) multiply_blocks<WeightF32, WIDE, HELD_BLOCKS>(sum, address, done, until, x, low);
                    block += until - done;
                    done = until;
                    if (block == room) block = 0, chunk++;
                }
            }
            const uint32_t n = c.strips + strip, place = n % STRIP_SLOTS;
            barrier_wait(c.who, c.s->strip_free[place], (n / STRIP_SLOTS & 1) ^ 1, WAITER_RING);
            float4 *to = reinterpret_cast<float4 *>(c.s->partial[place][kw]) + lane_id();
            *to = make_float4(sum[0], sum[1], sum[2], sum[3]);
            __syncwarp();
            if (lane_id() == 0) barrier_arrive_many(shared_address(&c.s->strip_full[place]), lanes);
        }
        while (chunks.next < at.chunks) chunks.release(c);
        c.strips += strips;
        const uint32_t op = step.op;
        c.leave();
        c.wait_posted();
        const Slot &next = c.slot();
        if (!held || next.step.op != op || next.at.input != input || next.at.round != round || next.at.skip) return;
        c.wait_ready();
    }
}
#endif
