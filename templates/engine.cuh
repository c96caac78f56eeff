// engine: the kernel that stays. A block is a worker; its warps take their roles once and keep them.
#ifndef TILEGEN_ENGINE_CUH
#define TILEGEN_ENGINE_CUH
#include "attention.cuh"
#include "control.cuh"
#include "reporter.cuh"

template <int REGISTERS> DEVICE void registers_down() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS> DEVICE void registers_up() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

template <class Model> static DEVICE void compute_role(Compute &c) {
    c.wait_posted();
    for (;;) {
        const uint32_t op = c.slot().step.op;
        if (op == RUN_LEAVE) return;
        if (c.slot().at.skip && op != RUN_ROUTE_ROWS) {
            c.leave();
            c.wait_posted();
            continue;
        }
        if (op <= RUN_LINEAR_F32) { // these go on to the next instruction themselves
            linear<Model>(c);
            continue;
        }
        switch (op) {
        case RUN_EMBED: embed_rows<Model>(c); break;
        case RUN_ATTEND: attend<typename Model::Target, (Model::SPLIT > 1 && !Model::PAGED_KEYS)>(c); break;
        case RUN_ATTEND_CHUNKS:
            if constexpr (Model::PAGED_KEYS) attend_chunks<Model>(c);
            break;
        case RUN_ATTEND_DRAFT:
            if (Model::BLOCK > 1) attend<typename Model::Drafter, false>(c);
            break;
        case RUN_KEEP:
            if (c.slot().step.kind < 2)
                keep_rows<typename Model::Target, true>(c);
            else if (Model::BLOCK > 1)
                keep_rows<typename Model::Drafter, false>(c);
            break;
        case RUN_JOIN:
            if constexpr (Model::SPLIT > 1) join_parts<Model>(c);
            break;
        case RUN_ROUTE_ROWS:
            if constexpr (Model::EXPERTS > 0) route_rows<Model>(c);
            break;
        case RUN_COMBINE_ROWS:
            if constexpr (Model::EXPERTS > 0) combine_rows<Model>(c);
            break;
        case RUN_SUM_EXPERTS:
            if constexpr (Model::SUM_STRIPS > 0) sum_experts<Model>(c);
            break;
        case RUN_SUM_RANKS:
            if constexpr (Model::SLICE > 0)
                sum_slice<Model>(c);
            else if (Model::RANKS > 1)
                sum_ranks<Model>(c);
            break;
        default: choose<Model>(c); break;
        }
        c.meet();
        c.number = opaque(c.number); // what follows from it is found anew, not kept beside the bodies' registers
        if (c.warp == 0 && c.slot().step.op != RUN_ROUTE_ROWS) signal_all(*c.p, *c.s, c.slot().at, 0);
        if constexpr (Model::ROUTER_PARTS > 1) { // what route has read is cleared when nobody waits for it any more
            const Slot &slot = c.slot();
            const uint32_t item = slot.step.in_item;
            const uint64_t scores = c.p->slab + slot.step.in + (uint64_t)c.warp * slot.step.in_row;
            const bool clears = op == RUN_ROUTE_ROWS && c.warp < slot.at.rows && !slot.at.skip;
            c.leave();
            if (clears) clear_scores<Model>(scores, item);
        } else
            c.leave();
        c.wait_posted();
    }
}

template <class Model> DEVICE void engine(const EngineParams &p) {
    __shared__ Shared s;
    __shared__ Serving serving;
    const EngineTables *given = pointer<const EngineTables>(p.tables), *t = &s.tables;
    const int thread = (int)threadIdx.x, warp = warp_id();
    for (uint32_t i = thread; i < sizeof(EngineTables) / 4; i += ENGINE_THREADS)
        reinterpret_cast<uint32_t *>(&s.tables)[i] = reinterpret_cast<const uint32_t *>(given)[i];
    __syncthreads();
    for (uint32_t i = thread; i < t->instances; i += ENGINE_THREADS)
        s.instances[i] = pointer<const EngineInstance>(p.tables + t->instance_at)[i];
    for (uint32_t i = thread; i < t->bodies * ROLES; i += ENGINE_THREADS) {
        uint32_t body = i / ROLES, role = i % ROLES;
        s.queues[i] =
            pointer<const EngineQueue>(p.tables + t->queue_at)[(body * t->workers + blockIdx.x) * ROLES + role];
    }
    if (thread < ENGINE_THREADS / 32) s.waiters[thread] = {};
    barriers_init(s, thread);
    if (thread == 0) {
        s.dying = 0;
        serving.number = serving.entry = 0;
        serving.idle = 1;
    }
    __syncthreads();
    const Waiter who = {&p, &s};
    if (warp < 4) {
        registers_down<Model::LOAD_REGISTERS>();
        if (warp == 0) {
            Loader<Model> loader = {&p, &s, pages_address(), ~0u, 0, 0, who};
            loader.run();
        } else if (warp == 1) {
            Dispatch<Model> dispatch = {&p, &s, t,  pointer<const uint32_t>(p.slab + t->counter_at), 0, 0, 0,
                                        0,  {}, who};
            dispatch.run();
        } else if (warp == 2) {
            Control<Model> control = {&p, &s, &serving, t, 0, {}, who};
            control.run();
        } else if (lane_id() == 0)
            report_role<Model>(who);
    } else if (warp < 4 + COMPUTE_WARPS) {
        registers_up<Model::COMPUTE_REGISTERS>();
        Compute c = {&p, &s, 0, 0, who, warp - 4, opaque(pages_address())};
        compute_role<Model>(c);
    } else {
        registers_down<Model::CONTROL_REGISTERS>();
        Finisher f = {&p, &s, 0, who, warp - 4 - COMPUTE_WARPS};
        finish_role<Model>(f);
    }
}
#endif
