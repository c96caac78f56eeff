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
        who.instance = at.instance, who.step = at.body_step, who.lo = at.lo, who.hi = at.hi;
    }
    DEVICE void wait_ready() { barrier_wait(who, s->ready[number % SLOTS], number / SLOTS & 1, WAITER_RING); }
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

enum { HELD_BLOCKS = 6 }; // blocks whose inputs a warp holds in registers: 6 x 8 warps x 128 = 6144 inputs

// 32 inputs from k on of row g, as pairs; zero past the end.
static DEVICE void load_inputs(uint32_t (&x)[16], uint64_t in, const EngineStep &step, uint32_t k) {
    int g = lane_id() >> 2;
    uint32_t left = k < step.k ? step.k - k : 0;
    if (step.in_slab_k) in += (uint64_t)(k / step.in_slab_k) * step.in_slab, k %= step.in_slab_k;
    const char *at = pointer<const char>(in) + (uint64_t)g * step.in_row + (uint64_t)k * 2;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        Quad q = {0, 0, 0, 0};
        if (8u * i < left) q = global_quad(at + i * 16);
        x[4 * i] = q.x, x[4 * i + 1] = q.y, x[4 * i + 2] = q.z, x[4 * i + 3] = q.w;
    }
}

static DEVICE void load_norm(uint32_t (&w)[16], uint64_t norm, uint32_t k, uint32_t end) {
    const char *at = pointer<const char>(norm) + (uint64_t)k * 2;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        Quad q = {0, 0, 0, 0};
        if (k + 8 * i < end) q = global_quad(at + i * 16);
        w[4 * i] = q.x, w[4 * i + 1] = q.y, w[4 * i + 2] = q.z, w[4 * i + 3] = q.w;
    }
}

// Runs the instruction at hand and those after it that are of the same dtype and read the same inputs.
template <class Weight> static DEVICE void linear(Compute &c) {
    uint32_t x[HELD_BLOCKS][16];
    float squares = 0;
    const uint32_t input = c.slot().at.input, round = c.slot().at.round;
    for (bool first = true;; first = false) {
        const Slot &slot = c.slot();
        const EngineStep step = slot.step;
        const Instruction &at = slot.at;
        const uint32_t kw = c.warp & (step.warps_k - 1), lanes = COMPUTE_WARPS / step.warps_k, lane_strip = c.warp / step.warps_k;
        const uint32_t first_block = kw * step.warp_blocks, t = lane_id() & 3;
        const bool normed = step.norm_slot != SLOT_COUNT, held = step.warp_blocks <= HELD_BLOCKS;
        const uint64_t in = c.p->slab + step.in + (at.key > 0 ? (uint64_t)at.key * step.in_item : 0);
        const uint64_t norm = normed ? slot.layer.weight[step.norm_slot] : 0;
        uint32_t early[16];
        if (first && normed) load_norm(early, norm, first_block * BLOCK_K + 32 * t, step.k);
        c.wait_ready();
        if (first && held) {
#pragma unroll
            for (int b = 0; b < HELD_BLOCKS; b++)
                if (b < step.warp_blocks) load_inputs(x[b], in, step, (first_block + b) * BLOCK_K + 32 * t);
            if (normed) {
#pragma unroll
                for (int b = 0; b < HELD_BLOCKS; b++) {
                    if (b >= step.warp_blocks) continue;
                    if (b) load_norm(early, norm, (first_block + b) * BLOCK_K + 32 * t, step.k);
#pragma unroll
                    for (int i = 0; i < 16; i++) {
                        float low = bf16_low(x[b][i]), high = bf16_high(x[b][i]);
                        squares += low * low;
                        squares += high * high;
                        x[b][i] = bf16_mul2(x[b][i], early[i]);
                    }
                }
                squares = quad_sum(squares);
            }
        }
        if (normed && t == 0 && lane_strip == 0 && held)
            c.s->squares[c.number % SLOTS][kw][lane_id() >> 2] = squares;

        Chunks chunks = {at.page, at.page_lo, at.page_hi, 0, false};
        const uint32_t strips = (at.hi - at.lo + step.strip_outputs - 1) / step.strip_outputs;
        const uint32_t strip_bytes = step.blocks * Weight::BYTES;
        for (uint32_t strip = lane_strip; strip < strips; strip += lanes) {
            float sum[4] = {0, 0, 0, 0};
            // The block's place: chunk and block in it.
            uint32_t chunk, block;
            if (step.chunks_of_strip > 1) {
                chunk = first_block / step.chunk_blocks;
                block = first_block - chunk * step.chunk_blocks;
                chunk += strip * step.chunks_of_strip;
            } else {
                chunk = strip / step.strips_of_chunk;
                block = first_block;
            }
            const uint32_t offset = step.chunks_of_strip > 1 ? 0 : strip % step.strips_of_chunk * strip_bytes;
            for (uint32_t base = 0; base < step.warp_blocks; base += HELD_BLOCKS) {
                if (!held) {
#pragma unroll
                    for (int b = 0; b < HELD_BLOCKS; b++)
                        if (base + b < step.warp_blocks)
                            load_inputs(x[b], in, step, (first_block + base + b) * BLOCK_K + 32 * t);
                }
#pragma unroll
                for (int b = 0; b < HELD_BLOCKS; b++) {
                    if (base + b >= step.warp_blocks || first_block + base + b >= step.blocks) continue;
                    uint32_t address = chunks.seek(c, chunk) + offset + block * Weight::BYTES;
                    Weight::multiply(sum, address, x[b]);
                    if (step.chunks_of_strip > 1 && ++block == step.chunk_blocks)
                        block = 0, chunk++;
                    else if (step.chunks_of_strip == 1)
                        block++;
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
    }
}
#endif
