#include "ops.h"
#include <math.h>
#include <string.h>

static int q_row(const Heads *h, int head) { return head / h->heads * h->rows + head % h->heads * h->qk; }
static int k_row(const Heads *h, int head) {
    return head / h->kv_heads * h->rows + h->heads * h->qk + head % h->kv_heads * h->qk;
}
static int v_row(const Heads *h, int head) {
    return head / h->kv_heads * h->rows + (h->heads + h->kv_heads) * h->qk + head % h->kv_heads * h->v;
}

// What the cache keeps of a number.
static float cached(const Engine *e, float value) { return e->cache16 ? bf16_to_float(float_to_bf16(value)) : value; }
// A query, or a weight where it meets the values. With float activations a GPU splits both in two terms.
static float operand(const Engine *e, float value) { return e->round_activations ? cached(e, value) : value; }

// One row's query of a head, or its own key of a kv head, which are kept alike; norm NULL: none. Then its own value.
static void rotated(const OpCall *c, const Attention *a, bool query, const float *norm, double eps, const float *row,
                    const float *rope, float *out) {
    if (norm)
        vector_rms(row, norm, a->qk_dim, eps, out);
    else
        memcpy(out, row, (size_t)a->qk_dim * sizeof *out);
    vector_rope(out, rope, a->rope.rotary);
    for (int i = 0; i < a->qk_dim; i++) out[i] = query ? operand(c->e, out[i]) : cached(c->e, out[i]);
}
static void own_value(const OpCall *c, const Attention *a, const float *v, float *out) {
    for (int i = 0; i < a->v_dim; i++) out[i] = cached(c->e, v[i] * (float)a->value_scale);
}

static void cache_store(const Engine *e, const Cache *cache, const Attention *a, int head, int position, const float *k,
                        const float *v) {
    size_t row = (size_t)head * (size_t)e->context + (size_t)position;
    for (int i = 0; i < a->qk_dim; i++) {
        if (e->cache16)
            cache->k16[row * (size_t)a->qk_dim + (size_t)i] = float_to_bf16(k[i]);
        else
            cache->k32[row * (size_t)a->qk_dim + (size_t)i] = k[i];
    }
    for (int i = 0; i < a->v_dim; i++) {
        if (e->cache16)
            cache->v16[row * (size_t)a->v_dim + (size_t)i] = float_to_bf16(v[i]);
        else
            cache->v32[row * (size_t)a->v_dim + (size_t)i] = v[i];
    }
}

// Positions [from, to) of a kv head into the thread's scratch, at the place of `from` in its chunk.
static void cache_load(const OpCall *c, const Cache *cache, const Attention *a, int head, int from, int to, int base) {
    size_t row = (size_t)head * (size_t)c->e->context + (size_t)from, qk = (size_t)a->qk_dim, v = (size_t)a->v_dim;
    float *keys = c->s->keys + (size_t)(from - base) * qk, *values = c->s->values + (size_t)(from - base) * v;
    int count = to - from;
    if (c->e->cache16) {
        vector_from_bf16(cache->k16 + row * qk, keys, count * a->qk_dim);
        vector_from_bf16(cache->v16 + row * v, values, count * a->v_dim);
    } else {
        memcpy(keys, cache->k32 + row * qk, (size_t)count * qk * sizeof *keys);
        memcpy(values, cache->v32 + row * v, (size_t)count * v * sizeof *values);
    }
}

// How scores become weights. With caches of float32: exp(score - max). With bf16 ones, as a GPU does it: scores are in
// powers of two, a running maximum is rounded up to an integer, so that what it is changed by later is exact, and
// weights are rounded where they meet the values, while their sum is not.
static float score_unit(const Engine *e) { return e->cache16 ? 1.44269504088896340736f : 1.0f; }
static float top_of(const Engine *e, float max) { return e->cache16 ? ceilf(max) : max; }
static float weight_of(const Engine *e, float score) { return e->cache16 ? exp2f(score) : expf(score); }

static void join(const Engine *e, const Attention *a, Partial *p, const Partial *q) {
    if (q->sum == 0) return;
    float top = p->sum == 0 || q->max > p->max ? q->max : p->max;
    float old = p->sum == 0 ? 0 : weight_of(e, p->max - top), fresh = weight_of(e, q->max - top);
    for (int i = 0; i < a->v_dim; i++) p->out[i] = p->out[i] * old + q->out[i] * fresh;
    p->sum = p->sum * old + q->sum * fresh;
    p->max = top;
}

// Folds `count` keys of scratch, from `first` on, into a row's partial: their own maximum, sum and output first, then
// both joined. So a partial depends on where the chunks are cut, and on nothing else.
static void fold_keys(const OpCall *c, const Attention *a, const float *q, int first, int count, Partial *p) {
    float scores[CHUNK], out[1024], max = 0, sum = 0, scale = 1.0f / sqrtf((float)a->qk_dim) * score_unit(c->e);
    if (count <= 0) return;
    vector_dots(q, c->s->keys + (size_t)first * (size_t)a->qk_dim, (size_t)a->qk_dim, count, a->qk_dim, scores, 1);
    for (int j = 0; j < count; j++) {
        scores[j] *= scale;
        max = j == 0 || scores[j] > max ? scores[j] : max;
    }
    max = top_of(c->e, max);
    memset(out, 0, (size_t)a->v_dim * sizeof *out);
    for (int j = 0; j < count; j++) {
        float w = weight_of(c->e, scores[j] - max);
        sum += w;
        vector_add_scaled(out, c->s->values + (size_t)(first + j) * (size_t)a->v_dim, operand(c->e, w), a->v_dim);
    }
    join(c->e, a, p, &(Partial){max, sum, out});
}

