// ptx: the instructions that C++ has no name for, one function each. Shared-memory addresses are 32-bit.
#ifndef TILEGEN_PTX_CUH
#define TILEGEN_PTX_CUH
#include "abi.h"
// Lanes of a warp that arrive at a barrier of shared memory: all, which compute-sanitizer follows, or one for all. A
// kernel of many weights says 1 (emit.c): there the arrivals of all lanes take as long as the products.
#ifndef ENGINE_ARRIVALS
#define ENGINE_ARRIVALS 32
#endif
#define DEVICE __device__ __forceinline__

struct alignas(16) Quad {
    uint32_t x, y, z, w;
};
struct Float2 {
    float x, y;
};

template <class T> DEVICE T *pointer(uint64_t address) { return reinterpret_cast<T *>(address); }
DEVICE uint32_t shared_address(const void *p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }
// The same number, opaque: no comparison with it is kept for later. Predicates are few, and spill.
template <class T> DEVICE T opaque(T v) {
    asm volatile("" : "+r"(v));
    return v;
}
DEVICE int lane_id() { return opaque(static_cast<int>(threadIdx.x & 31)); }
DEVICE int worker_id() { return opaque(static_cast<int>(blockIdx.x)); }
DEVICE int warp_id() { return __shfl_sync(~0u, static_cast<int>(threadIdx.x >> 5), 0); }

// ---- mbarriers ----

DEVICE void barrier_init(uint32_t at, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(arrivals) : "memory");
}
// A whole warp arrives, `count` times a thread, after what all of its lanes have done.
DEVICE void warp_arrive(uint32_t at, uint32_t count = 1) {
    if (ENGINE_ARRIVALS == 1) {
        __syncwarp();
        if ((threadIdx.x & 31) != 0) return;
    }
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(count) : "memory");
}
DEVICE void barrier_expect(uint32_t at, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
}
// Has the phase of this parity completed?
DEVICE bool barrier_test(uint32_t at, uint32_t parity) {
    uint32_t done;
    asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(at), "r"(parity)
                 : "memory");
    return done;
}
// The same; waits a little in hardware before it says no.
DEVICE bool barrier_try(uint32_t at, uint32_t parity) {
    uint32_t done;
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(at), "r"(parity)
                 : "memory");
    return done;
}

// ---- Copies ----

DEVICE uint64_t policy_stream() { // weights are read once a round: first to leave L2
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}
// What was read or written by ordinary accesses comes before bulk copies after this.
DEVICE void fence_bulk_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// What ordinary stores left in global memory comes before bulk copies out of it after this.
DEVICE void fence_bulk_sources() { asm volatile("fence.proxy.async.global;" ::: "memory"); }
// Both addresses and the size in multiples of 16; completes on the barrier.
DEVICE void bulk_copy(uint32_t to, uint64_t from, uint32_t bytes, uint32_t barrier, uint64_t policy) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, "
                 "[%3], %4;" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier), "l"(policy)
                 : "memory");
}
DEVICE Quad shared_quad(uint32_t at) {
    Quad v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at));
    return v;
}
DEVICE uint32_t shared_word(uint32_t at) {
    uint32_t v;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at));
    return v;
}
DEVICE void shared_store(uint32_t at, const Quad &v) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
}
DEVICE void shared_store_half(uint32_t at, uint16_t v) {
    asm volatile("st.shared.u16 [%0], %1;" ::"r"(at), "h"(v) : "memory");
}
DEVICE uint32_t shared_half(uint32_t at) {
    uint16_t v;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(at));
    return v;
}
DEVICE Quad global_quad(const void *at) {
    Quad v;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(at)
                 : "memory");
    return v;
}
DEVICE uint2 global_pair(const void *at) { // eight bytes
    uint2 v;
    asm volatile("ld.global.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(at) : "memory");
    return v;
}
DEVICE uint2 shared_pair(uint32_t at) {
    uint2 v;
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(at));
    return v;
}

// ---- Words that other SMs, GPUs or the host write ----

