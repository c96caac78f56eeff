#include "ops.h"
#include <math.h>
#include <string.h>

// A part of the inputs: products without the norm's factor, and behind them the sum of the inputs' squares.
static void router_part(const OpCall *c) {
    const RankLayer *layer = &c->r->layers[c->layer];
    int count = c->e->model->experts.count, hidden = c->e->model->hidden, width = hidden / c->e->router_parts,
        part = c->run->task->part;
    const float *norm = layer->whole->post_norm + part * width;
    float *in = c->s->normed, sums[MAX_ROWS];
    float *out = c->r->scores_part + (size_t)part * (size_t)c->e->rows * (size_t)(count + 1);
    for (int i = 0; i < c->rows; i++) {
        const float *x = c->r->x + (size_t)i * (size_t)hidden + part * width;
        for (int k = 0; k < width; k++) in[i * width + k] = keep(c->e, norm[k] * x[k]);
        if (c->lo == 0) out[(size_t)i * (size_t)(count + 1) + (size_t)count] = vector_dot(x, x, width);
    }
    for (int n = c->lo; n < c->hi; n++) {
        matrix_decode(&layer->router, n, part * width, width, c->s->row);
        vector_dots(c->s->row, in, (size_t)width, c->rows, width, sums, 1);
        for (int i = 0; i < c->rows; i++) out[(size_t)i * (size_t)(count + 1) + (size_t)n] = sums[i];
    }
}

// The scores of a split router: the parts' sums, times the norm's factor, which their squares make.
static void scores_sum(const OpCall *c) {
    int count = c->e->model->experts.count;
    size_t width = (size_t)count + 1, slab = (size_t)c->e->rows * width;
    for (int i = 0; i < c->rows; i++) {
        float *sums = c->s->row; // [count + 1]
        memset(sums, 0, width * sizeof *sums);
        for (int part = 0; part < c->e->router_parts; part++)
            for (size_t n = 0; n < width; n++)
                sums[n] += c->r->scores_part[(size_t)part * slab + (size_t)i * width + n];
        float factor = (float)(1 / sqrt((double)sums[count] / c->e->model->hidden + c->e->model->eps));
        for (int n = 0; n < count; n++) c->r->scores[(size_t)i * (size_t)count + (size_t)n] = sums[n] * factor;
    }
}

void op_router(const OpCall *c) {
    const RankLayer *layer = &c->r->layers[c->layer];
    int hidden = c->e->model->hidden, count = c->e->model->experts.count;
    if (c->e->router_parts > 1) {
        router_part(c);
        return;
    }
    Normed x = normed_rows(c, c->r->x, layer->whole->post_norm, c->e->model->eps);
    for (int n = c->lo; n < c->hi; n++) {
        float sums[MAX_ROWS];
        matrix_decode(&layer->router, n, 0, hidden, c->s->row);
        vector_dots(c->s->row, x.in, (size_t)hidden, c->rows, hidden, sums, 1);
        for (int i = 0; i < c->rows; i++) c->r->scores[(size_t)i * (size_t)count + (size_t)n] = sums[i] * x.factor[i];
    }
}

// One row: probabilities, the top k of p + bias (ties to the lowest index), weights.
static void choose(const Experts *experts, const float *g, const float *bias, float *p, int *chosen, float *weights) {
    float top = g[0], total = 0;
    for (int e = 1; e < experts->count; e++) top = g[e] > top ? g[e] : top;
    for (int e = 0; e < experts->count; e++) {
        p[e] = experts->score == SCORE_SIGMOID ? 1.0f / (1.0f + expf(-g[e])) : expf(g[e] - top);
        total += p[e];
    }
    if (experts->score == SCORE_SOFTMAX)
        for (int e = 0; e < experts->count; e++) p[e] /= total;
    float sum = 0;
    for (int k = 0; k < experts->top_k; k++) {
        int best = -1;
        float most = 0;
        for (int e = 0; e < experts->count; e++) {
            float value = p[e] + (bias ? bias[e] : 0);
            bool taken = false;
            for (int j = 0; j < k; j++) taken |= chosen[j] == e;
            if (!taken && (best < 0 || value > most)) best = e, most = value;
        }
        chosen[k] = best;
        weights[k] = p[best];
        sum += p[best];
    }
    for (int k = 0; k < experts->top_k; k++) {
        if (experts->renormalise) weights[k] /= sum + 1e-20f;
        weights[k] *= (float)experts->scale;
    }
}

// Routes all rows and numbers the experts that any row chose: key = rank among them by expert index.
void op_route(const OpCall *c) {
    const Experts *experts = &c->e->model->experts;
    Routing *routing = &c->r->routing;
    int top = experts->top_k, keys = 0;
    if (c->e->router_parts > 1) scores_sum(c);
    for (int i = 0; i < c->rows; i++)
        choose(experts, c->r->scores + (size_t)i * (size_t)experts->count, c->r->layers[c->layer].whole->router_bias,
               c->s->row, routing->keys + i * top, c->r->route_weights + i * top);
    for (int e = 0; e < experts->count; e++) {
        bool active = false;
        for (int k = 0; k < c->rows * top; k++) active |= routing->keys[k] == e;
        if (active) c->r->expert_of[keys++] = e;
    }
    for (int k = 0; k < c->rows * top; k++)
        for (int key = 0; key < keys; key++)
            if (c->r->expert_of[key] == routing->keys[k]) {
                routing->keys[k] = key;
                break;
            }
    routing->active = keys;
    routing->rows = c->rows;
}

