#include "lower.h"
#include "text.h"
#include <string.h>

typedef enum BufferId {
#define BUFFER(id, name) BUF_##id,
#include "buffers.def"
#undef BUFFER
    BUF_COUNT
} BufferId;

static const char *const buffer_names[] = {
#define BUFFER(id, name) name,
#include "buffers.def"
#undef BUFFER
};

typedef LIST(Region) Regions;
typedef LIST(Task) Tasks;
typedef LIST(Step) Steps;
typedef LIST(Body) Bodies;
typedef LIST(RoundItem) Round;
typedef LIST(Buffer) Buffers;

// What is being built: the body at hand, and in it the step at hand.
typedef struct Lower {
    Ctx *ctx;
    const Plan *plan;
    const Model *model;
    Buffers buffers;
    int index[BUF_COUNT]; // of a BufferId in buffers, or -1
    Bodies bodies;
    Round round;
    Steps steps;
    LIST(Pool) pools;
    LIST(Entry) entries;
    LayerAttention kind;
    int slice; // columns that a rank sums for all, in two steps; else 0
} Lower;

static Index range(int lo, int hi) { return (Index){INDEX_RANGE, lo, hi}; }
static Index whole(const Lower *l, BufferId id, int axis) { return range(0, l->buffers.at[l->index[id]].dims[axis]); }
static const Index KEY = {INDEX_KEY, 0, 0}, SELF = {INDEX_SELF, 0, 0}, ACTIVE = {INDEX_ACTIVE, 0, 0};

static void declare(Lower *l, BufferId id, Dtype dtype, int rank, int d0, int d1, int d2, int layers, bool state) {
    l->index[id] = (int)l->buffers.count;
    Buffer buffer = {buffer_names[id], dtype, rank, {d0, rank > 1 ? d1 : 0, rank > 2 ? d2 : 0}, layers, state};
    LIST_ADD(l->ctx->arena, &l->buffers, buffer);
}

// A residual stream, [rows, hidden]; in two steps [rows, ranks, slice], since each rank writes its slice of all.
static void declare_stream(Lower *l, BufferId id, int layers, bool state) {
    const Plan *plan = l->plan;
    Dtype act = plan->sched->activations;
    if (l->slice)
        declare(l, id, act, 3, plan->rows, plan->ranks, l->slice, layers, state);
    else
        declare(l, id, act, 2, plan->rows, l->model->hidden, 0, layers, state);
}

// Partial sums, [ranks, rows, hidden]; in two steps [ranks, ranks, slice], of which a rank gets what it owns.
static void declare_inbox(Lower *l, BufferId id) {
    const Plan *plan = l->plan;
    if (l->slice)
        declare(l, id, DTYPE_F32, 3, plan->ranks, plan->ranks, l->slice, 0, false);
    else
        declare(l, id, DTYPE_F32, 3, plan->ranks, plan->rows, l->model->hidden, 0, false);
}

