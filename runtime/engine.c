#include "engine.h"
#include "ops.h"
#include "rope.h"
#include "text.h"
#include <limits.h>
#include <math.h>
#include <string.h>

static void (*const op_table[OP_COUNT])(const OpCall *) = {
    [OP_DRAFT_EMBED] = op_draft_embed,
    [OP_DRAFT_QKV] = op_draft_qkv,
    [OP_DRAFT_ATTENTION] = op_draft_attention,
    [OP_DRAFT_O] = op_draft_o,
    [OP_DRAFT_UP] = op_draft_up,
    [OP_DRAFT_DOWN] = op_draft_down,
    [OP_DRAFT_HEAD] = op_draft_head,
    [OP_DRAFT_PICK] = op_draft_pick,
    [OP_EMBED] = op_embed,
    [OP_QKV] = op_qkv,
    [OP_APPEND] = op_append,
    [OP_ATTENTION] = op_attention,
    [OP_MERGE] = op_merge,
    [OP_O_PROJ] = op_o_proj,
    [OP_ROUTER] = op_router,
    [OP_ROUTE] = op_route,
    [OP_EXPERTS_UP] = op_experts_up,
    [OP_EXPERTS_DOWN] = op_experts_down,
    [OP_COMBINE] = op_combine,
    [OP_EXPERTS_SUM] = op_experts_sum,
    [OP_MLP_UP] = op_mlp_up,
    [OP_MLP_DOWN] = op_mlp_down,
    [OP_PUSH] = op_push,
    [OP_REDUCE] = op_reduce,
    [OP_HEAD] = op_head,
    [OP_SAMPLE] = op_sample,
    [OP_FC] = op_fc,
    [OP_CONTEXT] = op_context,
    [OP_CONTEXT_APPEND] = op_context_append,
    [OP_ACCEPT] = op_accept,
};

// The best token of a row over all tiles of all ranks; ties go to the lowest id, since tiles come in order.
static int best_token(const Engine *e, const Best *tiles, int row) {
    size_t vocab = (size_t)e->shape.vocab;
    Best best = {0, -1, 0};
    for (int rank = 0; rank < e->ranks; rank++)
        for (size_t at = 0; at < vocab;) {
            const Best *tile = &tiles[((size_t)rank * (size_t)e->rows + (size_t)row) * vocab + at];
            if (best.id < 0 || tile->value > best.value) best = *tile;
            at += (size_t)tile->length;
        }
    return best.id;
}

void op_draft_pick(const OpCall *c) {
    for (int i = c->lo > 0 ? c->lo : 1; i < c->hi && i < c->rows; i++)
        c->r->drafts[i] = best_token(c->e, c->r->dbest, i);
}

static void row_logits(const Engine *e, const Rank *r, int row, float *out) {
    size_t vocab = (size_t)e->shape.vocab;
    for (int rank = 0; rank < e->ranks; rank++)
        memcpy(out + (size_t)rank * vocab, r->logits + ((size_t)rank * (size_t)e->rows + (size_t)row) * vocab,
               vocab * sizeof *out);
}

void op_sample(const OpCall *c) {
    const State *state = &c->r->state;
    for (int row = c->lo; row < c->hi && row < c->rows; row++) {
        if (state->sampling.temperature > 0) {
            row_logits(c->e, c->r, row, c->s->row);
            c->r->choice[row] =
                sample(&state->sampling, c->s->row, c->e->model->vocab, state->start + row, &c->s->sample);
            continue;
        }
        c->r->choice[row] = best_token(c->e, c->r->best, row);
    }
}

// The leading drafts that the target would have chosen itself, and its own next token.
void op_accept(const OpCall *c) {
    State *state = &c->r->state;
    state->accepted = 0;
    if (state->prompt) {
        state->start += state->rows;
        state->anchor = c->r->choice[state->rows - 1];
        return;
    }
    while (state->accepted + 1 < state->rows && c->r->drafts[state->accepted + 1] == c->r->choice[state->accepted])
        state->accepted++;
    state->start += state->accepted + 1;
    state->anchor = c->r->choice[state->accepted];
}

