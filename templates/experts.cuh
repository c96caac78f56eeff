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
    uint32_t told[KEYS]; // the same of each key in a word, for loaders, and the number of the routing: they rise
    enum { NUMBERS = 1 << 14 };
    static DEVICE uint32_t number(uint32_t round, uint32_t instance) { return (round << 8 | instance) % NUMBERS; }
    static DEVICE uint32_t ahead(uint32_t told, uint32_t number) { return ((told >> 18) - number) % NUMBERS; }
    static DEVICE uint32_t tell(uint32_t number, uint32_t expert, uint32_t by) {
        return number << 18 | expert << 8 | by;
    }
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
    // A row's scores; of a split router the parts' sums, times the norm's factor, which their squares make. Of parts:
    // whether they are all there.
    DEVICE bool load_scores(const EngineStep &step, uint64_t from, float (&p)[EACH]) {
        constexpr int PARTS = Model::ROUTER_PARTS;
        float part[PARTS][EACH], squares[PARTS];
        bool there = true;
#pragma unroll
        for (int n = 0; n < PARTS; n++) {
            const float *scores = pointer<const float>(from + (uint64_t)n * step.in_item);
            if (PARTS > 1) squares[n] = load_sent(scores + Model::EXPERTS);
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                const int e = lane_id() + 32 * i;
                part[n][i] = e >= Model::EXPERTS ? NO_SCORE : PARTS > 1 ? load_sent(scores + e) : __ldcg(scores + e);
            }
        }
#pragma unroll
        for (int n = 0; n < PARTS && PARTS > 1; n++) {
            there &= is_there(squares[n]);
#pragma unroll
            for (int i = 0; i < EACH; i++) there &= is_there(part[n][i]);
        }
#pragma unroll
        for (int n = 1; n < PARTS; n++) {
            squares[0] += squares[n];
#pragma unroll
            for (int i = 0; i < EACH; i++) part[0][i] += part[n][i];
        }
        const float factor = PARTS > 1 ? rsqrtf(squares[0] * (1.0f / Model::HIDDEN) + step.eps) : 1;
#pragma unroll
        for (int i = 0; i < EACH; i++) p[i] = PARTS > 1 ? part[0][i] * factor : part[0][i];
        return __all_sync(~0u, there);
    }
    // Chooses by what is there; `waits`: until all is. Whether all was.
    DEVICE bool choose(const Waiter &w, const EngineStep &step, uint64_t from, bool waits) {
        float p[EACH], top = NO_SCORE, total = 0, sum = 0;
        uint32_t value[EACH]; // 0: none
        bool all;
        do {
            all = load_scores(step, from, p);
            if (w.s->dying) asm volatile("exit;");
        } while (!all && waits);
#pragma unroll
        for (int i = 0; i < EACH; i++) top = fmaxf(top, p[i]);
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
        // The best of all, the lowest expert that has it, out with it: all lanes go the same way, so that nobody waits
        // for the one whose best was taken.
#pragma unroll 1
        for (int k = 0; k < Model::TOP_K; k++) {
            uint32_t best[EACH], here = 0; // here: bit i where value[i] is the best of all
#pragma unroll
            for (int i = 0; i < EACH; i++) best[i] = value[i];
#pragma unroll
            for (int half = 1; half < EACH; half *= 2)
#pragma unroll
                for (int i = 0; i + half < EACH; i += 2 * half) best[i] = max(best[i], best[i + half]);
            const uint32_t most = __reduce_max_sync(~0u, best[0]);
#pragma unroll
            for (int i = 0; i < EACH; i++) here |= value[i] == most ? 1u << i : 0;
            const uint32_t at = here ? lane_id() + 32 * (__ffs(here) - 1) : ~0u;
            const uint32_t chosen = __reduce_min_sync(~0u, at);
            if (lane_id() == k) expert = (int)chosen;
            here = at == chosen ? here & -here : 0;
#pragma unroll
            for (int i = 0; i < EACH; i++) value[i] = here >> i & 1 ? 0 : value[i];
        }
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const float its_p = __shfl_sync(~0u, p[i], expert & 31);
            if (expert / 32 == i) weight = its_p;
        }
#pragma unroll
        for (int k = 0; k < Model::TOP_K; k++) sum += __shfl_sync(~0u, weight, k);
        weight = (Model::RENORMALISE ? weight / (sum + 1e-20f) : weight) * Model::EXPERT_SCALE;
        return all;
    }
};