// The rows that chose a key.
static int rows_of(const OpCall *c, int key, int *rows) {
    const Routing *routing = &c->r->routing;
    int count = 0;
    for (int i = 0; i < routing->rows; i++)
        for (int k = 0; k < routing->top; k++)
            if (routing->keys[i * routing->top + k] == key) {
                rows[count++] = i;
                break;
            }
    return count;
}

void op_experts_up(const OpCall *c) {
    const RankLayer *layer = &c->r->layers[c->layer];
    const Activation *act = &c->e->model->experts.activation;
    int hidden = c->e->model->hidden, inner = c->e->shape.expert_inner, rows[MAX_ROWS], key = c->run->key;
    int count = rows_of(c, key, rows), expert = c->r->expert_of[key];
    float factor[MAX_ROWS];
    for (int i = 0; i < count; i++)
        factor[i] = normed_row(c->e, c->r->x + (size_t)rows[i] * (size_t)hidden, layer->whole->post_norm,
                               c->e->model->eps, c->s->normed + (size_t)i * (size_t)hidden);
    for (int n = c->lo; n < c->hi; n++) {
        float gate[MAX_ROWS], up[MAX_ROWS];
        matrix_decode(&layer->expert_gate[expert], n, 0, hidden, c->s->row);
        matrix_decode(&layer->expert_up[expert], n, 0, hidden, c->s->second);
        vector_dots(c->s->row, c->s->normed, (size_t)hidden, count, hidden, gate, 1);
        vector_dots(c->s->second, c->s->normed, (size_t)hidden, count, hidden, up, 1);
        for (int i = 0; i < count; i++)
            c->r->eact[((size_t)key * (size_t)c->e->rows + (size_t)rows[i]) * (size_t)inner + (size_t)n] =
                keep(c->e, swiglu(gate[i] * factor[i], up[i] * factor[i], act->alpha, act->limit));
    }
}

void op_experts_down(const OpCall *c) {
    const RankLayer *layer = &c->r->layers[c->layer];
    int hidden = c->e->model->hidden, inner = c->e->shape.expert_inner, rows[MAX_ROWS], key = c->run->key;
    int count = rows_of(c, key, rows), expert = c->r->expert_of[key];
    float *gathered = c->s->normed;
    for (int i = 0; i < count; i++)
        memcpy(gathered + (size_t)i * (size_t)inner,
               c->r->eact + ((size_t)key * (size_t)c->e->rows + (size_t)rows[i]) * (size_t)inner,
               (size_t)inner * sizeof *gathered);
    for (int n = c->lo; n < c->hi; n++) {
        float sums[MAX_ROWS];
        matrix_decode(&layer->expert_down[expert], n, 0, inner, c->s->row);
        vector_dots(c->s->row, gathered, (size_t)inner, count, inner, sums, 1);
        for (int i = 0; i < count; i++)
            c->r->ey[((size_t)key * (size_t)c->e->rows + (size_t)rows[i]) * (size_t)hidden + (size_t)n] = sums[i];
    }
}

// Experts are summed in the order in which the router chose them.
void op_combine(const OpCall *c) {
    const Routing *routing = &c->r->routing;
    size_t hidden = (size_t)c->e->model->hidden;
    for (int i = 0; i < c->rows; i++)
        for (int n = c->lo; n < c->hi; n++) {
            float sum = 0;
            for (int k = 0; k < routing->top; k++) {
                size_t key = (size_t)routing->keys[i * routing->top + k];
                sum += c->r->route_weights[i * routing->top + k] *
                       c->r->ey[(key * (size_t)c->e->rows + (size_t)i) * hidden + (size_t)n];
            }
            op_residual(c, c->r->x, offsetof(Rank, im), i, n, sum, op_tapped(c));
        }
}

enum { MOST_CHOICES = 64 }; // of a row: model_schema.c

// The same sums as those of experts_down and combine.
void op_experts_sum(const OpCall *c) {
    const RankLayer *layer = &c->r->layers[c->layer];
    const Routing *routing = &c->r->routing;
    int inner = c->e->shape.expert_inner, top = routing->top;
    for (int n = c->lo; n < c->hi; n++) {
        float each[MAX_ROWS * MOST_CHOICES]; // [rows][top k]
        for (int key = 0; key < routing->active; key++) {
            matrix_decode(&layer->expert_down[c->r->expert_of[key]], n, 0, inner, c->s->row);
            for (int p = 0; p < c->rows * top; p++)
                if (routing->keys[p] == key)
                    vector_dots(c->s->row,
                                c->r->eact + ((size_t)key * (size_t)c->e->rows + (size_t)(p / top)) * (size_t)inner,
                                (size_t)inner, 1, inner, &each[p], 1);
        }
        for (int i = 0; i < c->rows; i++) {
            float sum = 0;
            for (int k = 0; k < top; k++) sum += c->r->route_weights[i * top + k] * each[i * top + k];
            op_residual(c, c->r->x, offsetof(Rank, im), i, n, sum, op_tapped(c));
        }
    }
}
