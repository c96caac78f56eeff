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

// A row a warp: the top k of p + bias, ties to the lowest expert, and their weights.
template <class Model, class Routes>
static DEVICE void choose_experts(const float *scores, const float *bias, int *chosen, float *weights) {
    constexpr int EACH = (Model::EXPERTS + 31) / 32;
    float p[EACH], value[EACH];
    float top = NO_SCORE, total = 0;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int e = lane_id() + 32 * i;
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
        int e = lane_id() + 32 * i;
        p[i] = Model::SIGMOID ? 1.0f / (1.0f + expf(-p[i])) : p[i] / total;
        value[i] = e < Model::EXPERTS ? p[i] + (bias ? bias[e] : 0) : NO_SCORE;
    }
    float sum = 0, mine = 0;
    for (int k = 0; k < Model::TOP_K; k++) {
        float best = NO_SCORE, best_p = 0;
        uint32_t at = Model::EXPERTS;
#pragma unroll
        for (int i = 0; i < EACH; i++)
            if (value[i] > best) best = value[i], at = lane_id() + 32 * i, best_p = p[i];
        // Floats as whole numbers of the same order; of equal ones the lowest expert.
        const uint32_t bits = __float_as_uint(best + 0.0f), order = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
        const uint32_t most = __reduce_max_sync(~0u, order);
        const uint32_t chosen_at = __reduce_min_sync(~0u, order == most ? at : Model::EXPERTS);
        best_p = __shfl_sync(~0u, best_p, chosen_at & 31);
#pragma unroll
        for (int i = 0; i < EACH; i++)
            if (lane_id() + 32 * i == chosen_at) value[i] = NO_SCORE;
        if (lane_id() == k) mine = best_p, chosen[k] = (int)chosen_at;
        sum += best_p;
    }
    if (lane_id() < Model::TOP_K)
        weights[lane_id()] = (Model::RENORMALISE ? mine / (sum + 1e-20f) : mine) * Model::EXPERT_SCALE;
}

template <class Model> static DEVICE void route_rows(Compute &c) {
    using Routes = RoutesOf<Model::KEYS, Model::TOP_K>;
    c.drain();
    const Slot &slot = c.slot();
    const EngineStep &step = slot.step;
    Routes *routes = pointer<Routes>(c.p->slab + step.out);
    constexpr int WORDS = (Model::EXPERTS + 31) / 32;
    struct Room {
        int chosen[ENGINE_ROWS][Model::TOP_K];
        uint32_t words[WORDS]; // a bit an expert: chosen by any row
    };
    Room &room = *reinterpret_cast<Room *>(c.s->partial);
    const int rows = slot.at.rows, thread = c.warp * 32 + lane_id();
    const EngineTables *t = &c.s->tables;
    const EnginePool &pool = pointer<const EnginePool>(c.p->tables + t->pool_at)[step.pool - 1];
    if (thread < WORDS) room.words[thread] = 0;
    if (c.warp == 1) { // the pool may be claimed anew when all have left the last round's
        const uint32_t instance = slot.at.instance, want = pool.participants * slot.at.round;
        const uint32_t *exits = pointer<const uint32_t>(c.p->exits) + instance;
        for (uint32_t n = 1, since = 0; load_acquire(exits) != want; n++)
            if ((n & 255) == 0) watch(c.who, since, WAITER_RING, instance, want, load_relaxed(exits));
        if (lane_id() == 0) pointer<uint32_t>(c.p->claims)[instance] = 0;
    }
    c.group.sync(c.who, *c.s);
    c.wait_ready();
    uint32_t active;
    if (slot.at.skip)
        active = __ldcg(&routes->active);
    else {
        if (c.warp < rows) {
            choose_experts<Model, Routes>(pointer<const float>(c.p->slab + step.in + c.warp * step.in_row),
                                          pointer<const float>(slot.layer.weight[SLOT_ROUTER_BIAS]),
                                          room.chosen[c.warp], routes->weight[c.warp]);
            __syncwarp();
            if (lane_id() < Model::TOP_K) {
                int e = room.chosen[c.warp][lane_id()];
                atomicOr(&room.words[e / 32], 1u << e % 32);
            }
        }
        c.group.sync(c.who, *c.s);
        active = 0;
#pragma unroll 1
        for (int e = thread, i = 0; i < WORDS; i++) {
            const uint32_t word = room.words[i];
            if (e / 32 == i) {
                if (word >> e % 32 & 1) {
                    const uint32_t key = active + __popc(word & ((1u << e % 32) - 1));
                    uint32_t by = 0;
                    for (int row = 0; row < rows; row++)
                        for (int k = 0; k < Model::TOP_K; k++)
                            if (room.chosen[row][k] == e) by |= 1u << row, routes->key[row][k] = (int)key;
                    routes->expert[key] = e;
                    routes->chosen_by[key] = by;
                }
                e += COMPUTE_WARPS * 32;
            }
            active += __popc(word);
        }
        if (thread == 0) routes->active = (int)active, routes->rows = rows;
        c.group.sync(c.who, *c.s);
    }
    if (c.warp != 0) return;
    // The publisher signals for the keys that are not active.
    const EngineSignal *credits = pointer<const EngineSignal>(c.p->tables + t->signal_at) + pool.credit;
    uint32_t *counters = pointer<uint32_t>(c.p->slab + t->counter_at);
    __syncwarp();
    for (uint32_t i = 0; i < pool.credits; i++) {
        const uint32_t group = credits[i].group & GROUP_MASK, amount = credits[i].amount;
        if (credits[i].group & GROUP_KEY) {
            for (uint32_t key = active + lane_id(); key < pool.keys; key += 32)
                add_release(counters + (group + key) * COUNTER_STRIDE, amount);
        } else if (credits[i].group & GROUP_TOKEN) {
            for (uint32_t row = rows + lane_id(); row < ENGINE_ROWS; row += 32)
                add_release(counters + (group + row) * COUNTER_STRIDE, amount * pool.top);
        } else if (lane_id() == 0 && pool.keys > (uint32_t)active)
            add_release(counters + group * COUNTER_STRIDE, amount * (pool.keys - active));
    }
}