// Takes a split router's parts out: of the warp's row, `item` bytes from part to part.
template <class Model> static DEVICE void clear_scores(uint64_t from, uint32_t item) {
    constexpr int EACH = Model::EXPERTS / 32 + 1;
#pragma unroll 1
    for (int n = 0; n < Model::ROUTER_PARTS; n++) {
        float *scores = pointer<float>(from + (uint64_t)n * item);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int e = lane_id() + 32 * i;
            if (e <= Model::EXPERTS) scores[e] = 0;
        }
    }
}

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
        uint32_t by[Model::KEYS], expert[Model::KEYS];
    };
    Room &room = *reinterpret_cast<Room *>(c.s->partial);
    const int rows = slot.at.rows, thread = c.warp * 32 + lane_id(), row = c.warp;
    const EngineTables *t = &c.s->tables;
    const EnginePool &pool = pointer<const EnginePool>(c.p->tables + t->pool_at)[step.pool - 1];
    constexpr bool SPLIT = Model::ROUTER_PARTS > 1; // scores say themselves that they are there
    Choice<Model> choice;
    choice.expert = 0, choice.weight = 0; // also where the row is absent
    static_assert(WORDS <= 32 && Model::KEYS <= COMPUTE_WARPS * 32, "a thread each");
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
        if (lane_id() == 0) {
            pointer<uint32_t>(c.p->claims)[instance] = 0;
            __threadfence(); // before anybody is told
        }
    }
    c.meet();
    const bool chooses_row = row < rows && !slot.at.skip;
    const uint64_t scores = c.p->slab + step.in + (uint64_t)row * step.in_row;
#pragma unroll 1
    for (uint32_t last = opaque(0u);; last = 1) { // first for nothing, so that the code is near
        const bool sure = SPLIT ? !c.s->halts : !c.must_wait();
        if (last) c.wait_ready();
        const bool all = !chooses_row || choice.choose(c.who, step, scores, last);
        if (last || (sure && all)) break;
    }
    c.wait_ready();
    uint32_t active = 0;
    if (slot.at.skip)
        active = __ldcg(&routes->active);
    else {
        const bool chooses = row < rows && lane_id() < Model::TOP_K;
        if (chooses) atomicOr(&room.words[choice.expert / 32], 1u << choice.expert % 32);
        c.meet();
        // An expert's key is how many chosen ones there are before it.
        const uint32_t mine = lane_id() < WORDS ? __popc(room.words[lane_id()]) : 0, at = chooses ? choice.expert : 0;
        uint32_t upto = mine;
#pragma unroll
        for (int step = 1; step < WORDS; step *= 2) {
            const uint32_t below = __shfl_up_sync(~0u, upto, step);
            if (lane_id() >= step) upto += below;
        }
        active = __shfl_sync(~0u, upto, WORDS - 1);
        const uint32_t key =
            __shfl_sync(~0u, upto - mine, at / 32) + __popc(room.words[at / 32] & ((1u << at % 32) - 1));
        if (chooses) {
            routes->key[row][lane_id()] = (int)key;
            routes->weight[row][lane_id()] = choice.weight;
            routes->expert[key] = room.expert[key] = choice.expert; // the same by every row
            atomicOr(&room.by[key], 1u << row);
        }
        c.meet();
        const uint32_t by = thread < (int)active ? room.by[thread] : 0;
        if (thread < Model::KEYS)
            store_relaxed(&routes->told[thread], Routes::tell(Routes::number(slot.at.round, slot.at.instance),
                                                              by ? room.expert[thread] : 0, by));
        if (thread < (int)active) routes->chosen_by[thread] = by;
        if (thread == 0) routes->active = (int)active, routes->rows = rows;
    }
    c.meet();
    if (c.warp == 0) signal_all(*c.p, *c.s, slot.at, 0);
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

