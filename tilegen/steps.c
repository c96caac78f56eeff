#include "steps.h"
#include "geometry.h"
#include <string.h>

typedef struct Making {
    Ctx *ctx;
    const Compiled *c;
    KernelSteps *steps;
} Making;

LayerAttention kernel_body_kind(const Model *model, const Prog *prog, int body) {
    for (int i = 0; i < prog->round_count; i++)
        if (prog->round[i].body == body && prog->round[i].segment == SEGMENT_TARGET)
            return model->layers[prog->round[i].layer_lo].attention;
    return ATTENTION_FULL;
}

static bool among(const char *name, const char *const *names, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(name, names[i]) == 0) return true;
    return false;
}
#define AMONG(name, ...)                                                                                               \
    among(name, (const char *const[]){__VA_ARGS__}, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

// Shapes in lower.h; a round's rows are always ENGINE_ROWS here.
static BufferPlace place_of(const Compiled *c, const Buffer *b) {
    const Model *m = c->model;
    const Shape *s = &c->plan->shape;
    uint32_t ranks = (uint32_t)c->plan->ranks, rows = ENGINE_ROWS, strips = (uint32_t)s->vocab / STRIP_ROWS;
    BufferPlace p = {0};
    uint32_t last = (uint32_t)b->dims[b->rank - 1], element = (uint32_t)dtype_bits(b->dtype) / 8;
    if (AMONG(b->name, "state", "kv", "dkv")) return p;
    if (AMONG(b->name, "choice", "drafts")) {
        p.bytes = rows * 4;
    } else if (strcmp(b->name, "routes") == 0) {
        p.bytes = 8 + (uint32_t)s->keys * 12 + rows * (uint32_t)m->experts.top_k * 8;
    } else if (AMONG(b->name, "best", "dbest", "best_part", "dbest_part")) {
        p.item = strips * rows * 8;
        p.bytes = p.item * (b->rank == 2 ? ranks : 1);
    } else if (strcmp(b->name, "part") == 0) {
        int v = m->attention[ATTENTION_FULL].heads ? m->attention[ATTENTION_FULL].v_dim
                                                   : m->attention[ATTENTION_WINDOW].v_dim;
        p.bytes = (uint32_t)(b->dims[0] * b->dims[1]) * rows * (uint32_t)(v + 2) * 4;
    } else {
        // In slices (lower.h), which are the columns of a row one after the other.
        bool stream = AMONG(b->name, "x", "dx", "taps"), inbox = AMONG(b->name, "ix", "im", "dix", "dim");
        uint32_t items = b->rank == 3 && !stream ? (uint32_t)b->dims[0] : 1;
        if ((stream && b->rank == 3) || inbox) last = (uint32_t)m->hidden;
        // The ranks' slices of a row lie one after the other, since what reads them takes whole blocks of inputs.
        if (strcmp(b->name, "c") == 0) last *= items, items = 1;
        if (AMONG(b->name, "x", "dx", "attn", "dattn", "act", "dact", "eact", "taps", "c", "c_part"))
            last = (last + BLOCK_K - 1) / BLOCK_K * BLOCK_K; // inputs of a matrix: whole blocks
        p.row = last * element;
        p.item = p.row * rows;
        p.bytes = p.item * (b->layers ? (uint32_t)m->drafter.tap_count : items);
    }
    return p;
}

static void place_all(Making *k) {
    const Prog *prog = k->c->prog;
    KernelSteps *steps = k->steps;
    uint32_t at = 0, groups = 0;
    steps->places = ARENA_ARRAY(k->ctx->arena, BufferPlace, prog->buffer_count);
    for (int i = 0; i < prog->buffer_count; i++) {
        steps->places[i] = place_of(k->c, &prog->buffers[i]);
        steps->places[i].offset = at;
        at += (steps->places[i].bytes + 255) / 256 * 256;
    }
    for (int i = 0; i < prog->counter_count; i++) groups += (uint32_t)prog->counters[i].groups;
    steps->counter_at = at;
    steps->slab_bytes = at + (groups * COUNTER_STRIDE * 4 + 255) / 256 * 256;
    steps->logits_at = kernel_place(steps, prog, "logits").offset;
}

BufferPlace kernel_place(const KernelSteps *steps, const Prog *prog, const char *name) {
    int index = prog_buffer(prog, name);
    return index < 0 ? (BufferPlace){0} : steps->places[index];
}

static bool cannot(Making *k, const char *what) {
    diag_error(k->ctx, E0442, NO_SPAN, "%s: the engine kernel cannot run it: %s", k->c->model->name, what);
    diag_help(k->ctx, "build for the SKU \"host\"");
    return false;
}

static void in_from(const Making *k, EngineStep *s, const char *name) {
    BufferPlace p = kernel_place(k->steps, k->c->prog, name);
    s->in = p.offset, s->in_row = p.row;
}
static void out_to(const Making *k, EngineStep *s, const char *name) {
    BufferPlace p = kernel_place(k->steps, k->c->prog, name);
    s->out = p.offset, s->out_row = p.row, s->out_item = p.item;
}
static uint32_t offset_of(const Making *k, const char *name) { return kernel_place(k->steps, k->c->prog, name).offset; }

// Where a warp's runs lie, if they are whole.
static void step_runs(EngineStep *s, const Geometry *g) {
    int units = g->blocks * 4 / g->unit, stride = g->warps_k * g->run, runs = units / stride;
    bool one = g->chunks_of_strip == 1;
    s->regular = g->unit == 4 && runs * stride == units && (one || runs == 1 || stride % g->chunk_blocks == 0) &&
                 (one || g->chunk_blocks % g->run == 0);
    if (!s->regular) return;
    s->run_chunks = one ? 0 : (uint32_t)(stride / g->chunk_blocks);
    s->run_bytes = one ? (uint32_t)(stride * g->block_bytes) : 0;
    for (int warp = 0; warp < g->warps_k && !one; warp++)
        s->first_chunks |= (uint32_t)(warp * g->run / g->chunk_blocks) << 4 * warp;
}

// Whether the tiles of an expert's op are a strip each, and every warp has one run of each of its chunks.
static bool streams(const Plan *plan, OpId op, const EngineStep *s, const Geometry *g) {
    return op == OP_EXPERTS_UP && s->op == RUN_LINEAR_MXFP4 && s->regular && plan->ops[op].tile == g->strip_outputs &&
           g->run == geometry_run(plan) && g->warps_k == 8 && g->chunk_blocks == 8 * g->run &&
           s->warp_runs * s->run <= MOST_HELD_BLOCKS;
}

// Weights, norm and ends of a linear op.
static bool linear_step(Making *k, EngineStep *s, OpId op, LayerAttention kind, uint32_t slot, uint32_t norm,
                        uint32_t finish) {
    static const uint32_t bodies[DTYPE_COUNT] = {[DTYPE_BF16] = RUN_LINEAR_BF16,
                                                 [DTYPE_FP8] = RUN_LINEAR_FP8,
                                                 [DTYPE_MXFP4] = RUN_LINEAR_MXFP4,
                                                 [DTYPE_F32] = RUN_LINEAR_F32};
    Geometry g;
    plan_geometry(k->c->plan, op, kind, &g);
    s->op = bodies[g.dtype];
    s->finish = finish;
    s->slot = slot, s->norm_slot = norm;
    s->k = (uint32_t)g.k, s->blocks = (uint32_t)g.blocks;
    s->warps_k = (uint32_t)g.warps_k, s->run = (uint32_t)g.run;
    s->warp_runs = (uint32_t)((g.warp_units + g.run - 1) / g.run);
    s->direct = g.direct;
    step_runs(s, &g);
    s->chunk_blocks = (uint32_t)g.chunk_blocks, s->chunks_of_strip = (uint32_t)g.chunks_of_strip,
    s->strips_of_chunk = (uint32_t)g.strips_of_chunk;
    s->strip_outputs = (uint32_t)g.strip_outputs;
    s->block_bytes = (uint32_t)g.block_bytes;
    s->strip_bytes = (uint32_t)(g.blocks * g.block_bytes);
    s->chunk_bytes =
        g.chunks_of_strip > 1 ? (uint32_t)(g.chunk_blocks * g.block_bytes) : s->strip_bytes * s->strips_of_chunk;
    s->outputs = (uint32_t)plan_outputs(k->c->plan, op, kind);
    s->item_bytes = s->strip_bytes * (uint32_t)geometry_strips(&g, (int)s->outputs);
    s->stream = streams(k->c->plan, op, s, &g);
    if (s->chunk_bytes > (uint32_t)k->c->sched->page_bytes)
        return cannot(k, "the blocks of weights that a warp multiplies in one go are larger than a page");
    if (g.k % 8) return cannot(k, "inputs of a matrix that are no multiple of 8");
    if (s->in_slab_k % BLOCK_K) return cannot(k, "taps of a hidden size that is no multiple of 128");
    return true;
}

// What the body of experts_sum can take on (experts.cuh).
static bool sums_experts(Making *k, const EngineStep *s, const Geometry *g) {
    const Plan *plan = k->c->plan;
    int tile = plan->ops[OP_EXPERTS_SUM].tile, outputs = plan->rows * plan->model->experts.top_k * tile;
    if (plan->sched->activations != DTYPE_BF16) return cannot(k, "experts_sum with activations that are not bf16");
    if (g->k % BLOCK_K || g->blocks > MOST_SUM_BLOCKS) {
        diag_error(k->ctx, E0442, plan->ops[OP_EXPERTS_SUM].span,
                   "experts_sum: %d inputs of an expert's down projection", g->k);
        diag_help(k->ctx, "use experts_down and combine: experts_sum takes %d or %d inputs", BLOCK_K,
                  MOST_SUM_BLOCKS * BLOCK_K);
        return false;
    }
    if (s->chunk_bytes > (uint32_t)plan->sched->page_bytes || outputs * 4 > SUM_ROOM) {
        int most = SUM_ROOM / 4 / plan->rows / plan->model->experts.top_k / STRIP_ROWS * STRIP_ROWS,
            fit = plan->sched->page_bytes / (int)s->strip_bytes * STRIP_ROWS;
        diag_error(k->ctx, E0442, plan->ops[OP_EXPERTS_SUM].span,
                   "experts_sum: a tile of %d outputs is more than a block keeps of all experts, or than a page", tile);
        diag_help(k->ctx, "a tile of %d outputs fits", most < fit ? most : fit);
        return false;
    }
    return true;
}

static bool attention_step(Making *k, EngineStep *s, int kind) {
    const Model *m = k->c->model;
    const Shape *shape = &k->c->plan->shape;
    const Attention *a = kind == 2 ? &m->drafter.attention : &m->attention[kind];
    int chunks = kind < 2 && m->family == FAMILY_MIMO_V2 ? model_qkv_chunks(m) / k->c->plan->ranks : 1;
    s->kind = (uint32_t)kind;
    s->heads = (uint32_t)(kind == 2 ? shape->draft_heads : shape->heads[kind]);
    s->kv_heads = (uint32_t)(kind == 2 ? shape->draft_kv_heads : shape->kv_heads[kind]);
    s->chunk_heads = s->heads / (uint32_t)chunks, s->chunk_kv = s->kv_heads / (uint32_t)chunks;
    s->chunk_rows = s->chunk_heads * (uint32_t)a->qk_dim + s->chunk_kv * (uint32_t)(a->qk_dim + a->v_dim);
    s->window = (uint32_t)a->window;
    s->causal = kind < 2 || m->drafter.causal;
    s->split = kind < 2 ? (uint32_t)plan_split(k->c->plan, (LayerAttention)kind) : 1;
    s->value_scale = (float)a->value_scale;
    s->eps = (float)(kind == 2 ? m->drafter.eps : m->eps);
    if (a->qk_dim % 8 || a->v_dim % 8 || a->rope.rotary % 16 || s->chunk_rows % 8)
        return cannot(k, "head dims that are no multiples of 8, or rotated dims of 16");
    if (a->qk_dim > 256 || a->v_dim > 256) return cannot(k, "head dims over 256");
    if (k->c->plan->ops[kind == 2 ? OP_DRAFT_ATTENTION : OP_ATTENTION].tile > 16)
        return cannot(k, "more than 16 query heads a task");
    return true;
}

// What is pushed: elements of `element` bytes of `part` into every rank's `inbox`, and best tokens.
static void push_step(const Making *k, EngineStep *s, Site site) {
    static const struct {
        const char *part, *inbox, *best_part, *best;
    } sites[] = {[SITE_HEAD] = {"logits_part", "logits", "best_part", "best"},
                 [SITE_DRAFT_HEAD] = {NULL, NULL, "dbest_part", "dbest"},
                 [SITE_FC] = {"c_part", "c", NULL, NULL}};
    s->op = RUN_PUSH_TILE;
    s->site = (uint32_t)site;
    if (sites[site].part) {
        in_from(k, s, sites[site].part);
        out_to(k, s, sites[site].inbox);
        s->k = site == SITE_FC && k->c->sched->activations == DTYPE_BF16 ? 2 : 4; // bytes of an element
        if (site == SITE_FC) s->out_item = 0, s->outputs = (uint32_t)k->c->plan->shape.hidden_slice;
    }
    if (sites[site].best) s->best = offset_of(k, sites[site].best), s->item_bytes = offset_of(k, sites[site].best_part);
}

static bool make_step(Making *k, EngineStep *s, OpId op, LayerAttention kind, Site site) {
    const Compiled *c = k->c;
    const Model *m = c->model;
    bool one = c->plan->ranks == 1;
    uint32_t back = one ? FINISH_RESIDUAL : FINISH_PUSH;
    *s = (EngineStep){.slot = SLOT_COUNT, .norm_slot = SLOT_COUNT, .eps = (float)m->eps, .alpha = 1, .parts = 1};
    bool draft_mlp = op == OP_DRAFT_UP, expert = op == OP_EXPERTS_UP;
    const Activation *act = draft_mlp ? &m->drafter.activation : expert ? &m->experts.activation : &m->dense_activation;
    switch (op) {
    case OP_DRAFT_EMBED: s->op = RUN_EMBED, s->kind = 2, out_to(k, s, "dx"); return true;
    case OP_EMBED: s->op = RUN_EMBED, in_from(k, s, "drafts"), out_to(k, s, "x"); return true;
    case OP_DRAFT_QKV:
        in_from(k, s, "dx"), out_to(k, s, "dqkv");
        s->eps = (float)m->drafter.eps;
        return linear_step(k, s, op, kind, SLOT_QKV, SLOT_INPUT_NORM, FINISH_STORE);
    case OP_QKV:
        in_from(k, s, "x"), out_to(k, s, "qkv");
        return linear_step(k, s, op, kind, SLOT_QKV, SLOT_INPUT_NORM, FINISH_STORE);
    case OP_DRAFT_ATTENTION:
        s->op = RUN_ATTEND_DRAFT;
        in_from(k, s, "dqkv"), out_to(k, s, "dattn");
        return attention_step(k, s, 2);
    case OP_ATTENTION:
        s->op = plan_pages_keys(c->plan, kind) ? RUN_ATTEND_CHUNKS : RUN_ATTEND;
        in_from(k, s, "qkv"), out_to(k, s, plan_split(c->plan, kind) > 1 ? "part" : "attn");
        return attention_step(k, s, (int)kind);
    case OP_MERGE:
        s->op = RUN_JOIN, s->parts = (uint32_t)c->plan->ops[op].split;
        in_from(k, s, "part"), out_to(k, s, "attn");
        return attention_step(k, s, (int)kind);
    case OP_APPEND:
        s->op = RUN_KEEP;
        in_from(k, s, "qkv");
        return attention_step(k, s, (int)kind);
    case OP_CONTEXT_APPEND:
        s->op = RUN_KEEP;
        in_from(k, s, "ckv");
        return attention_step(k, s, 2);
    case OP_DRAFT_O:
        in_from(k, s, "dattn"), out_to(k, s, one ? "dx" : "dix");
        return linear_step(k, s, op, kind, SLOT_O, SLOT_COUNT, back);
    case OP_O_PROJ:
        in_from(k, s, "attn"), out_to(k, s, one ? "x" : "ix");
        return linear_step(k, s, op, kind, SLOT_O, SLOT_COUNT, back);
    case OP_DRAFT_UP:
    case OP_MLP_UP:
        in_from(k, s, draft_mlp ? "dx" : "x"), out_to(k, s, draft_mlp ? "dact" : "act");
        s->eps = (float)(draft_mlp ? m->drafter.eps : m->eps);
        s->alpha = (float)act->alpha, s->limit = (float)act->limit;
        return linear_step(k, s, op, kind, SLOT_UP, SLOT_POST_NORM, FINISH_SWIGLU);
    case OP_DRAFT_DOWN:
        in_from(k, s, "dact"), out_to(k, s, one ? "dx" : "dim");
        return linear_step(k, s, op, kind, SLOT_DOWN, SLOT_COUNT, back);
    case OP_MLP_DOWN:
        in_from(k, s, "act"), out_to(k, s, one ? "x" : "im");
        s->taps = one;
        return linear_step(k, s, op, kind, SLOT_DOWN, SLOT_COUNT, back);
    case OP_ROUTER:
        s->parts = (uint32_t)c->plan->ops[OP_ROUTER].split;
        in_from(k, s, "x"), out_to(k, s, s->parts > 1 ? "scores_part" : "scores");
        return linear_step(k, s, op, kind, SLOT_ROUTER, SLOT_POST_NORM, s->parts > 1 ? FINISH_SCORES : FINISH_F32);
    case OP_ROUTE: {
        const char *scores = c->plan->ops[OP_ROUTER].split > 1 ? "scores_part" : "scores";
        s->op = RUN_ROUTE_ROWS, in_from(k, s, scores), out_to(k, s, "routes");
        s->in_item = kernel_place(k->steps, c->prog, scores).item;
        return true;
    }
    case OP_EXPERTS_UP:
        in_from(k, s, "x"), out_to(k, s, "eact");
        s->alpha = (float)act->alpha, s->limit = (float)act->limit;
        return linear_step(k, s, op, kind, SLOT_EXPERT_UP, SLOT_POST_NORM, FINISH_EXPERT_UP);
    case OP_EXPERTS_DOWN:
        in_from(k, s, "eact"), out_to(k, s, "ey");
        s->in_item = kernel_place(k->steps, c->prog, "eact").item;
        return linear_step(k, s, op, kind, SLOT_EXPERT_DOWN, SLOT_COUNT, FINISH_EXPERT_DOWN);
    case OP_COMBINE:
        s->op = RUN_COMBINE_ROWS;
        in_from(k, s, "ey"), out_to(k, s, one ? "x" : "im");
        s->in_item = kernel_place(k->steps, c->prog, "ey").item;
        s->finish = back, s->taps = one;
        return true;
    case OP_EXPERTS_SUM: {
        Geometry g;
        plan_geometry(c->plan, op, kind, &g);
        in_from(k, s, "eact"), out_to(k, s, one ? "x" : "im");
        if (!linear_step(k, s, op, kind, SLOT_EXPERT_DOWN, SLOT_COUNT, back)) return false;
        s->op = RUN_SUM_EXPERTS, s->taps = one;
        s->in_item = kernel_place(k->steps, c->prog, "eact").item;
        // Of a page: its experts, and the bytes of each.
        s->strips_of_chunk = (uint32_t)geometry_keys(c->plan, &g);
        s->chunk_bytes = s->strip_bytes * (uint32_t)geometry_strips(&g, c->plan->ops[op].tile);
        return sums_experts(k, s, &g);
    }
    case OP_HEAD:
        in_from(k, s, "x"), out_to(k, s, one ? "logits" : "logits_part");
        s->best = offset_of(k, one ? "best" : "best_part");
        return linear_step(k, s, op, kind, SLOT_HEAD, SLOT_NORM, FINISH_LOGITS);
    case OP_DRAFT_HEAD:
        in_from(k, s, "dx");
        s->best = offset_of(k, one ? "dbest" : "dbest_part");
        s->eps = (float)m->drafter.eps;
        return linear_step(k, s, op, kind, SLOT_HEAD, SLOT_DRAFT_NORM, FINISH_BEST);
    case OP_DRAFT_PICK:
        s->op = RUN_CHOOSE, s->kind = 2, s->best = offset_of(k, "dbest"), out_to(k, s, "drafts");
        return true;
    case OP_SAMPLE:
        s->op = RUN_CHOOSE, s->best = offset_of(k, "best"), in_from(k, s, "logits"), out_to(k, s, "choice");
        return true;
    case OP_FC:
        in_from(k, s, "taps"), out_to(k, s, one ? "c" : "c_part");
        s->in_slab_k = (uint32_t)m->hidden, s->in_slab = kernel_place(k->steps, c->prog, "taps").item;
        return linear_step(k, s, op, kind, SLOT_FC, SLOT_COUNT, FINISH_STORE_INPUT);
    case OP_CONTEXT: {
        const Shape *shape = &c->plan->shape;
        int q_rows = shape->draft_heads * m->drafter.attention.qk_dim;
        in_from(k, s, "c"), out_to(k, s, "ckv");
        s->eps = (float)m->drafter.eps;
        s->first_strip = (uint32_t)q_rows / STRIP_ROWS;
        if (q_rows % STRIP_ROWS) return cannot(k, "the drafter's query rows are no multiple of 16");
        return linear_step(k, s, op, kind, SLOT_QKV, SLOT_HIDDEN_NORM, FINISH_STORE);
    }
    case OP_PUSH: push_step(k, s, site); return true;
    case OP_REDUCE: {
        bool draft = site == SITE_DRAFT_ATTENTION || site == SITE_DRAFT_MLP;
        const char *inbox = site == SITE_ATTENTION         ? "ix"
                            : site == SITE_MLP             ? "im"
                            : site == SITE_DRAFT_ATTENTION ? "dix"
                                                           : "dim";
        if (plan_slice(c->plan) % BLOCK_K)
            return cannot(k, "slices of the residual stream that are no multiple of 128 (steps of reduce)");
        if (plan_slice(c->plan) && c->plan->ops[OP_REDUCE].tile % 4)
            return cannot(k, "a reduce in two steps with a tile that is no multiple of 4");
        s->op = RUN_SUM_RANKS;
        in_from(k, s, inbox), out_to(k, s, draft ? "dx" : "x");
        s->in_slab = kernel_place(k->steps, c->prog, inbox).item;
        s->taps = site == SITE_MLP;
        return true;
    }
    default: s->op = RUN_ACCEPT_ROUND; return true;
    }
}

// `part` of the tasks of a step of push or reduce: its site.
static Site step_site(const Prog *prog, const Body *body, int step) {
    for (int q = 0; q < prog->workers * ROLE_COUNT; q++)
        for (int i = 0; i < body->queues[q].count; i++)
            if (body->queues[q].entries[i].kind == ENTRY_TASK && body->queues[q].entries[i].task.step == step)
                return (Site)body->queues[q].entries[i].task.part;
    return SITE_ATTENTION;
}

static bool model_fits(Making *k) {
    const Model *m = k->c->model;
    const Plan *plan = k->c->plan;
    const Attention *full = &m->attention[ATTENTION_FULL], *window = &m->attention[ATTENTION_WINDOW];
    if (k->c->sched->cache != DTYPE_BF16) return cannot(k, "a cache that is not bf16");
    if (full->heads && window->heads &&
        (full->qk_dim != window->qk_dim || full->v_dim != window->v_dim || full->rope.rotary != window->rope.rotary))
        return cannot(k, "full and window layers with other head dims");
    if (plan->shape.vocab % STRIP_ROWS) return cannot(k, "a rank's share of the vocabulary that is no multiple of 16");
    if (m->embed_dtype != DTYPE_BF16) return cannot(k, "embeddings that are not bf16");
    if (m->hidden % 32) return cannot(k, "a hidden size that is no multiple of 32");
    if (m->experts.count > 1024) return cannot(k, "more than 1024 experts");
    if (k->c->prog->page_count > MOST_PAGES) return cannot(k, "more than 31 pages");
    if (k->c->prog->body_count > 16) return cannot(k, "more than 16 kinds of layers");
    return true;
}

_Static_assert((int)SITE_OF_FC == (int)SITE_FC, "sites");

KernelSteps *kernel_steps(Ctx *ctx, const Compiled *c) {
    Making k = {ctx, c, ARENA_NEW(ctx->arena, KernelSteps)};
    KernelSteps *steps = k.steps;
    const Prog *prog = c->prog;
    if (!model_fits(&k)) return NULL;
    place_all(&k);
    steps->first = ARENA_ARRAY(ctx->arena, int, prog->body_count);
    for (int b = 0; b < prog->body_count; b++) {
        steps->first[b] = steps->count;
        steps->count += prog->bodies[b].step_count;
    }
    steps->at = ARENA_ARRAY(ctx->arena, EngineStep, steps->count);
    uint32_t pools = 0;
    for (int b = 0; b < prog->body_count; b++) {
        const Body *body = &prog->bodies[b];
        for (int s = 0; s < body->step_count; s++) {
            EngineStep *step = &steps->at[steps->first[b] + s];
            if (!make_step(&k, step, body->steps[s].op, kernel_body_kind(c->model, prog, b), step_site(prog, body, s)))
                return NULL;
            // The router and the experts read the same rows with the same norm; fp8 weights want them as f16.
            step->input = (uint32_t)(steps->first[b] + s);
            for (int r = 0; r < s && body->steps[s].op == OP_EXPERTS_UP; r++)
                if (body->steps[r].op == OP_ROUTER && c->plan->ops[OP_ROUTER].split == 1 &&
                    (steps->at[steps->first[b] + r].op == RUN_LINEAR_FP8) == (step->op == RUN_LINEAR_FP8))
                    step->input = (uint32_t)(steps->first[b] + r);
        }
        for (int i = 0; i < body->pool_count; i++) steps->at[steps->first[b] + body->pools[i].publisher].pool = ++pools;
    }
    return steps;
}