static void declare_all(Lower *l) {
    const Plan *plan = l->plan;
    const Model *model = l->model;
    const Shape *shape = &plan->shape;
    Dtype act = plan->sched->activations, cache = plan->sched->cache;
    int rows = plan->rows, ranks = plan->ranks, hidden = model->hidden, qkv = 0, kv = 0, heads = 0, o_cols = 0;
    bool several = ranks > 1;
    for (int kind = 0; kind < ATTENTION_KINDS; kind++) {
        if (shape->qkv_rows[kind] > qkv) qkv = shape->qkv_rows[kind];
        if (shape->kv_heads[kind] > kv) kv = shape->kv_heads[kind];
        if (shape->heads[kind] > heads) heads = shape->heads[kind];
        if (shape->o_cols[kind] > o_cols) o_cols = shape->o_cols[kind];
    }
    memset(l->index, -1, sizeof l->index);
    declare(l, BUF_STATE, DTYPE_I32, 1, 1, 0, 0, 0, true);
    declare_stream(l, BUF_X, 0, false);
    declare(l, BUF_QKV, act, 2, rows, qkv, 0, 0, false);
    declare(l, BUF_KV, cache, 2, 2, kv, 0, model->layer_count, true);
    declare(l, BUF_ATTN, act, 2, rows, o_cols, 0, 0, false);
    if (shape->heads[ATTENTION_FULL] && plan_split(plan, ATTENTION_FULL) > 1)
        declare(l, BUF_PART, DTYPE_F32, 2, heads, plan->ops[OP_ATTENTION].split, 0, 0, false);
    if (several) {
        declare_inbox(l, BUF_IX);
        declare_inbox(l, BUF_IM);
    }
    if (model->experts.count) {
        int parts = plan->ops[OP_ROUTER].split, scores = model->experts.count;
        if (parts > 1)
            declare(l, BUF_SCORES_PART, DTYPE_F32, 3, parts, rows, scores + 1, 0, false);
        else
            declare(l, BUF_SCORES, DTYPE_F32, 2, rows, scores, 0, 0, false);
        declare(l, BUF_ROUTES, DTYPE_I32, 1, 1, 0, 0, 0, false);
        declare(l, BUF_EACT, act, 3, shape->keys, rows, shape->expert_inner, 0, false);
        if (plan->ops[OP_EXPERTS_DOWN].used) declare(l, BUF_EY, DTYPE_F32, 3, shape->keys, rows, hidden, 0, false);
    }
    if (model->dense_inner) declare(l, BUF_ACT, act, 2, rows, shape->dense_inner, 0, 0, false);
    declare(l, BUF_LOGITS, DTYPE_F32, 3, ranks, rows, shape->vocab, 0, false);
    declare(l, BUF_BEST, DTYPE_I32, 2, ranks, shape->vocab, 0, 0, false);
    if (several) {
        declare(l, BUF_LOGITS_PART, DTYPE_F32, 2, rows, shape->vocab, 0, 0, false);
        declare(l, BUF_BEST_PART, DTYPE_I32, 1, shape->vocab, 0, 0, 0, false);
    }
    declare(l, BUF_CHOICE, DTYPE_I32, 1, rows, 0, 0, 0, false);
    declare(l, BUF_DRAFTS, DTYPE_I32, 1, rows, 0, 0, 0, true);
    if (!model->has_drafter) return;
    const Drafter *drafter = &model->drafter;
    declare_stream(l, BUF_DX, 0, false);
    declare(l, BUF_DQKV, act, 2, rows, shape->draft_qkv_rows, 0, 0, false);
    declare(l, BUF_DKV, cache, 2, 2, shape->draft_kv_heads, 0, drafter->layers, true);
    declare(l, BUF_DATTN, act, 2, rows, shape->draft_heads * drafter->attention.v_dim, 0, 0, false);
    declare(l, BUF_DACT, act, 2, rows, shape->draft_inner, 0, 0, false);
    declare(l, BUF_DBEST, DTYPE_I32, 2, ranks, shape->vocab, 0, 0, false);
    declare_stream(l, BUF_TAPS, model->layer_count, true);
    declare(l, BUF_C, act, 3, ranks, rows, shape->hidden_slice, 0, false);
    declare(l, BUF_CKV, act, 2, rows, shape->draft_kv_rows, 0, 0, false);
    if (!several) return;
    declare_inbox(l, BUF_DIX);
    declare_inbox(l, BUF_DIM);
    declare(l, BUF_DBEST_PART, DTYPE_I32, 1, shape->vocab, 0, 0, 0, false);
    declare(l, BUF_C_PART, act, 2, rows, shape->hidden_slice, 0, 0, false);
}

static Region region(const Lower *l, BufferId id, Index a, Index b, Index c) {
    const Buffer *buffer = &l->buffers.at[l->index[id]];
    Region out = {.buffer = l->index[id], .at = {a}};
    if (buffer->rank > 1) out.at[1] = b;
    if (buffer->rank > 2) out.at[2] = c;
    return out;
}
static const Index NONE = {INDEX_RANGE, 0, 0};

static Region all_of(const Lower *l, BufferId id) {
    return region(l, id, whole(l, id, 0), whole(l, id, 1), whole(l, id, 2));
}
// Columns [lo, hi) of all rows of a [rows, columns] buffer.
static Region cols(const Lower *l, BufferId id, int lo, int hi) {
    return region(l, id, whole(l, id, 0), range(lo, hi), NONE);
}
// Columns [lo, hi) of all rows of one slab (a key, a rank, the active keys) of a [slabs, rows, columns] buffer.
static Region slab(const Lower *l, BufferId id, Index which, int lo, int hi) {
    return region(l, id, which, whole(l, id, 1), range(lo, hi));
}
static Region everywhere(Region r) {
    r.all_ranks = true;
    return r;
}
static Region every_layer(Region r) {
    r.all_layers = true;
    return r;
}

// The part of columns [*lo, hi) that lies in one slice, in a buffer that is kept in slices; *lo goes on behind it.
// `first`: its index before the slice.
static Region next_slice(const Lower *l, BufferId id, Index first, int *lo, int hi) {
    int owner = *lo / l->slice, from = *lo % l->slice, to = from + hi - *lo < l->slice ? from + hi - *lo : l->slice;
    *lo += to - from;
    return region(l, id, first, range(owner, owner + 1), range(from, to));
}
// Columns [lo, hi) of this rank's slice of a residual stream.
static Region slab_of_stream(const Lower *l, BufferId id, int lo, int hi) {
    return region(l, id, whole(l, id, 0), SELF, range(lo, hi));
}
static bool sliced(const Lower *l, BufferId id) {
    return l->slice && (id == BUF_X || id == BUF_DX || id == BUF_TAPS || id == BUF_IX || id == BUF_IM ||
                        id == BUF_DIX || id == BUF_DIM);
}

typedef enum ColumnsTo { TO_BUFFER, TO_RESIDUAL, TO_INBOX } ColumnsTo;

