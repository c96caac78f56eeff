#include "bench_compare.h"
#include "tilerun.h"
#include "text.h"
#include "version.h"
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef enum OptionId {
#define OPTION(id, name, arg, commands, meaning) OPTION_##id,
#include "options.def"
#undef OPTION
    OPTION_COUNT
} OptionId;

static const struct {
    const char *name, *arg, *commands, *meaning;
} options[] = {
#define OPTION(id, name, arg, commands, meaning) {name, arg, commands, meaning},
#include "options.def"
#undef OPTION
};

static const struct {
    const char *name, *meaning;
} commands[] = {{"generate", "decode text; the text alone goes to standard output"},
                {"logits", "logits of every position of a file of ids"},
                {"bench", "time rounds of decoding"},
                {"pack", "write weights as the GPU reads them, so that they load faster"}};
enum { COMMANDS = 4, USAGE = 2, ENVIRONMENT = 3, ALLREDUCE_ITERATIONS = 2000 };

typedef struct Settings {
    const char *value[OPTION_COUNT]; // "" for a flag that is set
    const char *bundle;
    long threads, context, max_tokens, top_k, rounds, device, rank, gpus, blocks;
    double temperature, top_p, accept, timeout;
    unsigned long long seed;
    FILE *json, *trace; // where they go, or NULL
} Settings;

// The only global: a signal handler has no other way to the session.
static tr_session *volatile interrupted_session;
static void on_interrupt(int number) {
    (void)number;
    if (interrupted_session) tr_cancel(interrupted_session);
}

static void help(void) {
    printf("tilerun %s: decode with a bundle of tilegen and a checkpoint\n\n", TILEGEN_VERSION);
    for (int i = 0; i < COMMANDS; i++)
        printf("  tilerun %-8s BUNDLE [options]   %s\n", commands[i].name, commands[i].meaning);
    printf("\n");
    for (int i = 0; i < OPTION_COUNT; i++) {
        char head[40], where[40] = "";
        const char *arg = options[i].arg ? options[i].arg : "";
        snprintf(head, sizeof head, "%s%s%s", options[i].name, *arg && *arg != '[' ? " " : "", arg);
        for (int c = 0; c < COMMANDS && strlen(options[i].commands) < COMMANDS; c++)
            if (strchr(options[i].commands, commands[c].name[0])) {
                strcat(where, where[0] ? ", " : " (");
                strcat(where, commands[c].name);
            }
        printf("  %-20s %s%s%s\n", head, options[i].meaning, where, where[0] ? ")" : "");
    }
    printf("\nExit: 0 ok, 1 the input has errors, 2 usage, 3 environment, 4 failed verification, 130 interrupted.\n");
}

static int usage(const char *format, const char *word) {
    fputs("error: ", stderr);
    fprintf(stderr, format, word);
    fputs("\nhelp: tilerun --help\n", stderr);
    return USAGE;
}

static int read_number(const char *text, double lo, double hi, bool whole, double *out, const char *name) {
    char *end, wanted[160];
    errno = 0;
    *out = strtod(text, &end);
    if (!*end && end != text && !errno && *out >= lo && *out <= hi && (!whole || *out == floor(*out))) return 0;
    snprintf(wanted, sizeof wanted, "%s wants a %snumber from %g to %g, not \"%%s\"", name, whole ? "whole " : "", lo,
             hi);
    return usage(wanted, text);
}

