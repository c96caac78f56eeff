// Where the regions of a Prog lie: on the host as ops.h has them, on the device by BufferPlace and abi.h.
#include "diff_parts.h"
#include "text.h"
#include <math.h>
#include <string.h>

// RoutesOf of templates/experts.cuh: int active, rows, expert[keys]; u32 chosen_by[keys]; int key[8][top]; float
// weight[8][top].
typedef struct Routes {
    int active, rows;
    const int *expert;
    const uint32_t *chosen_by;
    const int *key;
    const float *weight;
} Routes;

static BufferPlace place(const Diff *d, const char *name) { return kernel_place(d->steps, d->prog, name); }
static const uint8_t *slab(const Diff *d) { return d->use_before ? d->slab_before : d->slab; }

static Routes device_routes(const Diff *d) {
    const int *at = (const int *)(slab(d) + place(d, "routes").offset);
    int keys = d->engine->shape.keys, top = d->model->experts.top_k;
    return (Routes){at[0],
                    at[1],
                    at + 2,
                    (const uint32_t *)at + 2 + keys,
                    at + 2 + 2 * keys,
                    (const float *)at + 2 + 2 * keys + ENGINE_ROWS * top};
}

const char *routes_fault(Diff *d) {
    Ctx *ctx = d->ctx;
    Routes r = device_routes(d);
    int keys = d->engine->shape.keys, top = d->model->experts.top_k;
    if (r.rows != d->rows) return arena_printf(ctx->arena, "routes: %d rows instead of %d", r.rows, d->rows);
    if (r.active < 1 || r.active > keys)
        return arena_printf(ctx->arena, "routes: %d active keys; there are 1 to %d", r.active, keys);
    for (int k = 0; k < r.active; k++)
        if (r.expert[k] >= d->model->experts.count || r.expert[k] < (k ? r.expert[k - 1] + 1 : 0))
            return arena_printf(ctx->arena, "routes: key %d is expert %d", k, r.expert[k]);
    for (int row = 0; row < d->rows; row++)
        for (int k = 0; k < top; k++) {
            int key = r.key[row * top + k];
            if (key < 0 || key >= r.active) return arena_printf(ctx->arena, "routes: row %d chose key %d", row, key);
            if (!(r.chosen_by[key] >> row & 1))
                return arena_printf(ctx->arena, "routes: row %d chose key %d, whose rows leave it out", row, key);
        }
    return NULL;
}

void routes_take(Diff *d) {
    Routes r = device_routes(d);
    Rank *rank = d->rank;
    size_t count = (size_t)(d->rows * d->model->experts.top_k);
    rank->routing.active = r.active;
    rank->routing.rows = r.rows;
    memcpy(rank->expert_of, r.expert, (size_t)r.active * sizeof(int));
    memcpy(rank->routing.keys, r.key, count * sizeof(int));
    memcpy(rank->route_weights, r.weight, count * sizeof(float));
}

// ---- Caches ----

const DeviceCache *device_cache(Diff *d, int layer) {
    DeviceCache *c = &d->cache;
    if (c->layer == layer) return c;
    const Model *m = d->model;
    bool drafter = layer >= m->layer_count;
    const Attention *a = drafter ? &m->drafter.attention : &m->attention[m->layers[layer].attention];
    d->device->cache_shape(d->device->self, layer, &c->capacity, &c->mask);
    size_t positions = (size_t)a->kv_heads * c->capacity;
    c->k_bytes = positions * (size_t)KEY_DIM(a->qk_dim) * 2;
    c->v_bytes = positions * (size_t)a->v_dim * 2;
    c->k = arena_alloc(d->ctx->arena, c->k_bytes);
    c->v = arena_alloc(d->ctx->arena, c->v_bytes);
    Exit code = d->device->cache(d->device->self, layer, c->k, c->k_bytes, c->v, c->v_bytes);
    if (code != EXIT_OK && d->code == EXIT_OK) d->code = code;
    c->layer = layer;
    return c;
}

