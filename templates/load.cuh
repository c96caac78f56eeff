// load: the loader warp brings weights into pages, chunk by chunk, as far ahead as there are free pages. It waits for no
// activation; only for what routing decided, where experts are claimed.
#ifndef TILEGEN_LOAD_CUH
#define TILEGEN_LOAD_CUH
#include "experts.cuh"

struct Gate { // of a round
    uint32_t flags;
    int start, rows;
    uint32_t halt, halt_instance, halt_step;
    DEVICE bool skips(const EngineInstance &i) const {
        return (i.segment == 1 && (flags & GATE_SKIP_DRAFT)) || (i.segment == 2 && (flags & GATE_SKIP_CONTEXT));
    }
    DEVICE bool halted(uint32_t instance, uint32_t body_step) const {
        return halt && (instance > halt_instance || (instance == halt_instance && body_step > halt_step));
    }
};

// Waits for the round to begin.
static DEVICE Gate gate_wait(const Waiter &w, uint32_t round) {
    const uint64_t *at = pointer<const uint64_t>(w.p->gate);
    uint64_t gate;
    for (uint32_t n = 1; (gate = load_acquire_wide(at)) >> 8 < round + 1ull; n++) {
        if ((n & 255) == 0 && load_relaxed(pointer<uint32_t>(w.p->abort))) give_up(w, WAITER_GATE, 0, round + 1, (uint32_t)(gate >> 8));
        if (n > 4096) __nanosleep(200); // between requests
    }
    const EngineState *state = pointer<const EngineState>(w.p->state);
    return {(uint32_t)(gate & 0xFF), __ldcg(&state->start), __ldcg(&state->rows), __ldcg(&state->halt), __ldcg(&state->halt_instance), __ldcg(&state->halt_step)};
}

// What counter `wait` must reach, of this rank; `holds`: nothing was signalled before it.
static DEVICE uint32_t counter_want(const EngineTables *t, uint64_t tables, EngineWait wait, uint32_t round, int instance, int key, uint32_t &group, bool &holds) {
    const uint32_t *prefix = pointer<const uint32_t>(tables + t->prefix_at), *total = pointer<const uint32_t>(tables + t->total_at);
    int before = instance - (int)(wait.group >> LAG_SHIFT & 63);
    group = (wait.group & GROUP_MASK) + (wait.group & GROUP_KEY ? key : 0);
    holds = false;
    if (before < 0) {
        before += (int)t->instances;
        holds = round == 0;
        round--;
    }
    return round * total[group] + prefix[before * t->groups + group] + (uint32_t)wait.need;
}

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
static DEVICE Pieces pieces_of(const EngineStep &step, uint64_t weights, int lo, int hi, uint32_t chunks) {
    uint32_t strips = (hi - lo + step.strip_outputs - 1) / step.strip_outputs;
    return {weights + (uint64_t)(step.first_strip + lo / step.strip_outputs) * step.strip_bytes, chunks, step.chunks_of_strip, step.strip_bytes, step.chunk_bytes, strips * step.strip_bytes};
}