// What the experts make of a row's outputs n and n + 1: added to the residual stream, of which `old` is, or this rank's
// partial sums, which go to all ranks. `out`: of the row.
template <class Model>
static DEVICE void give_pair(const Compute &c, const EngineStep &step, const Instruction &at, int row, uint64_t out,
                             int n, float2 sum, float2 old) {
    using Act = Activations<Model::WIDE>;
    if (step.finish == FINISH_RESIDUAL) {
        Act::store_input(pointer<char>(c.p->slab + out), n, old.x + sum.x);
        Act::store_input(pointer<char>(c.p->slab + out), n + 1, old.y + sum.y);
        if (at.tap) {
            char *tap = pointer<char>(c.p->slab + Model::TAPS) +
                        (uint64_t)((at.tap - 1) * ENGINE_ROWS + row) * Model::PADDED * Act::BYTES;
            Act::store_input(tap, n, old.x + sum.x), Act::store_input(tap, n + 1, old.y + sum.y);
        }
        return;
    }
    if constexpr (Model::SLICE > 0) // in two steps: to the rank that sums these columns
        send(pointer<float2>(c.p->peers[n / Model::SLICE] + out + (uint64_t)c.p->rank * step.out_item) + n / 2, sum);
    else
#pragma unroll
        for (int rank = 0; rank < Model::RANKS; rank++)
            send(pointer<float2>(c.p->peers[rank] + out + (uint64_t)c.p->rank * step.out_item) + n / 2, sum);
}
template <class Model> static DEVICE float2 old_pair(const Compute &c, const EngineStep &step, uint64_t out, int n) {
    using Act = Activations<Model::WIDE>;
    const char *x = pointer<const char>(c.p->slab + out);
    if (step.finish != FINISH_RESIDUAL) return make_float2(0, 0);
    return make_float2(Act::load_input(x, n), Act::load_input(x, n + 1));
}

// Weighted sums in the router's order, a row a warp.
template <class Model> static DEVICE void combine_rows(Compute &c) {
    using Routes = RoutesOf<Model::KEYS, Model::TOP_K>;
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
        float2 part[Model::TOP_K], sum = make_float2(0, 0);
        const float2 old = old_pair<Model>(c, step, out, n);
#pragma unroll
        for (int k = 0; k < Model::TOP_K; k++)
            part[k] = __ldcg(pointer<const float2>(in + (uint64_t)key[k] * step.in_item) + n / 2);
#pragma unroll
        for (int k = 0; k < Model::TOP_K; k++) sum.x += weight[k] * part[k].x, sum.y += weight[k] * part[k].y;
        give_pair<Model>(c, step, at, row, out, n, sum, old);
    }
}