void cache_patches(Diff *d, bool drafter, int layer, int head_lo, int head_hi, int from, int to, Patches *out) {
    const Model *m = d->model;
    const Engine *e = d->engine;
    const Attention *a = drafter ? &m->drafter.attention : &m->attention[m->layers[layer].attention];
    const Cache *host = drafter ? &d->rank->dkv[layer] : &d->rank->kv[layer];
    if (head_hi > a->kv_heads) head_hi = a->kv_heads;
    if (from >= to) return;
    const DeviceCache *c = device_cache(d, drafter ? m->layer_count + layer : layer);
    for (int head = head_lo; head < head_hi; head++)
        for (int p = from; p < to; p++) {
            size_t own = (size_t)head * (size_t)e->context + (size_t)p;
            uint32_t place = (uint32_t)p & c->mask, kv = (uint32_t)head;
            Patch patch = {.device = c->k + key_place(c->capacity, KEY_DIM((uint32_t)a->qk_dim), kv, place, 0) * 2,
                           .host = host->k16 + own * (size_t)a->qk_dim,
                           .device_step = 2,
                           .in_eights = true,
                           .host_step = 2,
                           .device_kind = NUMBER_BF16,
                           .host_kind = NUMBER_BF16,
                           .count = a->qk_dim,
                           .channel = 0,
                           .slot = (p - from) % MAX_ROWS,
                           .of = drafter ? "drafter's keys" : "keys",
                           .key = head,
                           .row = p};
            LIST_ADD(d->ctx->arena, out, patch);
            patch.device = c->v + value_place(c->capacity, (uint32_t)a->v_dim, kv, place, 0) * 2;
            patch.host = host->v16 + own * (size_t)a->v_dim;
            patch.device_step = 16, patch.in_eights = false;
            patch.count = a->v_dim;
            patch.channel = 1;
            patch.of = drafter ? "drafter's values" : "values";
            LIST_ADD(d->ctx->arena, out, patch);
        }
}

static void kv_patches(Diff *d, const Region *region, bool drafter, Patches *out) {
    const Model *m = d->model;
    bool fresh = region->at[0].lo == 1;
    const Attention *a = drafter ? &m->drafter.attention : &m->attention[m->layers[d->layer].attention];
    int oldest = a->window && d->start > a->window ? d->start - a->window : 0;
    cache_patches(d, drafter, d->layer, region->at[1].lo, region->at[1].hi, fresh ? d->start : oldest,
                  fresh ? d->start + d->rows : d->start, out);
}

// ---- Buffers that are rows of numbers ----

typedef struct Plain {
    float *host;
    int width;   // of the layer at hand
    bool input;  // of a matrix: in blocks on the device
    size_t item; // bytes into the buffer on the device
} Plain;

static bool plain_of(const Diff *d, const char *name, int layer, Plain *out) {
    const Model *m = d->model;
    const Shape *s = &d->engine->shape;
    Rank *r = d->rank;
    int kind = layer < m->layer_count ? (int)m->layers[layer].attention : 0;
    const struct {
        const char *name;
        float *host;
        int width;
        bool input;
    } all[] = {{"x", d->use_before ? d->x_before : r->x, m->hidden, true},
               {"dx", d->use_before ? d->dx_before : r->dx, m->hidden, true},
               {"qkv", r->qkv, s->qkv_rows[kind], false},
               {"dqkv", r->dqkv, s->draft_qkv_rows, false},
               {"attn", r->attn, s->o_cols[kind], true},
               {"dattn", r->dattn, s->draft_heads * m->drafter.attention.v_dim, true},
               {"act", r->act, s->dense_inner, true},
               {"dact", r->dact, s->draft_inner, true},
               {"scores", r->scores, m->experts.count, false},
               {"scores_part", r->scores_part, m->experts.count + 1, false},
               {"c", r->c, s->hidden_slice, true},
               {"ckv", r->ckv, s->draft_kv_rows, false},
               {"logits", r->logits, s->vocab, false},
               {"eact", r->eact, s->expert_inner, true},
               {"ey", r->ey, m->hidden, false}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(all[i].name, name) == 0) {
            *out = (Plain){all[i].host, all[i].width, all[i].input, 0};
            return true;
        }
    if (strcmp(name, "taps") != 0 || model_tap(m, layer) < 0) return false;
    *out = (Plain){r->taps + (size_t)layer * (size_t)d->engine->rows * (size_t)m->hidden, m->hidden, true,
                   (size_t)model_tap(m, layer) * place(d, "taps").item};
    return true;
}