// A task under construction.
typedef struct Draft {
    Regions reads, writes;
} Draft;
static void reads(Lower *l, Draft *d, Region r) { LIST_ADD(l->ctx->arena, &d->reads, r); }
static void writes(Lower *l, Draft *d, Region r) { LIST_ADD(l->ctx->arena, &d->writes, r); }

// Columns [lo, hi) of a buffer: read, or written. This rank's partial sums, where `id` is an inbox, are written
// everywhere; in two steps only the rank that owns their slice gets and reads them.
static void add_columns(Lower *l, Regions *list, BufferId id, bool inbox, int lo, int hi) {
    if (!sliced(l, id)) {
        Region r = inbox ? everywhere(slab(l, id, SELF, lo, hi)) : cols(l, id, lo, hi);
        LIST_ADD(l->ctx->arena, list, r);
        return;
    }
    while (lo < hi) {
        Region r = next_slice(l, id, inbox ? SELF : whole(l, id, 0), &lo, hi);
        LIST_ADD(l->ctx->arena, list, inbox ? everywhere(r) : r);
    }
}

static Step *step_new(Lower *l, OpId op) {
    LIST_ADD(l->ctx->arena, &l->steps, (Step){op, NULL, 0, l->plan->ops[op].span});
    return &l->steps.at[l->steps.count - 1];
}

static Task task_of(Lower *l, int lo, int hi, int part, const Draft *d) {
    int step = (int)l->steps.count - 1;
    return (Task){.step = step,
                  .lo = lo,
                  .hi = hi,
                  .part = part,
                  .reads = d->reads.at,
                  .writes = d->writes.at,
                  .read_count = (int)d->reads.count,
                  .write_count = (int)d->writes.count,
                  .span = l->steps.at[step].span};
}

static void task_add(Lower *l, int lo, int hi, int part, const Draft *d) {
    Entry entry = {ENTRY_TASK, task_of(l, lo, hi, part, d), 0};
    LIST_ADD(l->ctx->arena, &l->entries, entry);
}

static void covers(Lower *l, Region r) {
    Step *step = &l->steps.at[l->steps.count - 1];
    Region *grown = ARENA_ARRAY(l->ctx->arena, Region, step->cover_count + 1);
    if (step->cover_count) memcpy(grown, step->covers, (size_t)step->cover_count * sizeof *grown);
    grown[step->cover_count++] = r;
    step->covers = grown;
}

static void covers_columns(Lower *l, BufferId id, bool inbox, int count) {
    Regions list = {0};
    add_columns(l, &list, id, inbox, 0, count);
    for (size_t i = 0; i < list.count; i++) covers(l, list.at[i]);
}

// A step over `outputs` columns, each tile reading all of `in` (and, for a residual, its own columns of `out`) and
// writing its columns of `out`; `also` is written in the same columns (taps), BUF_COUNT for none. Partial sums go
// straight into this rank's slab of every rank's inbox `out`.
static void column_step(Lower *l, OpId op, int outputs, const BufferId *in, int in_count, ColumnsTo to, BufferId out,
                        BufferId also) {
    step_new(l, op);
    covers_columns(l, out, to == TO_INBOX, outputs);
    if (also != BUF_COUNT) covers_columns(l, also, false, outputs);
    int tile = l->plan->ops[op].tile;
    for (int lo = 0; lo < outputs; lo += tile) {
        Draft d = {0};
        reads(l, &d, all_of(l, BUF_STATE));
        for (int i = 0; i < in_count; i++) reads(l, &d, all_of(l, in[i]));
        if (to == TO_RESIDUAL) add_columns(l, &d.reads, out, false, lo, lo + tile);
        add_columns(l, &d.writes, out, to == TO_INBOX, lo, lo + tile);
        if (also != BUF_COUNT) add_columns(l, &d.writes, also, false, lo, lo + tile);
        task_add(l, lo, lo + tile, 0, &d);
    }
}
#define COLUMN_STEP(l, op, outputs, out, ...)                                                                          \
    column_step(l, op, outputs, (const BufferId[]){__VA_ARGS__},                                                       \
                (int)(sizeof(BufferId[]){__VA_ARGS__} / sizeof(BufferId)), TO_BUFFER, out, BUF_COUNT)

// The ranks' partial sums in `inbox` are summed in rank order and added to `x`: by each rank all of them, or its slice,
// which goes to all.
static void reduce_step(Lower *l, Site site, BufferId inbox, BufferId x, BufferId also) {
    bool two = l->slice > 0;
    int columns = two ? l->slice : l->model->hidden, tile = l->plan->ops[OP_REDUCE].tile;
    BufferId outs[] = {x, also};
    int out_count = also == BUF_COUNT ? 1 : 2;
    step_new(l, OP_REDUCE);
    for (int i = 0; i < out_count; i++)
        covers(l, two ? everywhere(slab_of_stream(l, outs[i], 0, columns)) : cols(l, outs[i], 0, columns));
    for (int lo = 0; lo < columns; lo += tile) {
        Draft d = {0};
        Index all = range(0, l->plan->ranks), own = range(lo, lo + tile);
        reads(l, &d, all_of(l, BUF_STATE));
        reads(l, &d, two ? region(l, inbox, all, SELF, own) : slab(l, inbox, all, lo, lo + tile));
        reads(l, &d, two ? slab_of_stream(l, x, lo, lo + tile) : cols(l, x, lo, lo + tile));
        for (int i = 0; i < out_count; i++)
            writes(l, &d,
                   two ? everywhere(slab_of_stream(l, outs[i], lo, lo + tile)) : cols(l, outs[i], lo, lo + tile));
        task_add(l, lo, lo + tile, (int)site, &d);
    }
}