// The sink takes part in the denominator only.
static void finish(const OpCall *c, const Attention *a, Partial *p, const float *sink, int head, float *out) {
    float sum = p->sum, scale = 1;
    if (sink) {
        float score = sink[head] * score_unit(c->e), own = top_of(c->e, score);
        float top = p->sum == 0 || own > p->max ? own : p->max;
        scale = p->sum == 0 ? 0 : weight_of(c->e, p->max - top);
        sum = sum * scale + weight_of(c->e, score - top);
    }
    for (int i = 0; i < a->v_dim; i++) out[i] = keep(c->e, sum > 0 ? p->out[i] * scale / sum : 0);
}

void op_append(const OpCall *c) {
    LayerAttention kind = c->e->model->layers[c->layer].attention;
    const Attention *a = &c->e->model->attention[kind];
    const Heads *h = &c->e->heads[kind];
    const LayerWeights *w = c->r->layers[c->layer].whole;
    size_t width = (size_t)c->e->shape.qkv_rows[kind];
    float *k = c->s->head, *v = k + a->qk_dim;
    for (int head = c->lo; head < c->hi; head++)
        for (int i = 0; i < c->rows; i++) {
            const float *row = c->r->qkv + (size_t)i * width;
            rotated(c, a, false, w->k_norm, c->e->model->eps, row + k_row(h, head),
                    c->r->rope[kind] + i * a->rope.rotary, k);
            own_value(c, a, row + v_row(h, head), v);
            cache_store(c->e, &c->r->kv[c->layer], a, head, c->r->state.start + i, k, v);
        }
}

// One query head, part `part` of `split`: chunk n belongs to part n mod split.
static void attend(const OpCall *c, LayerAttention kind, int head, int part, Partial *partials) {
    const Engine *e = c->e;
    const Attention *a = &e->model->attention[kind];
    const Heads *h = &e->heads[kind];
    const LayerWeights *w = c->r->layers[c->layer].whole;
    int start = c->r->state.start, last = start + c->rows - 1,
        group = head * (h->chunks * h->kv_heads) / (h->chunks * h->heads);
    int from = a->window && start - a->window + 1 > 0 ? start - a->window + 1 : 0;
    size_t width = (size_t)e->shape.qkv_rows[kind], qk = (size_t)a->qk_dim;
    float *q = c->s->head;
    for (int i = 0; i < c->rows; i++) {
        rotated(c, a, true, w->q_norm, e->model->eps, c->r->qkv + (size_t)i * width + q_row(h, head),
                c->r->rope[kind] + i * a->rope.rotary, q + (size_t)i * qk);
    }
    for (int chunk = from / CHUNK; chunk * CHUNK <= last; chunk++) {
        if (e->joins[kind] && chunk % e->split != part) continue;
        int base = chunk * CHUNK, lo = base > from ? base : from,
            hi = base + CHUNK <= last + 1 ? base + CHUNK : last + 1;
        if (lo < start) cache_load(c, &c->r->kv[c->layer], a, group, lo, hi < start ? hi : start, base);
        for (int p = lo > start ? lo : start; p < hi; p++) {
            const float *row = c->r->qkv + (size_t)(p - start) * width;
            rotated(c, a, false, w->k_norm, e->model->eps, row + k_row(h, group),
                    c->r->rope[kind] + (p - start) * a->rope.rotary, c->s->keys + (size_t)(p - base) * qk);
            own_value(c, a, row + v_row(h, group), c->s->values + (size_t)(p - base) * (size_t)a->v_dim);
        }
        for (int i = 0; i < c->rows; i++) {
            int position = start + i,
                first = a->window && position - a->window + 1 > lo ? position - a->window + 1 : lo;
            int end = hi < position + 1 ? hi : position + 1;
            fold_keys(c, a, q + (size_t)i * qk, first - base, end - first, &partials[i]);
        }
    }
}

void op_attention(const OpCall *c) {
    LayerAttention kind = c->e->model->layers[c->layer].attention;
    const Attention *a = &c->e->model->attention[kind];
    const float *sink = c->r->layers[c->layer].whole->sink;
    int part = c->run->task->part, heads = c->e->shape.heads[kind];
    for (int head = c->lo; head < c->hi; head++) {
        float room[MAX_ROWS][1024];
        Partial own[MAX_ROWS], *partials = own;
        bool whole = !c->e->joins[kind];
        if (!whole) partials = &c->r->parts[((size_t)head * (size_t)c->e->split + (size_t)part) * MAX_ROWS];
        for (int i = 0; i < c->rows; i++) {
            if (whole) partials[i].out = room[i];
            partials[i].max = partials[i].sum = 0;
            memset(partials[i].out, 0, (size_t)a->v_dim * sizeof(float));
        }
        attend(c, kind, head, part, partials);
        for (int i = 0; whole && i < c->rows; i++)
            finish(c, a, &partials[i], sink, c->rank * heads + head,
                   c->r->attn + ((size_t)i * (size_t)heads + (size_t)head) * (size_t)a->v_dim);
    }
}