static int read_numbers(Settings *s) {
    static const struct {
        OptionId id;
        double lo, hi, otherwise;
        bool whole;
    } numbers[] = {{OPTION_THREADS, 1, 1024, 0, true},
                   {OPTION_CONTEXT, 16, 1 << 24, 0, true},
                   {OPTION_MAX_TOKENS, 1, 1 << 24, 0, true},
                   {OPTION_TOP_K, 0, 1 << 24, 0, true},
                   {OPTION_ROUNDS, 1, 1 << 20, 64, true},
                   {OPTION_TEMPERATURE, 0, 100, 0, false},
                   {OPTION_TOP_P, 1e-6, 1, 1, false},
                   {OPTION_SEED, 0, 9007199254740992.0, 0, true},
                   {OPTION_DEVICE, 0, 1023, 0, true},
                   {OPTION_RANK, 0, 7, 0, true},
                   {OPTION_ACCEPT, 1, TR_MAX_BLOCK, 0, false},
                   {OPTION_TIMEOUT, 0.1, 600, 0, false},
                   {OPTION_GPUS, 1, 8, 0, true},
                   {OPTION_BLOCKS, 1, 1024, 0, true}};
    enum { NUMBERS = sizeof numbers / sizeof *numbers };
    double value[NUMBERS];
    for (int i = 0; i < NUMBERS; i++) {
        const char *text = s->value[numbers[i].id];
        value[i] = numbers[i].otherwise;
        if (text &&
            read_number(text, numbers[i].lo, numbers[i].hi, numbers[i].whole, &value[i], options[numbers[i].id].name))
            return USAGE;
    }
    s->threads = (long)value[0], s->context = (long)value[1], s->max_tokens = (long)value[2], s->top_k = (long)value[3];
    s->rounds = (long)value[4], s->temperature = value[5], s->top_p = value[6], s->seed = (unsigned long long)value[7];
    s->device = (long)value[8], s->rank = (long)value[9], s->accept = value[10], s->timeout = value[11];
    s->gpus = (long)value[12], s->blocks = (long)value[13];
    return 0;
}

static int read_arguments(int argc, char **argv, int command, Settings *s) {
    for (int i = 2; i < argc; i++) {
        char *word = strcmp(argv[i], "-o") == 0 ? (char[]){"--out"} : argv[i], *equals = strchr(word, '=');
        if (strncmp(word, "--", 2) != 0) {
            if (strncmp(word, "synthetic:", 10) == 0 && !s->value[OPTION_WEIGHTS]) {
                s->value[OPTION_WEIGHTS] = word;
                continue;
            }
            if (s->bundle) return usage("one bundle, not also \"%s\"", word);
            s->bundle = word;
            continue;
        }
        size_t length = equals ? (size_t)(equals - word) : strlen(word);
        int o = 0;
        while (o < OPTION_COUNT && (strlen(options[o].name) != length || strncmp(options[o].name, word, length) != 0))
            o++;
        if (o == OPTION_COUNT) return usage("unknown option %s", word);
        if (!strchr(options[o].commands, commands[command].name[0]))
            return usage("this command has no option %s", options[o].name);
        if (!options[o].arg && equals) return usage("%s takes no value", options[o].name);
        if (equals && !equals[1] && options[o].arg[0] == '[') return usage("%s= wants a file", options[o].name);
        if (!options[o].arg || (options[o].arg[0] == '[' && !equals))
            s->value[o] = "";
        else if (equals)
            s->value[o] = equals + 1;
        else if (i + 1 < argc)
            s->value[o] = argv[++i];
        else
            return usage("%s wants a value", options[o].name);
    }
    if (!s->bundle) return usage("%s wants a bundle", commands[command].name);
    if (!s->value[OPTION_WEIGHTS] && !s->value[OPTION_ALLREDUCE])
        return usage("%s is missing: a folder, or synthetic:SEED", "--weights");
    return read_numbers(s);
}

static void print_text(void *user, const char *bytes, size_t length) {
    (void)user;
    fwrite(bytes, 1, length, stdout);
    fflush(stdout);
}

// Text of a JSON result is collected as it comes.
typedef struct Collected {
    char *at;
    size_t length, room;
    bool shown; // it goes to standard output too
} Collected;
static void collect(void *user, const char *bytes, size_t length) {
    Collected *c = user;
    if (c->shown) print_text(NULL, bytes, length);
    if (c->length + length + 1 > c->room) {
        size_t room = (c->length + length + 1) * 2;
        char *grown = realloc(c->at, room);
        if (!grown) return;
        c->at = grown;
        c->room = room;
    }
    memcpy(c->at + c->length, bytes, length);
    c->length += length;
}

static double mean_round(const tr_result *r) {
    double sum = 0;
    for (int i = 0; i < r->rounds; i++) sum += r->round_seconds[i];
    return r->rounds ? sum / r->rounds : 0;
}

