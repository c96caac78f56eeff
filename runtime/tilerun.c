#include "tilerun.h"
#include "bundle.h"
#include "engine.h"
#include "file.h"
#include "safetensors.h"
#include "tokenizer.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct tr_session {
    Ctx *ctx;
    Model *model;
    Prog *prog;
    Checkpoint *weights;
    Tokenizer *tokenizer; // NULL with synthetic weights
    Engine *engine;
    int *tokens; // [context] generated
    double *round_seconds;
    char *text; // room for a round's text
    size_t text_room;
    ArenaMark ready; // what requests allocate goes back to here
    volatile sig_atomic_t cancelled;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

// ---- Opening ----

typedef struct Opening {
    tr_session *s;
    const tr_options *options;
    int code;
} Opening;

static bool open_bundle(tr_session *s, const tr_options *o) {
    Ctx *ctx = s->ctx;
    Bundle *bundle = bundle_read(ctx, o->bundle);
    if (!bundle) return false;
    const Section *model = bundle_section(bundle, "model"), *prog = bundle_section(bundle, "prog");
    if (!model || !prog) {
        diag_error(ctx, E0433, file_span(ctx, o->bundle), "the bundle has no model or no prog");
        return false;
    }
    s->model =
        model_read(ctx, source_new(ctx, arena_printf(ctx->arena, "%s (model)", o->bundle), model->data, model->size));
    s->prog =
        s->model
            ? prog_parse(ctx, source_new(ctx, arena_printf(ctx->arena, "%s (prog)", o->bundle), prog->data, prog->size))
            : NULL;
    if (!s->prog) return false;
    if (!s->prog->bodies[0].queues) {
        diag_error(ctx, E0433, file_span(ctx, o->bundle), "the bundle's Prog is not placed");
        return false;
    }
    if (strcmp(s->prog->sku, "host") == 0 || o->host) return true;
    diag_error(ctx, E0905, file_span(ctx, o->bundle), "a bundle for %s; this machine runs it on the host executor only",
               s->prog->sku);
    diag_help(ctx, "add --host to do so, or build for the SKU \"host\"");
    return false;
}

static bool open_weights(tr_session *s, const tr_options *o) {
    Ctx *ctx = s->ctx;
    if (strncmp(o->weights, "synthetic:", 10) == 0) {
        s->weights = checkpoint_synthetic(ctx, s->model, strtoull(o->weights + 10, NULL, 10));
        return s->weights != NULL;
    }
    if (!file_is_folder(o->weights)) {
        diag_error(ctx, E0702, file_span(ctx, o->weights), "no such folder of weights");
        return false;
    }
    if (!model_matches(ctx, s->model, o->weights)) return false;
    if (!(s->weights = checkpoint_open(ctx, s->model, o->weights))) return false;
    s->tokenizer = tokenizer_open(ctx, file_join(ctx, o->weights, s->model->tokenizer));
    return s->tokenizer != NULL;
}

static void open_all(Ctx *ctx, void *user) {
    Opening *opening = user;
    tr_session *s = opening->s;
    const tr_options *o = opening->options;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    int threads = o->threads > 0 ? o->threads : online > 0 ? (int)online : 1;
    opening->code = EXIT_INPUT;
    if (!open_bundle(s, o) || !open_weights(s, o)) return;
    s->engine = engine_new(ctx, s->model, s->prog, s->weights, threads, o->context);
    if (!s->engine) {
        opening->code = EXIT_ENVIRONMENT;
        return;
    }
    s->tokens = ARENA_ARRAY(ctx->arena, int, engine_context(s->engine) + 1);
    s->round_seconds = ARENA_ARRAY(ctx->arena, double, engine_context(s->engine) + 1);
    s->text_room = 4096;
    s->text = arena_alloc(ctx->arena, s->text_room);
    s->ready = arena_push(ctx->arena);
    opening->code = EXIT_OK;
}

int tr_open(const tr_options *options, tr_session **out) {
    *out = NULL;
    tr_session *s = calloc(1, sizeof *s);
    const char *no_colour = getenv("NO_COLOR");
    Ctx *ctx = s ? ctx_new((Env){.colour = isatty(2) && !(no_colour && *no_colour)}) : NULL;
    if (!ctx) {
        free(s);
        return EXIT_ENVIRONMENT;
    }
    s->ctx = ctx;
    *out = s;
    Opening opening = {s, options, EXIT_ENVIRONMENT};
    return ctx_protect(ctx, open_all, &opening) ? opening.code : EXIT_ENVIRONMENT;
}

void tr_close(tr_session *s) {
    if (!s) return;
    if (s->engine) engine_free(s->engine);
    checkpoint_close(s->weights);
    tokenizer_free(s->tokenizer);
    ctx_free(s->ctx);
    free(s);
}