DEVICE uint32_t load_acquire(const uint32_t *at) {
    uint32_t v;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
    return v;
}
DEVICE uint32_t load_relaxed(const uint32_t *at) {
    uint32_t v;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
    return v;
}
DEVICE uint32_t load_acquire_system(const uint32_t *at) {
    uint32_t v;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
    return v;
}
// A counter that other GPUs signal too where FAR.
template <bool FAR> DEVICE uint32_t load_counter(const uint32_t *at) {
    return FAR ? load_acquire_system(at) : load_acquire(at);
}
// Words that say all they have to say by themselves.
DEVICE uint32_t load_relaxed_system(const uint32_t *at) {
    uint32_t v;
    asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
    return v;
}
DEVICE uint64_t load_relaxed_system(const uint64_t *at) {
    uint64_t v;
    asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(v) : "l"(at) : "memory");
    return v;
}
DEVICE Quad load_quad_system(uint64_t at) {
    Quad v;
    asm volatile("ld.relaxed.sys.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(at)
                 : "memory");
    return v;
}
DEVICE void store_relaxed_system(uint64_t *at, uint64_t v) {
    asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(at), "l"(v) : "memory");
}
// Numbers that have one reader each, in buffers that begin as zeros: +0 is none yet. Who sends one sends -0 for it, who
// has read one leaves +0. So a reader need not hear of them otherwise: neither release nor counter is on their way.
DEVICE float as_sent(float v) { return v == 0 ? -0.0f : v; }
DEVICE void send(float *at, float v) {
    asm volatile("st.relaxed.sys.global.f32 [%0], %1;" ::"l"(at), "f"(as_sent(v)) : "memory");
}
DEVICE void send(float2 *at, float2 v) {
    asm volatile("st.relaxed.sys.global.v2.f32 [%0], {%1, %2};" ::"l"(at), "f"(as_sent(v.x)), "f"(as_sent(v.y))
                 : "memory");
}
DEVICE bool is_there(float v) { return __float_as_uint(v) != 0; }
DEVICE bool is_there(const float4 &v) { return is_there(v.x) && is_there(v.y) && is_there(v.z) && is_there(v.w); }
DEVICE float load_sent(const float *at) {
    return __uint_as_float(load_relaxed_system(reinterpret_cast<const uint32_t *>(at)));
}
DEVICE float4 load_sent(const float4 *at) {
    const Quad v = load_quad_system(reinterpret_cast<uint64_t>(at));
    return make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w));
}
DEVICE uint64_t load_acquire_wide(const uint64_t *at) {
    uint64_t v;
    asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(v) : "l"(at) : "memory");
    return v;
}
DEVICE void store_release_wide(uint64_t *at, uint64_t v) {
    asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(at), "l"(v) : "memory");
}
DEVICE void store_release_system(uint32_t *at, uint32_t v) {
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(at), "r"(v) : "memory");
}
DEVICE void store_relaxed(uint32_t *at, uint32_t v) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(at), "r"(v) : "memory");
}
DEVICE void add_release(uint32_t *at, uint32_t v) {
    asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(at), "r"(v) : "memory");
}
DEVICE void add_release_system(uint32_t *at, uint32_t v) {
    asm volatile("red.release.sys.global.add.u32 [%0], %1;" ::"l"(at), "r"(v) : "memory");
}
DEVICE uint32_t add_relaxed(uint32_t *at, uint32_t v) {
    uint32_t old;
    asm volatile("atom.relaxed.gpu.global.add.u32 %0, [%1], %2;" : "=r"(old) : "l"(at), "r"(v) : "memory");
    return old;
}
DEVICE uint32_t shared_add(uint32_t at, uint32_t v) { // orders what comes before and after it within the block
    uint32_t old;
    asm volatile("atom.acq_rel.cta.shared::cta.add.u32 %0, [%1], %2;" : "=r"(old) : "r"(at), "r"(v) : "memory");
    return old;
}
// Programmatic dependent launch. After the wait all kernels before this one have ended, and what they wrote is seen.
DEVICE void grid_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
// The next kernel's blocks may begin where they find room, once every block has said so or has ended.
DEVICE void grid_release() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
DEVICE uint64_t nanoseconds() {
    uint64_t v;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(v));
    return v;
}

// ---- Numbers ----

DEVICE uint32_t bf16_mul2(uint32_t a, uint32_t b) { // two products, each rounded to nearest even; subnormals kept
    uint32_t v;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(v) : "r"(a), "r"(b));
    return v;
}
DEVICE float bf16_low(uint32_t pair) { return __uint_as_float(pair << 16); }
DEVICE float bf16_high(uint32_t pair) { return __uint_as_float(pair & 0xFFFF0000u); }
DEVICE float bf16_value(uint16_t v) { return __uint_as_float(static_cast<uint32_t>(v) << 16); }
DEVICE uint32_t bf16_pair(float low, float high) {
    uint32_t v;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low));
    return v;
}
DEVICE uint32_t f16_pair(float low, float high) {
    uint32_t v;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low));
    return v;
}
// Four values of e4m3 as two pairs, exactly.
DEVICE uint2 f16_of_e4m3(uint32_t q) {
    uint2 v;
    asm("{\n.reg .b16 low, high;\nmov.b32 {low, high}, %2;\n"
        "cvt.rn.f16x2.e4m3x2 %0, low;\ncvt.rn.f16x2.e4m3x2 %1, high;\n}"
        : "=r"(v.x), "=r"(v.y)
        : "r"(q));
    return v;
}
DEVICE uint16_t bf16_round(float v) { return static_cast<uint16_t>(bf16_pair(v, 0)); }
DEVICE float exp2_fast(float v) {
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
    return r;
}
#define NO_SCORE __int_as_float(0xFF800000) // minus infinity
constexpr float LOG2_E = 1.4426950408889634f;

