// load: the loader warp brings weights into pages, chunk by chunk, as far ahead as there are free pages. It waits for
// no activation; only for what routing decided, where experts are claimed.
#ifndef TILEGEN_LOAD_CUH
#define TILEGEN_LOAD_CUH
#include "experts.cuh"

// Waits for the round to begin.
static DEVICE Gate gate_wait(const Waiter &w, uint32_t round) {
    const uint64_t *at = pointer<const uint64_t>(w.p->gate) + round % ENGINE_GATES;
    uint64_t gate;
    for (uint32_t n = 1; (gate = load_acquire_wide(at)) >> 8 < round + 1ull; n++) {
        if ((n & 255) == 0 && w.s->dying) give_up(w, WAITER_GATE, 0, round + 1, (uint32_t)(gate >> 8), false);
        if (n > 4096) __nanosleep(200); // between requests
    }
    const EngineState *state = pointer<const EngineState>(w.p->state) + round % ENGINE_GATES;
    return {(uint32_t)(gate & 0xFF), __ldcg(&state->start),         __ldcg(&state->rows),
            __ldcg(&state->halt),    __ldcg(&state->halt_instance), __ldcg(&state->halt_step)};
}

// What counter `wait` must reach, of this rank; `holds`: nothing was signalled before it.
static DEVICE uint32_t counter_want(const EngineTables *t, uint64_t tables, EngineWait wait, uint32_t round,
                                    int instance, int key, uint32_t &group, bool &holds) {
    const uint32_t *prefix = pointer<const uint32_t>(tables + t->prefix_at),
                   *total = pointer<const uint32_t>(tables + t->total_at);
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

static DEVICE Pieces pieces_of(const EngineStep &step, uint64_t weights, int lo, int hi, uint32_t part,
                               uint32_t chunks) {
    uint32_t strips = (hi - lo + step.strip_outputs - 1) / step.strip_outputs;
    return {weights + (uint64_t)((step.first_strip + lo / step.strip_outputs) * step.parts + part) * step.strip_bytes,
            chunks,
            step.chunks_of_strip,
            step.strip_bytes,
            step.chunk_bytes,
            strips * step.strip_bytes};
}

template <class Model> struct Loader {
    const EngineParams *p;
    Shared *s;
    uint32_t pages, phases; // phases: parity of the empty phase that the next use of a page waits for
    uint32_t handed;        // items so far
    uint32_t streamed;      // strips of a stream since then
    Waiter who;

    // Waits until a page may be filled. No more copies are on their way than stream at the memory's rate: whatever else
    // a worker asks for waits behind them, an expert's first page too. Not `limited`: as many as there are pages.
    DEVICE void next_page(uint32_t page, bool limited = true) {
        if (Model::PAGES > PAGES_FLYING && limited) { // `phases` has the parity of a page's last copy
            const uint32_t before = page - PAGES_FLYING + (page < PAGES_FLYING ? Model::PAGES : 0);
            barrier_wait(who, s->full[before], phases >> before & 1);
        }
        barrier_wait(who, s->empty[page], phases >> page & 1);
        phases ^= 1u << page;
    }

    // The chunks of a tile, into pages from `page` on, round and round. All lanes.
    DEVICE void fill_all(const Pieces &from, uint32_t &page) {
        for (uint32_t chunk = 0; chunk < from.chunks; chunk++) {
            uint64_t at;
            uint32_t bytes;
            from.copy(chunk, at, bytes);
            next_page(page);
            if (lane_id() == 0) {
                const uint32_t full = shared_address(&s->full[page]);
                barrier_expect(full, bytes);
                fence_bulk_copies();
                bulk_copy(pages + page * Model::PAGE_BYTES, at, bytes, full, policy_stream());
            }
            if (++page == Model::PAGES) page = 0;
        }
    }

    // A step that streams: of each tile a strip in STREAM_RUNS pages, its ticket beside the first. Most of a round's
    // bytes go through this loop. The step has been handed over, and its first page may be filled. `claims`: the
    // counter of tiles, or 0 where a worker has its share of them.
    DEVICE void stream(uint32_t which, uint32_t part, uint32_t participants, uint32_t *claims, uint32_t &page) {
        const PoolStep &of = s->pool[which];
        const uint32_t tiles = of.first.pool, lo = (uint32_t)of.first.lo, width = (uint32_t)of.first.hi - lo,
                       bytes = of.pieces.chunk_bytes, item_bytes = of.item_bytes;
        const uint64_t first = of.pieces.from;
        const float per_tile = 1.0f / (float)tiles;
        bool waited = true, claim = false;
        const uint32_t total = s->active * tiles, end = claims ? total : (part + 1) * total / participants;
        uint32_t item = claims ? part : part * total / participants, until = claims ? item + 1 : end,
                 next = item + participants, next_size = 1;
        auto fill = [&](uint64_t from, uint32_t n, const Ticket &ticket) { // `from` and `n` bytes a page
#pragma unroll
            for (int r = 0; r < Model::STREAM_RUNS; r++) {
                if (!waited)
                    next_page(page, streamed > 1); // the first two tiles at once: memory has nothing else to do
                waited = false;
                if (lane_id() == 0) {
                    const uint32_t full = shared_address(&s->full[page]);
                    if (r == 0) s->loaded[page] = ticket;
                    barrier_expect(full, n);
                    fence_bulk_copies();
                    if (n) bulk_copy(pages + page * Model::PAGE_BYTES, from, n, full, policy_stream());
                }
                from += n;
                if (++page == Model::PAGES) page = 0;
            }
        };
        while (item < end) {
            // (item + 1/2) / tiles is further from a whole number than floats are wrong: items are below 2^20.
            const uint32_t key = (uint32_t)(((float)item + 0.5f) * per_tile), tile = item - key * tiles;
            const uint64_t from =
                first + (uint64_t)s->key_expert[key] * item_bytes + tile * (bytes * Model::STREAM_RUNS);
            const Ticket ticket = {(int)(lo + tile * width), (uint16_t)key, (uint16_t)s->key_rows[key]};
            if (claim) { // one claim ahead; of two tiles while many are left. A worker's first two are given
                next_size = item + 4 * participants >= end ? 1 : 2;
                if (lane_id() == 0) next = 2 * participants + add_relaxed(claims, next_size);
                claim = false;
            }
            fill(from, bytes, ticket);
            streamed++;
            if (++item == until && claims) {
                item = __shfl_sync(~0u, next, 0), until = item + next_size;
                claim = true;
            }
        }
        fill(0, 0, {-1, 0, 0}); // the last ticket, with nothing in its pages
        streamed += FINISHERS;  // each finisher gets one
    }

    // Hands `n` tiles of a pool's step and key to dispatch, whose first page is `page`; key -1: no more; `n` 0: all of
    // a step that streams.
    DEVICE void hand(uint32_t which, int key, uint32_t tile, uint32_t n, uint32_t page) {
        const uint32_t place = handed++ % ITEM_ROOM, lane = lane_id();
        barrier_wait(who, s->item_free[place], ((handed - 1) / ITEM_ROOM & 1) ^ 1);
        Item &slot = s->items[place];
        if (lane < 8) {
            const EngineEntry &first = s->pool[which].first;
            uint32_t word = reinterpret_cast<const uint32_t *>(&first)[lane];
            const uint32_t width = (uint32_t)(first.hi - first.lo);
            if (lane == 1) word += tile * width;                            // lo
            if (lane == 2) word += (tile + n - 1) * width;                  // hi
            if (lane == 3) word = (word & 0xFFFF) | (word >> 16) * n << 16; // chunks
            reinterpret_cast<uint32_t *>(&slot.entry)[lane] = word;
        }
        if (lane == 8) {
            slot.key = key, slot.tiles = n, slot.page = page, slot.streamed = streamed;
            slot.expert = s->key_expert[max(key, 0)], slot.chosen_by = s->key_rows[max(key, 0)];
        }
        streamed = 0;
        warp_arrive(shared_address(&s->item_full[place]));
    }

    // What was routed: the experts of the keys and the rows that chose them, and how many keys there are.
    DEVICE void take_routes() {
        using Routes = RoutesOf<Model::KEYS, Model::TOP_K>;
        const Routes *routes = pointer<const Routes>(p->slab + Model::ROUTES);
        const uint32_t active = __ldcg(&routes->active);
        static_assert(Model::KEYS <= POOL_KEYS, "keys of a pool");
#pragma unroll
        for (int i = 0; i < POOL_KEYS / 32; i++) {
            const uint32_t key = lane_id() + 32 * i;
            if (key >= Model::KEYS) continue;
            s->key_expert[key] = __ldcg(&routes->expert[key]), s->key_rows[key] = __ldcg(&routes->chosen_by[key]);
        }
        if (lane_id() == 0) s->active = active;
        __syncwarp();
    }

    // The same from what loaders are told. `missing` is called every so often until they are. Who comes when a later
    // routing has been told finds no keys: it had no tile of this one, or the later one could not have been.
    template <class Missing> DEVICE void take_told(uint32_t round, uint32_t instance, Missing missing) {
        using Routes = RoutesOf<Model::KEYS, Model::TOP_K>;
        const Routes *routes = pointer<const Routes>(p->slab + Model::ROUTES);
        const uint32_t number = Routes::number(round, instance);
        uint32_t word[POOL_KEYS / 32], active = 0;
        bool late = false;
        for (uint32_t n = 1;; n++) {
            bool all = true;
#pragma unroll
            for (int i = 0; i < POOL_KEYS / 32; i++) {
                const uint32_t key = lane_id() + 32 * i;
                word[i] = key < Model::KEYS ? load_relaxed(&routes->told[key]) : Routes::tell(number, 0, 0);
                const uint32_t ahead = Routes::ahead(word[i], number);
                all &= ahead <= Routes::NUMBERS / 2, late |= ahead - 1 < Routes::NUMBERS / 2;
            }
            if (__all_sync(~0u, all)) break;
            if ((n & 255) == 0) missing();
        }
        late = __any_sync(~0u, late);
#pragma unroll
        for (int i = 0; i < POOL_KEYS / 32; i++) {
            const uint32_t key = lane_id() + 32 * i;
            active += __popc(__ballot_sync(~0u, !late && word[i] & 0xFF));
            if (key < Model::KEYS) s->key_expert[key] = word[i] >> 8 & 0x3FF, s->key_rows[key] = word[i] & 0xFF;
        }
        if (lane_id() == 0) s->active = active;
        __syncwarp();
    }

    // A tile's part of each active expert, SUM_KEYS of them a page: `from` is that of expert 0.
    DEVICE void fill_experts(const Pieces &from, uint32_t item_bytes, uint32_t &page) {
        if constexpr (!Model::RESIDENT) { // the kernels before have routed
            grid_wait();
            take_routes();
        }
        for (uint32_t chunk = 0; chunk < from.chunks; chunk++) {
            const uint32_t first = chunk * Model::SUM_KEYS, lane = lane_id(),
                           keys = s->active > first ? min(s->active - first, (uint32_t)Model::SUM_KEYS) : 0;
            next_page(page);
            const uint32_t full = shared_address(&s->full[page]);
            if (lane == 0) barrier_expect(full, keys * from.bytes);
            __syncwarp();
            if (lane < keys) {
                fence_bulk_copies();
                bulk_copy(pages + page * Model::PAGE_BYTES + lane * from.bytes,
                          from.from + (uint64_t)s->key_expert[first + lane] * item_bytes, from.bytes, full,
                          policy_stream());
            }
            if (++page == Model::PAGES) page = 0;
        }
    }

    // The keys and values of a part's chunks, a page each, as far as the round goes. Positions before `start` were
    // written in earlier rounds: accept waits for every append and then opens the next round's gate, which dispatch
    // acquires before it hands the round on. What this round appends meanwhile is not taken from here (attend_chunks).
    DEVICE void fill_keys(const EngineEntry &entry, uint32_t instance, const Gate &gate) {
        using Dims = typename Model::Target;
        constexpr uint32_t KEYS = KEY_CHUNK * Dims::KEY * 2, VALUES = KEY_CHUNK * Dims::V * 2;
        const EngineStep &step = Model::step(entry.step);
        const EngineLayer &layer = pointer<const EngineLayer>(p->layers)[s->instances[instance].table];
        const uint32_t chunks = layer.capacity / KEY_CHUNK, end = gate.start + gate.rows;
        uint32_t page = entry.page, chunk = entry.lo * step.kv_heads / step.heads * chunks + entry.part;
        who.at(instance, entry.body_step, entry.lo, entry.hi);
        if (gate.halted(instance, entry.body_step)) return;
        fence_bulk_sources();
        for (uint32_t base = entry.part * KEY_CHUNK; base < end; base += Model::SPLIT * KEY_CHUNK) {
            for (int i = 0; i < 2; i++) {
                next_page(page);
                if (lane_id() == 0) {
                    const uint32_t full = shared_address(&s->full[page]), bytes = i ? VALUES : KEYS;
                    barrier_expect(full, bytes);
                    fence_bulk_copies();
                    bulk_copy(pages + page * Model::PAGE_BYTES, (i ? layer.v : layer.k) + (uint64_t)chunk * bytes,
                              bytes, full, policy_stream());
                }
                if (++page == Model::PAGES) page = 0;
            }
            chunk += Model::SPLIT;
        }
    }

    // Takes items, hands each to dispatch, loads its weights. All lanes: a step of the pool a lane, a key or two a
    // lane. Tiles of a step whose inputs are the same for all keys are claimed where the pool says so. Where they are
    // the key's own a worker takes a run of them, so that it reads few keys' inputs.
    DEVICE void pool(const EngineTables *t, const EngineEntry &entry, uint32_t round, uint32_t instance,
                     const Gate &gate) {
        const EnginePool &pool = pointer<const EnginePool>(p->tables + t->pool_at)[entry.pool];
        const EngineLayer &layer = pointer<const EngineLayer>(p->layers)[s->instances[instance].table];
        const uint32_t lane = lane_id(), items = pool.items, participants = pool.participants;
        if (lane < items) {
            const EngineEntry it = pointer<const EngineEntry>(p->tables + t->entry_at)[pool.item + lane];
            const EngineStep &step = Model::step(it.step);
            PoolStep &of = s->pool[lane];
            of.first = it;
            const Pieces pieces = pieces_of(step, layer.weight[step.slot], it.lo, it.hi, 0, it.chunks);
            of.pieces = pieces, of.item_bytes = step.item_bytes;
            const bool whole = step.chunks_of_strip > 1 || pieces.bytes % step.chunk_bytes == 0;
            of.claimed = pool.dynamic && !step.in_item;
            of.halted = gate.halted(instance, it.body_step);
            of.streams =
                Model::STREAM_RUNS > 0 && lane == 0 && step.stream && !of.halted && it.signal_count <= SLOT_SIGNALS;
            of.merged = !pool.dynamic || !whole || it.signal_count > SLOT_SIGNALS ? 1 : POOL_MERGED;
        }
        __syncwarp();
        who.at(instance, entry.body_step, 0, 0);
        auto wait = [&] {
            if constexpr (!Model::RESIDENT)
                if (entry.lo) grid_wait(); // routed by the kernel before
            const EngineWait *waits = pointer<const EngineWait>(p->tables + t->wait_at) + entry.wait;
            const uint32_t *counters = pointer<const uint32_t>(p->slab + t->counter_at);
            for (uint32_t i = 0; Model::RESIDENT && i < entry.wait_count; i++) {
                uint32_t group, since = 0;
                bool holds;
                const uint32_t want = counter_want(t, p->tables, waits[i], round, (int)instance, 0, group, holds);
                auto missing = [&] {
                    watch(who, since, WAITER_COUNTER, group, want, load_relaxed(counters + group * COUNTER_STRIDE));
                };
                // Who routes tells all others before its own copies are on their way: a release would wait for these.
                if (entry.wait_count == 1 && !s->halts && !entry.page) return take_told(round, instance, missing);
                for (uint32_t n = 1;
                     !holds && (int)(load_counter<(Model::RANKS > 1)>(counters + group * COUNTER_STRIDE) - want) < 0;
                     n++)
                    if ((n & 255) == 0) missing();
            }
            __syncwarp();
            take_routes();
        };
        uint32_t *claims = pointer<uint32_t>(p->claims) + (Model::RESIDENT ? instance : entry.pool), page = 0;
        const bool streams = Model::STREAM_RUNS > 0 && s->pool[0].streams;
        if (streams) { // before the routing is known
            hand(0, 0, 0, 0, page);
            next_page(page);
        }
        wait();
        for (uint32_t which = 0; which < items; which++) {
            const PoolStep &of = s->pool[which];
            const bool one_by_one = of.claimed;
            if (streams && which == 0) {
                stream(which, entry.part, participants, one_by_one ? claims : nullptr, page);
                continue;
            }
            const uint32_t tiles = of.first.pool, total = tiles * s->active,
                           end = one_by_one ? total : (entry.part + 1) * total / participants;
            uint32_t item = one_by_one ? entry.part : entry.part * total / participants,
                     size = one_by_one ? 1 : of.merged;
            while (item < end) {
                // Claimed one ahead; several tiles at a time while many are left, since a task costs as much again as
                // it multiplies.
                uint32_t next = 0;
                const uint32_t next_size = one_by_one && item + 4 * participants >= total ? 1
                                           : item + 8 * participants >= total             ? min(of.merged, 2u)
                                                                                          : of.merged;
                if (one_by_one && lane == 0) next = participants + add_relaxed(claims, next_size);
                for (uint32_t until = min(item + size, end); item < until;) {
                    const uint32_t key = item / tiles, tile = item % tiles, n = min(until - item, tiles - tile);
                    hand(which, key, tile, n, page);
                    Pieces from = of.pieces;
                    from.from += (uint64_t)s->key_expert[key] * of.item_bytes + tile * from.bytes;
                    from.chunks *= n, from.bytes *= n;
                    if (!of.halted) fill_all(from, page);
                    item += n;
                }
                if (one_by_one) item = __shfl_sync(~0u, next, 0);
                size = next_size;
            }
        }
        hand(0, -1, 0, 1, 0);
        if (Model::RESIDENT && lane == 0) add_release(pointer<uint32_t>(p->exits) + instance, 1);
        __syncwarp();
    }

    // What the load queue has for one instance.
    DEVICE void run_instance(const EngineTables *t, uint32_t round, uint32_t instance, const Gate &gate) {
        const EngineInstance in = s->instances[instance];
        const EngineQueue &queue = s->queues[in.body * ROLES + ROLE_LOAD];
        const EngineLayer &layer = pointer<const EngineLayer>(p->layers)[in.table];
        for (uint32_t base = 0; base < queue.count; base += 32) { // a lane an entry, then one after the other
            EngineEntry entry = {};
            Pieces pieces = {};
            const uint32_t count = min(queue.count - base, 32u);
            if (lane_id() < count) {
                entry = pointer<const EngineEntry>(p->tables + t->entry_at)[queue.first + base + lane_id()];
                if (entry.kind == ENGINE_LOAD) {
                    const EngineStep &step = Model::step(entry.step);
                    pieces = pieces_of(step, layer.weight[step.slot], entry.lo, entry.hi, entry.part,
                                       gate.halted(instance, entry.body_step) ? 0 : entry.chunks);
                }
            }
            for (uint32_t i = 0; i < count; i++) {
                const uint32_t kind = __shfl_sync(~0u, (uint32_t)entry.kind, i);
                if (kind != ENGINE_LOAD) {
                    const EngineEntry it = pointer<const EngineEntry>(p->tables + t->entry_at)[queue.first + base + i];
                    if (Model::PAGED_KEYS && kind == ENGINE_KEYS)
                        fill_keys(it, instance, gate);
                    else if constexpr (Model::EXPERTS > 0)
                        pool(t, it, round, instance, gate);
                    continue;
                }
                const Pieces from = {__shfl_sync(~0u, pieces.from, i),
                                     __shfl_sync(~0u, pieces.chunks, i),
                                     __shfl_sync(~0u, pieces.chunks_of_strip, i),
                                     __shfl_sync(~0u, pieces.strip_bytes, i),
                                     __shfl_sync(~0u, pieces.chunk_bytes, i),
                                     __shfl_sync(~0u, pieces.bytes, i)};
                who.at(instance, __shfl_sync(~0u, (uint32_t)entry.body_step, i), __shfl_sync(~0u, entry.lo, i),
                       __shfl_sync(~0u, entry.hi, i));
                uint32_t page = __shfl_sync(~0u, (uint32_t)entry.page, i);
                if constexpr (Model::SUM_STRIPS > 0) {
                    const EngineStep &step = Model::step(__shfl_sync(~0u, (uint32_t)entry.step, i));
                    if (step.op == RUN_SUM_EXPERTS) {
                        fill_experts(from, step.item_bytes, page);
                        continue;
                    }
                }
                fill_all(from, page);
            }
        }
    }

    DEVICE void run() {
        const EngineTables *t = &s->tables;
        for (uint32_t round = 0;; round++) {
            who.round(round);
            barrier_wait(who, s->gate_full[round % 2], round / 2 & 1); // dispatch alone asks for the gate
            const Gate gate = s->gates[round % 2];
            warp_arrive(shared_address(&s->gate_free[round % 2]));
            if (gate.flags & GATE_EXIT) return;
            for (uint32_t instance = 0; instance < t->instances; instance++)
                if (!gate.skips(s->instances[instance])) run_instance(t, round, instance, gate);
        }
    }
};
#endif
