// allreduce: sums over ranks inside a kernel that stays for many iterations (allreduce.h). A thread has the same quads
// on every rank, in registers: it sends its summands, polls for those of the others, and goes on from their sum.
#ifndef TILEGEN_ALLREDUCE_CUH
#define TILEGEN_ALLREDUCE_CUH
#include "allreduce.h"
#include "ptx.cuh"

DEVICE void store_quad_system(uint64_t at, const Quad &v) {
    asm volatile("st.relaxed.sys.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(at), "r"(v.x), "r"(v.y), "r"(v.z),
                 "r"(v.w)
                 : "memory");
}

template <bool FLOATS, bool FLAGS, int QUADS, int RANKS> struct Reduction {
    enum { WORDS = FLAGS ? 2 : 4 }; // of a quad that are summands
    struct Words {
        uint32_t at[WORDS];
    };
    const AllReduce *a;
    uint64_t windows[RANKS], stride; // bytes that a rank has in a slot
    uint32_t rank, number;           // of the iteration, from 1
    uint32_t place[QUADS], owner[QUADS];
    bool there[QUADS];
    Words key[QUADS], sum[QUADS];
    uint64_t slot; // bytes before it
    bool dead;

    DEVICE uint64_t inbox(int of, uint32_t from, int j) const {
        return windows[of] + slot + from * stride + (uint64_t)place[j] * ALLREDUCE_QUAD;
    }
    DEVICE uint64_t mine(uint32_t from, int j) const {
        return a->windows[rank] + slot + from * stride + (uint64_t)place[j] * ALLREDUCE_QUAD;
    }
    DEVICE Quad quad_of(const Words &w) const {
        return FLAGS ? Quad{w.at[0], number, w.at[1], number}
                     : Quad{w.at[0], w.at[1], w.at[WORDS - 2], w.at[WORDS - 1]};
    }
    DEVICE Words words_of(const Quad &q) const {
        Words w;
        w.at[0] = q.x, w.at[1] = FLAGS ? q.z : q.y;
        if (!FLAGS) w.at[WORDS - 2] = q.z, w.at[WORDS - 1] = q.w;
        return w;
    }
    DEVICE bool ready(const Quad &q) const {
        if (FLAGS) return q.y == number && q.w == number;
        return q.x != ALLREDUCE_EMPTY && q.y != ALLREDUCE_EMPTY && q.z != ALLREDUCE_EMPTY && q.w != ALLREDUCE_EMPTY;
    }
    DEVICE void empty(uint32_t from, int j) const {
        if (!FLAGS)
            store_quad_system(mine(from, j), Quad{ALLREDUCE_EMPTY, ALLREDUCE_EMPTY, ALLREDUCE_EMPTY, ALLREDUCE_EMPTY});
    }
    DEVICE Words summand(int j) const {
        Words w;
#pragma unroll
        for (int i = 0; i < WORDS; i++) w.at[i] = allreduce_summand(FLOATS, key[j].at[i], sum[j].at[i]);
        return w;
    }

    // Bounded: looks at the clock now and then.
    DEVICE bool waits(uint32_t &spins, uint64_t &since, uint32_t from, uint32_t quad) {
        if (++spins & 1023) return true;
        const uint64_t now = nanoseconds();
        if (!since) since = now;
        if (now - since < a->patience) return true;
        AllReduceFailure *f = pointer<AllReduceFailure>(a->failure);
        if (atomicExch(&f->set, 1u) == 0) f->iteration = number, f->rank = from, f->quad = quad;
        dead = true;
        return false;
    }

    // Sums of `parts` in rank order, one of them this rank's own summand.
    DEVICE void add(const Words (&parts)[RANKS], Words &out) const {
#pragma unroll
        for (int i = 0; i < WORDS; i++) {
            if (FLOATS) {
                float total = __uint_as_float(parts[0].at[i]);
#pragma unroll
                for (int r = 1; r < RANKS; r++) total += __uint_as_float(parts[r].at[i]);
                out.at[i] = __float_as_uint(total);
            } else {
                float low = bf16_low(parts[0].at[i]), high = bf16_high(parts[0].at[i]);
#pragma unroll
                for (int r = 1; r < RANKS; r++) low += bf16_low(parts[r].at[i]), high += bf16_high(parts[r].at[i]);
                out.at[i] = bf16_pair(low, high);
            }
        }
    }

    // A quad of every other rank, and the sum. They are asked for together, so a look costs one trip to L2.
    template <int COUNT> DEVICE void gather(const int first) {
        Quad got[COUNT][RANKS];
        uint32_t spins = 0;
        uint64_t since = 0;
        for (bool all = false; !all;) {
#pragma unroll
            for (int j = 0; j < COUNT; j++)
#pragma unroll
                for (int r = 0; r < RANKS; r++)
                    if (r != (int)rank && there[first + j]) got[j][r] = load_quad_system(mine(r, first + j));
            all = true;
#pragma unroll
            for (int j = 0; j < COUNT; j++)
#pragma unroll
                for (int r = 0; r < RANKS; r++)
                    if (r != (int)rank && there[first + j]) all = all && ready(got[j][r]);
            if (!all && !waits(spins, since, RANKS == 2 ? 1 - rank : RANKS, place[first])) return;
        }
#pragma unroll
        for (int j = 0; j < COUNT; j++) {
            if (!there[first + j]) continue;
            Words parts[RANKS];
            const Words own = summand(first + j);
#pragma unroll
            for (int r = 0; r < RANKS; r++) parts[r] = r == (int)rank ? own : words_of(got[j][r]);
            add(parts, sum[first + j]);
        }
    }
    DEVICE void empty_gathered(int j) const {
#pragma unroll
        for (int r = 0; r < RANKS; r++)
            if (r != (int)rank && there[j]) empty(r, j);
    }
    DEVICE void send_all(const Words &w, int j) const {
        const Quad q = quad_of(w);
#pragma unroll
        for (int r = 0; r < RANKS; r++)
            if (r != (int)rank && there[j]) store_quad_system(inbox(r, rank, j), q);
    }

    DEVICE void one_shot() {
#pragma unroll
        for (int j = 0; j < QUADS; j++) send_all(summand(j), j);
        if (RANKS <= 4) gather<QUADS>(0);
#pragma unroll
        for (int j = 0; j < QUADS && RANKS > 4; j++) gather<1>(j); // registers
#pragma unroll
        for (int j = 0; j < QUADS; j++) empty_gathered(j);
    }

    DEVICE void two_steps() {
#pragma unroll
        for (int j = 0; j < QUADS; j++)
            if (there[j] && owner[j] != rank)
                store_quad_system(a->windows[owner[j]] + slot + rank * stride + (uint64_t)place[j] * ALLREDUCE_QUAD,
                                  quad_of(summand(j)));
#pragma unroll
        for (int j = 0; j < QUADS; j++) {
            if (owner[j] != rank) continue;
            gather<1>(j);
            send_all(sum[j], j);
            empty_gathered(j);
        }
        Quad got[QUADS];
        uint32_t spins = 0;
        uint64_t since = 0;
        for (bool all = false; !all;) {
#pragma unroll
            for (int j = 0; j < QUADS; j++)
                if (there[j] && owner[j] != rank) got[j] = load_quad_system(mine(owner[j], j));
            all = true;
#pragma unroll
            for (int j = 0; j < QUADS; j++)
                if (there[j] && owner[j] != rank) all = all && ready(got[j]);
            if (!all && !waits(spins, since, owner[0], place[0])) return;
        }
#pragma unroll
        for (int j = 0; j < QUADS; j++)
            if (there[j] && owner[j] != rank) sum[j] = words_of(got[j]), empty(owner[j], j);
    }

    // As an all-reduce leaves its result.
    DEVICE void keep() const {
#pragma unroll
        for (int j = 0; j < QUADS; j++) {
            if (!there[j]) continue;
            uint32_t *to = pointer<uint32_t>(a->out) + place[j] * WORDS;
            if (FLAGS)
                *reinterpret_cast<uint2 *>(to) = make_uint2(sum[j].at[0], sum[j].at[1]);
            else
                *reinterpret_cast<uint4 *>(to) =
                    make_uint4(sum[j].at[0], sum[j].at[1], sum[j].at[WORDS - 2], sum[j].at[WORDS - 1]);
        }
    }

    // All blocks of this rank. The block is together before and after.
    DEVICE void meet() {
        if (threadIdx.x == 0) {
            uint32_t *counter = pointer<uint32_t>(a->meeting), spins = 0;
            uint64_t since = 0;
            add_release(counter, 1);
            while (load_acquire(counter) < number * gridDim.x && waits(spins, since, ~0u, 0)) {}
        }
    }

    DEVICE void run(const AllReduce &given) {
        a = &given;
        rank = a->rank, number = 0, slot = 0, dead = false;
        stride = (uint64_t)a->quads * ALLREDUCE_QUAD;
        uint64_t *times = pointer<uint64_t>(a->times) + 2 * blockIdx.x;
#pragma unroll
        for (int r = 0; r < RANKS; r++) windows[r] = a->windows[r];
#pragma unroll
        for (int j = 0; j < QUADS; j++) {
            // Warps go round the blocks, so that few quads are spread over all SMs.
            const uint32_t warp = (j * (blockDim.x / 32) + threadIdx.x / 32) * gridDim.x + blockIdx.x;
            place[j] = warp * 32 + threadIdx.x % 32;
            there[j] = place[j] < a->quads;
            owner[j] = warp % RANKS;
#pragma unroll
            for (int i = 0; i < WORDS; i++) key[j].at[i] = allreduce_key(rank, place[j] * WORDS + i), sum[j].at[i] = 0;
        }
        for (uint32_t turn = 0; number < a->iterations; turn = turn + 1 == ALLREDUCE_SLOTS ? 0 : turn + 1) {
            if (number == a->warm && threadIdx.x == 0) times[0] = nanoseconds();
            slot = turn * RANKS * stride;
            number++;
            if (a->two_steps)
                two_steps();
            else
                one_shot();
            keep();
            if (__syncthreads_or(dead)) return;
            if (!a->meets) continue;
            meet();
            if (__syncthreads_or(dead)) return;
        }
        if (threadIdx.x == 0) times[1] = nanoseconds();
    }
};

// Behind a Model.
#define ALLREDUCE_KERNEL(word, ready, quads)                                                                           \
    extern "C" __global__ void __launch_bounds__(ALLREDUCE_THREADS, 1)                                                 \
        ALLREDUCE_NAME(word, ready, quads)(const __grid_constant__ AllReduce a) {                                      \
        Reduction<ALLREDUCE_##word, ALLREDUCE_##ready, quads, Model::RANKS> reduction;                                 \
        reduction.run(a);                                                                                              \
    }
#endif
