#include "ops.h"
#include <string.h>

float normed_row(const Engine *e, const float *x, const float *norm, double eps, float *out) {
    int hidden = e->model->hidden;
    if (!e->round_activations) {
        vector_rms(x, norm, hidden, eps, out);
        return 1;
    }
    for (int i = 0; i < hidden; i++) out[i] = keep(e, norm[i] * x[i]);
    return vector_rms_factor(x, hidden, eps);
}

Normed normed_rows(const OpCall *c, const float *x, const float *norm, double eps) {
    size_t hidden = (size_t)c->e->model->hidden;
    Normed out = {.in = c->s->normed};
    for (int i = 0; i < c->rows; i++)
        out.factor[i] = normed_row(c->e, x + (size_t)i * hidden, norm, eps, c->s->normed + (size_t)i * hidden);
    return out;
}

// After the last sum of a layer: into a rank's residual stream, and into its taps where the drafter listens.
static void residual_store(const OpCall *c, Rank *r, float *x, int row, int col, float value, bool tap) {
    size_t at = (size_t)row * (size_t)c->e->model->hidden + (size_t)col;
    x[at] = keep(c->e, value);
    if (tap) r->taps[(size_t)c->layer * (size_t)c->e->rows * (size_t)c->e->model->hidden + at] = x[at];
}

bool op_tapped(const OpCall *c) { return c->e->model->has_drafter && model_tap(c->e->model, c->layer) >= 0; }

// out[row] = W[n] . in[row] for one output n, all rows of the round.
static void output(const OpCall *c, const Matrix *w, int n, const float *in, float *out) {
    matrix_decode(w, n, 0, w->cols, c->s->row);
    vector_dots(c->s->row, in, (size_t)w->cols, c->rows, w->cols, out, 1);
}
static void output_normed(const OpCall *c, const Matrix *w, int n, const Normed *x, float *out) {
    output(c, w, n, x->in, out);
    for (int i = 0; i < c->rows; i++) out[i] *= x->factor[i];
}

// Outputs [lo, hi) of a stack of matrices into [rows][width].
static void project(const OpCall *c, const Matrix *parts, int count, const Normed *x, float *out, int width) {
    float sums[MAX_ROWS];
    for (int n = c->lo, part = 0, first = 0; n < c->hi; n++) {
        while (part + 1 < count && n - first >= parts[part].rows) first += parts[part++].rows;
        output_normed(c, &parts[part], n - first, x, sums);
        for (int i = 0; i < c->rows; i++) out[(size_t)i * (size_t)width + (size_t)n] = keep(c->e, sums[i]);
    }
}

static void embed_rows(const OpCall *c, float *x, const int *tokens, int rows) {
    int hidden = c->e->model->hidden;
    for (int i = 0; i < rows; i++) {
        float *out = x + (size_t)i * (size_t)hidden;
        if (tokens[i] < 0)
            memcpy(out + c->lo, c->e->weights->drafter.mask_embedding + c->lo, (size_t)(c->hi - c->lo) * sizeof *out);
        else
            matrix_decode(&c->e->weights->embed, tokens[i], c->lo, c->hi - c->lo, out + c->lo);
        for (int k = c->lo; k < c->hi; k++) out[k] = keep(c->e, out[k]);
    }
}

void op_embed(const OpCall *c) {
    const State *state = &c->r->state;
    int tokens[MAX_ROWS];
    for (int i = 0; i < c->rows; i++)
        tokens[i] = state->prompt ? state->tokens[i] : i == 0 ? state->anchor : c->r->drafts[i];
    embed_rows(c, c->r->x, tokens, c->rows);
}

void op_draft_embed(const OpCall *c) {
    int tokens[MAX_ROWS];
    for (int i = 0; i < c->e->model->drafter.block; i++) tokens[i] = i == 0 ? c->r->state.anchor : -1;
    embed_rows(c, c->r->dx, tokens, c->rows);
}

void op_qkv(const OpCall *c) {
    const RankLayer *layer = &c->r->layers[c->layer];
    Normed x = normed_rows(c, c->r->x, layer->whole->input_norm, c->e->model->eps);
    project(c, layer->qkv, layer->qkv_parts, &x, c->r->qkv,
            c->e->shape.qkv_rows[c->e->model->layers[c->layer].attention]);
}

void op_draft_qkv(const OpCall *c) {
    const RankLayer *layer = &c->r->draft_layers[c->layer];
    Normed x = normed_rows(c, c->r->dx, layer->whole->input_norm, c->e->model->drafter.eps);
    project(c, layer->qkv, layer->qkv_parts, &x, c->r->dqkv, c->e->shape.draft_qkv_rows);
}

