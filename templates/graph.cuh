// graph: the other arm of a comparison. The same roles as in the engine, but a kernel for each step of the round, or
// for a few that do not need each other, in a CUDA graph with programmatic dependent launch. The order of the kernels
// is all the synchronisation between blocks: entries come without waits and signals, and no block waits for another.
//
// What begins before the kernels before it have ended: barriers, tables, entries, all asked for at once; weights (the
// loader runs as far ahead as there are pages), norm weights, angles. What the kernel before has written is read after
// grid_wait alone. Every block with work says grid_release behind its grid_wait; so when a kernel's first block begins,
// the last kernel but one has ended, and what that one wrote is there from the start: the round's state but in the
// first kernel of a round, the routing where a kernel lies between it and its experts, and what earlier rounds left in
// the caches, which attention asks for early: it is never in a round's first kernel. A block without work leaves at
// once.
//
// A block takes all of an SM (threads, registers, nearly all shared memory), so a kernel's blocks begin as those of the
// kernel before leave, SM by SM: weights are loaded while other SMs are still at it, but never across it on one SM.
#ifndef TILEGEN_GRAPH_CUH
#define TILEGEN_GRAPH_CUH
#include "engine.cuh"

static_assert(sizeof(Serving) <= NODE_SERVING, "what the host has set aside");
static_assert(NODE_INSTANCES <= MAX_BODIES, "queues of a node");

// Brings 32 bytes into the SM's cache. The word must go somewhere, or nothing is loaded.
static DEVICE uint32_t touch(const void *at) {
    uint32_t v;
    asm volatile("ld.global.ca.u32 %0, [%1];" : "=r"(v) : "l"(at));
    return v;
}
// Steps, weights' addresses, entries and the like: all at once, a thread each, from thread 32 on.
template <class Model> static DEVICE uint32_t touch_all(const EngineNode &node, int thread) {
    constexpr int STEP = (sizeof(EngineStep) + 31) / 32 + 1, LAYER = (sizeof(EngineLayer) + 31) / 32; // an odd start
    const uint64_t tables = node.params.tables;
    int i = thread - 32;
    if (i < 0) return 0;
    if (i < NODE_STEPS * STEP) {
        if (i >= (int)node.step_count * STEP) return 0;
        const int offset = min(i % STEP * 32, (int)sizeof(EngineStep) - 4);
        return touch(reinterpret_cast<const char *>(&Model::step(node.step[i / STEP])) + offset);
    }
    i -= NODE_STEPS * STEP;
    if (i < NODE_INSTANCES * LAYER) {
        if (i >= (int)node.tables.instances * LAYER) return 0;
        return touch(pointer<const char>(node.params.layers) +
                     node.instances[i / LAYER].table * (uint32_t)sizeof(EngineLayer) + i % LAYER * 32);
    }
    i -= NODE_INSTANCES * LAYER;
    if (i < NODE_LINES) return i < (int)node.line_count ? touch(pointer<const char>(tables + node.line[i])) : 0;
    i -= NODE_LINES;
    if (i >= (int)node.entries) return 0;
    return touch(pointer<const EngineEntry>(tables + node.tables.entry_at) + node.entry + blockIdx.x * node.entries +
                 i);
}

static DEVICE Gate node_gate(const EngineNode &node) {
    const EngineState *state = pointer<const EngineState>(node.params.state);
    Gate gate = {node.skips, 0, __ldcg(&state->rows), 0, 0, 0};
    // As the engine's gate: of caches nothing older than this is read from here on. Elsewhere the tables stay near.
    gate.start = node.flags & NODE_CACHES ? (int)load_acquire(reinterpret_cast<const uint32_t *>(&state->start))
                                          : __ldcg(&state->start);
    return gate;
}

template <class Model> static DEVICE void dispatch_node(Dispatch<Model> &d, const EngineNode &node) {
    Fetch now = {}, next = {};
    d.instance = -1, d.entry = d.end = 0;
    d.advance(now);
    d.fetch_entry(now);
    d.fetch_rest(now, -1);
    if (now.instance >= 0) {
        if (node.flags & NODE_FIRST) grid_wait();
        d.gate = node_gate(node);
        d.run_entries(now, next);
    }
    d.post_end();
}

// Pushes to other ranks; on worker 0 the round's end, or the beginning of a request.
template <class Model>
static DEVICE void control_node(Control<Model> &control, const EngineNode &node, Serving &serving, uint32_t entries) {
    if (entries == 0 && !(node.flags & NODE_TAKE)) return;
    static_assert(sizeof(Serving) % 4 == 0, "words");
    uint32_t *mine = reinterpret_cast<uint32_t *>(&serving), *kept = pointer<uint32_t>(node.serving);
    for (uint32_t i = lane_id(); i < sizeof(Serving) / 4; i += 32) mine[i] = __ldcg(kept + i);
    __syncwarp();
    if (node.flags & NODE_TAKE)
        control.take_request();
    else {
        grid_wait();
        grid_release();
        control.gate = node_gate(node);
        if (serving.idle) return; // a round beyond the request's last
        for (uint32_t instance = 0; instance < control.t->instances; instance++) {
            const EngineQueue queue = control.s->queues[instance * ROLES + ROLE_CONTROL];
            for (uint32_t i = 0; i < queue.count; i++) {
                const EngineEntry entry =
                    pointer<const EngineEntry>(control.p->tables + control.t->entry_at)[queue.first + i];
                control.run_entry(entry, instance);
            }
        }
    }
    __syncwarp();
    for (uint32_t i = lane_id(); worker_id() == 0 && i < sizeof(Serving) / 4; i += 32) kept[i] = mine[i];
}

