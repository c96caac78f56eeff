#include "tilerun.h"
#include "allreduce.h"
#include "file.h"
#include "gpu.h"
#include "pack_file.h"
#include "phases.h"
#include "safetensors.h"
#include "tokenizer.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct tr_session {
    Ctx *ctx;
    Bundle *bundle;
    Model *model;
    Prog *prog;
    Checkpoint *weights; // NULL with a packed file
    PackFile *packed;
    Tokenizer *tokenizer; // NULL with synthetic weights
    int end_tokens[16], end_token_count;
    Ranks *ranks; // on several GPUs; else NULL
    Decoder decoder;
    tr_figures figures;
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
    int threads, rank; // rank: to pack, alone, or of this process
    bool several;      // the bundle runs on several GPUs
    uint64_t seed;     // of synthetic weights
    double started;
    const char *pack; // file to write, or NULL
    const tr_allreduce *allreduce;
    Progress progress;
    int code;
} Opening;

static bool open_bundle(tr_session *s, const tr_options *o) {
    Ctx *ctx = s->ctx;
    s->bundle = bundle_read(ctx, o->bundle);
    if (!s->bundle) return false;
    const Section *model = bundle_section(s->bundle, "model"), *prog = bundle_section(s->bundle, "prog");
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
    if (s->prog->bodies[0].queues) return true;
    diag_error(ctx, E0433, file_span(ctx, o->bundle), "the bundle's Prog is not placed");
    return false;
}

// The file of packed weights, with the rank's number for "{rank}".
static const char *rank_path(const Opening *opening) {
    const char *path = opening->options->weights, *mark = strstr(path, "{rank}");
    if (!mark) return path;
    return arena_printf(opening->s->ctx->arena, "%.*s%d%s", (int)(mark - path), path, opening->rank, mark + 6);
}

// A file is of packed weights, which the host executor cannot read.
static bool open_packed(Opening *opening, bool gpu) {
    tr_session *s = opening->s;
    const char *path = rank_path(opening);
    if (!gpu) {
        diag_error(s->ctx, E0747, file_span(s->ctx, path), "a file of weights; the host executor reads a folder");
        diag_help(s->ctx, "give the folder of the published checkpoint");
        return false;
    }
    s->packed =
        pack_file_open(s->ctx, path, s->model, opening->rank, s->prog->ranks, opening->threads, &opening->progress);
    if (!s->packed) return false;
    s->end_token_count = s->packed->end_token_count;
    memcpy(s->end_tokens, s->packed->end_tokens, sizeof s->end_tokens);
    if (!s->packed->tokenizer || opening->rank > 0) return true; // text is rank 0's
    s->tokenizer = tokenizer_read(s->ctx, s->packed->tokenizer);
    return s->tokenizer != NULL;
}

static bool is_synthetic(const char *path) { return strncmp(path, "synthetic:", 10) == 0; }

static bool seed_read(Ctx *ctx, const char *path, uint64_t *seed) {
    const char *digits = path + strlen("synthetic:");
    char *end;
    errno = 0;
    *seed = strtoull(digits, &end, 10);
    if (*digits >= '0' && *digits <= '9' && !*end && !errno) return true;
    diag_error(ctx, E0748, NO_SPAN, "the seed of synthetic weights is a whole number, not \"%s\"", digits);
    diag_help(ctx, "for example synthetic:1");
    return false;
}

static bool open_weights(Opening *opening, bool gpu) {
    tr_session *s = opening->s;
    Ctx *ctx = s->ctx;
    const char *path = opening->options->weights;
    if (is_synthetic(path)) {
        if (!seed_read(ctx, path, &opening->seed)) return false;
        s->weights = opening->options->alone || opening->several ? checkpoint_described(ctx, s->model)
                                                                 : checkpoint_synthetic(ctx, s->model, opening->seed);
        return s->weights != NULL;
    }
    const char *file = rank_path(opening);
    if (file_exists(file) && !file_is_folder(file)) return open_packed(opening, gpu);
    if (!file_is_folder(path)) {
        diag_error(ctx, E0702, file_span(ctx, path), "no such folder of weights");
        return false;
    }
    if (!model_matches(ctx, s->model, path)) return false;
    if (!(s->weights = checkpoint_open(ctx, s->model, path))) return false;
    s->end_token_count = s->weights->end_token_count;
    memcpy(s->end_tokens, s->weights->end_tokens, sizeof s->end_tokens);
    if (opening->several && opening->rank > 0) return true; // text is rank 0's
    s->tokenizer = tokenizer_open(ctx, file_join(ctx, path, s->model->tokenizer));
    return s->tokenizer != NULL;
}