static void print_json(const tr_result *r, const Collected *text, FILE *out) {
    static const char hex[] = "0123456789abcdef";
    fprintf(out, "{\"tokens\": [");
    for (size_t i = 0; i < r->count; i++) fprintf(out, "%s%d", i ? ", " : "", r->tokens[i]);
    fprintf(out, "], \"text\": \"");
    // The stream gives whole UTF-8 sequences but for bytes that are none, which print as U+FFFD.
    for (size_t i = 0; i < text->length; i++) {
        unsigned char c = (unsigned char)text->at[i];
        size_t need = c < 0x80                ? 1
                      : c >= 0xF0 && c < 0xF5 ? 4
                      : c >= 0xE0 && c < 0xF0 ? 3
                      : c >= 0xC2 && c < 0xE0 ? 2
                                              : 0,
               good = 1;
        while (need && good < need && i + good < text->length && ((unsigned char)text->at[i + good] & 0xC0) == 0x80)
            good++;
        if (c == '"' || c == '\\')
            fprintf(out, "\\%c", c);
        else if (c < 0x20 || c == 0x7F)
            fprintf(out, "\\u00%c%c", hex[c >> 4], hex[c & 15]);
        else if (!need || good < need)
            fprintf(out, "\xEF\xBF\xBD");
        else {
            fwrite(text->at + i, 1, need, out);
            i += need - 1;
        }
    }
    fprintf(out, "\", \"prompt_tokens\": %zu, \"rounds\": %d, \"acceptance\": %.4f, \"histogram\": [", r->prompt_tokens,
            r->rounds, r->acceptance);
    for (int n = 1; n <= TR_MAX_BLOCK; n++) fprintf(out, "%s%ld", n > 1 ? ", " : "", r->histogram[n]);
    double tokens = (double)(r->count ? r->count - 1 : 0);
    fprintf(out,
            "], \"tokens_per_second\": %.1f, \"first_token_ms\": %.3f, \"prompt_seconds\": %.4f, \"decode_seconds\": "
            "%.4f, ",
            r->decode_seconds > 0 ? tokens / r->decode_seconds : 0, r->first_token_seconds * 1e3, r->prompt_seconds,
            r->decode_seconds);
    if (r->gpu) fprintf(out, "\"us_a_round\": %.2f, ", mean_round(r) * 1e6);
    fprintf(out, "\"ended\": %s}\n", r->ended ? "true" : "false");
}

// The first token comes from the prompt's last round; rates count what the rounds after it gave.
static void print_stats(const tr_result *r) {
    double tokens = (double)(r->count ? r->count - 1 : 0);
    fprintf(stderr, "\n%zu tokens in %d rounds: %.1f token/s, acceptance length %.2f; prompt of %zu tokens in %.2f s\n",
            r->count, r->rounds, r->decode_seconds > 0 ? tokens / r->decode_seconds : 0, r->acceptance,
            r->prompt_tokens, r->prompt_seconds);
    fprintf(stderr, "rounds by tokens emitted, 1 to %d:", TR_MAX_BLOCK);
    for (int n = 1; n <= TR_MAX_BLOCK; n++) fprintf(stderr, " %ld", r->histogram[n]);
    fputc('\n', stderr);
    if (r->gpu)
        fprintf(stderr, "a round takes %.1f us by the GPU's clock; first token after %.2f ms\n", mean_round(r) * 1e6,
                r->first_token_seconds * 1e3);
}

static int generate(tr_session *session, const Settings *s) {
    Collected text = {.shown = s->json != stdout};
    tr_request request = {.prompt = s->value[OPTION_PROMPT],
                          .max_tokens = (int)s->max_tokens,
                          .temperature = s->temperature,
                          .top_k = (int)s->top_k,
                          .top_p = s->top_p,
                          .seed = s->seed,
                          .no_draft = s->value[OPTION_NO_DRAFT] != NULL,
                          .on_text = s->json ? collect : print_text,
                          .user = &text};
    tr_result result;
    int code = 0;
    if (request.prompt)
        request.prompt_length = strlen(request.prompt);
    else
        code = tr_read_tokens(session, s->value[OPTION_TOKENS], &request.tokens, &request.token_count);
    if (code == 0) code = tr_generate(session, &request, &result);
    if (code == 0 || code == 130) {
        if (s->json) print_json(&result, &text, s->json);
        if (s->json != stdout) print_stats(&result);
    }
    free(text.at);
    return code;
}