// An activation as buffers keep it: a float where WIDE, else bf16. Addresses are bytes.
template <bool WIDE> struct Activations {
    enum { BYTES = WIDE ? 4 : 2 };
    // Where input n of a matrix lies in its row (abi.h, ACTIVATIONS).
    static DEVICE int place(int n) {
        const int i = n & (BLOCK_K - 1);
        return n - i + (WIDE ? (i >> 2 & 7) * 16 + (i >> 5) * 4 + (i & 3) : (i >> 3 & 3) * 32 + (i >> 5) * 8 + (i & 7));
    }
    static DEVICE float load(const void *row, int n) {
        return WIDE ? static_cast<const float *>(row)[n] : bf16_value(static_cast<const uint16_t *>(row)[n]);
    }
    static DEVICE void store(void *row, int n, float v) {
        if (WIDE)
            static_cast<float *>(row)[n] = v;
        else
            static_cast<uint16_t *>(row)[n] = bf16_round(v);
    }
    static DEVICE float load_input(const void *row, int n) { return load(row, place(n)); }
    // The same, or four in a row, n a multiple of that, whatever a cache of this SM may have.
    static DEVICE float fresh_input(const void *row, int n) {
        return WIDE ? __ldcg(static_cast<const float *>(row) + place(n))
                    : bf16_value(__ldcg(static_cast<const uint16_t *>(row) + place(n)));
    }
    static DEVICE float4 fresh4_input(const void *row, int n) {
        const char *at = static_cast<const char *>(row) + place(n) * BYTES;
        if (WIDE) return __ldcg(reinterpret_cast<const float4 *>(at));
        const uint2 v = __ldcg(reinterpret_cast<const uint2 *>(at));
        return make_float4(bf16_low(v.x), bf16_high(v.x), bf16_low(v.y), bf16_high(v.y));
    }
    static DEVICE void store_input(void *row, int n, float v) { store(row, place(n), v); }
    // Two or four in a row, n a multiple of that.
    static DEVICE void store2_input(void *row, int n, float2 v) {
        char *at = static_cast<char *>(row) + place(n) * BYTES;
        if (WIDE)
            *reinterpret_cast<float2 *>(at) = v;
        else
            *reinterpret_cast<uint32_t *>(at) = bf16_pair(v.x, v.y);
    }
    static DEVICE void store4_input(void *row, int n, float4 v) {
        char *at = static_cast<char *>(row) + place(n) * BYTES;
        if (WIDE)
            *reinterpret_cast<float4 *>(at) = v;
        else
            *reinterpret_cast<uint2 *>(at) = make_uint2(bf16_pair(v.x, v.y), bf16_pair(v.z, v.w));
    }
    // Eight side by side on their way.
    struct Eight {
        Quad q[WIDE ? 2 : 1];
        DEVICE void load(uint64_t at) {
#pragma unroll
            for (int i = 0; i < (WIDE ? 2 : 1); i++) q[i] = global_quad(pointer<const char>(at) + 16 * i);
        }
        DEVICE void get(float (&v)[8]) const {
            const Quad &a = q[0], &b = q[WIDE ? 1 : 0];
            const uint32_t w[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
            for (int i = 0; i < 8; i++)
                v[i] = WIDE ? __uint_as_float(w[i]) : i & 1 ? bf16_high(w[i / 2]) : bf16_low(w[i / 2]);
        }
    };
};

// d[16 x 8] += a[16 x 16] b[16 x 8], bf16 in, fp32 sums. Column j of d depends on column j of b alone.
DEVICE void mma(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
// The same of f16.
DEVICE void mma_f16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
// Products of a warpgroup: d[64 x 64] += a[64 x 16] b[16 x 64], bf16 in, fp32 sums; d = a b where not `more`. Its warp
// w has rows 16w .. 16w + 15 of a and d, as mma has them. b is in shared memory: column j of inputs 0-7 is 16 bytes,
// eight columns are 128 bytes side by side, the next eight follow; inputs 8-15 are `apart` bytes on.
DEVICE uint64_t group_operand(uint32_t at, uint32_t apart) {
    return (uint64_t)(128 >> 4) << 32 | (uint64_t)(apart >> 4) << 16 | at >> 4;
}
DEVICE void group_mma(float (&d)[32], const uint32_t (&a)[4], uint64_t b, bool more) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, "
                 "%11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, "
                 "%31}, {%32, %33, %34, %35}, %36, p, 1, 1, 0;\n}"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
                   "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
                   "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
                   "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
                   "+f"(d[30]), "+f"(d[31])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((uint32_t)more));
}
// Around them: what was written to their registers before is seen; they are sent off, and awaited.
template <int N> DEVICE void group_keep(float (&v)[N]) { // what is done to them is not moved across
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(v[i])::"memory");
}
template <int N> DEVICE void group_keep(uint32_t (&v)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+r"(v[i])::"memory");
}
DEVICE void group_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void group_end() {
    asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
}
// Sum and maximum over the four lanes of a group 4g .. 4g + 3; every lane gets it.
DEVICE float quad_sum(float v) {
    v += __shfl_xor_sync(~0u, v, 1);
    return v + __shfl_xor_sync(~0u, v, 2);
}
DEVICE float quad_max(float v) {
    v = fmaxf(v, __shfl_xor_sync(~0u, v, 1));
    return fmaxf(v, __shfl_xor_sync(~0u, v, 2));
}
#endif