// Columns of the round's rows; of a keyed buffer those rows that chose the key.
static void plain_patches(Diff *d, const Buffer *b, Plain p, Index rows, Index cols, int key, Patches *out) {
    BufferPlace at = place(d, b->name);
    bool bf16 = b->dtype == DTYPE_BF16;
    size_t bytes = bf16 ? 2 : 4;
    int lo = cols.lo, hi = cols.hi < p.width ? cols.hi : p.width;
    for (int row = rows.lo; row < rows.hi && row < d->rows; row++) {
        if (key >= 0 && !(device_routes(d).chosen_by[key] >> row & 1)) continue;
        if (lo >= hi) break;
        size_t first = ((key >= 0 ? (size_t)key * (size_t)d->engine->rows : 0) + (size_t)row) * (size_t)p.width;
        Patch patch = {.device = slab(d) + at.offset + p.item + (key >= 0 ? (size_t)key * at.item : 0) +
                                 (size_t)row * at.row + (p.input ? 0 : (size_t)lo * bytes),
                       .host = p.host + first + lo,
                       .device_step = bytes,
                       .host_step = sizeof(float),
                       .device_kind = bf16 ? NUMBER_BF16 : NUMBER_F32,
                       .host_kind = NUMBER_F32,
                       .count = hi - lo,
                       .channel = 0,
                       .slot = row,
                       .of = b->name,
                       .key = key,
                       .row = row,
                       .col = lo,
                       .in_blocks = p.input};
        LIST_ADD(d->ctx->arena, out, patch);
    }
}

// ---- The others ----

static Patch one_number(const void *device, void *host, NumberKind kind, const char *of, int row) {
    return (Patch){.device = device,
                   .host = host,
                   .device_step = 4,
                   .host_step = 4,
                   .device_kind = kind,
                   .host_kind = kind,
                   .count = 1,
                   .slot = row,
                   .of = of,
                   .key = -1,
                   .row = row};
}

typedef struct DeviceBest {
    float value;
    int id;
} DeviceBest;

// The best token of each row: the host has one a tile, the device one a strip; of these the tile's is made here.
static void best_patches(Diff *d, const Buffer *b, const Region *region, Patches *out) {
    Best *host = strcmp(b->name, "best") == 0 ? d->rank->best : d->rank->dbest;
    const DeviceBest *strips = (const DeviceBest *)(slab(d) + place(d, b->name).offset);
    int lo = region->at[1].lo, hi = region->at[1].hi, vocab = d->engine->shape.vocab;
    for (int row = 0; row < d->rows; row++)
        for (int at = lo, next; at < hi; at = next) { // a reader's region has many tiles
            Best *own = &host[(size_t)row * (size_t)vocab + (size_t)at];
            if (own->length == 0) own->length = hi - at; // no task of the host's has been there yet
            next = at + own->length;
            DeviceBest *best = ARENA_NEW(d->ctx->arena, DeviceBest);
            *best = strips[at / STRIP_ROWS * ENGINE_ROWS + row];
            for (int s = at / STRIP_ROWS + 1; s < (next + STRIP_ROWS - 1) / STRIP_ROWS; s++) {
                const DeviceBest *other = &strips[s * ENGINE_ROWS + row];
                if (!(other->value <= best->value)) *best = *other; // a NaN stays
            }
            Patch value = one_number(&best->value, &own->value, NUMBER_F32, "best token's logit", row);
            value.channel = 1;
            value.col = at;
            LIST_ADD(d->ctx->arena, out, value);
            Patch id = one_number(&best->id, &own->id, NUMBER_INT, "best token", row);
            id.col = at;
            id.tie = TIE_OF_VALUE;
            LIST_ADD(d->ctx->arena, out, id);
        }
}

