// experts: which experts the round's rows go to, and the sum of what these return.
#ifndef TILEGEN_EXPERTS_CUH
#define TILEGEN_EXPERTS_CUH
#include "linear.cuh"

// What routing decided: the buffer `routes`. Keys number the experts that any row chose, by rising expert.
template <int KEYS, int TOP> struct RoutesOf {
    int active, rows;
    int expert[KEYS];
    uint32_t chosen_by[KEYS]; // a bit a row
    int key[ENGINE_ROWS][TOP];
    float weight[ENGINE_ROWS][TOP];
};

// A float as a whole number of the same order.
static DEVICE uint32_t ordered(float v) {
    const uint32_t bits = __float_as_uint(v + 0.0f); // no -0
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// A row a warp: the top k of p + bias, ties to the lowest expert, and their weights. Lane k < TOP_K gets the k-th.
template <class Model> struct Choice {
    static constexpr int EACH = (Model::EXPERTS + 31) / 32;
    float bias[EACH]; // of experts lane + 32 i
    int expert;       // chosen by this lane
    float weight;

    DEVICE void load_bias(const float *from) {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int e = lane_id() + 32 * i;
            bias[i] = from && e < Model::EXPERTS ? __ldg(from + e) : 0;
        }
    }
    DEVICE void choose(const float *scores) {
        float p[EACH], top = NO_SCORE, total = 0, sum = 0;
        uint32_t value[EACH]; // 0: none
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int e = lane_id() + 32 * i;
            p[i] = e < Model::EXPERTS ? __ldcg(scores + e) : NO_SCORE;
            top = fmaxf(top, p[i]);
        }
        if (!Model::SIGMOID) {
            for (int step = 16; step; step /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
#pragma unroll
            for (int i = 0; i < EACH; i++) p[i] = expf(p[i] - top), total += p[i];
            for (int step = 16; step; step /= 2) total += __shfl_xor_sync(~0u, total, step);
        }
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            p[i] = Model::SIGMOID ? __fdividef(1.0f, 1.0f + __expf(-p[i])) : p[i] / total;
            value[i] = lane_id() + 32 * i < Model::EXPERTS ? ordered(p[i] + bias[i]) : 0;
        }
        uint32_t best = 0, at = Model::EXPERTS; // of this lane
        float best_p = 0;
        auto look = [&] {
            best = 0;
#pragma unroll
            for (int i = 0; i < EACH; i++)
                if (value[i] > best) best = value[i], at = lane_id() + 32 * i, best_p = p[i];
        };
        look();
#pragma unroll 1
        for (int k = 0; k < Model::TOP_K; k++) {
            const uint32_t most = __reduce_max_sync(~0u, best);
            const uint32_t chosen = __reduce_min_sync(~0u, best == most ? at : Model::EXPERTS);
            const float its_p = __shfl_sync(~0u, best_p, chosen & 31);
            if (lane_id() == k) expert = (int)chosen, weight = its_p;
            sum += its_p;
            if (lane_id() == (int)(chosen & 31)) { // its next one
#pragma unroll
                for (int i = 0; i < EACH; i++)
                    if (i == opaque(chosen) / 32) value[i] = 0;
                look();
            }
            __syncwarp();
        }
        weight = (Model::RENORMALISE ? weight / (sum + 1e-20f) : weight) * Model::EXPERT_SCALE;
    }
};