// experts_sum: a tile of outputs of every active expert, for the rows that chose it, then each row's weighted sum of
// them. A key is a warp's, with all of the tile's strips: its inputs are read once, and the next key's are on their way
// while it multiplies. Its outputs wait in shared memory, [row][choice][tile], so that sums are in the router's order
// whichever experts the other rows chose.
template <class Model> static DEVICE void sum_experts(Compute &c) {
    using Routes = RoutesOf<Model::KEYS, Model::TOP_K>;
    using Weight = typename Model::SumWeight;
    constexpr int STRIPS = Model::SUM_STRIPS, BLOCKS = Model::SUM_BLOCKS, TILE = STRIPS * STRIP_ROWS,
                  CHUNKS = (Model::KEYS + Model::SUM_KEYS - 1) / Model::SUM_KEYS,
                  MINE = (Model::KEYS + COMPUTE_WARPS - 1) / COMPUTE_WARPS;
    static_assert(MINE <= 32 && ENGINE_ROWS * Model::TOP_K * TILE * 4 <= SUM_ROOM, "steps.c");
    c.drain();
    if (!Model::ROUTED) c.wait_ready();
    const Slot &slot = c.slot();
    const EngineStep &step = slot.step;
    const Instruction &at = slot.at;
    const Routes *routes = pointer<const Routes>(c.p->slab + Model::ROUTES);
    float *made = reinterpret_cast<float *>(c.s->partial);                                   // [row][choice][TILE]
    uint8_t(*choice_of)[ENGINE_ROWS] = reinterpret_cast<uint8_t(*)[ENGINE_ROWS]>(c.s->norm); // [key][row]
    const int row = min(c.warp, at.rows - 1), lane = lane_id(), g = lane >> 2, token = (lane & 3) * 2;
    const uint32_t active = __ldcg(&routes->active), mine = COMPUTE_WARPS * lane + c.warp;
    const uint32_t chosen_by = lane < MINE && mine < active ? __ldcg(&routes->chosen_by[mine]) : 0;
    float weight = 0; // of choice `lane` of the warp's row
    if (lane < Model::TOP_K) {
        weight = __ldcg(&routes->weight[row][lane]);
        if (row == c.warp) choice_of[__ldcg(&routes->key[row][lane])][row] = (uint8_t)lane;
    }
    c.meet();
    if (Model::ROUTED) c.wait_ready();
    const uint64_t in = c.p->slab + step.in + (lane & 3) * 16;
    const uint32_t item = step.in_item, row_bytes = step.in_row;
    Raw<false> raw[BLOCKS][4] = {};
    // The key's inputs of row g; of a row that did not choose it, those of one that did.
    auto ask = [&](uint32_t key, uint32_t rows) {
        if (rows == 0) return;
        const uint32_t from = key * item + (rows >> g & 1 ? g : __ffs(rows) - 1) * row_bytes;
#pragma unroll
        for (int b = 0; b < BLOCKS; b++)
#pragma unroll
            for (int u = 0; u < 4; u++) raw[b][u].load(pointer<const char>(in + from + b * BLOCK_K * 2), u, true);
    };
    Chunks<Model> chunks;
    chunks.begin(at);
    const uint32_t strip_bytes = step.strip_bytes, key_bytes = step.chunk_bytes;
    uint32_t rows = __shfl_sync(~0u, chosen_by, 0);
    ask(c.warp, rows);
#pragma unroll 1
    for (uint32_t key = c.warp, i = 1; key < active; key += COMPUTE_WARPS, i++) {
        Inputs<false> x[BLOCKS][4];
#pragma unroll
        for (int b = 0; b < BLOCKS; b++)
#pragma unroll
            for (int u = 0; u < 4; u++) x[b][u] = raw[b][u].operands(false, {0, 0, 0, 0});
        const uint32_t by = rows >> token;
        float *low = made + ((token * Model::TOP_K) + choice_of[key][token]) * TILE + g,
              *high = made + ((token + 1) * Model::TOP_K + choice_of[key][token + 1]) * TILE + g;
        rows = __shfl_sync(~0u, chosen_by, i & 31);
        ask(key + COMPUTE_WARPS, rows);
        uint32_t from = chunks.seek(c, key / Model::SUM_KEYS) + key % Model::SUM_KEYS * key_bytes;
        typename Weight::template Codes<4> codes[BLOCKS];
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) codes[b].load(from + b * Weight::BYTES, 0);
#pragma unroll 1
        for (int strip = 0; strip < STRIPS; strip++) {
            float sum[2][4] = {};
            if (strip + 1 < STRIPS) from += strip_bytes;
#pragma unroll
            for (int b = 0; b < BLOCKS; b++) { // a block's codes of the next strip, as soon as its own are used
                Weight::template multiply<false, 4>(sum, codes[b], x[b]);
                codes[b].load(from + b * Weight::BYTES, 0);
            }
            if (by & 1)
                low[strip * STRIP_ROWS] = sum[0][0] + sum[1][0], low[strip * STRIP_ROWS + 8] = sum[0][2] + sum[1][2];
            if (by & 2)
                high[strip * STRIP_ROWS] = sum[0][1] + sum[1][1], high[strip * STRIP_ROWS + 8] = sum[0][3] + sum[1][3];
        }
        if (Model::SUM_KEYS <= COMPUTE_WARPS) chunks.release(c); // the next key is in another
    }
    while (chunks.next < CHUNKS) chunks.release(c);
    c.meet();
    float weights[Model::TOP_K];
#pragma unroll
    for (int k = 0; k < Model::TOP_K; k++) weights[k] = __shfl_sync(~0u, weight, k);
    if (row != c.warp) return;
    const uint64_t out = step.out + (uint64_t)row * step.out_row;
#pragma unroll 1
    for (int n = 2 * lane; n < TILE; n += 64) {
        float2 sum = make_float2(0, 0);
        const float2 old = old_pair<Model>(c, step, out, at.lo + n);
#pragma unroll
        for (int k = 0; k < Model::TOP_K; k++) {
            const float2 part = *reinterpret_cast<const float2 *>(made + (row * Model::TOP_K + k) * TILE + n);
            sum.x += weights[k] * part.x, sum.y += weights[k] * part.y;
        }
        give_pair<Model>(c, step, at, row, out, at.lo + n, sum, old);
    }
}
#endif