// Weighted sums in the router's order, a row a warp: added to the residual stream, or this rank's partial sums.
template <class Model> static DEVICE void combine_rows(Compute &c) {
    using Routes = RoutesOf<Model::KEYS, Model::TOP_K>;
    c.wait_ready();
    const Slot &slot = c.slot();
    const EngineStep &step = slot.step;
    const Instruction &at = slot.at;
    if (c.warp >= at.rows) return;
    const Routes *routes = pointer<const Routes>(c.p->slab + Model::ROUTES);
    const int row = c.warp;
    const uint64_t out = c.p->slab + step.out + (uint64_t)row * step.out_row;
    for (int n = at.lo + lane_id(); n < at.hi; n += 32) {
        float part[Model::TOP_K], sum = 0;
        float old =
            step.finish == FINISH_RESIDUAL ? Activations<Model::WIDE>::load_input(pointer<const char>(out), n) : 0;
#pragma unroll
        for (int k = 0; k < Model::TOP_K; k++)
            part[k] = __ldcg(pointer<const float>(c.p->slab + step.in +
                                                  (uint64_t)__ldcg(&routes->key[row][k]) * step.in_item +
                                                  (uint64_t)row * step.in_row) +
                             n);
#pragma unroll
        for (int k = 0; k < Model::TOP_K; k++) sum += __ldcg(&routes->weight[row][k]) * part[k];
        if (step.finish == FINISH_RESIDUAL) {
            Activations<Model::WIDE>::store_input(pointer<char>(out), n, old + sum);
            if (at.tap)
                Activations<Model::WIDE>::store_input(pointer<char>(c.p->slab + Model::TAPS),
                                                      ((at.tap - 1) * ENGINE_ROWS + row) * Model::PADDED + n,
                                                      old + sum);
        } else
#pragma unroll 1
            for (int rank = 0; rank < Model::RANKS; rank++)
                pointer<float>(c.p->peers[rank] + step.out + (uint64_t)c.p->rank * step.out_item +
                               (uint64_t)row * step.out_row)[n] = sum;
    }
}
#endif
