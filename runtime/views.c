#include "views.h"

static Matrix slice_rows(Matrix whole, int rank, int ranks) {
    return matrix_rows(whole, rank * (whole.rows / ranks), whole.rows / ranks);
}
static Matrix slice_cols(Matrix whole, int rank, int ranks) {
    return matrix_cols(whole, rank * (whole.cols / ranks), whole.cols / ranks);
}

static void qkv_views(RankLayer *layer, const LayerWeights *w, int rank, int ranks) {
    layer->qkv_parts = w->qkv.rows ? 1 : 3;
    if (w->qkv.rows) {
        layer->qkv[0] = slice_rows(w->qkv, rank, ranks);
        return;
    }
    layer->qkv[0] = slice_rows(w->q, rank, ranks);
    layer->qkv[1] = slice_rows(w->k, rank, ranks);
    layer->qkv[2] = slice_rows(w->v, rank, ranks);
}

// experts: how many, 0 for a dense MLP.
static void layer_views(Ctx *ctx, RankLayer *layer, const LayerWeights *w, int rank, int ranks, int experts) {
    layer->whole = w;
    qkv_views(layer, w, rank, ranks);
    layer->o = slice_cols(w->o, rank, ranks);
    if (!experts) {
        layer->gate = slice_rows(w->gate, rank, ranks);
        layer->up = slice_rows(w->up, rank, ranks);
        layer->down = slice_cols(w->down, rank, ranks);
        return;
    }
    layer->router = w->router;
    layer->expert_gate = ARENA_ARRAY(ctx->arena, Matrix, experts);
    layer->expert_up = ARENA_ARRAY(ctx->arena, Matrix, experts);
    layer->expert_down = ARENA_ARRAY(ctx->arena, Matrix, experts);
    for (int i = 0; i < experts; i++) {
        layer->expert_gate[i] = slice_rows(w->expert_gate[i], rank, ranks);
        layer->expert_up[i] = slice_rows(w->expert_up[i], rank, ranks);
        layer->expert_down[i] = slice_cols(w->expert_down[i], rank, ranks);
    }
}

RankViews views_of(Ctx *ctx, const Model *model, const Checkpoint *weights, int rank, int ranks) {
    RankViews views = {.head = slice_rows(weights->head, rank, ranks)};
    views.layers = ARENA_ARRAY(ctx->arena, RankLayer, model->layer_count);
    for (int i = 0; i < model->layer_count; i++)
        layer_views(ctx, &views.layers[i], &weights->layers[i], rank, ranks,
                    model->layers[i].mlp == MLP_EXPERTS ? model->experts.count : 0);
    if (!model->has_drafter) return views;
    views.fc = slice_rows(weights->drafter.fc, rank, ranks);
    views.draft_layers = ARENA_ARRAY(ctx->arena, RankLayer, model->drafter.layers);
    for (int i = 0; i < model->drafter.layers; i++)
        layer_views(ctx, &views.draft_layers[i], &weights->drafter.layers[i], rank, ranks, 0);
    return views;
}