static int logits(tr_session *session, const Settings *s) {
    const int *tokens;
    size_t count;
    int code = tr_read_tokens(session, s->value[OPTION_TOKENS], &tokens, &count);
    return code ? code : tr_logits_file(session, tokens, count, s->value[OPTION_OUT]);
}

static bool graph_arm(const Settings *s) { return s->value[OPTION_ARM] && strcmp(s->value[OPTION_ARM], "graph") == 0; }

// Whether weights and caches are made on the GPU.
static bool all_made(const Settings *s) {
    const char *weights = s->value[OPTION_WEIGHTS]; // NULL: --allreduce
    return s->value[OPTION_ALONE] || (s->gpus > 1 && weights && strncmp(weights, "synthetic:", 10) == 0);
}

// What is timed there: rounds behind `context` positions, in caches with room for them.
static BenchJob bench_job(const Settings *s) {
    return (BenchJob){.rounds = (int)s->rounds,
                      .alone = s->value[OPTION_ALONE] != NULL,
                      .rank = (int)s->rank,
                      .made = all_made(s),
                      .context = s->value[OPTION_CONTEXT] || !all_made(s) ? (int)s->context : BENCH_CONTEXT,
                      .no_draft = s->value[OPTION_NO_DRAFT] != NULL,
                      .accept = s->accept,
                      .temperature = s->temperature,
                      .top_p = s->top_p,
                      .top_k = (int)s->top_k,
                      .seed = s->seed,
                      .graph = graph_arm(s),
                      .text = s->json == stdout ? NULL : stdout,
                      .json = s->json,
                      .trace = s->trace};
}

static int bench(tr_session *session, const Settings *s) {
    BenchJob job = bench_job(s);
    return (s->value[OPTION_COMPARE] ? bench_compare : bench_run)(session, &job);
}

// A moving line on a terminal; nothing elsewhere.
static void show_progress(void *user, const char *what, double share) {
    int *shown = user, percent = (int)(share * 100);
    if (percent == *shown) return;
    *shown = percent;
    fprintf(stderr, "\r\033[K%s %3d %%", what, percent);
    fflush(stderr);
}

static int allreduce(const tr_options *open, const Settings *s, tr_session **session) {
    tr_allreduce job = {.blocks = (int)s->blocks,
                        .iterations = (int)(s->value[OPTION_ROUNDS] ? s->rounds : ALLREDUCE_ITERATIONS),
                        .text = s->json == stdout ? NULL : stdout,
                        .json = s->json};
    return tr_time_allreduce(open, &job, session);
}

static int run(tr_session *session, const Settings *s, int command) {
    switch (command) {
    case 0: return generate(session, s);
    case 1: return logits(session, s);
    default: return bench(session, s);
    }
}

// Where a result goes: the file of that path, standard output for "", nowhere for NULL. Opened before the work begins.
static bool out_open(const char *path, FILE **out) {
    *out = path && *path ? fopen(path, "w") : path ? stdout : NULL;
    if (!path || *out) return true;
    fprintf(stderr, "error[E0004]: cannot write to %s: %s\n", path, strerror(errno));
    return false;
}

static bool out_close(FILE *out, const char *name) {
    if (!out) return true;
    bool written = fflush(out) == 0 && !ferror(out);
    if (!written) fprintf(stderr, "error[E0004]: cannot write to %s: %s\n", name, strerror(errno));
    return (out == stdout || fclose(out) == 0) && written;
}