static bool before(StepAt a, StepAt b) {
    return a.instance < b.instance || (a.instance == b.instance && a.step < b.step);
}

static void run_op(void *user, const Run *run) {
    Engine *e = user;
    StepAt here = {run->instance, run->task->step};
    if (before(here, e->first) || before(e->last, here)) return;
    Rank *r = &e->rank[run->rank];
    OpCall call = {
        e, r, &e->scratch[run->thread], run, run->rank, run->layer, run->task->lo, run->task->hi, r->state.rows};
    op_table[run->op](&call);
}

static const Routing *routing_of(void *user, int rank) { return &((Engine *)user)->rank[rank].routing; }

// ---- Set-up ----

static float *floats(Engine *e, size_t count) { return ARENA_ARRAY(e->ctx->arena, float, count ? count : 1); }

static Cache *caches(Engine *e, int layers, const Attention *const *attention, const int *kv_heads) {
    Cache *out = ARENA_ARRAY(e->ctx->arena, Cache, layers);
    for (int i = 0; i < layers; i++) {
        size_t rows = (size_t)kv_heads[i] * (size_t)e->context, k = rows * (size_t)attention[i]->qk_dim,
               v = rows * (size_t)attention[i]->v_dim;
        if (e->cache16) {
            out[i].k16 = ARENA_ARRAY(e->ctx->arena, uint16_t, k);
            out[i].v16 = ARENA_ARRAY(e->ctx->arena, uint16_t, v);
        } else {
            out[i].k32 = floats(e, k);
            out[i].v32 = floats(e, v);
        }
    }
    return out;
}

static int most(int a, int b) { return a > b ? a : b; }

static void rank_buffers(Engine *e, Rank *r) {
    const Model *m = e->model;
    const Shape *s = &e->shape;
    size_t rows = (size_t)e->rows, hidden = (size_t)m->hidden, ranks = (size_t)e->ranks, vocab = (size_t)s->vocab;
    size_t qkv = (size_t)most(s->qkv_rows[0], s->qkv_rows[1]), o = (size_t)most(s->o_cols[0], s->o_cols[1]);
    r->x = floats(e, rows * hidden);
    r->qkv = floats(e, rows * qkv);
    r->attn = floats(e, rows * o);
    r->act = floats(e, rows * (size_t)s->dense_inner);
    r->logits = floats(e, ranks * rows * vocab);
    r->best = ARENA_ARRAY(e->ctx->arena, Best, ranks * rows * vocab);
    if (ranks > 1) {
        float **inboxes[] = {&r->ix, &r->im, &r->dix, &r->dim};
        for (int i = 0; i < 4; i++) *inboxes[i] = floats(e, ranks * rows * hidden);
        r->logits_part = floats(e, rows * vocab);
        r->best_part = ARENA_ARRAY(e->ctx->arena, Best, rows * vocab);
        r->dbest_part = ARENA_ARRAY(e->ctx->arena, Best, rows * vocab);
        r->c_part = floats(e, rows * (size_t)s->hidden_slice);
    }
    if (e->split > 1) {
        int heads = most(s->heads[0], s->heads[1]), v = most(m->attention[0].v_dim, m->attention[1].v_dim);
        size_t count = (size_t)heads * (size_t)e->split * MAX_ROWS;
        r->parts = ARENA_ARRAY(e->ctx->arena, Partial, count);
        for (size_t i = 0; i < count; i++) r->parts[i].out = floats(e, (size_t)v);
    }
    if (m->experts.count) {
        r->scores = floats(e, rows * (size_t)m->experts.count);
        if (e->router_parts > 1)
            r->scores_part = floats(e, (size_t)e->router_parts * rows * ((size_t)m->experts.count + 1));
        r->eact = floats(e, (size_t)s->keys * rows * (size_t)s->expert_inner);
        r->ey = floats(e, (size_t)s->keys * rows * hidden);
        r->routing.top = m->experts.top_k;
        r->routing.keys = ARENA_ARRAY(e->ctx->arena, int, rows *(size_t)m->experts.top_k);
        r->route_weights = floats(e, rows * (size_t)m->experts.top_k);
        r->expert_of = ARENA_ARRAY(e->ctx->arena, int, s->keys);
    }
    if (!m->has_drafter) return;
    r->dx = floats(e, rows * hidden);
    r->dqkv = floats(e, rows * (size_t)s->draft_qkv_rows);
    r->dattn = floats(e, rows * (size_t)(s->draft_heads * m->drafter.attention.v_dim));
    r->dact = floats(e, rows * (size_t)s->draft_inner);
    r->taps = floats(e, (size_t)m->layer_count * rows * hidden);
    r->c = floats(e, ranks * rows * (size_t)s->hidden_slice);
    r->ckv = floats(e, rows * (size_t)s->draft_kv_rows);
    r->dbest = ARENA_ARRAY(e->ctx->arena, Best, ranks * rows * vocab);
}