// An output projection: into the residual stream, or through the ranks' partial sums.
static void project(Lower *l, OpId op, BufferId in, BufferId x, Site site, BufferId inbox, bool tap) {
    int hidden = l->model->hidden;
    BufferId also = tap ? BUF_TAPS : BUF_COUNT;
    if (l->plan->ranks == 1) {
        column_step(l, op, hidden, &in, 1, TO_RESIDUAL, x, also);
    } else {
        column_step(l, op, hidden, &in, 1, TO_INBOX, inbox, BUF_COUNT);
        reduce_step(l, site, inbox, x, also);
    }
}

// Where q, k and v of the heads lie among a rank's rows of the fused matrix: chunks of [Q | K | V].
typedef struct Fused {
    int chunks, heads, kv_heads, qk, v; // of one chunk
} Fused;
static int fused_rows(const Fused *f) { return f->heads * f->qk + f->kv_heads * (f->qk + f->v); }
static int fused_q(const Fused *f, int head) { return head / f->heads * fused_rows(f) + head % f->heads * f->qk; }
static int fused_k(const Fused *f, int head) {
    return head / f->kv_heads * fused_rows(f) + f->heads * f->qk + head % f->kv_heads * f->qk;
}
static int fused_v(const Fused *f, int head) {
    return head / f->kv_heads * fused_rows(f) + (f->heads + f->kv_heads) * f->qk + head % f->kv_heads * f->v;
}

static Fused fused_of(const Lower *l, LayerAttention kind) {
    const Attention *attention = &l->model->attention[kind];
    int chunks = l->model->family == FAMILY_MIMO_V2 ? model_qkv_chunks(l->model) / l->plan->ranks : 1;
    return (Fused){chunks, l->plan->shape.heads[kind] / chunks, l->plan->shape.kv_heads[kind] / chunks,
                   attention->qk_dim, attention->v_dim};
}

// The keys and values of kv heads [lo, hi) among the rows' own.
static void read_key_values(Lower *l, Draft *d, const Fused *f, BufferId qkv, int lo, int hi) {
    for (int g = lo; g < hi; g++) {
        reads(l, d, cols(l, qkv, fused_k(f, g), fused_k(f, g) + f->qk));
        reads(l, d, cols(l, qkv, fused_v(f, g), fused_v(f, g) + f->v));
    }
}

// Query heads [lo, hi) of `heads` over `kv_heads`: their q, k and v among the rows' own, and the old cache rows.
static void read_heads(Lower *l, Draft *d, const Fused *f, BufferId qkv, BufferId kv, int lo, int hi) {
    int heads = f->chunks * f->heads, kv_heads = f->chunks * f->kv_heads;
    int kv_lo = lo * kv_heads / heads, kv_hi = (hi - 1) * kv_heads / heads + 1;
    for (int h = lo; h < hi; h++) {
        int from = fused_q(f, h), to = from + f->qk;
        while (h + 1 < hi && fused_q(f, h + 1) == to) to += f->qk, h++;
        reads(l, d, cols(l, qkv, from, to));
    }
    read_key_values(l, d, f, qkv, kv_lo, kv_hi);
    reads(l, d, region(l, kv, range(0, 1), range(kv_lo, kv_hi), NONE));
    reads(l, d, all_of(l, BUF_STATE));
}