int tr_vocab(const tr_session *s) { return s->model->vocab; }
bool tr_has_drafter(const tr_session *s) { return s->model->has_drafter; }
bool tr_has_tokenizer(const tr_session *s) { return s->tokenizer != NULL; }
void tr_cancel(tr_session *s) { s->cancelled = 1; }
void tr_print_errors(tr_session *s, FILE *out, bool json) {
    if (s) diag_print(s->ctx, out, json ? DIAG_JSON : s->ctx->env.colour ? DIAG_COLOUR : DIAG_TEXT);
}

// ---- Generating ----

typedef struct Generating {
    tr_session *s;
    const tr_request *request;
    tr_result *result;
    TextStream stream;
    int code;
} Generating;

static bool prompt_ids(tr_session *s, const tr_request *r, const int **ids, size_t *count) {
    Ctx *ctx = s->ctx;
    *ids = r->tokens;
    *count = r->token_count;
    if (r->prompt) {
        if (!s->tokenizer) {
            diag_error(ctx, E0902, NO_SPAN, "synthetic weights have no tokenizer: give ids with --tokens");
            return false;
        }
        int *encoded;
        tokenizer_encode(ctx, s->tokenizer, r->prompt, r->prompt_length, true, &encoded, count);
        int bos = tokenizer_bos(s->tokenizer);
        if (bos >= 0 && (*count == 0 || encoded[0] != bos)) {
            int *begun = ARENA_ARRAY(ctx->arena, int, *count + 1);
            begun[0] = bos;
            if (*count) memcpy(begun + 1, encoded, *count * sizeof *begun);
            encoded = begun;
            ++*count;
        }
        *ids = encoded;
    }
    if (*count == 0) {
        diag_error(ctx, E0902, NO_SPAN, "the prompt is empty: there is no token to start from");
        diag_help(ctx, "give at least one character, or one id");
        return false;
    }
    for (size_t i = 0; i < *count; i++) {
        if ((*ids)[i] >= 0 && (*ids)[i] < s->model->vocab) continue;
        diag_error(ctx, E0902, NO_SPAN, "token %zu of the prompt is %d; ids go from 0 to %d", i, (*ids)[i],
                   s->model->vocab - 1);
        return false;
    }
    if (*count < (size_t)engine_context(s->engine)) return true;
    diag_error(ctx, E0902, NO_SPAN, "the prompt has %zu tokens, the context %d positions", *count,
               engine_context(s->engine));
    diag_help(ctx, "leave room for at least one token of the answer");
    return false;
}

static void emit_text(Generating *g, int id, bool end) {
    tr_session *s = g->s;
    if (!g->request->on_text) return;
    size_t length = 0;
    if (!s->tokenizer) {
        if (!end) length = (size_t)snprintf(s->text, s->text_room, "%d ", id);
    } else if (end)
        length = tokenizer_stream_end(&g->stream, s->text, s->text_room);
    else
        length = tokenizer_stream(s->tokenizer, &g->stream, id, s->text, s->text_room);
    if (length) g->request->on_text(g->request->user, s->text, length);
}

static bool is_end(const tr_session *s, int id) {
    for (int i = 0; i < s->weights->end_token_count; i++)
        if (s->weights->end_tokens[i] == id) return true;
    return false;
}

// Takes a round's tokens up to the first end token or the limit. True while there is more to generate.
static bool take(Generating *g, const Round *round, int limit, int *taken) {
    tr_result *result = g->result;
    *taken = 0;
    for (int i = 0; i < round->count; i++) {
        if ((int)result->count == limit) return false;
        g->s->tokens[result->count++] = round->tokens[i];
        ++*taken;
        if (!g->request->ignore_end && is_end(g->s, round->tokens[i])) {
            result->ended = true;
            return false;
        }
        emit_text(g, round->tokens[i], false);
    }
    return (int)result->count < limit;
}

static void generate(Ctx *ctx, void *user) {
    Generating *g = user;
    tr_session *s = g->s;
    const tr_request *r = g->request;
    tr_result *result = g->result;
    const int *ids;
    size_t count;
    Round round = {0};
    g->code = EXIT_INPUT;
    if (!prompt_ids(s, r, &ids, &count)) return;
    int room = engine_context(s->engine) - (int)count,
        limit = r->max_tokens > 0 && r->max_tokens < room ? r->max_tokens : room, taken;
    bool draft = s->model->has_drafter && !r->no_draft;
    Sampling sampling = {r->temperature, r->top_k, r->top_p > 0 ? r->top_p : 1, r->seed};
    engine_reset(s->engine, &sampling, draft);
    result->prompt_tokens = count;
    g->code = EXIT_VERIFY;
    double started = now();
    for (size_t at = 0; at < count && !s->cancelled; at += (size_t)round.rows) {
        size_t left = count - at, rows = left < (size_t)s->prog->rows ? left : (size_t)s->prog->rows;
        if (!engine_prompt(s->engine, ids + at, (int)rows, &round)) return;
    }
    result->prompt_seconds = now() - started;
    bool more = !s->cancelled && take(g, &round, limit, &taken);
    started = now();
    while (more && !s->cancelled) {
        double before = now();
        if (!engine_decode(s->engine, draft, &round)) return;
        more = take(g, &round, limit, &taken);
        s->round_seconds[result->rounds++] = now() - before;
        result->histogram[result->ended ? taken : round.count]++; // what follows an end token was never emitted
    }
    result->decode_seconds = now() - started;
    emit_text(g, 0, true);
    long emitted = 0;
    for (int n = 1; n <= TR_MAX_BLOCK; n++) emitted += n * result->histogram[n];
    result->acceptance = result->rounds ? (double)emitted / result->rounds : 0;
    result->tokens = s->tokens;
    result->round_seconds = s->round_seconds;
    g->code = s->cancelled ? EXIT_INTERRUPTED : EXIT_OK;
    (void)ctx;
}