template <class Model> struct Loader {
    const EngineParams *p;
    Shared *s;
    uint32_t pages, phases; // phases: parity of the empty phase that the next use of a page waits for
    Waiter who;

    DEVICE void fill(uint32_t page, uint64_t from, uint32_t bytes, uint64_t policy) { // lane 0
        barrier_wait(who, s->empty[page], phases >> page & 1, WAITER_PAGE);
        phases ^= 1u << page;
        uint32_t full = shared_address(&s->full[page]);
        barrier_expect(full, bytes);
        bulk_copy(pages + page * Model::PAGE_BYTES, from, bytes, full, policy);
    }

    // Claims items, hands each to dispatch, loads its weights. Lane 0.
    DEVICE void pool(const EngineTables *t, const EngineEntry &entry, uint32_t round, uint32_t instance, const Gate &gate, uint64_t policy) {
        using Routes = RoutesOf<Model::KEYS, Model::TOP_K>;
        const EnginePool &pool = pointer<const EnginePool>(p->tables + t->pool_at)[entry.pool];
        const EngineWait *waits = pointer<const EngineWait>(p->tables + t->wait_at) + entry.wait;
        const uint32_t *counters = pointer<const uint32_t>(p->slab + t->counter_at);
        for (uint32_t i = 0; i < entry.wait_count; i++) {
            uint32_t group;
            bool holds;
            uint32_t want = counter_want(t, p->tables, waits[i], round, (int)instance, 0, group, holds);
            uint32_t since = 0;
            for (uint32_t n = 1; !holds && (int)(load_acquire(counters + group) - want) < 0; n++)
                if ((n & 255) == 0) watch(who, since, WAITER_COUNTER, group, want, load_relaxed(counters + group));
        }
        const Routes *routes = pointer<const Routes>(p->slab + Model::ROUTES);
        const EngineLayer &layer = pointer<const EngineLayer>(p->layers)[s->instances[instance].table];
        const int active = __ldcg(&routes->active);
        const uint32_t total = pool.items * active;
        uint32_t page = pool.page_lo;
        for (uint32_t turn = 0;; turn++) {
            uint32_t item = pool.dynamic ? add_relaxed(pointer<uint32_t>(p->claims) + instance, 1) : entry.part + turn * pool.participants;
            int code = -1;
            uint32_t key = 0, which = 0;
            const EngineEntry *items = pointer<const EngineEntry>(p->tables + t->entry_at) + pool.item;
            if (item < total) {
                while (item >= items[which].pool * active) item -= items[which].pool * active, which += items[which].pool;
                key = item / items[which].pool, which += item % items[which].pool;
                code = (int)(which << 16 | key);
            }
            uint32_t since = 0;
            for (uint32_t n = 1; s->items_in - shared_acquire(shared_address(&s->items_out)) == ITEM_ROOM; n++)
                if ((n & 255) == 0) watch(who, since, WAITER_RING, 0, 0, 0);
            s->items[s->items_in % ITEM_ROOM] = code;
            shared_release(shared_address(&s->items_in), s->items_in + 1);
            if (code < 0) break;
            const EngineEntry &it = items[which];
            if (gate.halted(instance, it.body_step)) continue;
            const EngineStep &step = Model::step(it.step);
            Pieces pieces = pieces_of(step, layer.weight[step.slot] + (uint64_t)__ldcg(&routes->expert[key]) * step.item_bytes, it.lo, it.hi, it.chunks);
            for (uint32_t chunk = 0; chunk < pieces.chunks; chunk++) {
                uint64_t at;
                uint32_t size;
                pieces.copy(chunk, at, size);
                fill(page, at, size, policy);
                if (++page == pool.page_hi) page = pool.page_lo;
            }
        }
        add_release(pointer<uint32_t>(p->exits) + instance, 1);
    }

    DEVICE void run() {
        const EngineTables *t = pointer<const EngineTables>(p->tables);
        const uint64_t policy = policy_stream();
        for (uint32_t round = 0;; round++) {
            who.round(round);
            Gate gate = gate_wait(who, round);
            if (gate.flags & GATE_EXIT) return;
            for (uint32_t instance = 0; instance < t->instances; instance++) {
                const EngineInstance in = s->instances[instance];
                if (gate.skips(in)) continue;
                const EngineQueue queue = s->queues[in.body * ROLES + ROLE_LOAD];
                const EngineLayer &layer = pointer<const EngineLayer>(p->layers)[in.table];
                for (uint32_t base = 0; base < queue.count; base += 32) { // a lane an entry, then one after the other
                    EngineEntry entry = {};
                    Pieces pieces = {};
                    const uint32_t count = min(queue.count - base, 32u);
                    if (lane_id() < count) {
                        entry = pointer<const EngineEntry>(p->tables + t->entry_at)[queue.first + base + lane_id()];
                        if (entry.kind == ENGINE_LOAD) {
                            const EngineStep &step = Model::step(entry.step);
                            pieces = pieces_of(step, layer.weight[step.slot], entry.lo, entry.hi, gate.halted(instance, entry.body_step) ? 0 : entry.chunks);
                        }
                    }
                    for (uint32_t i = 0; i < count; i++) {
                        if (__shfl_sync(~0u, (uint32_t)entry.kind, i) == ENGINE_POOL) {
                            if (lane_id() == i) pool(t, entry, round, instance, gate, policy);
                            phases = __shfl_sync(~0u, phases, i);
                            continue;
                        }
                        if (lane_id() == i) {
                            EngineReport &here = who.mine();
                            here.instance = instance, here.step = entry.body_step, here.lo = entry.lo, here.hi = entry.hi;
                            uint32_t page = entry.page;
                            for (uint32_t chunk = 0; chunk < pieces.chunks; chunk++) {
                                uint64_t at;
                                uint32_t size;
                                pieces.copy(chunk, at, size);
                                fill(page, at, size, policy);
                                if (++page == Model::PAGES) page = 0;
                            }
                        }
                        phases = __shfl_sync(~0u, phases, i);
                    }
                }
            }
        }
    }
};
#endif