// Publishes the routing: keys number the experts that any row chose, by rising expert. Signals by itself, then for what
// the keys that are not active would have signalled.
template <class Model> static DEVICE void route_rows(Compute &c) {
    using Routes = RoutesOf<Model::KEYS, Model::TOP_K>;
    c.drain();
    const Slot &slot = c.slot();
    const EngineStep &step = slot.step;
    Routes *routes = pointer<Routes>(c.p->slab + step.out);
    constexpr int WORDS = (Model::EXPERTS + 31) / 32;
    struct Room {
        uint32_t words[WORDS]; // a bit an expert: chosen by any row
        uint32_t by[Model::KEYS];
    };
    Room &room = *reinterpret_cast<Room *>(c.s->partial);
    const int rows = slot.at.rows, thread = c.warp * 32 + lane_id(), row = c.warp;
    const EngineTables *t = &c.s->tables;
    const EnginePool &pool = pointer<const EnginePool>(c.p->tables + t->pool_at)[step.pool - 1];
    Choice<Model> choice;
    choice.expert = 0, choice.weight = 0; // also where the row is absent
    static_assert(WORDS <= COMPUTE_WARPS * 32 && Model::KEYS <= COMPUTE_WARPS * 32, "a thread each");
    if (thread < WORDS) room.words[thread] = 0;
    if (thread < Model::KEYS) room.by[thread] = 0;
    choice.load_bias(pointer<const float>(slot.layer.weight[SLOT_ROUTER_BIAS]));
    if constexpr (!Model::RESIDENT) { // each step's claims are its own; the kernels that claimed have ended
        if (thread < POOL_STEPS)
            pointer<uint32_t>(c.p->claims)[t->pool_count + (step.pool - 1) * POOL_STEPS + thread] = 0;
    } else if (c.warp == 1) { // the pool may be claimed anew when all have left the last round's
        const uint32_t instance = slot.at.instance, want = pool.participants * slot.at.round;
        const uint32_t *exits = pointer<const uint32_t>(c.p->exits) + instance;
        for (uint32_t n = 1, since = 0; load_acquire(exits) != want; n++)
            if ((n & 255) == 0) watch(c.who, since, WAITER_RING, instance, want, load_relaxed(exits));
        if (lane_id() == 0) pointer<uint32_t>(c.p->claims)[instance] = 0;
    }
    c.group.sync(c.who, *c.s);
    c.wait_ready();
    uint32_t active = 0;
    if (slot.at.skip)
        active = __ldcg(&routes->active);
    else {
        const bool chooses = row < rows && lane_id() < Model::TOP_K;
        if (row < rows) choice.choose(pointer<const float>(c.p->slab + step.in + row * step.in_row));
        if (chooses) atomicOr(&room.words[choice.expert / 32], 1u << choice.expert % 32);
        c.group.sync(c.who, *c.s);
        uint32_t key = 0;
#pragma unroll
        for (int i = 0; i < WORDS; i++) {
            const uint32_t word = room.words[i], at = chooses ? choice.expert : 0;
            active += __popc(word);
            key += i < (int)at / 32 ? __popc(word) : i == (int)at / 32 ? __popc(word & ((1u << at % 32) - 1)) : 0;
        }
        if (chooses) {
            routes->key[row][lane_id()] = (int)key;
            routes->weight[row][lane_id()] = choice.weight;
            routes->expert[key] = choice.expert; // the same by every row
            atomicOr(&room.by[key], 1u << row);
        }
        c.group.sync(c.who, *c.s);
        if (thread < (int)active) routes->chosen_by[thread] = room.by[thread];
        if (thread == 0) routes->active = (int)active, routes->rows = rows;
    }
    c.group.sync(c.who, *c.s);
    if (c.warp == 0) {
        trace_end(*c.p, c.number);
        signal_all(*c.p, *c.s, slot.at, 0);
    }
    if (c.warp != 1) return;
    const EngineSignal *credits = pointer<const EngineSignal>(c.p->tables + t->signal_at) + pool.credit;
    uint32_t *counters = pointer<uint32_t>(c.p->slab + t->counter_at);
    for (uint32_t i = 0; i < pool.credits; i++) {
        const uint32_t group = credits[i].group & GROUP_MASK, amount = credits[i].amount;
        if (credits[i].group & GROUP_KEY) {
            for (uint32_t key = active + lane_id(); key < pool.keys; key += 32)
                add_release(counters + (group + key) * COUNTER_STRIDE, amount);
        } else if (credits[i].group & GROUP_TOKEN) {
            for (uint32_t absent = rows + lane_id(); absent < ENGINE_ROWS; absent += 32)
                add_release(counters + (group + absent) * COUNTER_STRIDE, amount * pool.top);
        } else if (lane_id() == 0 && pool.keys > active)
            add_release(counters + group * COUNTER_STRIDE, amount * (pool.keys - active));
    }
}

// Weighted sums in the router's order, a row a warp: added to the residual stream, or this rank's partial sums, which
// go to all ranks.
template <class Model> static DEVICE void combine_rows(Compute &c) {
    using Routes = RoutesOf<Model::KEYS, Model::TOP_K>;
    using Act = Activations<Model::WIDE>;
    if (!Model::ROUTED) c.wait_ready();
    const Slot &slot = c.slot();
    const EngineStep &step = slot.step;
    const Instruction &at = slot.at;
    const Routes *routes = pointer<const Routes>(c.p->slab + Model::ROUTES);
    const int row = min(c.warp, at.rows - 1);
    uint32_t key[Model::TOP_K];
    float weight[Model::TOP_K];
#pragma unroll
    for (int k = 0; k < Model::TOP_K; k++)
        key[k] = __ldcg(&routes->key[row][k]), weight[k] = __ldcg(&routes->weight[row][k]);
    if (Model::ROUTED) c.wait_ready();
    if (row != c.warp) return;
    const uint64_t in = c.p->slab + step.in + (uint64_t)row * step.in_row,
                   out = step.out + (uint64_t)row * step.out_row;
#pragma unroll 1
    for (int n = at.lo + 2 * lane_id(); n < at.hi; n += 64) { // a pair stays a pair
        float2 part[Model::TOP_K], sum = make_float2(0, 0), old = sum;
        char *x = pointer<char>(c.p->slab + out);
        const bool residual = step.finish == FINISH_RESIDUAL;
        if (residual) old = make_float2(Act::load_input(x, n), Act::load_input(x, n + 1));
#pragma unroll
        for (int k = 0; k < Model::TOP_K; k++)
            part[k] = __ldcg(pointer<const float2>(in + (uint64_t)key[k] * step.in_item) + n / 2);
#pragma unroll
        for (int k = 0; k < Model::TOP_K; k++) sum.x += weight[k] * part[k].x, sum.y += weight[k] * part[k].y;
        if (residual) {
            Act::store_input(x, n, old.x + sum.x), Act::store_input(x, n + 1, old.y + sum.y);
            if (at.tap) {
                char *tap = pointer<char>(c.p->slab + Model::TAPS) +
                            (uint64_t)((at.tap - 1) * ENGINE_ROWS + row) * Model::PADDED * Act::BYTES;
                Act::store_input(tap, n, old.x + sum.x), Act::store_input(tap, n + 1, old.y + sum.y);
            }
        } else if constexpr (Model::SLICE > 0) // in two steps: to the rank that sums these columns
            pointer<float2>(c.p->peers[n / Model::SLICE] + out + (uint64_t)c.p->rank * step.out_item)[n / 2] = sum;
        else
#pragma unroll
            for (int rank = 0; rank < Model::RANKS; rank++)
                pointer<float2>(c.p->peers[rank] + out + (uint64_t)c.p->rank * step.out_item)[n / 2] = sum;
    }
}
#endif
