// shared: what the warps of a worker (a block) share: pages with their barriers, the instruction slots, partial sums;
// and the waits, which end with a report instead of hanging.
//
// Warps of a worker. Load group: 0 loader (weights into pages), 1 dispatch (fetches entries, waits for their counters,
// fills slots), 2 control (its own queue; on worker 0 the request loop), 3 reporter (sleeps until something is wrong).
// Then eight compute warps, then four finishers, which add up the partial sums of linear ops and write results.
#ifndef TILEGEN_SHARED_CUH
#define TILEGEN_SHARED_CUH
#include "ptx.cuh"
#include "steps.h"

enum {
    COMPUTE_FIRST = 4, // warp
    COMPUTE_WARPS = 8,
    FINISHERS = 4,
    SLOTS = 4,
    STRIP_SLOTS = 4,  // a multiple of FINISHERS: then a place belongs to one of them
    NORM_ROOM = 1024, // inputs of a warp's share whose norm weights are kept
    MAX_PAGES = MOST_PAGES,
    PAGES_FLYING = 2, // a worker's copies on their way, but for a stream's first ones
    MAX_BODIES = 16,
    MAX_INSTANCES = 256,
    ITEM_ROOM = 16,
    POOL_KEYS = 64,
    POOL_MERGED = 4, // tiles of a pool's step that may become one task
    SLOT_SIGNALS = 4,
    ROLES = 3,
    ROLE_LOAD = 0,
    ROLE_COMPUTE = 1,
    ROLE_CONTROL = 2,
};

enum { STEP_WORDS = sizeof(EngineStep) / 4, LAYER_WORDS = sizeof(EngineLayer) / 8 };

struct Instruction {
    uint32_t instance, step, body_step; // step: of the kernel
    int lo, hi, part, key;              // key: -1 outside pools
    uint32_t expert, rows_of_key;       // of a pool's item: the expert, a bit for each row that chose it
    uint32_t page, chunks;              // pages are taken round and round
    uint32_t strips, first_strip;       // of packed weights; those before it, of all tasks that have finishers
    uint32_t tiles;                     // of a pool's step; 0: they come as tickets, each with its first page
    uint32_t in, first_input;           // where a linear op's inputs lie in the slab; the first of a part of them
    uint32_t signal, signal_count;
    EngineSignal signals[SLOT_SIGNALS]; // the first ones
    int start, rows;                    // of the round
    uint32_t skip;                      // do nothing but signal
    uint32_t tap;                       // 1 + drafter's tap, or 0
    uint32_t round;
    uint32_t
        input; // equal, for instructions that follow each other, where they read the same inputs with the same norm
};
struct Slot {
    EngineLayer layer;
    EngineStep step;
    Instruction at;
};

// Of a power of two.
static DEVICE uint32_t log2_of(uint32_t n) { return 31 - __clz(n); }

DEVICE uint32_t pages_address() { // of page 0
    extern __shared__ __align__(128) char pages[];
    return shared_address(pages);
}

struct Gate { // of a round
    uint32_t flags;
    int start, rows;
    uint32_t halt, halt_instance, halt_step;
    DEVICE bool skips(const EngineInstance &i) const {
        return opaque(flags) & (i.segment == 1 ? GATE_SKIP_DRAFT : i.segment == 2 ? GATE_SKIP_CONTEXT : 0);
    }
    DEVICE bool halted(uint32_t instance, uint32_t body_step) const {
        return opaque(halt) && (instance > halt_instance || (instance == halt_instance && body_step > halt_step));
    }
};

// A pool's item on its way from the loader to dispatch.
struct Item {
    EngineEntry entry;
    int key;                                 // -1: no more
    uint32_t expert, chosen_by, page, tiles; // tiles: 0 where they come as tickets
    uint32_t streamed;                       // strips that finishers got in a stream since the item before
};

// A tile of a step that streams: with the first page of its weights from the loader to the compute warps, with its sums
// from these to a finisher.
struct alignas(8) Ticket {
    int lo; // -1: no more
    uint16_t key, rows_of_key;
};

struct Pieces { // where the chunks of a tile come from
    uint64_t from;
    uint32_t chunks, chunks_of_strip, strip_bytes, chunk_bytes, bytes;
    DEVICE void copy(uint32_t chunk, uint64_t &at, uint32_t &size) const {
        if (chunks_of_strip > 1) {
            uint32_t strip = chunk / chunks_of_strip, part = chunk % chunks_of_strip * chunk_bytes;
            at = from + (uint64_t)strip * strip_bytes + part;
            size = min(chunk_bytes, strip_bytes - part);
        } else {
            uint32_t part = chunk * chunk_bytes;
            at = from + part;
            size = min(chunk_bytes, bytes - part);
        }
    }
};
// What the loader knows of a step of a pool.
struct PoolStep {
    EngineEntry first;   // its first tile; `pool`: how many there are of a key
    Pieces pieces;       // of that tile and expert 0
    uint32_t item_bytes; // of an expert
    uint32_t merged;     // tiles that may be one task: where they are whole chunks
    bool claimed, halted, streams;
};

