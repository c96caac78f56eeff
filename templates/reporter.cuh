// reporter: the fourth warp of the load group. It sleeps until something is wrong; then it ends the block's waits and
// says what they were for. In rounds that are traced it looks at what the others go through and writes it down:
// nobody who works stamps anything.
#ifndef TILEGEN_REPORTER_CUH
#define TILEGEN_REPORTER_CUH
#include "shared.cuh"

// Follows the instructions through their slots: each has a barrier for posted, ready and freed, and the compute warps
// say which slot they are at. One thread, which comes by more often than a slot is used again.
struct Tracer {
    uint32_t posted, ready, begun, ended; // instructions seen so far
    uint32_t streamed;                    // 1 + the last one, where its tiles come as tickets, or 0
    uint32_t instance, first_strip;       // of that
    DEVICE EngineTrace &record(const Waiter &w, uint32_t number) const {
        return pointer<EngineTrace>(w.p->trace)[worker_id() * w.p->trace_room + number % w.p->trace_room];
    }
    DEVICE void look(const Waiter &w) {
        Shared &s = *w.s;
        auto passed = [&](const uint64_t(&barrier)[SLOTS], uint32_t n) {
            return barrier_test(shared_address(&barrier[n % SLOTS]), n / SLOTS & 1);
        };
        if (passed(s.posted, posted) && s.slots[posted % SLOTS].step.op != RUN_LEAVE) {
            const Instruction &at = s.slots[posted % SLOTS].at;
            if (streamed && at.first_strip != first_strip + FINISHERS) { // as many last tickets
                EngineTrace &stream = record(w, streamed - 1);
                stream.instance = instance, stream.step |= (at.first_strip - first_strip - FINISHERS - 1) << 16;
            }
            streamed = at.tiles ? 0 : posted + 1, instance = at.instance, first_strip = at.first_strip;
            // One that only has inputs loaded is none of its step's tasks; a stream is as many as it turns out to be.
            const bool none = s.slots[posted % SLOTS].step.op <= RUN_LINEAR_F32 && at.strips == 0;
            EngineTrace &to = record(w, posted++);
            to.instance = none ? ~0u : at.instance, to.step = at.body_step | (max(at.tiles, 1u) - 1) << 16;
            to.posted = nanoseconds();
        }
        if (ready != posted && passed(s.ready, ready)) record(w, ready++).ready = nanoseconds();
        if (begun != ready) { // the compute warps are past the one before
            const uint32_t place = (uint32_t) * (volatile int *)&s.waiters[COMPUTE_FIRST].lo;
            if ((place - begun) % SLOTS != SLOTS - 1) {
                if (!s.slots[begun % SLOTS].at.skip) record(w, begun).begun = nanoseconds();
                begun++;
            }
        }
        if (ended != begun && passed(s.freed, ended)) record(w, ended++).ended = nanoseconds();
    }
};

// The block's records, once others have come to theirs.
DEVICE void report_all(const Waiter &w) {
    for (uint64_t until = nanoseconds() + 20000000; nanoseconds() < until;) __nanosleep(20000);
    for (uint32_t warp = 0; warp < ENGINE_THREADS / 32; warp++) {
        volatile EngineReport *to =
            pointer<EngineReport>(w.p->report) + (blockIdx.x * (ENGINE_THREADS / 32) + warp) % REPORT_RECORDS;
        const volatile EngineReport *from = &w.s->waiters[warp];
        if (from->kind == 0 && (warp == 2 || warp == 3)) continue; // they wait for the host and for time
        const uint32_t kind = from->kind ? from->kind : WAITER_RING;
        to->worker = blockIdx.x, to->role = warp == 0 ? ROLE_LOAD : warp == 2 ? ROLE_CONTROL : ROLE_COMPUTE;
        if (warp >= COMPUTE_FIRST && warp < COMPUTE_FIRST + COMPUTE_WARPS) {
            const Instruction &at = w.s->slots[from->lo].at;
            to->instance = at.instance, to->step = at.body_step, to->lo = at.lo, to->hi = at.hi, to->round = at.round;
        } else {
            to->instance = from->instance, to->step = from->step, to->lo = from->lo, to->hi = from->hi;
            to->round = from->round;
        }
        to->group = from->group, to->want = from->want, to->have = from->have, to->timed_out = from->timed_out;
        __threadfence_system();
        to->kind = kind;
    }
    __threadfence_system();
}

// One thread of the block looks whether someone has given up, anywhere; then it ends all waits of the block and writes
// their records to the host. It outlives the copies on their way into the block's shared memory. A block of each rank
// tells the other ranks.
template <class Model> DEVICE void report_role(const Waiter &w) {
    const uint32_t *abort = pointer<uint32_t>(w.p->abort);
    Tracer tracer = {};
    while (!(Model::RANKS > 1 ? load_relaxed_system(abort) : load_relaxed(abort))) {
        if (load_acquire_wide(pointer<uint64_t>(w.p->gate) + ENGINE_GATES)) return;
        if (w.p->trace)
            for (uint64_t until = nanoseconds() + 20000; nanoseconds() < until;) tracer.look(w);
        else
            __nanosleep(20000);
    }
    for (int rank = 0; Model::RANKS > 1 && blockIdx.x == 0 && rank < Model::RANKS; rank++)
        store_release_system(pointer<uint32_t>(w.p->peers[rank] + (w.p->abort - w.p->slab)), 1);
    w.s->dying = 1;
    report_all(w);
}
#endif