static void attention_steps(Lower *l, LayerAttention kind) {
    const Shape *shape = &l->plan->shape;
    const Fused f = fused_of(l, kind);
    int v = f.v, heads = shape->heads[kind], split = plan_split(l->plan, kind);
    step_new(l, OP_APPEND);
    covers(l, region(l, BUF_KV, range(1, 2), range(0, shape->kv_heads[kind]), NONE));
    int tile = l->plan->ops[OP_APPEND].tile;
    for (int lo = 0; lo < shape->kv_heads[kind]; lo += tile) {
        Draft d = {0};
        reads(l, &d, all_of(l, BUF_STATE));
        read_key_values(l, &d, &f, BUF_QKV, lo, lo + tile);
        writes(l, &d, region(l, BUF_KV, range(1, 2), range(lo, lo + tile), NONE));
        task_add(l, lo, lo + tile, 0, &d);
    }
    step_new(l, OP_ATTENTION);
    covers(l,
           split == 1 ? cols(l, BUF_ATTN, 0, heads * v) : region(l, BUF_PART, range(0, heads), range(0, split), NONE));
    tile = plan_tile(l->plan, OP_ATTENTION, kind);
    for (int lo = 0; lo < heads; lo += tile) {
        for (int part = 0; part < split; part++) {
            Draft d = {0};
            read_heads(l, &d, &f, BUF_QKV, BUF_KV, lo, lo + tile);
            writes(l, &d,
                   split == 1 ? cols(l, BUF_ATTN, lo * v, (lo + tile) * v)
                              : region(l, BUF_PART, range(lo, lo + tile), range(part, part + 1), NONE));
            task_add(l, lo, lo + tile, part, &d);
        }
    }
    if (split == 1) return;
    step_new(l, OP_MERGE);
    covers(l, cols(l, BUF_ATTN, 0, heads * v));
    tile = l->plan->ops[OP_MERGE].tile;
    int pieces = l->plan->ops[OP_MERGE].split, rows = l->plan->rows / pieces;
    for (int lo = 0; lo < heads; lo += tile)
        for (int piece = 0; piece < pieces; piece++) {
            Draft d = {0};
            reads(l, &d, all_of(l, BUF_STATE));
            reads(l, &d, region(l, BUF_PART, range(lo, lo + tile), range(0, split), NONE));
            writes(l, &d,
                   region(l, BUF_ATTN, range(piece * rows, (piece + 1) * rows), range(lo * v, (lo + tile) * v), NONE));
            task_add(l, lo, lo + tile, piece, &d);
        }
}

// One task of one op.
static void single(Lower *l, OpId op, BufferId in, Region out) {
    step_new(l, op);
    covers(l, out);
    Draft d = {0};
    reads(l, &d, all_of(l, BUF_STATE));
    reads(l, &d, all_of(l, in));
    writes(l, &d, out);
    task_add(l, 0, 1, 0, &d);
}

// A part of the inputs a task. Of a tile's first the sum of the rows' squares is one output more.
static void router_parts(Lower *l, int parts) {
    int count = l->model->experts.count, tile = l->plan->ops[OP_ROUTER].tile;
    step_new(l, OP_ROUTER);
    covers(l, all_of(l, BUF_SCORES_PART));
    for (int lo = 0; lo < count; lo += tile)
        for (int part = 0; part < parts; part++) {
            Draft d = {0};
            reads(l, &d, all_of(l, BUF_STATE));
            reads(l, &d, all_of(l, BUF_X));
            writes(l, &d, slab(l, BUF_SCORES_PART, range(part, part + 1), lo, lo + tile));
            if (lo == 0) writes(l, &d, slab(l, BUF_SCORES_PART, range(part, part + 1), count, count + 1));
            task_add(l, lo, lo + tile, part, &d);
        }
}

static void expert_steps(Lower *l, bool tap) {
    const Plan *plan = l->plan;
    const Shape *shape = &plan->shape;
    int hidden = l->model->hidden, inner = shape->expert_inner;
    int parts = plan->ops[OP_ROUTER].split;
    if (parts > 1)
        router_parts(l, parts);
    else
        COLUMN_STEP(l, OP_ROUTER, l->model->experts.count, BUF_SCORES, BUF_X);
    single(l, OP_ROUTE, parts > 1 ? BUF_SCORES_PART : BUF_SCORES, all_of(l, BUF_ROUTES));
    Pool pool = {.name = "experts",
                 .keys = shape->keys,
                 .top = l->model->experts.top_k,
                 .publisher = (int)l->steps.count - 1,
                 .claim = plan->ops[OP_EXPERTS_UP].claim};
    Tasks items = {0};
    step_new(l, OP_EXPERTS_UP);
    covers(l, slab(l, BUF_EACT, KEY, 0, inner));
    int tile = plan->ops[OP_EXPERTS_UP].tile;
    for (int lo = 0; lo < inner; lo += tile) {
        Draft d = {0};
        reads(l, &d, all_of(l, BUF_STATE));
        reads(l, &d, all_of(l, BUF_X));
        reads(l, &d, all_of(l, BUF_ROUTES));
        writes(l, &d, slab(l, BUF_EACT, KEY, lo, lo + tile));
        LIST_ADD(l->ctx->arena, &items, task_of(l, lo, lo + tile, 0, &d));
    }
    bool one = plan->ranks == 1, sum = plan->ops[OP_EXPERTS_SUM].used;
    if (!sum) {
        step_new(l, OP_EXPERTS_DOWN);
        covers(l, slab(l, BUF_EY, KEY, 0, hidden));
        tile = plan->ops[OP_EXPERTS_DOWN].tile;
        for (int lo = 0; lo < hidden; lo += tile) {
            Draft d = {0};
            reads(l, &d, all_of(l, BUF_STATE));
            reads(l, &d, slab(l, BUF_EACT, KEY, 0, inner));
            reads(l, &d, all_of(l, BUF_ROUTES));
            writes(l, &d, slab(l, BUF_EY, KEY, lo, lo + tile));
            LIST_ADD(l->ctx->arena, &items, task_of(l, lo, lo + tile, 0, &d));
        }
    }
    pool.items = items.at;
    pool.item_count = (int)items.count;
    LIST_ADD(l->ctx->arena, &l->pools, pool);
    LIST_ADD(l->ctx->arena, &l->entries, (Entry){.kind = ENTRY_POOL, .pool = (int)l->pools.count - 1});

    OpId last = sum ? OP_EXPERTS_SUM : OP_COMBINE;
    step_new(l, last);
    covers_columns(l, one ? BUF_X : BUF_IM, !one, hidden);
    if (one && tap) covers_columns(l, BUF_TAPS, false, hidden);
    tile = plan->ops[last].tile;
    for (int lo = 0; lo < hidden; lo += tile) {
        Draft d = {0};
        reads(l, &d, all_of(l, BUF_STATE));
        reads(l, &d, sum ? slab(l, BUF_EACT, ACTIVE, 0, inner) : slab(l, BUF_EY, ACTIVE, lo, lo + tile));
        reads(l, &d, all_of(l, BUF_ROUTES));
        if (one) add_columns(l, &d.reads, BUF_X, false, lo, lo + tile);
        add_columns(l, &d.writes, one ? BUF_X : BUF_IM, !one, lo, lo + tile);
        if (one && tap) add_columns(l, &d.writes, BUF_TAPS, false, lo, lo + tile);
        task_add(l, lo, lo + tile, 0, &d);
    }
    if (!one) reduce_step(l, SITE_MLP, BUF_IM, BUF_X, tap ? BUF_TAPS : BUF_COUNT);
}