static Exit open_gpu(Opening *opening) {
    tr_session *s = opening->s;
    const tr_options *o = opening->options;
    PackList *list = s->packed ? &s->packed->list : ARENA_NEW(s->ctx->arena, PackList);
    if (!s->packed && !pack_list(s->ctx, s->model, s->weights, opening->rank, s->prog->ranks, list)) return EXIT_INPUT;
    GpuOptions options = {.library = o->cuda,
                          .nccl = o->nccl,
                          .device = o->device + (opening->several ? opening->rank : 0),
                          .context = o->context,
                          .threads = opening->threads,
                          .trace = o->trace,
                          .graph = o->graph,
                          .alone = o->alone,
                          .made = o->alone || (opening->several && is_synthetic(o->weights)),
                          .ranks = s->ranks,
                          .rank = opening->rank,
                          .seed = opening->seed,
                          .timeout = o->timeout,
                          .cancelled = &s->cancelled,
                          .progress = opening->progress};
    Exit code = gpu_open(s->ctx, s->model, s->prog, s->bundle, list, &options, &s->decoder);
    if (code != EXIT_OK) return code;
    GpuFigures figures = gpu_figures(&s->decoder);
    s->figures =
        (tr_figures){figures.ready - opening->started, figures.weights, {figures.kernels[0], figures.kernels[1]}};
    return EXIT_OK;
}

static bool rank_exists(const Opening *opening) {
    const Prog *prog = opening->s->prog;
    if (opening->rank < prog->ranks) return true;
    diag_error(opening->s->ctx, E0746, NO_SPAN, "the bundle has no rank %d: it has %d", opening->rank, prog->ranks);
    diag_help(opening->s->ctx, "ranks count from 0");
    return false;
}

// Whether one rank of the bundle can be run by itself.
static bool alone_fits(const Opening *opening, bool gpu) {
    Ctx *ctx = opening->s->ctx;
    const Prog *prog = opening->s->prog;
    if (!gpu) {
        diag_error(ctx, E0905, NO_SPAN, "a rank alone is timed on a GPU; this is the host executor");
        diag_help(ctx, "the host executor runs all ranks: leave out --alone");
        return false;
    }
    if (prog->ranks == 1) {
        diag_error(ctx, E0905, NO_SPAN,
                   "the bundle has one rank, which needs no others: there is nothing to leave out");
        diag_help(ctx, "leave out --alone");
        return false;
    }
    if (!is_synthetic(opening->options->weights)) {
        diag_error(ctx, E0905, NO_SPAN, "a rank alone computes no text: its weights are made on the GPU, not read");
        diag_help(ctx, "give synthetic:SEED in place of \"%s\"", opening->options->weights);
        return false;
    }
    return rank_exists(opening);
}

static bool gpus_fit(const Opening *opening, bool gpu) {
    Ctx *ctx = opening->s->ctx;
    int gpus = opening->options->gpus, ranks = opening->s->prog->ranks;
    if (gpus == 0 || (gpu && gpus == ranks && !opening->options->alone)) return true;
    if (!gpu)
        diag_error(ctx, E0905, NO_SPAN, "the host executor runs on no GPU, let alone %d", gpus);
    else if (opening->options->alone)
        diag_error(ctx, E0905, NO_SPAN, "a rank alone is on one GPU, not %d", gpus);
    else
        diag_error(ctx, E0905, NO_SPAN, "the bundle is for %d GPU%s, not %d", ranks, ranks > 1 ? "s" : "", gpus);
    diag_help(ctx, gpu && !opening->options->alone ? "build it with --tp %d, or leave out --gpus" : "leave out --gpus",
              gpus);
    return false;
}

// The process of a rank other than 0.
static void follow(Ctx *ctx, void *user) {
    Opening *opening = user;
    Exit code = open_weights(opening, true) ? open_gpu(opening) : EXIT_INPUT;
    if (code != EXIT_OK) ranks_leave(ctx, opening->s->ranks, code);
    gpu_follow(&opening->s->decoder);
}

// Goes on in each rank's process; returns in that of rank 0.
static bool fork_ranks(Opening *opening) {
    tr_session *s = opening->s;
    int ranks = s->prog->ranks;
    if (!(s->ranks = ranks_fork(s->ctx, ranks))) return false;
    opening->rank = ranks_self(s->ranks);
    opening->threads = opening->threads > ranks ? opening->threads / ranks : 1;
    if (opening->rank == 0) return true;
    opening->progress = (Progress){0};
    ctx_protect(s->ctx, follow, opening);
    ranks_leave(s->ctx, s->ranks, EXIT_ENVIRONMENT); // memory ran out
}