static void rank_views(Engine *e, Rank *r, int rank) {
    const Model *m = e->model;
    const Attention *kinds[MAX_LAYERS];
    int kv_heads[MAX_LAYERS];
    RankViews views = views_of(e->ctx, m, e->weights, rank, e->ranks);
    r->layers = views.layers;
    r->draft_layers = views.draft_layers;
    r->head = views.head;
    r->fc = views.fc;
    for (int i = 0; i < m->layer_count; i++) {
        kinds[i] = &m->attention[m->layers[i].attention];
        kv_heads[i] = e->shape.kv_heads[m->layers[i].attention];
    }
    r->kv = caches(e, m->layer_count, kinds, kv_heads);
    for (int i = 0; m->has_drafter && i < m->drafter.layers; i++) {
        kinds[i] = &m->drafter.attention;
        kv_heads[i] = e->shape.draft_kv_heads;
    }
    if (m->has_drafter) r->dkv = caches(e, m->drafter.layers, kinds, kv_heads);
}

static const Rope *rope_of(const Engine *e, int kind) {
    return kind < 2 ? &e->model->attention[kind].rope : &e->model->drafter.attention.rope;
}

// Cosines and sines of the round's positions.
static void rope_tables(const Engine *e, Rank *r) {
    for (int kind = 0; kind < 3; kind++) {
        if (!e->inv_freq[kind]) continue;
        int rotary = rope_of(e, kind)->rotary, half = rotary / 2;
        for (int row = 0; row < e->rows; row++)
            for (int i = 0; i < half; i++) {
                double angle = (double)(r->state.start + row) * e->inv_freq[kind][i];
                r->rope[kind][row * rotary + i] = (float)cos(angle);
                r->rope[kind][row * rotary + half + i] = (float)sin(angle);
            }
    }
}

static Heads heads_of(int chunks, int heads, int kv_heads, const Attention *a) {
    Heads h = {chunks, heads / chunks, kv_heads / chunks, a->qk_dim, a->v_dim, 0};
    h.rows = h.heads * h.qk + h.kv_heads * (h.qk + h.v);
    return h;
}