// A head over this rank's part of the vocabulary: best tokens, and logits unless `logits` is BUF_COUNT. With several
// ranks both are made apart and pushed to all.
static void head_steps(Lower *l, OpId op, BufferId x, BufferId logits, BufferId best, BufferId logits_part,
                       BufferId best_part, Site site) {
    bool one = l->plan->ranks == 1, with_logits = logits != BUF_COUNT;
    int vocab = l->plan->shape.vocab, tile = l->plan->ops[op].tile;
    for (int pushing = 0; pushing <= !one; pushing++) {
        step_new(l, pushing ? OP_PUSH : op);
        for (int lo = -1; lo < vocab; lo = lo < 0 ? 0 : lo + tile) {
            int from = lo < 0 ? 0 : lo, to = lo < 0 ? vocab : lo + tile;
            Region out_best, out_logits = {0};
            if (pushing) {
                out_best = everywhere(region(l, best, SELF, range(from, to), NONE));
                if (with_logits) out_logits = everywhere(slab(l, logits, SELF, from, to));
            } else if (one) {
                out_best = region(l, best, range(0, 1), range(from, to), NONE);
                if (with_logits) out_logits = slab(l, logits, range(0, 1), from, to);
            } else {
                out_best = region(l, best_part, range(from, to), NONE, NONE);
                if (with_logits) out_logits = cols(l, logits_part, from, to);
            }
            if (lo < 0) {
                covers(l, out_best);
                if (with_logits) covers(l, out_logits);
                continue;
            }
            Draft d = {0};
            if (pushing) {
                reads(l, &d, region(l, best_part, range(from, to), NONE, NONE));
                if (with_logits) reads(l, &d, cols(l, logits_part, from, to));
            } else {
                reads(l, &d, all_of(l, BUF_STATE));
                reads(l, &d, all_of(l, x));
            }
            writes(l, &d, out_best);
            if (with_logits) writes(l, &d, out_logits);
            task_add(l, from, to, pushing ? (int)site : 0, &d);
        }
    }
}

static void fc_steps(Lower *l) {
    int slice = l->plan->shape.hidden_slice, tile = l->plan->ops[OP_FC].tile;
    bool one = l->plan->ranks == 1;
    for (int pushing = 0; pushing <= !one; pushing++) {
        step_new(l, pushing ? OP_PUSH : OP_FC);
        for (int lo = -1; lo < slice; lo = lo < 0 ? 0 : lo + tile) {
            int from = lo < 0 ? 0 : lo, to = lo < 0 ? slice : lo + tile;
            Region out = pushing ? everywhere(slab(l, BUF_C, SELF, from, to))
                         : one   ? slab(l, BUF_C, range(0, 1), from, to)
                                 : cols(l, BUF_C_PART, from, to);
            if (lo < 0) {
                covers(l, out);
                continue;
            }
            Draft d = {0};
            if (pushing) {
                reads(l, &d, cols(l, BUF_C_PART, from, to));
            } else {
                reads(l, &d, all_of(l, BUF_STATE));
                reads(l, &d, every_layer(all_of(l, BUF_TAPS)));
            }
            writes(l, &d, out);
            task_add(l, from, to, pushing ? SITE_FC : 0, &d);
        }
    }
}