// A partial sum, into this rank's slab of every rank's inbox, or of the one that sums its column.
static void partial_store(const OpCall *c, size_t inbox, int row, int column, float sum) {
    size_t hidden = (size_t)c->e->model->hidden,
           at = ((size_t)c->rank * (size_t)c->e->rows + (size_t)row) * hidden + (size_t)column;
    int slice = c->e->slice, first = slice ? column / slice : 0, last = slice ? first + 1 : c->e->ranks;
    for (int target = first; target < last; target++) (*(float **)((char *)&c->e->rank[target] + inbox))[at] = sum;
}

void op_residual(const OpCall *c, float *x, size_t inbox, int row, int column, float sum, bool tap) {
    if (c->e->ranks > 1)
        partial_store(c, inbox, row, column, sum);
    else
        residual_store(c, c->r, x, row, column, x[(size_t)row * (size_t)c->e->model->hidden + (size_t)column] + sum,
                       tap);
}

// A projection back to the residual stream.
static void project_back(const OpCall *c, const Matrix *w, const float *in, float *x, size_t inbox, bool tap) {
    float sums[MAX_ROWS];
    for (int n = c->lo; n < c->hi; n++) {
        output(c, w, n, in, sums);
        for (int i = 0; i < c->rows; i++) op_residual(c, x, inbox, i, n, sums[i], tap);
    }
}

void op_o_proj(const OpCall *c) {
    project_back(c, &c->r->layers[c->layer].o, c->r->attn, c->r->x, offsetof(Rank, ix), false);
}
void op_draft_o(const OpCall *c) {
    project_back(c, &c->r->draft_layers[c->layer].o, c->r->dattn, c->r->dx, offsetof(Rank, dix), false);
}
void op_mlp_down(const OpCall *c) {
    project_back(c, &c->r->layers[c->layer].down, c->r->act, c->r->x, offsetof(Rank, im), op_tapped(c));
}
void op_draft_down(const OpCall *c) {
    project_back(c, &c->r->draft_layers[c->layer].down, c->r->dact, c->r->dx, offsetof(Rank, dim), false);
}

static void gate_up(const OpCall *c, const RankLayer *layer, const Normed *x, const Activation *act, float *out,
                    int width) {
    float gate[MAX_ROWS], up[MAX_ROWS];
    for (int n = c->lo; n < c->hi; n++) {
        output_normed(c, &layer->gate, n, x, gate);
        output_normed(c, &layer->up, n, x, up);
        for (int i = 0; i < c->rows; i++)
            out[(size_t)i * (size_t)width + (size_t)n] = keep(c->e, swiglu(gate[i], up[i], act->alpha, act->limit));
    }
}

void op_mlp_up(const OpCall *c) {
    const RankLayer *layer = &c->r->layers[c->layer];
    Normed x = normed_rows(c, c->r->x, layer->whole->post_norm, c->e->model->eps);
    gate_up(c, layer, &x, &c->e->model->dense_activation, c->r->act, c->e->shape.dense_inner);
}

void op_draft_up(const OpCall *c) {
    const RankLayer *layer = &c->r->draft_layers[c->layer];
    Normed x = normed_rows(c, c->r->dx, layer->whole->post_norm, c->e->model->drafter.eps);
    gate_up(c, layer, &x, &c->e->model->drafter.activation, c->r->dact, c->e->shape.draft_inner);
}

// Logits of a tile of this rank's vocabulary, and the best token of each row; `logits` NULL: the best alone.
static void head_tile(const OpCall *c, const Normed *x, float *logits, Best *best) {
    float sums[MAX_ROWS];
    int vocab = c->e->shape.vocab;
    for (int n = c->lo; n < c->hi; n++) {
        output_normed(c, &c->r->head, n, x, sums);
        for (int i = 0; i < c->rows; i++) {
            Best *b = &best[(size_t)i * (size_t)vocab + (size_t)c->lo];
            if (logits) logits[(size_t)i * (size_t)vocab + (size_t)n] = sums[i];
            if (n == c->lo || sums[i] > b->value) *b = (Best){sums[i], c->rank * vocab + n, c->hi - c->lo};
        }
    }
}

void op_head(const OpCall *c) {
    Normed x = normed_rows(c, c->r->x, c->e->weights->norm, c->e->model->eps);
    bool one = c->e->ranks == 1;
    head_tile(c, &x, one ? c->r->logits : c->r->logits_part, one ? c->r->best : c->r->best_part);
}

void op_draft_head(const OpCall *c) {
    Normed x = normed_rows(c, c->r->dx, c->e->weights->drafter.norm, c->e->model->drafter.eps);
    head_tile(c, &x, NULL, c->e->ranks == 1 ? c->r->dbest : c->r->dbest_part);
}

