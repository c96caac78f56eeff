#include "nvrtc.h"
#include "file.h"
#include "text.h"
#include <dlfcn.h>
#include <link.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum { OLDEST_MAJOR = 12, OLDEST_MINOR = 4 };
enum { NVRTC_OK = 0, NVRTC_COMPILATION = 6 }; // nvrtcResult

// FUNCTION(field, name, parameters): what is used of the library; each returns an nvrtcResult.
#define FUNCTIONS(FUNCTION)                                                                                            \
    FUNCTION(version, "nvrtcVersion", (int *major, int *minor))                                                        \
    FUNCTION(create, "nvrtcCreateProgram",                                                                             \
             (void **program, const char *text, const char *name, int count, const char *const *headers,               \
              const char *const *names))                                                                               \
    FUNCTION(destroy, "nvrtcDestroyProgram", (void **program))                                                         \
    FUNCTION(compile, "nvrtcCompileProgram", (void *program, int count, const char *const *options))                   \
    FUNCTION(log_size, "nvrtcGetProgramLogSize", (void *program, size_t *size))                                        \
    FUNCTION(log, "nvrtcGetProgramLog", (void *program, char *log))                                                    \
    FUNCTION(cubin_size, "nvrtcGetCUBINSize", (void *program, size_t *size))                                           \
    FUNCTION(cubin, "nvrtcGetCUBIN", (void *program, char *data))                                                      \
    FUNCTION(ptx_size, "nvrtcGetPTXSize", (void *program, size_t *size))                                               \
    FUNCTION(ptx, "nvrtcGetPTX", (void *program, char *data))

struct Nvrtc {
#define FIELD(field, name, parameters) int(*field) parameters;
    FUNCTIONS(FIELD)
#undef FIELD
    const char *(*error)(int result);
    const char *text; // of the version
    int64_t bytes;
};

const char *nvrtc_version(const Nvrtc *nvrtc) { return nvrtc->text; }
int64_t nvrtc_bytes(const Nvrtc *nvrtc) { return nvrtc->bytes; }

// A name with a folder is looked for there; one without on the loader's path.
static void *open_in(Ctx *ctx, const char *folder) {
    static const char *const names[] = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"};
    for (int i = 0; i < 3; i++) {
        char *path = file_join(ctx, folder, names[i]);
        if (*folder && !file_exists(path)) continue;
        void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (handle) return handle;
    }
    return NULL;
}

static void *open_library(Ctx *ctx, const char *home) {
    static const char *const usual[] = {"/usr/local/cuda/lib64", "/usr/local/cuda/lib", ""};
    if (ctx->env.nvrtc) return dlopen(ctx->env.nvrtc, RTLD_NOW | RTLD_LOCAL);
    void *handle = NULL;
    if (ctx->env.cuda_home && *ctx->env.cuda_home) {
        handle = open_in(ctx, file_join(ctx, ctx->env.cuda_home, "lib64"));
        if (!handle) handle = open_in(ctx, file_join(ctx, ctx->env.cuda_home, "lib"));
    }
    if (!handle) handle = open_in(ctx, file_join(ctx, home, "build/cuda/nvidia/cu13/lib"));
    for (int i = 0; i < 3 && !handle; i++) handle = open_in(ctx, usual[i]);
    return handle;
}

static void help_install(Ctx *ctx) {
    diag_help(ctx, "install the CUDA 13 toolkit, or run `make cuda`, which fetches the compiler alone; CUDA_HOME names "
                   "a toolkit in another place, TILEGEN_NVRTC the library itself");
}