static void open_all(Ctx *ctx, void *user) {
    Opening *opening = user;
    tr_session *s = opening->s;
    const tr_options *o = opening->options;
    opening->code = EXIT_INPUT;
    if (!open_bundle(s, o)) return;
    bool gpu = strcmp(s->prog->sku, "host") != 0 && !o->host;
    opening->several = gpu && s->prog->ranks > 1 && !o->alone;
    if (!gpus_fit(opening, gpu) || (o->alone && !alone_fits(opening, gpu))) return;
    if (o->graph && (!gpu || opening->several)) {
        diag_error(ctx, E0919, NO_SPAN, "the graph arm runs on %s",
                   gpu ? "one GPU: time a rank of it with --alone" : "a GPU; this is the host executor");
        return;
    }
    if (opening->several && !fork_ranks(opening)) {
        opening->code = EXIT_ENVIRONMENT;
        return;
    }
    if (!open_weights(opening, gpu)) return;
    if (gpu)
        opening->code = open_gpu(opening);
    else
        opening->code =
            decoder_host(ctx, s->model, s->prog, s->weights, opening->threads, o->context, &s->cancelled, &s->decoder)
                ? EXIT_OK
                : EXIT_ENVIRONMENT;
    if (opening->code != EXIT_OK) return;
    s->tokens = ARENA_ARRAY(ctx->arena, int, s->decoder.context + 1);
    s->round_seconds = ARENA_ARRAY(ctx->arena, double, s->decoder.context + 1);
    s->text_room = 4096;
    s->text = arena_alloc(ctx->arena, s->text_room);
    s->ready = arena_push(ctx->arena);
}

// The file of packed weights takes the tokenizer along, so that it stands alone.
static void pack_all(Ctx *ctx, void *user) {
    Opening *opening = user;
    tr_session *s = opening->s;
    const char *folder = opening->options->weights;
    opening->code = EXIT_INPUT;
    if (!open_bundle(s, opening->options)) return;
    if (!rank_exists(opening)) return;
    if (file_exists(folder) && !file_is_folder(folder)) {
        diag_error(ctx, E0702, file_span(ctx, folder), "packing wants the folder of a checkpoint, not a file");
        return;
    }
    if (!open_weights(opening, true)) return;
    Source *tokenizer = NULL;
    if (s->tokenizer && !(tokenizer = file_read(ctx, file_join(ctx, folder, s->model->tokenizer), 64 << 20))) return;
    size_t errors = diag_errors(ctx);
    if (pack_file_write(ctx, opening->pack, s->model, s->weights, tokenizer, opening->rank, s->prog->ranks,
                        opening->threads, &opening->progress))
        opening->code = EXIT_OK;
    else if (diag_code_at(ctx, errors) == E0004)
        opening->code = EXIT_ENVIRONMENT;
}

static void allreduce_all(Ctx *ctx, void *user) {
    Opening *opening = user;
    tr_session *s = opening->s;
    const tr_options *o = opening->options;
    const tr_allreduce *wanted = opening->allreduce;
    opening->code = EXIT_INPUT;
    if (!open_bundle(s, o) || !gpus_fit(opening, strcmp(s->prog->sku, "host") != 0)) return;
    if (s->prog->ranks == 1) {
        diag_error(ctx, E0905, NO_SPAN, "the bundle is for one GPU, and has nothing to sum");
        diag_help(ctx, "build it with --tp 2, 4 or 8, for as many GPUs");
        return;
    }
    AllReduceJob job = {.gpus = s->prog->ranks,
                        .device = o->device,
                        .iterations = wanted->iterations,
                        .blocks = wanted->blocks,
                        .timeout = o->timeout > 0 ? o->timeout : 1,
                        .cuda = o->cuda,
                        .nccl = o->nccl,
                        .text = wanted->text,
                        .json = wanted->json};
    opening->code = allreduce_run(ctx, s->bundle, &job);
}

static int open_session(const tr_options *options, Opening *opening, void (*body)(Ctx *, void *), tr_session **out) {
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
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    opening->s = s;
    opening->options = options;
    opening->threads = options->threads > 0 ? options->threads : online > 0 ? (int)online : 1;
    opening->progress = (Progress){options->progress, options->progress_user};
    opening->code = EXIT_ENVIRONMENT;
    int code = ctx_protect(ctx, body, opening) ? opening->code : EXIT_ENVIRONMENT;
    if (code != EXIT_OK) ranks_end(s->ranks, 0); // they hold what they have loaded
    return code;
}