int tr_generate(tr_session *s, const tr_request *request, tr_result *result) {
    *result = (tr_result){0};
    if (diag_errors(s->ctx) == 0) arena_pop(s->ctx->arena, s->ready);
    Generating g = {.s = s, .request = request, .result = result, .code = EXIT_ENVIRONMENT};
    return ctx_protect(s->ctx, generate, &g) ? g.code : EXIT_ENVIRONMENT;
}

// ---- Logits ----

typedef struct Scoring {
    tr_session *s;
    const int *tokens;
    size_t count;
    float *out;
    const char *path;
    int code;
} Scoring;

static bool score(tr_session *s, const int *tokens, size_t count, float *out, int *code) {
    tr_request request = {.tokens = tokens, .token_count = count};
    Sampling greedy = {0, 0, 1, 0};
    Round round;
    *code = EXIT_INPUT;
    if (count == (size_t)engine_context(s->engine)) request.token_count--; // a whole context is fine here
    if (!prompt_ids(s, &request, &tokens, &request.token_count)) return false;
    engine_reset(s->engine, &greedy, false);
    *code = EXIT_VERIFY;
    for (size_t at = 0; at < count; at += (size_t)round.rows) {
        size_t left = count - at, rows = left < (size_t)s->prog->rows ? left : (size_t)s->prog->rows;
        if (s->cancelled) return *code = EXIT_INTERRUPTED, false;
        if (!engine_prompt(s->engine, tokens + at, (int)rows, &round)) return false;
        for (size_t i = 0; i < rows; i++) engine_logits(s->engine, (int)i, out + (at + i) * (size_t)s->model->vocab);
    }
    *code = EXIT_OK;
    return true;
}

static void score_body(Ctx *ctx, void *user) {
    Scoring *g = user;
    size_t bytes = g->count * (size_t)g->s->model->vocab * sizeof(float);
    float *out = g->out ? g->out : arena_alloc(ctx->arena, bytes);
    if (!score(g->s, g->tokens, g->count, out, &g->code) || !g->path) return;
    TensorOut tensor = {"logits", "F32", 2, {(int64_t)g->count, g->s->model->vocab}, out, bytes};
    if (!safetensors_write(ctx, g->path, &tensor, 1)) g->code = EXIT_ENVIRONMENT;
}

int tr_logits(tr_session *s, const int *tokens, size_t count, float *out) {
    Scoring g = {s, tokens, count, out, NULL, EXIT_ENVIRONMENT};
    return ctx_protect(s->ctx, score_body, &g) ? g.code : EXIT_ENVIRONMENT;
}

int tr_logits_file(tr_session *s, const int *tokens, size_t count, const char *path) {
    Scoring g = {s, tokens, count, NULL, path, EXIT_ENVIRONMENT};
    return ctx_protect(s->ctx, score_body, &g) ? g.code : EXIT_ENVIRONMENT;
}

// ---- Files of ids ----

typedef struct Reading {
    const char *path;
    const int **tokens;
    size_t *count;
    bool ok;
} Reading;

static void read_ids(Ctx *ctx, void *user) {
    Reading *r = user;
    LIST(int) ids = {0};
    Source *source = file_read(ctx, r->path, 64 << 20);
    if (!source) return;
    for (size_t at = 0; at < source->length;) {
        size_t length = strcspn(source->text + at, " \t\r\n");
        if (at + length > source->length) length = source->length - at;
        if (length == 0) {
            at++;
            continue;
        }
        char *end;
        long id = strtol(source->text + at, &end, 10);
        if (end != source->text + at + length || id < 0 || id > 1 << 28) {
            diag_error(ctx, E0902, source_span(source, at, length), "a token id is wanted here");
            diag_help(ctx, "the file holds ids separated by spaces or line ends");
            return;
        }
        LIST_ADD(ctx->arena, &ids, (int)id);
        at += length;
    }
    *r->tokens = ids.at;
    *r->count = ids.count;
    r->ok = true;
}

int tr_read_tokens(tr_session *s, const char *path, const int **tokens, size_t *count) {
    Reading r = {path, tokens, count, false};
    if (!ctx_protect(s->ctx, read_ids, &r)) return EXIT_ENVIRONMENT;
    s->ready = arena_push(s->ctx->arena); // the ids stay
    return r.ok ? EXIT_OK : EXIT_INPUT;
}
