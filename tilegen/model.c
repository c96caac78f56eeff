#include "model_schema.h"
#include "text.h"
#include <string.h>

int model_qkv_chunks(const Model *model) {
    const Attention *full = &model->attention[ATTENTION_FULL];
    return full->heads ? full->kv_heads : model->attention[ATTENTION_WINDOW].kv_heads;
}

int model_qkv_chunk_rows(const Model *model, LayerAttention kind) {
    const Attention *a = &model->attention[kind];
    return (a->heads * a->qk_dim + a->kv_heads * (a->qk_dim + a->v_dim)) / model_qkv_chunks(model);
}

int model_tap(const Model *model, int layer) {
    for (int i = 0; i < model->drafter.tap_count; i++)
        if (model->drafter.taps[i] == layer) return i;
    return -1;
}

// The shortest decimal text that reads back as the same double.
static void print_real(Text *text, double value) {
    char room[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(room, sizeof room, "%.*g", digits, value);
        double back;
        if (sscanf(room, "%lf", &back) == 1 && back == value) break;
    }
    text_printf(text, "%s", room);
}

static void print_fields(Text *text, int indent, const FieldTable *table, const void *base) {
    for (size_t i = 0; i < table->count; i++) {
        const Field *f = &table->fields[i];
        const void *at = (const char *)base + f->offset;
        bool plain = (f->kind == FIELD_INT && *(const int *)at == (int)f->value) ||
                     (f->kind == FIELD_REAL && *(const double *)at == f->value) ||
                     (f->kind == FIELD_BOOL && *(const bool *)at == (f->value != 0));
        if (plain && !f->required) continue;
        text_printf(text, "%*s%s: ", indent, "", f->key);
        switch (f->kind) {
        case FIELD_INT: text_printf(text, "%d", *(const int *)at); break;
        case FIELD_REAL: print_real(text, *(const double *)at); break;
        case FIELD_BOOL: text_printf(text, "%s", *(const bool *)at ? "true" : "false"); break;
        case FIELD_TEXT: text_printf(text, "%s", *(const char *const *)at); break;
        case FIELD_DTYPE: text_printf(text, "%s", dtype_name(*(const Dtype *)at)); break;
        case FIELD_SCORE: text_printf(text, "%s", SCORE_NAMES[*(const Score *)at]); break;
        case FIELD_FAMILY: text_printf(text, "%s", FAMILY_NAMES[*(const Family *)at]); break;
        }
        text_add(text, "\n", 1);
    }
}

static void print_attention(Text *text, int indent, const Attention *a) {
    print_fields(text, indent, &ATTENTION_FIELDS, a);
    text_printf(text, "%*srope:\n", indent, "");
    print_fields(text, indent + 2, &ROPE_FIELDS, &a->rope);
}

static void print_activation(Text *text, const Activation *a) {
    if (a->alpha == 1 && a->limit == 0) return;
    text_printf(text, "  swiglu:\n");
    print_fields(text, 4, &ACTIVATION_FIELDS, a);
}

static void print_layers(Text *text, int indent, const Model *m, bool attention) {
    text_printf(text, "%*slayers: [", indent, "");
    for (int i = 0, first = 1; i < m->layer_count; i++) {
        if (attention ? m->layers[i].attention != ATTENTION_FULL : m->layers[i].mlp != MLP_DENSE) continue;
        text_printf(text, "%s%d", first ? "" : ", ", i);
        first = 0;
    }
    text_printf(text, "]\n");
}

char *model_print(Ctx *ctx, const Model *m, const char *note) {
    Text out = text_new(ctx->arena), *text = &out;
    const Attention *full = &m->attention[ATTENTION_FULL], *window = &m->attention[ATTENTION_WINDOW];
    if (note) text_printf(text, "# %s\n", note);
    print_fields(text, 0, &MODEL_FIELDS, m);
    text_printf(text, "attention:\n");
    if (full->heads) {
        text_printf(text, "  full:\n");
        if (window->heads) print_layers(text, 4, m, true);
        print_attention(text, 4, full);
    }
    if (window->heads) {
        text_printf(text, "  window:\n");
        print_attention(text, 4, window);
    }
    if (m->dense_inner) {
        text_printf(text, "dense:\n  inner: %d\n", m->dense_inner);
        if (m->experts.count) print_layers(text, 2, m, false);
        print_activation(text, &m->dense_activation);
    }
    if (m->experts.count) {
        text_printf(text, "experts:\n");
        print_fields(text, 2, &EXPERTS_FIELDS, &m->experts);
        print_activation(text, &m->experts.activation);
    }
    text_printf(text, "dtypes:\n");
    print_fields(text, 2, &DTYPE_FIELDS, m);
    if (m->has_drafter) {
        const Drafter *d = &m->drafter;
        text_printf(text, "drafter:\n");
        print_fields(text, 2, &DRAFTER_FIELDS, d);
        text_printf(text, "  taps: [");
        for (int i = 0; i < d->tap_count; i++) text_printf(text, "%s%d", i ? ", " : "", d->taps[i]);
        text_printf(text, "]\n  attention:\n");
        print_attention(text, 4, &d->attention);
        print_activation(text, &d->activation);
    }
    return text->at;
}
