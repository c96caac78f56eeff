#include "cli.h"
#include "diff_command.h"
#include "file.h"
#include "version.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *name, *args, *options, *meaning;
} commands[] = {
#define COMMAND(id, name, args, options, meaning) {name, args, options, meaning},
#include "commands.def"
#undef COMMAND
};
enum {
#define COMMAND(id, name, args, options, meaning) COMMAND_##id,
#include "commands.def"
#undef COMMAND
    COMMAND_COUNT
};

static const struct {
    char letter;
    const char *name, *arg, *meaning;
} option_table[] = {
#define OPTION(letter, name, arg, meaning) {letter, name, arg, meaning},
#include "options.def"
#undef OPTION
};
enum { OPTION_COUNT = sizeof option_table / sizeof *option_table };

static Exit (*const runners[COMMAND_COUNT])(Ctx *, const Options *) = {
    [COMMAND_BUILD] = cli_build,     [COMMAND_IMPORT] = cli_import, [COMMAND_CHECK] = cli_check,
    [COMMAND_EXPLAIN] = cli_explain, [COMMAND_DUMP] = cli_dump,     [COMMAND_SKU] = cli_sku,
    [COMMAND_DIFF] = diff_command,
};

static void help_option(int i) {
    char head[64];
    char letter = option_table[i].letter;
    const char *shorter = letter == 'o' ? "-o, " : letter == 'D' ? "-D, " : "";
    snprintf(head, sizeof head, "%s%s%s%s", shorter, option_table[i].name, option_table[i].arg ? " " : "",
             option_table[i].arg ? option_table[i].arg : "");
    printf("  %-26s %s\n", head, option_table[i].meaning);
}

static void help(int command) {
    if (command < 0) {
        printf("tilegen %s: from a model description and a tile schedule to a proved decoding kernel\n\n",
               TILEGEN_VERSION);
        for (int i = 0; i < COMMAND_COUNT; i++)
            printf("  tilegen %-8s %-18s %s\n", commands[i].name, commands[i].args, commands[i].meaning);
        printf("\nOptions (tilegen COMMAND --help lists a command's own)\n");
        for (int i = 0; i < OPTION_COUNT; i++) help_option(i);
    } else {
        printf("tilegen %s %s\n%s\n\n", commands[command].name, commands[command].args, commands[command].meaning);
        for (int i = 0; i < OPTION_COUNT; i++)
            if (strchr(commands[command].options, option_table[i].letter)) help_option(i);
    }
    printf("  %-26s %s\n  %-26s %s\n", "--diag=json", "diagnostics as JSON on stderr", "--help, --version", "");
    printf("\nExit: 0 ok, 1 the input has errors, 2 usage, 3 environment, 4 failed verification, 5 our bug.\n");
}

typedef struct Invocation {
    int argc, command;
    char **argv;
    const char *home;
    Exit exit;
} Invocation;

static bool usage(Ctx *ctx, const char *format, const char *word) {
    diag_error(ctx, E0005, NO_SPAN, format, word);
    diag_help(ctx, "tilegen --help");
    return false;
}

static bool number_set(Ctx *ctx, const char *option, const char *value, int low, int high, int *out) {
    char *end;
    long number = strtol(value, &end, 10);
    if (*end || end == value || number < low || number > high) {
        diag_error(ctx, E0005, NO_SPAN, "%s wants a number from %d to %d, not \"%s\"", option, low, high, value);
        diag_help(ctx, "tilegen --help");
        return false;
    }
    *out = (int)number;
    return true;
}

static bool option_set(Ctx *ctx, Options *options, char letter, char *value) {
    switch (letter) {
    case 'o': options->output = value; break;
    case 'm': options->model = value; break;
    case 'S': options->schedule = value; break;
    case 's': options->sku = value; break;
    case 'a': options->after = value; break;
    case 'b': options->build_file = value; break;
    case 'n': options->no_prove = true; break;
    case 'p': options->prog = value; break;
    case 'k': options->keep = true; break;
    case 'g': options->with_graph = true; break;
    case 'W': options->weights = value; break;
    case 'T': options->tokens = value; break;
    case 'A': options->stop_after = value; break;
    case 'j': options->json = true; break;
    case 'L': return number_set(ctx, "--layers", value, 1, MAX_LAYERS, &options->layers);
    case 'G': return number_set(ctx, "--device", value, 0, 1023, &options->device);
    case 'w': return number_set(ctx, "--workers", value, 1, 1024, &options->workers);
    case 't':
        if (!strchr("1248", value[0]) || !value[0] || value[1])
            return usage(ctx, "--tp wants 1, 2, 4 or 8, not \"%s\"", value);
        options->tp = value[0] - '0';
        break;
    case 'D': {
        char *equals = strchr(value, '=');
        if (!equals || equals == value) return usage(ctx, "-D wants NAME=VALUE, not \"%s\"", value);
        if (options->setting_count == sizeof options->settings / sizeof *options->settings)
            return usage(ctx, "too many settings at \"%s\"", value);
        *equals = 0;
        options->settings[options->setting_count++] = (Setting){value, equals + 1, ORIGIN_OPTION};
        break;
    }
    default: break;
    }
    return true;
}