void op_merge(const OpCall *c) {
    LayerAttention kind = c->e->model->layers[c->layer].attention;
    const Attention *a = &c->e->model->attention[kind];
    int heads = c->e->shape.heads[kind];
    Index rows = c->run->task->writes[0].at[0];
    for (int head = c->lo; head < c->hi; head++)
        for (int i = rows.lo; i < rows.hi && i < c->rows; i++) {
            float out[1024] = {0};
            Partial sum = {0, 0, out};
            for (int part = 0; part < c->e->split; part++)
                join(c->e, a, &sum,
                     &c->r->parts[((size_t)head * (size_t)c->e->split + (size_t)part) * MAX_ROWS + (size_t)i]);
            finish(c, a, &sum, c->r->layers[c->layer].whole->sink, c->rank * heads + head,
                   c->r->attn + ((size_t)i * (size_t)heads + (size_t)head) * (size_t)a->v_dim);
        }
}

// The block's slots over the context before it, then over each other. Slot i sees context positions >= start + i - (W -
// 1).
void op_draft_attention(const OpCall *c) {
    const Drafter *drafter = &c->e->model->drafter;
    const Attention *a = &drafter->attention;
    const Heads *h = &c->e->draft_heads;
    const LayerWeights *w = c->r->draft_layers[c->layer].whole;
    int start = c->r->state.start, heads = c->e->shape.draft_heads;
    size_t width = (size_t)c->e->shape.draft_qkv_rows, qk = (size_t)a->qk_dim, v = (size_t)a->v_dim;
    float *q = c->s->head;
    for (int head = c->lo; head < c->hi; head++) {
        float room[MAX_ROWS][1024];
        Partial partials[MAX_ROWS];
        int group = head * h->kv_heads / h->heads,
            from = a->window && start - a->window + 1 > 0 ? start - a->window + 1 : 0;
        for (int i = 0; i < c->rows; i++) {
            partials[i] = (Partial){0, 0, room[i]};
            memset(room[i], 0, v * sizeof(float));
            rotated(c, a, true, w->q_norm, drafter->eps, c->r->dqkv + (size_t)i * width + q_row(h, head),
                    c->r->rope[2] + i * a->rope.rotary, q + (size_t)i * qk);
        }
        for (int base = from / CHUNK * CHUNK; base < start; base += CHUNK) {
            int lo = base > from ? base : from, hi = base + CHUNK < start ? base + CHUNK : start;
            cache_load(c, &c->r->dkv[c->layer], a, group, lo, hi, base);
            for (int i = 0; i < c->rows; i++) {
                int first = a->window && start + i - a->window + 1 > lo ? start + i - a->window + 1 : lo;
                fold_keys(c, a, q + (size_t)i * qk, first - base, hi - first, &partials[i]);
            }
        }
        for (int i = 0; i < c->rows; i++) {
            const float *row = c->r->dqkv + (size_t)i * width;
            rotated(c, a, false, w->k_norm, drafter->eps, row + k_row(h, group), c->r->rope[2] + i * a->rope.rotary,
                    c->s->keys + (size_t)i * qk);
            own_value(c, a, row + v_row(h, group), c->s->values + (size_t)i * v);
        }
        for (int i = 0; i < c->rows; i++) {
            fold_keys(c, a, q + (size_t)i * qk, 0, drafter->causal ? i + 1 : c->rows, &partials[i]);
            finish(c, a, &partials[i], w->sink, c->rank * heads + head,
                   c->r->dattn + ((size_t)i * (size_t)heads + (size_t)head) * v);
        }
    }
}

// Keys and values of the context rows for one drafter layer, as `context` made them, into its cache.
void op_context_append(const OpCall *c) {
    const Engine *e = c->e;
    const Drafter *drafter = &e->model->drafter;
    const Attention *a = &drafter->attention;
    const Heads h = {1, 0, e->shape.draft_kv_heads, a->qk_dim, a->v_dim, e->shape.draft_kv_rows};
    const float *norm = c->r->draft_layers[c->layer].whole->k_norm;
    float *k = c->s->head, *v = k + a->qk_dim;
    for (int head = c->lo; head < c->hi; head++)
        for (int i = 0; i < c->rows; i++) {
            const float *row = c->r->ckv + (size_t)i * (size_t)h.rows;
            rotated(c, a, false, norm, drafter->eps, row + k_row(&h, head), c->r->rope[2] + i * a->rope.rotary, k);
            own_value(c, a, row + v_row(&h, head), v);
            cache_store(e, &c->r->dkv[c->layer], a, head, c->r->state.start + i, k, v);
        }
}