Nvrtc *nvrtc_open(Ctx *ctx, const char *home) {
    void *handle = open_library(ctx, home);
    if (!handle) {
        diag_error(ctx, E0451, NO_SPAN, "no CUDA compiler: %s cannot be opened",
                   ctx->env.nvrtc ? ctx->env.nvrtc : "libnvrtc.so");
        const char *why = dlerror();
        if (why) diag_note(ctx, NO_SPAN, "the loader says: %s", why);
        help_install(ctx);
        return NULL;
    }
    Nvrtc *nvrtc = ARENA_NEW(ctx->arena, Nvrtc);
    const char *missing = NULL;
#define LOOK_UP(field, name, parameters)                                                                               \
    *(void **)&nvrtc->field = dlsym(handle, name);                                                                     \
    if (!nvrtc->field) missing = name;
    FUNCTIONS(LOOK_UP)
#undef LOOK_UP
    *(void **)&nvrtc->error = dlsym(handle, "nvrtcGetErrorString");
    int major = 0, minor = 0;
    if (nvrtc->version && nvrtc->version(&major, &minor) != NVRTC_OK) major = 0;
    struct link_map *map = NULL;
    struct stat st;
    const char *path = dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 && map ? map->l_name : "";
    nvrtc->bytes = stat(path, &st) == 0 ? (int64_t)st.st_size : 0;
    nvrtc->text = arena_printf(ctx->arena, "%d.%d", major, minor);
    bool old = major < OLDEST_MAJOR || (major == OLDEST_MAJOR && minor < OLDEST_MINOR);
    if (!old && !missing && nvrtc->error) return nvrtc;
    if (major && old)
        diag_error(ctx, E0452, NO_SPAN, "the CUDA compiler %s is version %s; kernels need %d.%d or newer", path,
                   nvrtc->text, OLDEST_MAJOR, OLDEST_MINOR);
    else
        diag_error(ctx, E0452, NO_SPAN, "%s is no CUDA compiler: it has no %s", path,
                   missing ? missing : "nvrtcGetErrorString");
    help_install(ctx);
    return NULL;
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

// The text under the name "/NAME", and likewise what its own #line directives name.
static char *rooted(Ctx *ctx, const Source *source) {
    Text out = text_new(ctx->arena);
    text_printf(&out, "#line 1 \"/%s\"\n", base_name(source->name));
    for (const char *at = source->text, *end = at + source->length; at < end;) {
        const char *next = memchr(at, '\n', (size_t)(end - at));
        size_t length = (size_t)((next ? next + 1 : end) - at);
        const char *quote = strncmp(at, "#line ", 6) == 0 ? memchr(at, '"', length) : NULL;
        size_t head = quote ? (size_t)(quote + 1 - at) : 0;
        text_add(&out, at, head);
        if (quote && quote[1] != '/') text_add(&out, "/", 1);
        text_add(&out, at + head, length - head);
        at += length;
    }
    return out.at;
}

typedef struct Program {
    int (*destroy)(void **program);
    void *handle;
} Program;

static void program_free(void *user) {
    Program *program = user;
    if (program->handle) program->destroy(&program->handle);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

bool nvrtc_compile(Ctx *ctx, const Nvrtc *nvrtc, const NvrtcJob *job, NvrtcResult *out) {
    const char **texts = ARENA_ARRAY(ctx->arena, const char *, job->header_count + 1);
    const char **names = ARENA_ARRAY(ctx->arena, const char *, job->header_count + 1);
    for (size_t i = 0; i < job->header_count; i++) {
        texts[i] = rooted(ctx, job->headers[i]);
        names[i] = base_name(job->headers[i]->name);
    }
    char *text = rooted(ctx, job->text), *name = arena_printf(ctx->arena, "/%s", base_name(job->text->name));
    *out = (NvrtcResult){.log = ""};
    Program *program = ARENA_NEW(ctx->arena, Program);
    *program = (Program){nvrtc->destroy, NULL};
    ctx_defer(ctx, program_free, program);
    double begin = now();
    int result = nvrtc->create(&program->handle, text, name, (int)job->header_count, texts, names);
    if (result == NVRTC_OK) {
        result = nvrtc->compile(program->handle, (int)job->option_count, job->options);
        size_t size = 0;
        if (nvrtc->log_size(program->handle, &size) == NVRTC_OK && size > 1) {
            char *log = arena_alloc(ctx->arena, size + 1);
            if (nvrtc->log(program->handle, log) == NVRTC_OK) out->log = log;
        }
    }
    if (result == NVRTC_OK) {
        result = (job->ptx ? nvrtc->ptx_size : nvrtc->cubin_size)(program->handle, &out->size);
        char *data = arena_alloc(ctx->arena, out->size + 1);
        if (result == NVRTC_OK) result = (job->ptx ? nvrtc->ptx : nvrtc->cubin)(program->handle, data);
        if (job->ptx && out->size) out->size--; // its zero byte
        out->data = data;
    }
    out->seconds = now() - begin;
    out->ok = result == NVRTC_OK;
    ctx_done(ctx, program);
    if (out->ok || result == NVRTC_COMPILATION) return true;
    diag_error(ctx, E0452, NO_SPAN, "the CUDA compiler %s failed: %s", nvrtc->text, nvrtc->error(result));
    if (*out->log) diag_note(ctx, NO_SPAN, "%.400s", out->log);
    help_install(ctx);
    return false;
}
