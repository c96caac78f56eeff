// dispatch: one warp goes through the compute queue, writes each entry into an instruction slot, waits for its counters
// and says when it may start. What the next entry needs from memory is fetched while the current one waits.
#ifndef TILEGEN_DISPATCH_CUH
#define TILEGEN_DISPATCH_CUH
#include "load.cuh"

// An entry on its way, or an item of a pool: a word or two a lane.
struct Fetch {
    int instance;         // -1: the round is over
    uint32_t index;       // of the entry
    uint32_t word;        // lanes 0-7: the entry; 8-13: what an Item has beside it
    uint32_t step[2];     // lanes 0-63: the step
    uint64_t layer;       // lanes 0-23
    uint32_t group, want; // a wait a lane
    uint32_t per_key;     // by how much its group is another for the next key
    bool holds;
    EngineSignal signal; // a signal a lane
    DEVICE uint32_t field(int i) const { return __shfl_sync(~0u, word, i); }
    DEVICE int key() const { return (int)field(8); } // -1: of an entry
};
enum { ITEM_WORDS = sizeof(Item) / 4 };

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
        f.word = lane_id() == 8 ? ~0u : lane_id() == 12; // no key, one tile
        if (lane_id() < 8) f.word = __ldg(pointer<const uint32_t>(p->tables + t->entry_at) + f.index * 8 + lane_id());
        if (lane_id() < LAYER_WORDS)
            f.layer = __ldg(pointer<const unsigned long long>(p->layers) +
                            s->instances[f.instance].table * LAYER_WORDS + lane_id());
    }
    DEVICE void fetch_rest(Fetch &f) {
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
        const int key = max(f.key(), 0);
        f.holds = lane_id() >= count;
        f.per_key = 0;
        if (!f.holds) {
            uint2 w = __ldg(pointer<const uint2>(p->tables + t->wait_at) + first + lane_id());
            EngineWait wait = {w.x, (int32_t)w.y};
            f.per_key = w.x & GROUP_KEY ? 1 : 0;
            f.want = counter_want(t, p->tables, wait, round, f.instance, key, f.group, f.holds);
        }
    }
    // The next item that the loader hands over, after `f`, the pool's entry or the item before. Items of a step share
    // its waits, groups by key or the same for all, so most items need not look at a counter. False: there are no more.
    DEVICE bool take_item(Fetch &f, bool &known) {
        const uint32_t place = taken++ % ITEM_ROOM, last = f.field(0) & 0xFFFF;
        const int before = f.key();
        barrier_wait(who, s->item_full[place], (taken - 1) / ITEM_ROOM & 1);
        if (lane_id() < ITEM_WORDS) f.word = reinterpret_cast<const uint32_t *>(&s->items[place])[lane_id()];
        warp_arrive(shared_address(&s->item_free[place]));
        strips += f.field(13);
        const int key = f.key();
        const bool waits = lane_id() < (f.field(6) & 0xFFFF);
        known = before >= 0 && (f.field(0) & 0xFFFF) == last;
        if (known && f.per_key && key != before) f.group += key - before, f.holds = !waits;
        return key >= 0;
    }

    // Writes the slot and posts it.
    DEVICE void post(const Fetch &f) {
        const int key = f.key();
        const uint32_t expert = f.field(9), chosen_by = f.field(10), page = f.field(11), tiles = f.field(12);
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
            at.page = key < 0 ? w0 >> 24 : page, at.chunks = w3 >> 16;
            at.signal = w5, at.signal_count = w6 >> 16;
            const uint32_t outputs = slot.step.op <= RUN_LINEAR_F32 ? slot.step.strip_outputs : 0;
            at.strips = outputs ? (w2 - w1 + outputs - 1) >> log2_of(outputs) : 0;
            at.first_strip = strips;
            at.first_input = slot.step.parts > 1 ? at.part * slot.step.k : 0;
            at.in = slot.step.in + at.first_input * Activations<Model::WIDE>::BYTES +
                    (key > 0 ? (uint32_t)key * slot.step.in_item : 0);
            at.tiles = tiles;
            at.start = gate.start, at.rows = gate.rows;
            at.skip = gate.skips(in) || gate.halted(f.instance, w7 >> 16);
            if (!at.skip && !slot.step.direct) strips += at.strips;
            at.tap = in.tap;
            at.round = round;
            at.input = round << 28 | (uint32_t)f.instance << 20 | slot.step.input << 10 |
                       (slot.step.in_item     ? key + 1
                        : slot.step.parts > 1 ? at.part + 1
                                              : 0);
        }
        warp_arrive(shared_address(&s->posted[place]));
        who.at(f.instance, w7 >> 16, (int)w1, (int)w2);
    }

    // Waits beyond the 32 that the lanes hold.
    DEVICE void wait_more(const Fetch &f) {
        const uint32_t first = f.field(4), count = f.field(6) & 0xFFFF;
        const int key = max(f.key(), 0);
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
    DEVICE void ready(const Fetch &f, bool more) {
        if constexpr (!Model::RESIDENT)
            grid_wait(), grid_release();
        else if (more)
            wait_more(f);
        warp_arrive(shared_address(&s->ready[number % SLOTS]));
        number++;
    }
    // All entries of the round: posts each, waits for it, meanwhile fetches the next one. A pool's entry is no
    // instruction: when its waits hold its items come, one after the other. There is one copy of each part: this code
    // is gone through for every task, and beside that of all other warps.
    // `stage` of `next`, the round's first: 0 nothing is known of it, 2 it is fetched.
    DEVICE void run_entries(Fetch next, int stage) {
        Fetch now = {};
        bool items = false, posts = false, done = true; // items: they are next; posts, done: `now` does, is ready
        for (;; stage = 0) {
            bool known = false;
            const bool more = (now.field(6) & 0xFFFF) > 32; // waits
            uint32_t since = 0;
            for (uint32_t n = 1; !done || stage < 2; n++) {
                if (stage == 0 && !items) {
                    advance(next);
                    fetch_entry(next);
                    stage = 1;
                } else if (stage == 0 && done) {
                    next = now;
                    items = take_item(next, known);
                    stage = !items ? 0 : known ? 2 : 1;
                } else if (stage == 1) {
                    fetch_rest(next);
                    stage = 2;
                }
                if (done) continue;
                if (look(now)) {
                    done = true;
                    if (posts) ready(now, more);
                } else if ((n & 255) == 0) {
                    if (!now.holds)
                        watch(who, since, WAITER_COUNTER, now.group, now.want,
                              load_relaxed(counters + now.group * COUNTER_STRIDE));
                    if (s->dying) asm volatile("exit;"); // the record is that of the lanes whose counters are short
                }
            }
            now = next;
            if (now.instance < 0) return;
            done = false, posts = now.key() >= 0 || (now.field(0) >> 16 & 0xFF) != ENGINE_POOL;
            if (posts) {
                post(now);
                // Its inputs say themselves that they are there; that their counters say so too is for what follows.
                if (Model::RESIDENT && (now.field(0) >> 16 & 0xFF) == ENGINE_EARLY && !s->halts &&
                    !s->slots[number % SLOTS].at.skip)
                    ready(now, false), posts = false;
            } else {
                who.at(now.instance, now.field(7) >> 16, 0, 0);
                items = !gate.skips(s->instances[now.instance]);
            }
        }
    }
    DEVICE void run() {
        for (round = 0;; round++) {
            who.round(round);
            instance = -1, entry = end = 0;
            gate = gate_wait(who, round);
            barrier_wait(who, s->gate_free[round % 2], (round / 2 & 1) ^ 1);
            if (lane_id() == 0) s->gates[round % 2] = gate, s->halts |= gate.halt != 0;
            warp_arrive(shared_address(&s->gate_full[round % 2]));
            if (gate.flags & GATE_EXIT) break;
            run_entries({}, 0);
        }
        post_end();
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