static void context_steps(Lower *l) {
    const Attention *attention = &l->model->drafter.attention;
    int kv_heads = l->plan->shape.draft_kv_heads, tile = l->plan->ops[OP_CONTEXT_APPEND].tile;
    const Fused f = {1, 0, kv_heads, attention->qk_dim, attention->v_dim};
    COLUMN_STEP(l, OP_CONTEXT, l->plan->shape.draft_kv_rows, BUF_CKV, BUF_C);
    step_new(l, OP_CONTEXT_APPEND);
    covers(l, region(l, BUF_DKV, range(1, 2), range(0, kv_heads), NONE));
    for (int lo = 0; lo < kv_heads; lo += tile) {
        Draft d = {0};
        reads(l, &d, all_of(l, BUF_STATE));
        read_key_values(l, &d, &f, BUF_CKV, lo, lo + tile);
        writes(l, &d, region(l, BUF_DKV, range(1, 2), range(lo, lo + tile), NONE));
        task_add(l, lo, lo + tile, 0, &d);
    }
}

// A token for each row: draft_pick, sample.
static void choice_step(Lower *l, OpId op, BufferId best, BufferId choice) {
    step_new(l, op);
    covers(l, all_of(l, choice));
    for (int row = 0; row < l->plan->rows; row += l->plan->ops[op].tile) {
        Draft d = {0};
        Index own = range(row, row + l->plan->ops[op].tile);
        reads(l, &d, all_of(l, BUF_STATE));
        if (op == OP_SAMPLE) reads(l, &d, region(l, BUF_LOGITS, whole(l, BUF_LOGITS, 0), own, whole(l, BUF_LOGITS, 2)));
        reads(l, &d, all_of(l, best));
        writes(l, &d, region(l, choice, own, NONE, NONE));
        task_add(l, own.lo, own.hi, 0, &d);
    }
}

static void sample_steps(Lower *l) {
    choice_step(l, OP_SAMPLE, BUF_BEST, BUF_CHOICE);
    step_new(l, OP_ACCEPT);
    Draft d = {0};
    reads(l, &d, all_of(l, BUF_STATE));
    reads(l, &d, all_of(l, BUF_CHOICE));
    reads(l, &d, all_of(l, BUF_DRAFTS));
    writes(l, &d, all_of(l, BUF_STATE));
    for (int i = 0; i < (l->model->has_drafter ? 2 : 1); i++) {
        BufferId cache = i ? BUF_DKV : BUF_KV;
        reads(l, &d, every_layer(region(l, cache, range(1, 2), whole(l, cache, 1), NONE)));
        writes(l, &d, every_layer(region(l, cache, range(0, 1), whole(l, cache, 1), NONE)));
    }
    for (size_t i = 0; i < d.writes.count; i++) covers(l, d.writes.at[i]);
    task_add(l, 0, 1, 0, &d);
}

static void layer_steps(Lower *l, const Layer *layer, bool tap) {
    LayerAttention kind = layer->attention;
    COLUMN_STEP(l, OP_QKV, l->plan->shape.qkv_rows[kind], BUF_QKV, BUF_X);
    attention_steps(l, kind);
    project(l, OP_O_PROJ, BUF_ATTN, BUF_X, SITE_ATTENTION, BUF_IX, false);
    if (layer->mlp == MLP_EXPERTS) {
        expert_steps(l, tap);
        return;
    }
    COLUMN_STEP(l, OP_MLP_UP, l->plan->shape.dense_inner, BUF_ACT, BUF_X);
    project(l, OP_MLP_DOWN, BUF_ACT, BUF_X, SITE_MLP, BUF_IM, tap);
}

static void draft_layer_steps(Lower *l) {
    const Attention *attention = &l->model->drafter.attention;
    const Shape *shape = &l->plan->shape;
    int v = attention->v_dim, tile = l->plan->ops[OP_DRAFT_ATTENTION].tile;
    Fused f = {1, shape->draft_heads, shape->draft_kv_heads, attention->qk_dim, v};
    COLUMN_STEP(l, OP_DRAFT_QKV, shape->draft_qkv_rows, BUF_DQKV, BUF_DX);
    step_new(l, OP_DRAFT_ATTENTION);
    covers(l, cols(l, BUF_DATTN, 0, shape->draft_heads * v));
    for (int lo = 0; lo < shape->draft_heads; lo += tile) {
        Draft d = {0};
        read_heads(l, &d, &f, BUF_DQKV, BUF_DKV, lo, lo + tile);
        writes(l, &d, cols(l, BUF_DATTN, lo * v, (lo + tile) * v));
        task_add(l, lo, lo + tile, 0, &d);
    }
    project(l, OP_DRAFT_O, BUF_DATTN, BUF_DX, SITE_DRAFT_ATTENTION, BUF_DIX, false);
    COLUMN_STEP(l, OP_DRAFT_UP, shape->draft_inner, BUF_DACT, BUF_DX);
    project(l, OP_DRAFT_DOWN, BUF_DACT, BUF_DX, SITE_DRAFT_MLP, BUF_DIM, false);
}

