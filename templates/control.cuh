// control: the control queue of each worker (what is pushed to other ranks), and on worker 0 the end of each round:
// accept, the next round's state, tokens to the host, requests from it.
#ifndef TILEGEN_CONTROL_CUH
#define TILEGEN_CONTROL_CUH
#include "dispatch.cuh"
#include "rows.cuh"

// Of the request that worker 0 serves; in its shared memory.
struct Serving {
    EngineRequest request;
    uint32_t number;             // of the request
    uint32_t emitted, prompt_at; // tokens emitted; of the prompt, run
    uint32_t entry;              // ring entries written
    uint32_t cancelled, idle;
};

template <class Model> struct Control {
    const EngineParams *p;
    Shared *s;
    Serving *serving;
    const EngineTables *t;
    uint32_t round;
    Gate gate;
    Waiter who;

    DEVICE bool meets() const { return Model::RANKS > 1 && p->meeting; } // the ranks are there
    DEVICE EngineMailbox *mailbox() const { return pointer<EngineMailbox>(p->mailbox); }
    DEVICE EngineState *state_of(uint32_t number) const {
        return pointer<EngineState>(p->state) + (Model::RESIDENT ? number % ENGINE_GATES : 0);
    }
    DEVICE void open_gate(uint32_t number, uint32_t flags) {
        if (flags & GATE_EXIT) store_release_wide(pointer<uint64_t>(p->gate) + ENGINE_GATES, 1);
        store_release_wide(pointer<uint64_t>(p->gate) + number % ENGINE_GATES, (uint64_t)(number + 1) << 8 | flags);
    }
    // Has the host said that all should end? Worker 0 passes it on.
    DEVICE bool host_aborts() {
        if (!mailbox()->abort) return false;
        *pointer<volatile uint32_t>(p->abort) = 1;
        __threadfence();
        return true;
    }

    // Where lengths are drawn, so are the drafts that the target sees: a random drafter's are much the same, and equal
    // tokens would go to the same few experts.
    DEVICE int drawn_token(int position) const {
        uint32_t bits = ((uint32_t)position + serving->request.accept_seed) * 0x9E3779B1u;
        bits = (bits ^ bits >> 15) * 0x85EBCA77u;
        return (int)__umulhi(bits ^ bits >> 13, Model::VOCAB * Model::RANKS);
    }

    // The next round's rows and flags, from what the request has left to do. Lane 0.
    DEVICE uint32_t plan_round(EngineState *state, int start, int anchor) {
        const EngineRequest &r = serving->request;
        const uint32_t left = r.prompt - serving->prompt_at;
        const bool drafting = r.flags & REQUEST_DRAFT;
        int rows = Model::BLOCK, room = (int)p->context - start;
        if (left)
            rows = min((int)left, ENGINE_ROWS);
        else if (!drafting)
            rows = 1;
        rows = min(rows, room);
        state->start = start, state->rows = rows, state->anchor = anchor;
        state->temperature = r.temperature, state->top_p = r.top_p, state->top_k = r.top_k, state->seed = r.seed;
        state->given = opaque(left ? ~0u : r.flags & REQUEST_ACCEPT ? ~1u : 0), state->drafting = drafting;
        state->logits = r.temperature > 0 || r.flags & REQUEST_HOLD;
        for (int i = 0; i < rows && left; i++)
            state->tokens[i] = __ldcg(pointer<const int>(p->prompt) + serving->prompt_at + i);
        for (int i = 1; i < rows && !left && r.flags & REQUEST_ACCEPT; i++) state->tokens[i] = drawn_token(start + i);
        const bool last_block = left && left <= ENGINE_ROWS;
        state->halt = (r.flags & REQUEST_HALT) && (r.limit > 1 ? left == 0 : last_block);
        state->halt_instance = r.halt_instance, state->halt_step = r.halt_body_step;
        return (left || !drafting ? GATE_SKIP_DRAFT : 0) | (drafting ? 0 : GATE_SKIP_CONTEXT);
    }

    // Waits for a request and begins it. False: the host wants the kernel to end.
    DEVICE bool take_request() {
        EngineMailbox *m = mailbox();
        uint32_t number = 0;
        for (uint32_t n = 0;; n++) {
            number = load_acquire_system((const uint32_t *)&m->request);
            if (number != serving->number) break;
            if (m->stop) return false;
            if ((n & 15) == 0 && (host_aborts() || s->dying)) give_up(who, WAITER_GATE, 0, 0, 0, false);
        }
        __syncwarp();
        uint32_t *to = reinterpret_cast<uint32_t *>(&serving->request);
        const volatile uint32_t *from = reinterpret_cast<const volatile uint32_t *>(&m->body);
        for (uint32_t i = lane_id(); i < sizeof(EngineRequest) / 4; i += 32) to[i] = from[i];
        __syncwarp();
        const volatile int *tokens = pointer<const volatile int>(p->prompt_host);
        for (uint32_t i = lane_id(); i < serving->request.prompt; i += 32) pointer<int>(p->prompt)[i] = tokens[i];
        __threadfence();
        __syncwarp();
        if (lane_id() == 0) {
            const EngineRequest &r = serving->request;
            EngineState *state = state_of(round);
            serving->number = number;
            serving->emitted = serving->prompt_at = serving->cancelled = serving->idle = 0;
            uint32_t flags = plan_round(state, (int)r.start, 0);
            open_gate(round, flags);
        }
        __syncwarp();
        return true;
    }

    // What a round emitted goes to the host.
    DEVICE void report_round(uint32_t flags, int start, int rows, int accepted, int count, int token, uint64_t time) {
        EngineRound *entry = pointer<EngineRound>(p->ring) + (serving->entry & (p->ring_size - 1));
        if (lane_id() < ENGINE_ROWS) ((volatile int *)entry->tokens)[lane_id()] = lane_id() < count ? token : 0;
        if (lane_id() == 0) {
            volatile EngineRound *e = entry;
            e->flags = flags, e->start = start, e->rows = rows, e->accepted = accepted, e->count = count;
            e->nanoseconds = time;
        }
        __syncwarp();
        if (lane_id() == 0) {
            __threadfence_system();
            store_release_system((uint32_t *)&entry->number, ++serving->entry);
        }
        __syncwarp();
    }

    // Before the next round may begin: room in the ring, and the host's word where it asked to be waited for.
    DEVICE void wait_for_host(bool hold) {
        const uint32_t room = hold ? 0 : p->ring_size / 2;
        if (!hold && serving->entry % room != 0) return; // looked at now and then: it is across the bus
        for (uint32_t n = 1; (int)(serving->entry - mailbox()->taken) > (int)room; n++) {
            if ((n & 15) == 0 && (host_aborts() || s->dying || mailbox()->cancel == serving->number)) break;
        }
    }

    // What the ranks say of the round before: that all came to the same, and rank 0 whether the request is given up.
    // Their words have been on their way for a round, so hardly anybody waits.
    DEVICE uint32_t agree() {
        const int lane = lane_id();
        const uint64_t *at = pointer<EngineMeeting>(p->meeting)->word[(round - 1) % 2] + lane % Model::RANKS;
        uint64_t word;
        uint32_t since = 0;
        for (uint32_t n = 1;; n++) {
            word = load_relaxed_system(at);
            const uint32_t late = __ballot_sync(~0u, (uint32_t)(word >> 32) != round);
            if (!late) break;
            if ((n & 255) == 0) watch(who, since, WAITER_RANK, __ffs(late) - 1, round, 0);
            if ((n & 1023) == 0) host_aborts();
        }
        const uint32_t digest = (uint32_t)word >> 1, mine = __shfl_sync(~0u, digest, (int)p->rank),
                       others = __ballot_sync(~0u, digest != mine);
        if (others) {
            const int first = __ffs(others) - 1;
            give_up(who, WAITER_DIGEST, first, mine, __shfl_sync(~0u, digest, first), true);
        }
        return __shfl_sync(~0u, (uint32_t)word & 1, 0);
    }
    // A word to every rank: what this round came to, a value a lane.
    DEVICE void tell_ranks(uint32_t value, uint32_t cancel) {
        const int lane = lane_id();
        value = (value + lane * 0x9E3779B1u) * 0x85EBCA77u;
        value = (value ^ value >> 15) * 0xC2B2AE3Du;
        const uint32_t digest = __reduce_xor_sync(~0u, value ^ value >> 13);
        const uint64_t word = (uint64_t)(round + 1) << 32 | (digest << 1 | cancel);
        if (lane < Model::RANKS)
            store_relaxed_system(
                pointer<EngineMeeting>(p->peers[lane] + (p->meeting - p->slab))->word[round % 2] + p->rank, word);
        __syncwarp();
    }

    // Accepted lengths for random weights: the mean's two neighbours, drawn.
    DEVICE int drawn_accept(int rows) {
        const EngineRequest &r = serving->request;
        float u = (float)(uint32_t)(sample_mix(r.accept_seed ^ sample_mix(serving->entry)) >> 40) * 0x1p-24f;
        int length = (int)(r.accept_mean + u);
        return min(max(length, 1), rows) - 1;
    }

    DEVICE void accept(const Instruction &at) {
        const EngineState *state = state_of(round);
        const EngineRequest &r = serving->request;
        const int start = gate.start, rows = gate.rows, lane = lane_id();
        const uint64_t time = nanoseconds(); // the round's end: the next may begin below
        const bool prompt = __ldcg(&state->given) & 1, hold = r.flags & REQUEST_HOLD;
        int choice = lane < rows ? __ldcg(pointer<const int>(p->slab + Model::CHOICE) + lane) : -1;
        const int draft = lane + 1 < rows && !prompt && Model::BLOCK > 1
                              ? __ldcg(pointer<const int>(p->slab + Model::DRAFTS) + lane + 1)
                              : -2;
        int accepted = __ffs(~__ballot_sync(~0u, choice == draft)) - 1;
        if (r.flags & REQUEST_ACCEPT && !prompt) accepted = drawn_accept(rows);
        if (prompt) accepted = rows - 1; // all of it counts; what follows it is the last row's choice
        if (at.skip) accepted = -1;
        if (meets() && round > 0) {
            const uint32_t cancelled = agree();
            if (lane == 0) serving->cancelled = cancelled;
            __syncwarp();
        }
        const uint32_t prompt_at = serving->prompt_at + (prompt ? rows : 0);
        const bool more_prompt = prompt && prompt_at < r.prompt;
        const int next = start + accepted + 1, anchor = __shfl_sync(~0u, choice, max(accepted, 0));
        bool end = false;
        for (uint32_t i = 0; i < r.stop_count; i++) end |= choice == r.stops[i];
        if (prompt) choice = anchor, end = __shfl_sync(~0u, end, max(accepted, 0));
        int count = at.skip || more_prompt ? 0 : prompt ? 1 : accepted + 1;
        const uint32_t ends = __ballot_sync(~0u, end && lane < count);
        if (ends) count = __ffs(ends);
        bool ended = ends != 0;
        if (serving->emitted + count > r.limit) count = (int)(r.limit - serving->emitted), ended = false;
        const bool last = at.skip || serving->cancelled || ended ||
                          (!more_prompt && serving->emitted + count >= r.limit) || next >= (int)p->context;
        uint32_t flags = 0;
        __syncwarp();
        if (lane == 0) {
            serving->emitted += count, serving->prompt_at = prompt_at, serving->idle = last;
            if (!last) flags = plan_round(state_of(round + 1), next, anchor);
        }
        __threadfence();
        __syncwarp();
        signal_all(*p, *s, at, 0);
        __syncwarp();
        if (!hold && !last && lane == 0) open_gate(round + 1, flags);
        report_round((last ? ROUND_LAST : 0) | (prompt ? ROUND_PROMPT : 0) | (ended ? ROUND_ENDED : 0) |
                         (serving->cancelled ? ROUND_CANCELLED : 0) |
                         (gate.flags & GATE_SKIP_DRAFT ? 0 : ROUND_DRAFTED),
                     start, rows, prompt ? 0 : accepted, count, choice, time);
        uint32_t cancelled = 0;
        if (lane == 0 && !last) {
            if (hold) wait_for_host(true), open_gate(round + 1, flags);
            if (Model::RESIDENT) cancelled = mailbox()->cancel == serving->number; // across the bus
            if (!meets()) serving->cancelled = cancelled;
        }
        if (meets())
            tell_ranks(lane < ENGINE_ROWS        ? lane < count ? choice : 0
                       : lane == ENGINE_ROWS     ? start
                       : lane == ENGINE_ROWS + 1 ? accepted
                                                 : count,
                       __shfl_sync(~0u, cancelled, 0));
        if (lane == 0 && !hold) wait_for_host(false);
        __syncwarp();
    }

    // A slice into every rank's inbox: 4-byte or 2-byte elements, and best tokens. Four loads at a time.
    DEVICE void push(const EngineStep &step, const Instruction &at) {
        using Act = Activations<Model::WIDE>;
        const uint32_t element = step.k; // bytes
        const bool wanted = element && (!step.best || __ldcg(&state_of(round)->logits));
        const int before = (int)(p->rank * step.outputs); // elements of a row that other ranks have
        const int width = at.hi - at.lo, count = wanted ? width * at.rows : 0;
        auto offset = [&](int i, uint32_t row_bytes, int before) {
            const int row = i / width, n = before + at.lo + i % width;
            return (uint64_t)row * row_bytes + (uint64_t)(step.site == SITE_OF_FC ? Act::place(n) : n) * element;
        };
#pragma unroll 1
        for (int base = lane_id(); base < count; base += 32 * 4) {
            uint32_t word[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const char *from = pointer<const char>(p->slab + step.in);
                const int n = base + 32 * i;
                if (n >= count) continue;
                from += offset(n, step.in_row, 0);
                word[i] = element == 2 ? __ldcg(reinterpret_cast<const uint16_t *>(from))
                                       : __ldcg(reinterpret_cast<const uint32_t *>(from));
            }
#pragma unroll 1
            for (int rank = 0; rank < Model::RANKS; rank++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int n = base + 32 * i;
                    if (n >= count) continue;
                    char *to = pointer<char>(p->peers[rank] + step.out + (uint64_t)p->rank * step.out_item) +
                               offset(n, step.out_row, before);
                    if (element == 2)
                        *reinterpret_cast<uint16_t *>(to) = (uint16_t)word[i];
                    else
                        *reinterpret_cast<uint32_t *>(to) = word[i];
                }
        }
        const int strips = step.best ? (at.hi - at.lo) / STRIP_ROWS * ENGINE_ROWS : 0;
        for (int i = lane_id(); i < strips; i += 32) {
            const int place = at.lo / STRIP_ROWS * ENGINE_ROWS + i;
            if (i % ENGINE_ROWS >= at.rows) continue;
            const float2 best = __ldcg(pointer<const float2>(p->slab + step.item_bytes) + place);
            for (int rank = 0; rank < Model::RANKS; rank++)
                (pointer<float2>(p->peers[rank] + step.best) +
                 (uint64_t)p->rank * (Model::VOCAB / STRIP_ROWS) * ENGINE_ROWS)[place] = best;
        }
        __threadfence_system();
        __syncwarp();
    }

    DEVICE void run_entry(const EngineEntry &entry, uint32_t instance) {
        const EngineInstance in = s->instances[instance];
        who.at(instance, entry.body_step, entry.lo, entry.hi);
        const EngineStep &step = Model::step(entry.step);
        Instruction &at = s->control;
        if (lane_id() == 0) {
            at.lo = entry.lo, at.hi = entry.hi, at.part = entry.part, at.key = -1, at.rows = gate.rows;
            at.signal = entry.signal, at.signal_count = entry.signal_count;
            at.skip = gate.skips(in) || gate.halted(instance, entry.body_step);
        }
        if (lane_id() < SLOT_SIGNALS && lane_id() < entry.signal_count)
            at.signals[lane_id()] = pointer<const EngineSignal>(p->tables + t->signal_at)[entry.signal + lane_id()];
        const EngineWait *waits = pointer<const EngineWait>(p->tables + t->wait_at) + entry.wait;
        const uint32_t *counters = pointer<const uint32_t>(p->slab + t->counter_at);
        for (uint32_t i = lane_id(); i < entry.wait_count; i += 32) {
            uint32_t group;
            bool holds;
            uint32_t want = counter_want(t, p->tables, waits[i], round, (int)instance, 0, group, holds);
            uint32_t since = 0;
            for (uint32_t n = 1;
                 !holds && (int)(load_counter<(Model::RANKS > 1)>(counters + group * COUNTER_STRIDE) - want) < 0; n++) {
                if ((n & 255) == 0)
                    watch(who, since, WAITER_COUNTER, group, want, load_relaxed(counters + group * COUNTER_STRIDE));
                if ((n & 1023) == 0 && worker_id() == 0) host_aborts();
            }
        }
        __syncwarp();
        if (step.op == RUN_ACCEPT_ROUND)
            accept(at);
        else {
            if (Model::RANKS > 1 && !at.skip) push(step, at);
            signal_all(*p, *s, at, 0);
            __syncwarp(); // all have read `at`
        }
    }

    DEVICE void run() {
        uint32_t entries = 0;
        for (uint32_t body = 0; body < t->bodies; body++) entries += s->queues[body * ROLES + ROLE_CONTROL].count;
        if (entries == 0 && worker_id() != 0) return; // nothing to do here, ever
        for (round = 0;; round++) {
            who.round(round);
            if (worker_id() == 0 && serving->idle && !take_request()) {
                if (lane_id() == 0) open_gate(round, GATE_EXIT);
                return;
            }
            gate = gate_wait(who, round);
            if (gate.flags & GATE_EXIT) return;
            for (uint32_t instance = 0; instance < t->instances; instance++) {
                const EngineQueue queue = s->queues[s->instances[instance].body * ROLES + ROLE_CONTROL];
                for (uint32_t i = 0; i < queue.count; i++) {
                    const EngineEntry entry = pointer<const EngineEntry>(p->tables + t->entry_at)[queue.first + i];
                    run_entry(entry, instance);
                }
            }
        }
    }
};
#endif
