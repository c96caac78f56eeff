// bench: what a bench runs beside the engine, before it is launched: a kernel that fills a segment of weights or a
// cache at random, and one that reads weights as fast as the memory gives them.
#ifndef TILEGEN_BENCH_CUH
#define TILEGEN_BENCH_CUH
#include "ptx.cuh"
#include "synthetic.h"

DEVICE void fill_segment(const EngineFill &fill) {
    const uint64_t stride = (uint64_t)gridDim.x * FILL_THREADS;
    for (uint64_t quad = (uint64_t)blockIdx.x * FILL_THREADS + threadIdx.x; quad < fill.quads; quad += stride) {
        uint32_t words[4];
        fill_quad(&fill, quad, words);
        pointer<uint4>(fill.at)[quad] = make_uint4(words[0], words[1], words[2], words[3]);
    }
}

// Chunks go round the blocks. One thread issues them into a ring of shared memory; nobody looks at what arrives.
DEVICE void stream_read(const EngineStream &stream) {
    extern __shared__ __align__(128) char pages[];
    __shared__ uint64_t full[STREAM_STAGES];
    if (threadIdx.x != 0 || blockIdx.x >= stream.chunks) return;
    const uint64_t mine = (stream.chunks - blockIdx.x + gridDim.x - 1) / gridDim.x, policy = policy_stream();
    const uint32_t at = shared_address(pages), barriers = shared_address(full);
    for (uint32_t i = 0; i < STREAM_STAGES; i++) barrier_init(barriers + 8 * i, 1);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    for (uint64_t i = 0; i < mine + STREAM_STAGES; i++) {
        const uint32_t stage = (uint32_t)(i % STREAM_STAGES), turn = (uint32_t)(i / STREAM_STAGES);
        if (turn > 0 && i - STREAM_STAGES < mine)
            while (!barrier_try(barriers + 8 * stage, (turn - 1) & 1)) {}
        if (i >= mine) continue;
        barrier_expect(barriers + 8 * stage, STREAM_CHUNK);
        bulk_copy(at + stage * STREAM_CHUNK, stream.at + (blockIdx.x + i * gridDim.x) * STREAM_CHUNK, STREAM_CHUNK,
                  barriers + 8 * stage, policy);
    }
}
#endif