int tr_open(const tr_options *options, tr_session **out) {
    Opening opening = {.rank = options->alone ? options->rank : 0, .started = now()};
    return open_session(options, &opening, open_all, out);
}

int tr_pack(const tr_options *options, int rank, const char *path, tr_session **out) {
    Opening opening = {.rank = rank, .pack = path};
    return open_session(options, &opening, pack_all, out);
}

int tr_time_allreduce(const tr_options *options, const tr_allreduce *job, tr_session **out) {
    Opening opening = {.allreduce = job};
    return open_session(options, &opening, allreduce_all, out);
}

void tr_close(tr_session *s) {
    if (!s) return;
    if (s->decoder.self) s->decoder.close(s->decoder.self);
    ranks_end(s->ranks, 2);
    ranks_free(s->ranks);
    checkpoint_close(s->weights);
    pack_file_close(s->packed);
    tokenizer_free(s->tokenizer);
    ctx_free(s->ctx);
    free(s);
}

int tr_vocab(const tr_session *s) { return s->model->vocab; }
bool tr_on_gpu(const tr_session *s) { return s->decoder.gpu; }
int tr_gpus(const tr_session *s) { return s->ranks ? ranks_count(s->ranks) : s->decoder.gpu; }
tr_figures tr_session_figures(const tr_session *s) { return s->figures; }
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
    if (*count + (size_t)r->start < (size_t)s->decoder.context) return true;
    diag_error(ctx, E0902, NO_SPAN, "the prompt has %zu tokens, the context %d positions", *count, s->decoder.context);
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

// A round's time, by the GPU's clock where there is one.
static double round_time(const DecodedRound *before, const DecodedRound *round, double seconds) {
    return round->nanoseconds > before->nanoseconds && before->nanoseconds
               ? (double)(round->nanoseconds - before->nanoseconds) * 1e-9
               : seconds;
}

static void take(Generating *g, const DecodedRound *round) {
    for (int i = 0; i < round->count; i++) {
        g->s->tokens[g->result->count++] = round->tokens[i];
        if (!(round->ended && i + 1 == round->count)) emit_text(g, round->tokens[i], false);
    }
}

static Exit rounds(Generating *g, double started) {
    tr_session *s = g->s;
    tr_result *result = g->result;
    DecodedRound round = {0};
    double before = started, first = started;
    while (!round.last) {
        DecodedRound last = round;
        Exit code = s->decoder.next(s->decoder.self, &round);
        if (code != EXIT_OK) return code;
        double at = now();
        if (round.count && result->count == 0) {
            result->first_token_seconds = at - started;
            result->prompt_seconds = at - started;
            first = at;
        }
        take(g, &round);
        if (!round.prompt && (round.count || !round.cancelled)) {
            s->round_seconds[result->rounds++] = round_time(&last, &round, at - before);
            result->histogram[round.ended ? round.count : round.accepted + 1]++; // nothing follows an end token
        }
        before = now();
    }
    result->ended = round.ended;
    result->decode_seconds = result->count ? now() - first : 0;
    if (result->count == 0) result->prompt_seconds = now() - started;
    return round.cancelled ? EXIT_INTERRUPTED : EXIT_OK;
}