int main(int argc, char **argv) {
    Settings s = {0};
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
        help();
        return argc < 2 ? USAGE : 0;
    }
    if (strcmp(argv[1], "--version") == 0) return printf("tilerun %s\n", TILEGEN_VERSION) < 0;
    int command = 0;
    while (command < COMMANDS && strcmp(argv[1], commands[command].name) != 0) command++;
    if (command == COMMANDS) return usage("no command \"%s\"", argv[1]);
    for (int i = 2; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0) return help(), 0;
    if (read_arguments(argc, argv, command, &s)) return USAGE;
    if (command == 0 && !s.value[OPTION_PROMPT] == !s.value[OPTION_TOKENS])
        return usage("%s wants --prompt or --tokens", "generate");
    if (command == 1 && (!s.value[OPTION_TOKENS] || !s.value[OPTION_OUT]))
        return usage("%s wants --tokens and --out", "logits");

    if (command == 2 && s.value[OPTION_RANK] && !s.value[OPTION_ALONE])
        return usage("%s is the rank that --alone times: give both", "--rank");
    if (command == 2 && s.value[OPTION_ALONE] && s.value[OPTION_HOST])
        return usage("%s is timed on a GPU: without --host", "--alone");
    const char *arm = s.value[OPTION_ARM];
    bool graph = graph_arm(&s) || s.value[OPTION_COMPARE];
    if (arm && strcmp(arm, "engine") != 0 && strcmp(arm, "graph") != 0)
        return usage("no arm \"%s\": --arm engine or --arm graph", arm);
    if (arm && s.value[OPTION_COMPARE]) return usage("%s times both arms: without --arm", "--compare");
    if (graph && s.value[OPTION_TRACE]) return usage("%s is of the engine alone", "--trace");
    if (command == 3 && !s.value[OPTION_OUT]) return usage("%s wants -o FILE", "pack");
    const bool sums = s.value[OPTION_ALLREDUCE] != NULL;
    if (s.value[OPTION_BLOCKS] && !sums) return usage("%s is of --allreduce: give both", "--blocks");
    tr_session *session;
    int shown = -1;
    tr_options open = {.bundle = s.bundle,
                       .weights = s.value[OPTION_WEIGHTS],
                       .threads = (int)s.threads,
                       .context = (int)s.context,
                       .host = s.value[OPTION_HOST] != NULL,
                       .device = (int)s.device,
                       .trace = command == 2 && !graph,
                       .graph = graph,
                       .alone = s.value[OPTION_ALONE] != NULL,
                       .rank = (int)s.rank,
                       .gpus = (int)s.gpus,
                       .timeout = s.timeout,
                       .cuda = getenv("TILERUN_CUDA"),
                       .nccl = getenv("TILERUN_NCCL"),
                       .progress = isatty(2) ? show_progress : NULL,
                       .progress_user = &shown};
    if (command == 2 && all_made(&s)) {
        BenchJob job = bench_job(&s);
        open.context = bench_positions(&job);
    }
    if (!out_open(s.value[OPTION_JSON], &s.json) || !out_open(s.value[OPTION_TRACE], &s.trace)) return ENVIRONMENT;
    int code = sums           ? allreduce(&open, &s, &session)
               : command == 3 ? tr_pack(&open, (int)s.rank, s.value[OPTION_OUT], &session)
                              : tr_open(&open, &session);
    if (shown >= 0) fputs("\r\033[K", stderr);
    interrupted_session = session;
    if (command != 3 && !sums) {
        signal(SIGINT, on_interrupt);
        signal(SIGTERM, on_interrupt);
        if (code == 0) code = run(session, &s, command);
    }
    if (!out_close(stdout, "standard output") && code == 0) code = ENVIRONMENT;
    if (!out_close(s.json, s.value[OPTION_JSON]) && code == 0) code = ENVIRONMENT;
    if (!out_close(s.trace, s.value[OPTION_TRACE]) && code == 0) code = ENVIRONMENT;
    if (session)
        tr_print_errors(session, stderr, false);
    else
        fputs("error[E0001]: out of memory\n", stderr);
    interrupted_session = NULL;
    bool several = session && tr_gpus(session) > 1;
    tr_close(session);
    fflush(NULL);
    if (several) _exit(code); // a thread of NCCL may still wait for a rank that has gone
    return code;
}