// The tapped streams, one after the other, times fc.
void op_fc(const OpCall *c) {
    const Model *model = c->e->model;
    const Drafter *drafter = &model->drafter;
    int hidden = model->hidden, slice = c->e->shape.hidden_slice;
    float *out = c->e->ranks == 1 ? c->r->c : c->r->c_part;
    for (int n = c->lo; n < c->hi; n++) {
        float sums[MAX_ROWS], total[MAX_ROWS] = {0};
        matrix_decode(&c->r->fc, n, 0, hidden * drafter->tap_count, c->s->row);
        for (int t = 0; t < drafter->tap_count; t++) {
            const float *tap = c->r->taps + (size_t)drafter->taps[t] * (size_t)c->e->rows * (size_t)hidden;
            vector_dots(c->s->row + (size_t)t * (size_t)hidden, tap, (size_t)hidden, c->rows, hidden, sums, 1);
            for (int i = 0; i < c->rows; i++) total[i] += sums[i];
        }
        for (int i = 0; i < c->rows; i++) out[(size_t)i * (size_t)slice + (size_t)n] = keep(c->e, total[i]);
    }
}

// Keys and values of the context for one drafter layer, of what the taps say: no input norm but hidden_norm.
void op_context(const OpCall *c) {
    const Engine *e = c->e;
    const RankLayer *layer = &c->r->draft_layers[c->layer];
    size_t hidden = (size_t)e->model->hidden, slice = (size_t)e->shape.hidden_slice;
    Normed x = {.in = c->s->normed};
    for (int i = 0; i < c->rows; i++) {
        for (int rank = 0; rank < e->ranks; rank++)
            memcpy(c->s->second + (size_t)rank * slice, c->r->c + ((size_t)rank * (size_t)e->rows + (size_t)i) * slice,
                   slice * sizeof(float));
        x.factor[i] = normed_row(e, c->s->second, e->weights->drafter.hidden_norm, e->model->drafter.eps,
                                 c->s->normed + (size_t)i * hidden);
    }
    project(c, &layer->qkv[1], 2, &x, c->r->ckv, e->shape.draft_kv_rows);
}

// ---- Between ranks ----

// Columns [lo, hi) of `rows` rows of this rank's slice into slab `rank` of every rank's buffer.
static void push_rows(const OpCall *c, const float *from, size_t offset, int width) {
    for (int target = 0; target < c->e->ranks; target++) {
        float *to =
            *(float **)((char *)&c->e->rank[target] + offset) + (size_t)c->rank * (size_t)c->e->rows * (size_t)width;
        for (int i = 0; i < c->rows; i++)
            memcpy(to + (size_t)i * (size_t)width + c->lo, from + (size_t)i * (size_t)width + c->lo,
                   (size_t)(c->hi - c->lo) * sizeof *to);
    }
}

static void push_best(const OpCall *c, const Best *from, size_t offset) {
    size_t vocab = (size_t)c->e->shape.vocab;
    for (int target = 0; target < c->e->ranks; target++) {
        Best *to = *(Best **)((char *)&c->e->rank[target] + offset) + (size_t)c->rank * (size_t)c->e->rows * vocab;
        for (int i = 0; i < c->rows; i++)
            to[(size_t)i * vocab + (size_t)c->lo] = from[(size_t)i * vocab + (size_t)c->lo];
    }
}

void op_push(const OpCall *c) {
    switch ((Site)c->run->task->part) {
    case SITE_FC: push_rows(c, c->r->c_part, offsetof(Rank, c), c->e->shape.hidden_slice); break;
    case SITE_DRAFT_HEAD: push_best(c, c->r->dbest_part, offsetof(Rank, dbest)); break;
    case SITE_HEAD:
        push_rows(c, c->r->logits_part, offsetof(Rank, logits), c->e->shape.vocab);
        push_best(c, c->r->best_part, offsetof(Rank, best));
        break;
    default: break; // the others push their sums themselves
    }
}

void op_reduce(const OpCall *c) {
    Site site = (Site)c->run->task->part;
    bool draft = site == SITE_DRAFT_ATTENTION || site == SITE_DRAFT_MLP;
    const float *inbox = site == SITE_ATTENTION         ? c->r->ix
                         : site == SITE_MLP             ? c->r->im
                         : site == SITE_DRAFT_ATTENTION ? c->r->dix
                                                        : c->r->dim;
    // In two steps what a rank has summed goes to all; the tile counts from its slice.
    int slice = c->e->slice, begin = slice * c->rank, from = slice ? 0 : c->rank, to = slice ? c->e->ranks : from + 1;
    const float *x = draft ? c->r->dx : c->r->x;
    size_t hidden = (size_t)c->e->model->hidden, slab = (size_t)c->e->rows * hidden;
    for (int i = 0; i < c->rows; i++)
        for (int n = begin + c->lo; n < begin + c->hi; n++) {
            size_t at = (size_t)i * hidden + (size_t)n;
            float sum = inbox[at], before = x[at];
            for (int rank = 1; rank < c->e->ranks; rank++) sum += inbox[(size_t)rank * slab + at];
            for (int target = from; target < to; target++) {
                Rank *r = &c->e->rank[target];
                residual_store(c, r, draft ? r->dx : r->x, i, n, before + sum, site == SITE_MLP && op_tapped(c));
            }
        }
}