static void generate(Ctx *ctx, void *user) {
    Generating *g = user;
    tr_session *s = g->s;
    const tr_request *r = g->request;
    tr_result *result = g->result;
    const int *ids;
    size_t count;
    g->code = EXIT_INPUT;
    if (!prompt_ids(s, r, &ids, &count)) return;
    if (r->accept > 0 && !s->decoder.gpu) {
        diag_error(ctx, E0902, NO_SPAN, "accepted lengths are drawn on a GPU only; the host executor verifies");
        return;
    }
    if (r->start > 0 && !s->decoder.gpu) {
        diag_error(ctx, E0902, NO_SPAN, "a request begins behind position 0 on a GPU only");
        return;
    }
    int room = s->decoder.context - r->start - (int)count;
    DecodeRequest request = {.prompt = ids,
                             .prompt_count = (int)count,
                             .start = r->start,
                             .limit = r->max_tokens > 0 && r->max_tokens < room ? r->max_tokens : room,
                             .draft = s->model->has_drafter && !r->no_draft,
                             .sampling = {r->temperature, r->top_k, r->top_p > 0 ? r->top_p : 1, r->seed},
                             .stop_count = r->ignore_end ? 0 : s->end_token_count,
                             .accept = r->accept};
    memcpy(request.stops, s->end_tokens, sizeof request.stops);
    result->prompt_tokens = count;
    result->gpu = s->decoder.gpu;
    double started = now();
    g->code = s->decoder.begin(s->decoder.self, &request);
    if (g->code == EXIT_OK) g->code = rounds(g, started);
    s->decoder.end(s->decoder.self);
    if (g->code != EXIT_OK && g->code != EXIT_INTERRUPTED) return;
    if (g->code == EXIT_INTERRUPTED) s->cancelled = 0; // the next request is another one
    emit_text(g, 0, true);
    long emitted = 0;
    for (int n = 1; n <= TR_MAX_BLOCK; n++) emitted += n * result->histogram[n];
    result->acceptance = result->rounds ? (double)emitted / result->rounds : 0;
    result->tokens = s->tokens;
    result->round_seconds = s->round_seconds;
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

static Exit score_rounds(tr_session *s, const DecodeRequest *request, float *out) {
    DecodedRound round = {0};
    Exit code = s->decoder.begin(s->decoder.self, request);
    for (size_t at = 0; code == EXIT_OK && !round.last;) {
        code = s->decoder.next(s->decoder.self, &round);
        if (round.cancelled) s->cancelled = 0;
        if (code == EXIT_OK && round.cancelled) code = EXIT_INTERRUPTED;
        for (int i = 0; code == EXIT_OK && round.prompt && i < round.rows && at < (size_t)request->prompt_count; i++)
            code = s->decoder.logits(s->decoder.self, i, out + at++ * (size_t)s->model->vocab);
    }
    s->decoder.end(s->decoder.self);
    return code;
}

static bool score(tr_session *s, const int *tokens, size_t count, float *out, int *code) {
    tr_request request = {.tokens = tokens, .token_count = count};
    *code = EXIT_INPUT;
    if (count == (size_t)s->decoder.context) request.token_count--; // a whole context is fine here
    if (!prompt_ids(s, &request, &tokens, &request.token_count)) return false;
    DecodeRequest all = {
        .prompt = tokens, .prompt_count = (int)count, .limit = 1, .logits = true, .sampling = {.top_p = 1}};
    *code = score_rounds(s, &all, out);
    return *code == EXIT_OK;
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

// ---- Timing ----

typedef struct Timing {
    tr_session *s;
    bool on;
    double start, *rate;
    tr_phases *phases;
    int code;
} Timing;

static void trace_body(Ctx *ctx, void *user) {
    Timing *t = user;
    if (t->s->decoder.gpu) {
        t->code = gpu_trace(&t->s->decoder, t->on);
        return;
    }
    diag_error(ctx, E0917, NO_SPAN, "the host executor keeps no trace");
    t->code = EXIT_INPUT;
}

static void traced_body(Ctx *ctx, void *user) {
    Timing *t = user;
    TraceSums sums;
    if (!t->s->decoder.gpu) {
        trace_body(ctx, t);
        return;
    }
    t->code = gpu_sums(&t->s->decoder, &sums);
    if (t->code == EXIT_OK) *t->phases = phases_of(ctx, t->s->model, t->s->prog, &sums, t->start);
}

typedef struct Using {
    tr_session *s;
    tr_arm arm;
    int code;
} Using;

static void use_body(Ctx *ctx, void *user) {
    Using *u = user;
    if (u->s->decoder.gpu) {
        u->code = gpu_arm(&u->s->decoder, u->arm == TR_GRAPH ? GPU_GRAPH : GPU_ENGINE);
        return;
    }
    diag_error(ctx, E0919, NO_SPAN, "the graph arm runs on a GPU; this is the host executor");
    u->code = EXIT_INPUT;
}

int tr_use(tr_session *s, tr_arm arm) {
    Using u = {s, arm, EXIT_ENVIRONMENT};
    return ctx_protect(s->ctx, use_body, &u) ? u.code : EXIT_ENVIRONMENT;
}

static void stream_body(Ctx *ctx, void *user) {
    Timing *t = user;
    (void)ctx;
    *t->rate = 0;
    t->code = EXIT_OK;
    if (t->s->decoder.gpu) t->code = gpu_stream(&t->s->decoder, t->rate);
}

static int timing(Timing t, void (*body)(Ctx *, void *)) {
    t.code = EXIT_ENVIRONMENT;
    return ctx_protect(t.s->ctx, body, &t) ? t.code : EXIT_ENVIRONMENT;
}

int tr_trace(tr_session *s, bool on) { return timing((Timing){.s = s, .on = on}, trace_body); }
int tr_traced(tr_session *s, double start, tr_phases *out) {
    return timing((Timing){.s = s, .start = start, .phases = out}, traced_body);
}
int tr_stream(tr_session *s, double *rate) { return timing((Timing){.s = s, .rate = rate}, stream_body); }

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
