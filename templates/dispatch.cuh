// dispatch: one warp goes through the compute queue, writes each entry into an instruction slot, waits for its counters
// and says when it may start. What the next entry needs from memory is fetched while the current one waits.
#ifndef TILEGEN_DISPATCH_CUH
#define TILEGEN_DISPATCH_CUH
#include "load.cuh"

// An entry on its way: a word or two a lane.
struct Fetch {
    int instance;         // -1: the round is over
    uint32_t index;       // of the entry
    uint32_t word;        // lanes 0-7: the entry
    uint32_t step[2];     // lanes 0-63: the step
    uint64_t layer;       // lanes 0-23
    uint32_t group, want; // a wait a lane
    bool holds, by_key;
    EngineSignal signal; // a signal a lane
    DEVICE uint32_t field(int i) const { return __shfl_sync(~0u, word, i); }
};

template <class Model> struct Dispatch {
    const EngineParams *p;
    Shared *s;
    const EngineTables *t;
    const uint32_t *counters;
    uint32_t number, round;
    uint32_t taken;  // items so far
    uint32_t strips; // for the finishers, so far; lane 0
    Gate gate;
    Waiter who;
    uint32_t entry, end; // of the queue at hand
    int instance;

    // The next entry of the round's compute queues.
    DEVICE void advance(Fetch &f) {
        while (entry == end) {
            if (++instance == (int)t->instances) {
                f.instance = -1;
                instance--;
                return;
            }
            EngineQueue q = s->queues[s->instances[instance].body * ROLES + ROLE_COMPUTE];
            entry = q.first, end = q.first + q.count;
        }
        f.instance = instance;
        f.index = entry++;
    }
    DEVICE void fetch_entry(Fetch &f) {
        if (f.instance < 0) return;
        if (lane_id() < 8) f.word = __ldg(pointer<const uint32_t>(p->tables + t->entry_at) + f.index * 8 + lane_id());
        if (lane_id() < LAYER_WORDS)
            f.layer = __ldg(pointer<const unsigned long long>(p->layers) +
                            s->instances[f.instance].table * LAYER_WORDS + lane_id());
    }
    DEVICE void fetch_rest(Fetch &f, int key) {
        if (f.instance < 0) return;
        const uint32_t *step = reinterpret_cast<const uint32_t *>(&Model::step(f.field(0) & 0xFFFF));
        f.step[0] = __ldg(step + lane_id());
        if (lane_id() + 32 < STEP_WORDS) f.step[1] = __ldg(step + 32 + lane_id());
        const uint32_t first = f.field(4), count = f.field(6) & 0xFFFF;
        const uint32_t signal = f.field(5), signals = f.field(6) >> 16;
        if (lane_id() < SLOT_SIGNALS && lane_id() < signals) {
            const uint2 w = __ldg(pointer<const uint2>(p->tables + t->signal_at) + signal + lane_id());
            f.signal = {w.x, w.y};
        }
        f.holds = lane_id() >= count;
        f.by_key = false;
        if (!f.holds) {
            uint2 w = __ldg(pointer<const uint2>(p->tables + t->wait_at) + first + lane_id());
            EngineWait wait = {w.x, (int32_t)w.y};
            f.by_key = w.x & GROUP_KEY;
            f.want = counter_want(t, p->tables, wait, round, f.instance, key, f.group, f.holds);
        }
    }

    // Writes the slot and posts it.
    DEVICE void post(const Fetch &f, int key, uint32_t expert, uint32_t chosen_by, uint32_t page, uint32_t tiles = 1) {
        const uint32_t place = number % SLOTS;
        barrier_wait(who, s->freed[place], (number / SLOTS & 1) ^ 1);
        Slot &slot = s->slots[place];
        uint32_t *step = reinterpret_cast<uint32_t *>(&slot.step);
        step[lane_id()] = f.step[0];
        if (lane_id() + 32 < STEP_WORDS) step[32 + lane_id()] = f.step[1];
        if (lane_id() < LAYER_WORDS) reinterpret_cast<uint64_t *>(&slot.layer)[lane_id()] = f.layer;
        if (lane_id() < SLOT_SIGNALS) slot.at.signals[lane_id()] = {f.signal.group, f.signal.amount * max(tiles, 1)};
        const uint32_t w0 = f.field(0), w1 = f.field(1), w2 = f.field(2), w3 = f.field(3), w5 = f.field(5),
                       w6 = f.field(6), w7 = f.field(7);
        const EngineInstance in = s->instances[f.instance];
        __syncwarp();
        if (lane_id() == 0) {
            Instruction &at = slot.at;
            at.instance = f.instance, at.step = w0 & 0xFFFF, at.body_step = w7 >> 16;
            at.lo = (int)w1, at.hi = (int)w2, at.part = w3 & 0xFFFF, at.key = key;
            at.expert = expert, at.rows_of_key = chosen_by;
            at.page = page, at.chunks = w3 >> 16;
            at.signal = w5, at.signal_count = w6 >> 16;
            const uint32_t outputs = slot.step.op <= RUN_LINEAR_F32 ? slot.step.strip_outputs : 0;
            at.strips = outputs ? (w2 - w1 + outputs - 1) >> log2_of(outputs) : 0;
            at.first_strip = strips;
            at.first_input = slot.step.parts > 1 ? at.part * slot.step.k : 0;
            at.in = slot.step.in + at.first_input * Activations<Model::WIDE>::BYTES +
                    (key > 0 ? (uint32_t)key * slot.step.in_item : 0);
            at.stream = tiles == 0;
            at.start = gate.start, at.rows = gate.rows;
            at.skip = gate.skips(in) || gate.halted(f.instance, w7 >> 16);
            if (!at.skip && !slot.step.direct) strips += at.strips;
            at.tap = in.tap;
            at.round = round;
            at.input = round << 28 | (uint32_t)f.instance << 20 | slot.step.input << 10 |
                       (slot.step.in_item     ? key + 1
                        : slot.step.parts > 1 ? at.part + 1
                                              : 0);
            if (p->trace) {
                EngineTrace *trace =
                    pointer<EngineTrace>(p->trace) + blockIdx.x * p->trace_room + number % p->trace_room;
                // One that only has inputs loaded is none of its step's tasks.
                trace->instance = outputs && at.strips == 0 ? ~0u : f.instance,
                trace->step = w7 >> 16 | (max(tiles, 1) - 1) << 16;
                trace->posted = nanoseconds();
            }
        }
        warp_arrive(shared_address(&s->posted[place]));
        who.at(f.instance, w7 >> 16, (int)w1, (int)w2);
    }

    // Waits beyond the 32 that the lanes hold.
    DEVICE void wait_more(const Fetch &f, int key) {
        const uint32_t first = f.field(4), count = f.field(6) & 0xFFFF;
        for (uint32_t i = 32 + lane_id(); i < count; i += 32) {
            EngineWait wait = pointer<const EngineWait>(p->tables + t->wait_at)[first + i];
            uint32_t group, want, n = 1;
            uint32_t since = 0;
            bool holds;
            for (want = counter_want(t, p->tables, wait, round, f.instance, key, group, holds);
                 !holds && (int)(load_counter<(Model::RANKS > 1)>(counters + group * COUNTER_STRIDE) - want) < 0; n++)
                if ((n & 255) == 0)
                    watch(who, since, WAITER_COUNTER, group, want, load_relaxed(counters + group * COUNTER_STRIDE));
        }
        __syncwarp();
    }
    // One look at the counters.
    DEVICE bool look(Fetch &f) {
        if (!f.holds)
            f.holds = (int)(load_counter<(Model::RANKS > 1)>(counters + f.group * COUNTER_STRIDE) - f.want) >= 0;
        return __all_sync(~0u, f.holds);
    }
    DEVICE void ready(const Fetch &f, int key) {
        if constexpr (Model::RESIDENT)
            wait_more(f, key);
        else
            grid_wait(), grid_release();
        if (p->trace && lane_id() == 0)
            pointer<EngineTrace>(p->trace)[blockIdx.x * p->trace_room + number % p->trace_room].ready = nanoseconds();
        warp_arrive(shared_address(&s->ready[number % SLOTS]));
        number++;
    }
    // Posts `f`, waits for it, meanwhile fetches `next`.
    DEVICE void wait_for(Fetch &f, int key, Fetch *next) {
        int stage = 0;
        uint32_t since = 0;
        for (uint32_t n = 1;; n++) {
            if (next && stage == 0)
                fetch_entry(*next), stage = 1;
            else if (next && stage == 1)
                fetch_rest(*next, -1), stage = 2;
            if (look(f)) break;
            if ((n & 255) == 0 && !f.holds)
                watch(who, since, WAITER_COUNTER, f.group, f.want, load_relaxed(counters + f.group * COUNTER_STRIDE));
            else if ((n & 255) == 0 && s->dying)
                asm volatile("exit;"); // the record is that of the lanes whose counters are short
        }
        ready(f, key);
        if (next && stage == 0) fetch_entry(*next), stage = 1;
        if (next && stage == 1) fetch_rest(*next, -1);
    }

    // The items that the loader hands over. Items of a step share its waits, groups by key or the same for all, so most
    // items need not look at a counter.
    DEVICE void pool(const Fetch &f) {
        uint32_t last = ~0u, last_signal = ~0u, first_group = 0;
        Fetch item = f;
        for (;;) {
            const uint32_t place = taken % ITEM_ROOM;
            barrier_wait(who, s->item_full[place], taken / ITEM_ROOM & 1);
            const Item &in = s->items[place];
            const int key = in.key;
            strips += in.streamed;
            const uint32_t expert = in.expert, chosen_by = in.chosen_by, page = in.page, tiles = in.tiles;
            if (lane_id() < 8) item.word = reinterpret_cast<const uint32_t *>(&in.entry)[lane_id()];
            warp_arrive(shared_address(&s->item_free[place]));
            taken++;
            if (key < 0) return;
            const uint32_t step = item.field(0) & 0xFFFF, count = item.field(6) & 0xFFFF;
            if (step != last) {
                fetch_rest(item, 0);
                first_group = item.group;
                last = step;
                item.group = ~0u;
            }
            const uint32_t signal = item.field(5), signals = item.field(6) >> 16;
            if (signal != last_signal && lane_id() < SLOT_SIGNALS && lane_id() < signals) {
                const uint2 w = __ldg(pointer<const uint2>(p->tables + t->signal_at) + signal + lane_id());
                item.signal = {w.x, w.y};
            }
            last_signal = signal;
            const uint32_t group = first_group + (item.by_key ? key : 0);
            if (group != item.group) item.holds = lane_id() >= count; // else it holds as it did for the item before
            item.group = group;
            post(item, key, expert, chosen_by, page, tiles);
            wait_for(item, key, nullptr);
        }
    }

    DEVICE void run() {
        for (round = 0;; round++) {
            who.round(round);
            instance = -1, entry = end = 0;
            Fetch now = {}, next = {};
            advance(now);
            fetch_entry(now);
            fetch_rest(now, -1);
            gate = gate_wait(who, round);
            barrier_wait(who, s->gate_free[round % 2], (round / 2 & 1) ^ 1);
            if (lane_id() == 0) s->gates[round % 2] = gate;
            warp_arrive(shared_address(&s->gate_full[round % 2]));
            if (gate.flags & GATE_EXIT) break;
            run_entries(now, next);
        }
        post_end();
    }

    // All entries of the round, from `now` on, which is fetched.
    DEVICE void run_entries(Fetch &now, Fetch &next) {
        while (now.instance >= 0) {
            advance(next);
            if ((now.field(0) >> 16 & 0xFF) == ENGINE_POOL) {
                // A pool entry itself is no instruction: its waits, then its items.
                uint32_t since = 0;
                who.at(now.instance, now.field(7) >> 16, 0, 0);
                for (uint32_t n = 1; !look(now); n++)
                    if ((n & 255) == 0 && !now.holds)
                        watch(who, since, WAITER_COUNTER, now.group, now.want,
                              load_relaxed(counters + now.group * COUNTER_STRIDE));
                if (!gate.skips(s->instances[now.instance])) pool(now);
                fetch_entry(next);
                fetch_rest(next, -1);
            } else {
                post(now, -1, 0, 0, now.field(0) >> 24);
                wait_for(now, -1, &next);
            }
            now = next;
        }
    }
    // The kernel's end, for the compute warps and the finishers.
    DEVICE void post_end() {
        const uint32_t place = number % SLOTS;
        barrier_wait(who, s->freed[place], (number / SLOTS & 1) ^ 1);
        if (lane_id() == 0) {
            s->slots[place].step.op = RUN_LEAVE;
            s->slots[place].at.skip = 0;
        }
        warp_arrive(shared_address(&s->posted[place]));
    }
};
#endif