// Takes argv[*at] as an option of `command`, with its value from after '=' or the next word.
static bool option_read(Ctx *ctx, const Invocation *in, Options *options, int *at) {
    char *word = in->argv[*at], *value = strchr(word, '=');
    size_t length = value ? (size_t)(value - word) : strlen(word);
    bool shorter = word[1] != '-';
    for (int i = 0; i < OPTION_COUNT; i++) {
        const char *name = option_table[i].name;
        if (shorter ? word[1] != option_table[i].letter || !strchr("oD", word[1])
                    : strlen(name) != length || strncmp(name, word, length) != 0)
            continue;
        if (!strchr(commands[in->command].options, option_table[i].letter))
            return usage(ctx, "this command has no option %s", name);
        char *argument = shorter && word[2] ? word + 2 : !shorter && value ? value + 1 : NULL;
        if (option_table[i].arg && !argument) {
            if (*at + 1 >= in->argc) return usage(ctx, "%s wants a value", name);
            argument = in->argv[++*at];
        }
        if (!option_table[i].arg && argument) return usage(ctx, "%s takes no value", name);
        return option_set(ctx, options, option_table[i].letter, argument);
    }
    return usage(ctx, "unknown option %s", word);
}

static void run(Ctx *ctx, void *user) {
    Invocation *in = user;
    Options options = {.home = in->home};
    options.args = ARENA_ARRAY(ctx->arena, const char *, in->argc);
    in->exit = EXIT_USAGE;
    for (int i = 2; i < in->argc; i++) {
        char *word = in->argv[i];
        if (strcmp(word, "--help") == 0) {
            help(in->command);
            in->exit = EXIT_OK;
            return;
        }
        if (strncmp(word, "--diag=", 7) == 0) continue;
        if (word[0] == '-' && word[1]) {
            if (!option_read(ctx, in, &options, &i)) return;
        } else
            options.args[options.arg_count++] = word;
    }
    in->exit = runners[in->command](ctx, &options);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        diag_error(ctx, E0004, NO_SPAN, "cannot write to standard output");
        in->exit = EXIT_ENVIRONMENT;
    }
}

// Where build.lua is: here, beside the program's build folder, or installed.
static const char *find_home(char *room, size_t size) {
    if (file_exists("build.lua")) return ".";
    char exe[4096];
    ssize_t length = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (length <= 0) return ".";
    exe[length] = 0;
    static const char *const beside[] = {"..", "../..", "../share/tilegen"};
    char *slash = strrchr(exe, '/');
    if (!slash) return ".";
    *slash = 0;
    for (int i = 0; i < 3; i++) {
        snprintf(room, size, "%s/%s/build.lua", exe, beside[i]);
        if (!file_exists(room)) continue;
        room[strlen(room) - strlen("/build.lua")] = 0;
        return room;
    }
    return ".";
}

// Where results are kept: TILEGEN_CACHE (empty: nowhere), else the user's cache folder.
static const char *find_cache(char *room, size_t size) {
    const char *own = getenv("TILEGEN_CACHE"), *caches = getenv("XDG_CACHE_HOME"), *user = getenv("HOME");
    if (own) return *own ? own : NULL;
    if (caches && *caches == '/')
        snprintf(room, size, "%s/tilegen", caches);
    else if (user && *user)
        snprintf(room, size, "%s/.cache/tilegen", user);
    else
        return NULL;
    return room;
}

int main(int argc, char **argv) {
    const char *no_colour = getenv("NO_COLOR"), *nvrtc = getenv("TILEGEN_NVRTC"), *driver = getenv("TILERUN_CUDA");
    char cache_room[4200];
    Env env = {.cuda_home = getenv("CUDA_HOME"),
               .nvrtc = nvrtc && *nvrtc ? nvrtc : NULL,
               .driver = driver && *driver ? driver : NULL,
               .cache_dir = find_cache(cache_room, sizeof cache_room),
               .program = "/proc/self/exe",
               .colour = isatty(2) && !(no_colour && *no_colour)};
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
        help(-1);
        return argc < 2 ? EXIT_USAGE : EXIT_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("tilegen %s\n", TILEGEN_VERSION);
        return EXIT_OK;
    }
    char room[4200];
    Invocation in = {.argc = argc, .argv = argv, .command = -1, .home = find_home(room, sizeof room)};
    DiagStyle style = env.colour ? DIAG_COLOUR : DIAG_TEXT;
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--diag=json") == 0) style = DIAG_JSON;
    for (int i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(argv[1], commands[i].name) == 0) in.command = i;
    Ctx *ctx = ctx_new(env);
    if (!ctx) {
        fputs("error[E0001]: out of memory\n", stderr);
        return EXIT_ENVIRONMENT;
    }
    if (in.command < 0) {
        usage(ctx, "no command \"%s\"", argv[1]);
        in.exit = EXIT_USAGE;
    } else if (!ctx_protect(ctx, run, &in))
        in.exit = EXIT_ENVIRONMENT;
    diag_print(ctx, stderr, style);
    ctx_free(ctx);
    return (int)in.exit;
}