// A running maximum is a whole number, and another one changes sum and output by a power of two: the device's are
// brought to the host's where they are neighbours, and to 0 where no key was seen.
static void part_level(float *end, float *out, const Partial *host, int v) {
    float by = end[0] - host->max;
    if (end[1] == 0 && host->sum == 0) end[0] = host->max;
    if (fabsf(by) != 1 || end[1] == 0 || host->sum == 0) return;
    end[1] *= exp2f(by);
    for (int i = 0; i < v; i++) out[i] *= exp2f(by);
    end[0] = host->max;
}

static void part_patches(Diff *d, const Region *region, Patches *out) {
    const Engine *e = d->engine;
    int v = d->model->attention[d->model->layers[d->layer].attention].v_dim;
    int heads = e->shape.heads[d->model->layers[d->layer].attention];
    uint8_t *base = (d->use_before ? d->slab_before : d->slab) + place(d, "part").offset;
    for (int head = region->at[0].lo; head < region->at[0].hi && head < heads; head++)
        for (int part = region->at[1].lo; part < region->at[1].hi && part * KEY_CHUNK < d->start + d->rows; part++)
            for (int row = 0; row < d->rows; row++) {
                Partial *host =
                    &d->rank->parts[((size_t)head * (size_t)e->split + (size_t)part) * MAX_ROWS + (size_t)row];
                float *device = (float *)base +
                                ((size_t)head * (size_t)e->split + (size_t)part) * ENGINE_ROWS * (size_t)(v + 2),
                      *end = device + 2 * row, *out_at = device + 2 * ENGINE_ROWS + row * v;
                part_level(end, out_at, host, v);
                Patch max = one_number(end, &host->max, NUMBER_F32, "part's maximum", row),
                      sum = one_number(end + 1, &host->sum, NUMBER_F32, "part's sum", row),
                      values = one_number(out_at, host->out, NUMBER_F32, "part's output", row);
                max.channel = 1, sum.channel = 2, values.count = v;
                max.key = sum.key = values.key = head;
                max.col = sum.col = part;
                LIST_ADD(d->ctx->arena, out, max);
                LIST_ADD(d->ctx->arena, out, sum);
                LIST_ADD(d->ctx->arena, out, values);
            }
}

static float router_score(const Diff *d, int row, int expert) {
    const Experts *x = &d->model->experts;
    const float *g = d->rank->scores + (size_t)row * (size_t)x->count,
                *bias = d->rank->layers[d->layer].whole->router_bias;
    float p = g[expert], top = g[0], total = 0;
    if (x->score == SCORE_SIGMOID)
        p = 1.0f / (1.0f + expf(-p));
    else {
        for (int e = 1; e < x->count; e++) top = fmaxf(top, g[e]);
        for (int e = 0; e < x->count; e++) total += expf(g[e] - top);
        p = expf(p - top) / total;
    }
    return p + (bias ? bias[expert] : 0);
}

// Experts as each row chose them, then their weights; a row with another choice has other weights.
static void routes_patches(Diff *d, Patches *out) {
    Routes r = device_routes(d);
    int top = d->model->experts.top_k;
    for (int row = 0; row < d->rows; row++) {
        bool same = true;
        for (int k = 0; k < top; k++) {
            int key = r.key[row * top + k], *own = ARENA_NEW(d->ctx->arena, int);
            *own = d->rank->expert_of[d->rank->routing.keys[row * top + k]];
            Patch patch = one_number(&r.expert[key], own, NUMBER_INT, "expert", row);
            patch.look_only = true;
            patch.col = k;
            if (r.expert[key] != *own) {
                same = false;
                float margin = router_score(d, row, r.expert[key]) - router_score(d, row, *own);
                if (fabsf(margin) < 1e-5f) patch.tie = TIE_NEAR;
            }
            LIST_ADD(d->ctx->arena, out, patch);
        }
        for (int k = 0; same && k < top; k++) {
            Patch patch = one_number(&r.weight[row * top + k], &d->rank->route_weights[row * top + k], NUMBER_F32,
                                     "expert's weight", row);
            patch.look_only = true;
            patch.col = k;
            LIST_ADD(d->ctx->arena, out, patch);
        }
    }
}