struct Shared {
    EngineTables tables; // here, since everybody needs its offsets all the time
    uint64_t full[MAX_PAGES], empty[MAX_PAGES];
    uint64_t posted[SLOTS], ready[SLOTS], freed[SLOTS];
    uint64_t stored[SLOTS]; // all compute warps have stored what they compute of a direct task
    uint64_t strip_full[STRIP_SLOTS], strip_free[STRIP_SLOTS];
    uint64_t group;
    uint64_t gate_full[2], gate_free[2], item_full[ITEM_ROOM], item_free[ITEM_ROOM];
    Slot slots[SLOTS];
    Instruction control; // what the control warp is at
    EngineInstance instances[MAX_INSTANCES];
    EngineQueue queues[MAX_BODIES * ROLES];
    Gate gates[2];                                       // of rounds by their parity, from dispatch to the loader
    Item items[ITEM_ROOM];                               // from the loader to dispatch
    PoolStep pool[POOL_STEPS];                           // the loader's, of the pool at hand
    uint32_t key_expert[POOL_KEYS], key_rows[POOL_KEYS]; // likewise: the routing
    Ticket loaded[MAX_PAGES], summed[STRIP_SLOTS];       // by page; by the place of the sums
    uint32_t finished[SLOTS], direct[SLOTS];             // finishers done with a task; direct tasks of a place so far
    uint32_t active;                                     // keys of the routing
    uint32_t halts; // a round was halted: what it left is in the way of tasks that start early
    EngineReport waiters[ENGINE_THREADS / 32];
    volatile uint32_t dying;                                      // set when all are to end, and not written before
    alignas(16) float squares[SLOTS][COMPUTE_WARPS][ENGINE_ROWS]; // of the inputs' rows, one share a warp
    alignas(16) float2 ends[COMPUTE_WARPS][16];                   // attention: maximum and sum of each warp's queries
    alignas(
        16) float partial[STRIP_SLOTS][COMPUTE_WARPS][128]; // a strip's sums: rows x tokens as the product leaves them
    uint16_t norm[COMPUTE_WARPS][NORM_ROOM];                // behind partial: scratch goes over both
};
static_assert(sizeof(Shared) <= ENGINE_SHARED_FIXED, "the shared memory beside the pages");
static_assert(STEP_WORDS <= 64 && LAYER_WORDS <= 32, "dispatch copies them a word or two a lane");
enum {
    SCRATCH_BYTES = STRIP_SLOTS * COMPUTE_WARPS * 512 + COMPUTE_WARPS * NORM_ROOM * 2
}; // for ops that are not linear

// Who waits, for the report; kept in shared memory, since it is written often and read once at most.
struct Waiter {
    const EngineParams *p;
    Shared *s;
    DEVICE EngineReport &mine() const {
        uint32_t thread;
        asm volatile("mov.u32 %0, %tid.x;" : "=r"(thread)); // anew each time: not kept in a register for a rare use
        return s->waiters[thread / 32];
    }
    DEVICE void at(uint32_t instance, uint32_t step, int lo, int hi) const {
        if (lane_id() != 0) return;
        EngineReport &r = mine();
        r.instance = instance, r.step = step, r.lo = lo, r.hi = hi;
    }
    // Of a compute warp: its slot. A store alone, since it is on the way of every task.
    DEVICE void at_place(uint32_t warp, uint32_t place) const {
        if (lane_id() == 0) s->waiters[warp].lo = (int)place;
    }
    DEVICE void round(uint32_t number) const {
        if (lane_id() == 0) mine().round = number;
    }
};

// Leaves the warp's record and ends the thread; the reporter sees to the rest. Small, since every wait has it, and
// inlined, since a kernel that calls functions gets no registers by setmaxnreg.
DEVICE void give_up(const Waiter &w, uint32_t kind, uint32_t group, uint32_t want, uint32_t have, bool alarm) {
    EngineReport &r = w.mine();
    r.group = group, r.want = want, r.have = have, r.timed_out = alarm, r.kind = kind;
    if (alarm) {
        __threadfence();
        *pointer<volatile uint32_t>(w.p->abort) = 1;
    }
    asm volatile("exit;");
}
// Every so often in a wait for a counter. `since`: when it was first asked, in units of 65 us. These waits alone raise
// the alarm: whatever goes wrong in a block, somebody waits for a counter of it.
DEVICE void watch(const Waiter &w, uint32_t &since, uint32_t kind, uint32_t group, uint32_t want, uint32_t have) {
    const uint32_t now = (uint32_t)(nanoseconds() >> 16) | 1;
    if (w.s->dying) give_up(w, kind, group, want, have, false);
    if (since == 0)
        since = now;
    else if (now - since > w.p->timeout_ms * 16)
        give_up(w, kind, group, want, have, true);
}