// The shapes of a rank, from the Prog's ranks: as plan_bind makes them.
static void shapes(Engine *e) {
    const Model *m = e->model;
    Shape *s = &e->shape;
    for (int kind = 0; kind < ATTENTION_KINDS; kind++) {
        const Attention *a = &m->attention[kind];
        if (!a->heads) continue;
        int chunks = m->family == FAMILY_MIMO_V2 ? model_qkv_chunks(m) / e->ranks : 1;
        s->heads[kind] = a->heads / e->ranks;
        s->kv_heads[kind] = a->kv_heads / e->ranks;
        s->o_cols[kind] = s->heads[kind] * a->v_dim;
        e->heads[kind] = heads_of(chunks, s->heads[kind], s->kv_heads[kind], a);
        s->qkv_rows[kind] = chunks * e->heads[kind].rows;
        e->inv_freq[kind] = rope_frequencies(e->ctx, &a->rope);
    }
    s->dense_inner = m->dense_inner / e->ranks;
    s->expert_inner = m->experts.inner / e->ranks;
    int active = e->rows * m->experts.top_k;
    s->keys = active < m->experts.count ? active : m->experts.count;
    s->vocab = m->vocab / e->ranks;
    if (!m->has_drafter) return;
    const Attention *a = &m->drafter.attention;
    s->hidden_slice = m->hidden / e->ranks;
    s->draft_heads = a->heads / e->ranks;
    s->draft_kv_heads = a->kv_heads / e->ranks;
    s->draft_inner = m->drafter.inner / e->ranks;
    e->draft_heads = heads_of(1, s->draft_heads, s->draft_kv_heads, a);
    s->draft_qkv_rows = e->draft_heads.rows;
    s->draft_kv_rows = s->draft_kv_heads * (a->qk_dim + a->v_dim);
    e->inv_freq[2] = rope_frequencies(e->ctx, &a->rope);
}

static Scratch scratch_of(Engine *e) {
    const Model *m = e->model;
    int wide = most(most(m->hidden, m->dense_inner), most(m->vocab, m->experts.count)), dim = 0;
    for (int kind = 0; kind < ATTENTION_KINDS; kind++) {
        dim = most(dim, most(m->attention[kind].qk_dim, m->attention[kind].v_dim));
        wide = most(wide, m->attention[kind].heads * m->attention[kind].v_dim);
    }
    if (m->has_drafter) {
        const Attention *a = &m->drafter.attention;
        dim = most(dim, most(a->qk_dim, a->v_dim));
        wide = most(most(wide, m->hidden * m->drafter.tap_count), most(m->drafter.inner, a->heads * a->v_dim));
    }
    size_t n = (size_t)wide + 64;
    return (Scratch){floats(e, n),
                     floats(e, n),
                     floats(e, (size_t)MAX_ROWS * (size_t)most(m->hidden, m->experts.inner) + 64),
                     floats(e, (size_t)(CHUNK + MAX_ROWS) * (size_t)dim),
                     floats(e, (size_t)(CHUNK + MAX_ROWS) * (size_t)dim),
                     floats(e, (size_t)(2 * MAX_ROWS + 2) * (size_t)dim),
                     {floats(e, (size_t)m->vocab), ARENA_ARRAY(e->ctx->arena, int, m->vocab)}};
}

Engine *engine_new(Ctx *ctx, const Model *model, const Prog *prog, const Checkpoint *weights, int threads,
                   int context) {
    Engine *e = ARENA_NEW(ctx->arena, Engine);
    *e = (Engine){.ctx = ctx,
                  .model = model,
                  .prog = prog,
                  .weights = weights,
                  .ranks = prog->ranks,
                  .rows = prog->rows,
                  .split = 1,
                  .router_parts = 1};
    e->context = context > 0 && context < model->context ? context : model->context;
    int x = prog_buffer(prog, "x"), kv = prog_buffer(prog, "kv"), part = prog_buffer(prog, "part");
    if (x < 0 || kv < 0) {
        diag_error(ctx, E0905, NO_SPAN, "the bundle's Prog is no decoding round");
        return NULL;
    }
    e->round_activations = prog->buffers[x].dtype == DTYPE_BF16;
    e->cache16 = prog->buffers[kv].dtype == DTYPE_BF16;
    if (prog->buffers[x].rank == 3) e->slice = prog->buffers[x].dims[2]; // lower.h: in two steps
    if (part >= 0) e->split = prog->buffers[part].dims[1];
    part = prog_buffer(prog, "scores_part");
    if (part >= 0) e->router_parts = prog->buffers[part].dims[0];
    for (int i = 0; i < prog->round_count; i++) {
        const Body *body = &prog->bodies[prog->round[i].body];
        for (int s = 0; s < body->step_count; s++)
            if (body->steps[s].op == OP_MERGE) e->joins[model->layers[prog->round[i].layer_lo].attention] = true;
    }
    shapes(e);
    e->rank = ARENA_ARRAY(ctx->arena, Rank, e->ranks);
    for (int i = 0; i < e->ranks; i++) {
        rank_buffers(e, &e->rank[i]);
        rank_views(e, &e->rank[i], i);
        for (int kind = 0; kind < 3; kind++)
            if (e->inv_freq[kind]) e->rank[i].rope[kind] = floats(e, (size_t)(e->rows * rope_of(e, kind)->rotary));
    }
    e->exec = exec_new(ctx, prog, threads, (Work){run_op, routing_of, e});
    if (!e->exec) return NULL;
    e->scratch = ARENA_ARRAY(ctx->arena, Scratch, exec_threads(e->exec));
    for (int i = 0; i < exec_threads(e->exec); i++) e->scratch[i] = scratch_of(e);
    engine_span_all(e);
    Sampling greedy = {0, 0, 1, 0};
    engine_reset(e, &greedy, model->has_drafter);
    return e;
}