// Closes the body at hand.
static int body_add(Lower *l, const char *name) {
    Body body = {.name = name,
                 .steps = l->steps.at,
                 .step_count = (int)l->steps.count,
                 .pools = l->pools.at,
                 .pool_count = (int)l->pools.count,
                 .unplaced = {l->entries.at, (int)l->entries.count, (int)l->entries.room}};
    LIST_ADD(l->ctx->arena, &l->bodies, body);
    memset(&l->steps, 0, sizeof l->steps);
    memset(&l->pools, 0, sizeof l->pools);
    memset(&l->entries, 0, sizeof l->entries);
    return (int)l->bodies.count - 1;
}

// Adds instances; a run of layers with one body is one item.
static void round_add(Lower *l, Segment segment, int body, int layer) {
    RoundItem *last = l->round.count ? &l->round.at[l->round.count - 1] : NULL;
    if (last && last->body == body && last->layer_hi == layer)
        last->layer_hi++;
    else
        LIST_ADD(l->ctx->arena, &l->round, (RoundItem){segment, body, layer, layer + 1});
}

static void layers(Lower *l) {
    const Model *model = l->model;
    struct {
        Layer layer;
        bool tap;
        int body;
    } kinds[8];
    int count = 0;
    for (int i = 0; i < model->layer_count; i++) {
        Layer layer = model->layers[i];
        bool tap = model->has_drafter && model_tap(model, i) >= 0;
        int k = 0;
        while (k < count &&
               (kinds[k].layer.attention != layer.attention || kinds[k].layer.mlp != layer.mlp || kinds[k].tap != tap))
            k++;
        if (k == count) {
            layer_steps(l, &layer, tap);
            kinds[count].layer = layer;
            kinds[count].tap = tap;
            kinds[count++].body = body_add(
                l, arena_printf(l->ctx->arena, "%s_%s%s", layer.attention == ATTENTION_FULL ? "full" : "window",
                                layer.mlp == MLP_DENSE ? "dense" : "experts", tap ? "_tap" : ""));
        }
        round_add(l, SEGMENT_TARGET, kinds[k].body, i);
    }
}

Prog *plan_lower(Ctx *ctx, const Plan *plan) {
    Lower *l = ARENA_NEW(ctx->arena, Lower);
    l->ctx = ctx;
    l->plan = plan;
    l->model = plan->model;
    l->slice = plan_slice(plan);
    declare_all(l);
    const Model *model = l->model;
    const Drafter *drafter = &model->drafter;
    if (model->has_drafter) {
        column_step(l, OP_DRAFT_EMBED, model->hidden, NULL, 0, false, BUF_DX, BUF_COUNT);
        round_add(l, SEGMENT_DRAFT, body_add(l, "draft_in"), 0);
        draft_layer_steps(l);
        int body = body_add(l, "draft_layer");
        for (int i = 0; i < drafter->layers; i++) round_add(l, SEGMENT_DRAFT, body, i);
        head_steps(l, OP_DRAFT_HEAD, BUF_DX, BUF_COUNT, BUF_DBEST, BUF_COUNT, BUF_DBEST_PART, SITE_DRAFT_HEAD);
        choice_step(l, OP_DRAFT_PICK, BUF_DBEST, BUF_DRAFTS);
        round_add(l, SEGMENT_DRAFT, body_add(l, "draft_out"), 0);
    }
    COLUMN_STEP(l, OP_EMBED, model->hidden, BUF_X, BUF_DRAFTS);
    round_add(l, SEGMENT_TARGET, body_add(l, "target_in"), 0);
    layers(l);
    if (model->has_drafter) {
        fc_steps(l);
        round_add(l, SEGMENT_CONTEXT, body_add(l, "context_in"), 0);
        context_steps(l);
        int body = body_add(l, "context_layer");
        for (int i = 0; i < drafter->layers; i++) round_add(l, SEGMENT_CONTEXT, body, i);
    }
    head_steps(l, OP_HEAD, BUF_X, BUF_LOGITS, BUF_BEST, BUF_LOGITS_PART, BUF_BEST_PART, SITE_HEAD);
    sample_steps(l);
    round_add(l, SEGMENT_TARGET, body_add(l, "target_out"), 0);

    Prog *prog = ARENA_NEW(ctx->arena, Prog);
    *prog = (Prog){.model = model->name,
                   .sku = plan->sku->name,
                   .ranks = plan->ranks,
                   .workers = plan->workers,
                   .rows = plan->rows,
                   .page_count = plan->sched->page_count,
                   .page_bytes = plan->sched->page_bytes,
                   .buffers = l->buffers.at,
                   .buffer_count = (int)l->buffers.count,
                   .bodies = l->bodies.at,
                   .body_count = (int)l->bodies.count,
                   .round = l->round.at,
                   .round_count = (int)l->round.count};
    memcpy(prog->roles, plan->sched->roles, sizeof prog->roles);
    return prog;
}