// By a whole warp: the vote tells the compiler that the loop is uniform. These waits are everywhere and on the way of
// everything, so they leave no record: the reporter says of a warp without one that it waited inside its block.
DEVICE void barrier_wait(const Waiter &w, const uint64_t &barrier, uint32_t parity) {
    const uint32_t at = shared_address(&barrier);
    while (!__all_sync(~0u, barrier_try(at, parity)))
        if (w.s->dying) asm volatile("exit;");
}
// The same, for warps with registers to spare. The word's address is taken from the barrier's: that of `w.s` would be
// found anew, before the loop, which takes as long as the wait.
DEVICE void barrier_wait_fast(const Waiter &w, const uint64_t &barrier, uint32_t parity) {
    const uint32_t at = shared_address(&barrier);
    while (!__all_sync(~0u, barrier_try(at, parity))) {
        const volatile char *dying = reinterpret_cast<const volatile char *>(&w.s->dying);
        if (shared_word(opaque(at) + (uint32_t)(dying - reinterpret_cast<const volatile char *>(&barrier))))
            asm volatile("exit;");
    }
}

// The block's barriers, by its first 32 threads.
DEVICE void barriers_init(Shared &s, int thread) {
    constexpr int WARP = ENGINE_ARRIVALS, COMPUTE = COMPUTE_WARPS * ENGINE_ARRIVALS;
    auto init = [&](uint64_t &barrier, int arrivals) { barrier_init(shared_address(&barrier), arrivals); };
    if (thread < MAX_PAGES) init(s.full[thread], 1), init(s.empty[thread], COMPUTE);
    if (thread < SLOTS) {
        init(s.posted[thread], WARP), init(s.ready[thread], WARP);
        init(s.freed[thread], COMPUTE + FINISHERS * WARP), init(s.stored[thread], COMPUTE);
        s.finished[thread] = s.direct[thread] = s.halts = 0;
    }
    if (thread < STRIP_SLOTS) init(s.strip_full[thread], COMPUTE), init(s.strip_free[thread], WARP);
    if (thread < 2) init(s.gate_full[thread], WARP), init(s.gate_free[thread], WARP);
    if (thread < ITEM_ROOM) init(s.item_full[thread], WARP), init(s.item_free[thread], WARP);
    if (thread == 0) init(s.group, COMPUTE);
    if (thread < MAX_PAGES) asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Of a tile that streams: it has few signals, to this rank, one for all of its rows.
DEVICE void signal_item(const EngineParams &p, const Shared &s, const Instruction &at, int key) {
    if (lane_id() >= at.signal_count) return;
    const EngineSignal signal = at.signals[lane_id()];
    const uint32_t group = (signal.group & GROUP_MASK) + (signal.group & GROUP_KEY ? key : 0);
    add_release(pointer<uint32_t>(p.slab + s.tables.counter_at) + group * COUNTER_STRIDE, signal.amount);
}

// The signals of a task, by one warp, after all of the task's writes are ordered before this call. `rows`: of the key.
// What goes to all ranks goes to each by a lane of its own: a release waits for all writes, and they wait together.
DEVICE void signal_all(const EngineParams &p, const Shared &s, const Instruction &at, uint32_t rows_of_key) {
    for (uint32_t base = 0; base < at.signal_count; base += 32) {
        const uint32_t i = base + lane_id();
        EngineSignal signal = {0, 0};
        if (i < at.signal_count)
            signal = i < SLOT_SIGNALS ? at.signals[i]
                                      : (pointer<EngineSignal>(p.tables + s.tables.signal_at) + at.signal)[i];
        uint32_t group = signal.group & GROUP_MASK;
        if (signal.group & GROUP_KEY) group += at.key;
        const bool far = signal.group & GROUP_ALL_RANKS;
        if (signal.amount && !far) {
            const uint32_t rows = signal.group & GROUP_TOKEN ? rows_of_key : 1;
            uint32_t *counters = pointer<uint32_t>(p.slab + s.tables.counter_at);
            for (uint32_t row = 0; rows >> row; row++)
                if (rows >> row & 1) add_release(counters + (group + row) * COUNTER_STRIDE, signal.amount);
        }
        for (uint32_t left = __ballot_sync(~0u, far); left; left &= left - 1) {
            const int from = __ffs(left) - 1;
            const uint32_t its_group = __shfl_sync(~0u, group, from), amount = __shfl_sync(~0u, signal.amount, from);
            if (lane_id() < ENGINE_RANKS && p.peers[lane_id()])
                add_release_system(
                    pointer<uint32_t>(p.peers[lane_id()] + s.tables.counter_at) + its_group * COUNTER_STRIDE, amount);
        }
    }
}
#endif