void engine_free(Engine *e) {
    if (e && e->exec) ctx_done(e->ctx, e->exec);
}

void engine_span(Engine *e, StepAt first, StepAt last) { e->first = first, e->last = last; }
void engine_span_all(Engine *e) { engine_span(e, (StepAt){0, 0}, (StepAt){INT_MAX, INT_MAX}); }

int engine_context(const Engine *e) { return e->context; }
int engine_start(const Engine *e) { return e->rank[0].state.start; }

void engine_reset(Engine *e, const Sampling *sampling, bool drafting) {
    for (int i = 0; i < e->ranks; i++)
        e->rank[i].state = (State){.sampling = *sampling, .drafting = drafting && e->model->has_drafter};
}

void engine_logits(const Engine *e, int row, float *out) { row_logits(e, &e->rank[0], row, out); }

// One round with the given rows; the same state on every rank, before and after.
static bool run_round(Engine *e, bool draft, Round *round) {
    int before = e->rank[0].state.start;
    unsigned skip = 0;
    if (!draft) skip |= 1u << SEGMENT_DRAFT;
    if (!e->rank[0].state.drafting) skip |= 1u << SEGMENT_CONTEXT;
    for (int i = 0; i < e->ranks; i++) rope_tables(e, &e->rank[i]);
    if (!exec_round(e->exec, skip)) {
        diag_error(e->ctx, E0903, NO_SPAN, "nothing went forward in a round at position %d", before);
        diag_note(e->ctx, NO_SPAN, "%s", exec_report(e->ctx, e->exec));
        return false;
    }
    const Rank *r = &e->rank[0];
    for (int i = 1; i < e->ranks; i++) {
        const State *a = &r->state, *b = &e->rank[i].state;
        if (a->start == b->start && a->anchor == b->anchor &&
            memcmp(r->choice, e->rank[i].choice, (size_t)a->rows * sizeof(int)) == 0)
            continue;
        diag_error(e->ctx, E0904, NO_SPAN, "ranks 0 and %d chose other tokens at position %d", i, before);
        return false;
    }
    *round = (Round){
        .rows = r->state.rows, .accepted = r->state.accepted, .count = r->state.prompt ? 1 : r->state.accepted + 1};
    for (int i = 0; i < round->count; i++) round->tokens[i] = r->choice[r->state.prompt ? r->state.rows - 1 : i];
    return true;
}

bool engine_prompt(Engine *e, const int *tokens, int count, Round *round) {
    for (int i = 0; i < e->ranks; i++) {
        State *state = &e->rank[i].state;
        state->prompt = true;
        state->rows = count;
        memcpy(state->tokens, tokens, (size_t)count * sizeof *tokens);
    }
    return run_round(e, false, round);
}

bool engine_decode(Engine *e, bool draft, Round *round) {
    int left = e->context - e->rank[0].state.start, rows = draft ? e->model->drafter.block : 1;
    for (int i = 0; i < e->ranks; i++) {
        State *state = &e->rank[i].state;
        state->prompt = false;
        state->rows = rows < left ? rows : left;
    }
    return run_round(e, draft, round);
}