// Until all roles have ended. Waits inside the block are the only ones; one that lasts too long ends the block with a
// report, and the kernels after it without one. Outlives the copies on their way into the block's shared memory.
static DEVICE void time_node(const Waiter &w, const EngineNode &node, const uint64_t &done) {
    const uint32_t at = shared_address(&done);
    const bool aborted = load_relaxed(pointer<uint32_t>(w.p->abort));
    const uint64_t until = nanoseconds() + (aborted ? 100000 : w.p->timeout_ms * 1000000ull);
    if (aborted) w.s->dying = 1;
    while (!barrier_try(at, 0)) {
        if (nanoseconds() < until) continue;
        if (aborted) return;
        w.s->dying = 1;
        *pointer<volatile uint32_t>(w.p->abort) = 1;
        for (uint32_t warp = 0; warp < ENGINE_THREADS / 32; warp++) { // as the round numbers them
            const uint32_t instance = *(volatile uint32_t *)&w.s->waiters[warp].instance;
            if (instance < NODE_INSTANCES) w.s->waiters[warp].instance = node.instances[instance].layer;
        }
        for (uint32_t place = 0; place < SLOTS; place++) {
            const uint32_t instance = w.s->slots[place].at.instance;
            if (instance < NODE_INSTANCES) w.s->slots[place].at.instance = node.instances[instance].layer;
        }
        report_all(w);
        return;
    }
}

template <class Model> DEVICE void graph_node(const EngineNode &node) {
    __shared__ Shared s;
    __shared__ Serving serving;
    __shared__ uint64_t done; // of the roles
    const EngineParams &p = node.params;
    const EngineTables *t = &s.tables;
    const int thread = (int)threadIdx.x, warp = warp_id();
    const uint32_t queues = node.tables.instances * ROLES;
    EngineQueue queue = {0, 0};
    if (thread < (int)queues) {
        const uint32_t place = thread / ROLES * node.tables.workers + blockIdx.x;
        queue = pointer<const EngineQueue>(p.tables + node.tables.queue_at)[place * ROLES + thread % ROLES];
        s.queues[thread] = queue;
    }
    const bool odd = touch_all<Model>(node, thread) == 0xA5C3F00D; // hardly ever, and then a block stays for nothing
    if (!__syncthreads_or(queue.count != 0 || node.flags & NODE_TAKE || odd)) return;
    if (thread < (int)(sizeof(EngineTables) / 4))
        reinterpret_cast<uint32_t *>(&s.tables)[thread] = reinterpret_cast<const uint32_t *>(&node.tables)[thread];
    if (thread < NODE_INSTANCES) s.instances[thread] = node.instances[thread];
    if (thread < ENGINE_THREADS / 32) s.waiters[thread] = {};
    barriers_init(s, thread);
    if (thread == 0) {
        barrier_init(shared_address(&done), (3 + COMPUTE_WARPS + FINISHERS) * ENGINE_ARRIVALS);
        s.dying = 0;
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    const Waiter who = {&p, &s};
    if (warp < 4) {
        registers_down<Model::LOAD_REGISTERS>();
        if (warp == 0) {
            Loader<Model> loader = {&p, &s, pages_address(), ~0u, 0, 0, who};
            const Gate gate = node.flags & NODE_CACHES ? node_gate(node) : Gate{};
            for (uint32_t instance = 0; instance < t->instances; instance++) loader.run_instance(t, 0, instance, gate);
        } else if (warp == 1) {
            Dispatch<Model> dispatch = {&p, &s, t,  pointer<const uint32_t>(p.slab + t->counter_at), 0, 0, 0,
                                        0,  {}, who};
            dispatch_node(dispatch, node);
        } else if (warp == 2) {
            uint32_t entries = 0;
            for (uint32_t i = 0; i < t->instances; i++) entries += s.queues[i * ROLES + ROLE_CONTROL].count;
            Control<Model> control = {&p, &s, &serving, t, 0, {}, who};
            control_node(control, node, serving, entries);
        } else {
            if (lane_id() == 0) time_node(who, node, done);
            return;
        }
    } else if (warp < 4 + COMPUTE_WARPS) {
        registers_up<Model::COMPUTE_REGISTERS>();
        Compute c = {&p, &s, 0, 0, who, warp - 4, opaque(pages_address())};
        compute_role<Model>(c);
    } else {
        registers_down<Model::CONTROL_REGISTERS>();
        Finisher f = {&p, &s, 0, who, warp - 4 - COMPUTE_WARPS};
        finish_role<Model>(f);
    }
    warp_arrive(shared_address(&done));
}
#endif