static void tokens_patches(Diff *d, const Buffer *b, Index rows, Patches *out) {
    bool drafts = strcmp(b->name, "drafts") == 0;
    const int *device = (const int *)(slab(d) + place(d, b->name).offset);
    int *host = drafts ? d->rank->drafts : d->rank->choice, first = drafts && rows.lo == 0 ? 1 : rows.lo;
    for (int row = first; row < rows.hi && row < d->rows; row++) {
        Patch patch = one_number(device + row, host + row, NUMBER_INT, drafts ? "draft" : "choice", row);
        LIST_ADD(d->ctx->arena, out, patch);
    }
}

static void keyed_patches(Diff *d, const Buffer *b, const Region *region, Plain p, int key, Patches *out) {
    int first = key, last = key + 1;
    if (region->at[0].kind == INDEX_ACTIVE) first = 0, last = device_routes(d).active;
    for (int k = first; k < last; k++) plain_patches(d, b, p, region->at[1], region->at[2], k, out);
}

// Slabs of rows, as a split router's parts are.
static void slab_patches(Diff *d, const Buffer *b, const Region *region, Plain p, Patches *out) {
    size_t numbers = (size_t)d->engine->rows * (size_t)p.width;
    for (int part = region->at[0].lo; part < region->at[0].hi; part++) {
        Plain of = p;
        of.host += (size_t)part * numbers, of.item += (size_t)part * place(d, b->name).item;
        plain_patches(d, b, of, region->at[1], region->at[2], -1, out);
    }
}

void region_patches(Diff *d, const Region *region, int key, Patches *out) {
    const Buffer *b = &d->prog->buffers[region->buffer];
    Plain p;
    if (strcmp(b->name, "state") == 0) return;
    if (strcmp(b->name, "kv") == 0 || strcmp(b->name, "dkv") == 0) {
        kv_patches(d, region, b->name[0] == 'd', out);
    } else if (strcmp(b->name, "choice") == 0 || strcmp(b->name, "drafts") == 0) {
        tokens_patches(d, b, region->at[0], out);
    } else if (strcmp(b->name, "best") == 0 || strcmp(b->name, "dbest") == 0) {
        best_patches(d, b, region, out);
    } else if (strcmp(b->name, "part") == 0) {
        part_patches(d, region, out);
    } else if (strcmp(b->name, "routes") == 0) {
        routes_patches(d, out);
    } else if (strcmp(b->name, "taps") == 0 && region->all_layers) {
        for (int i = 0; i < d->model->drafter.tap_count; i++)
            if (plain_of(d, b->name, d->model->drafter.taps[i], &p))
                plain_patches(d, b, p, region->at[0], region->at[1], -1, out);
    } else if (plain_of(d, b->name, d->layer, &p)) {
        if (strcmp(b->name, "eact") == 0 || strcmp(b->name, "ey") == 0)
            keyed_patches(d, b, region, p, key, out);
        else if (strcmp(b->name, "scores_part") == 0)
            slab_patches(d, b, region, p, out);
        else
            plain_patches(d, b, p, region->at[b->rank - 2], region->at[b->rank - 1], -1, out);
    }
}

const char *region_text(Diff *d, const Region *region, int key) {
    const Buffer *b = &d->prog->buffers[region->buffer];
    Text text = text_new(d->ctx->arena);
    text_printf(&text, "%s%s[", b->name, region->all_layers ? "*" : "");
    for (int i = 0; i < b->rank; i++) {
        const Index *at = &region->at[i];
        text_printf(&text, "%s", i ? "," : "");
        if (at->kind == INDEX_KEY)
            text_printf(&text, "key %d", key);
        else if (at->kind == INDEX_ACTIVE)
            text_printf(&text, "active");
        else if (at->kind == INDEX_SELF)
            text_printf(&text, "self");
        else
            text_printf(&text, "%d:%d", at->lo, at->hi);
    }
    text_printf(&text, "]");
    return text.at;
}
