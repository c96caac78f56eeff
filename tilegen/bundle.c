#include "bundle.h"
#include "cubin.h"
#include "file.h"
#include "sha256.h"
#include "tasks.h"
#include "text.h"
#include "version.h"
#include <string.h>

enum { HEADER = 16, ENTRY = 104, NAME = 24, ALIGN = 64, MAX_SECTIONS = 8 };
static const char MAGIC[8] = {'T', 'I', 'L', 'E', 'B', 'N', 'D', 'L'};

static void put(uint8_t *at, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) at[i] = (uint8_t)(value >> 8 * i);
}
static uint64_t get(const uint8_t *at, int bytes) {
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) value |= (uint64_t)at[i] << 8 * i;
    return value;
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static void kernel_facts(Text *text, const Compiled *c) {
    const Cubin *cubin = c->cubin;
    const Resources *r = &cubin->resources;
    char sha[65];
    text_printf(text, "  \"nvrtc\": \"%s\",\n  \"templates\": {", cubin->nvrtc);
    for (size_t i = 0; i < cubin->templates->count; i++) {
        const Source *file = cubin->templates->files[i];
        sha256_hex_of(file->text, file->length, sha);
        text_printf(text, "%s\n    \"", i ? "," : "");
        text_json(text, base_name(file->name), strlen(base_name(file->name)));
        text_printf(text, "\": \"%s\"", sha);
    }
    text_printf(text,
                "\n  },\n  \"kernel\": {\"threads\": %d, \"registers\": %d, \"shared_static\": %d, "
                "\"shared_dynamic\": %d, \"stack\": %d, \"spill_stores\": %d, \"spill_loads\": %d, "
                "\"barriers\": %d, \"cubin_bytes\": %zu},\n",
                KERNEL_THREADS, r->registers, r->shared, cubin_dynamic_shared(c), r->stack, r->spill_stores,
                r->spill_loads, r->barriers, cubin->size);
}

static char *manifest(Ctx *ctx, const Compiled *c) {
    static const char *const origins[] = {"default", "arch", "sku", "record", "option"};
    char sha[65];
    Text text = text_new(ctx->arena);
    text_printf(&text, "{\n  \"format\": %d,\n  \"tilegen\": \"%s\",\n  \"target\": \"", BUNDLE_FORMAT,
                TILEGEN_VERSION);
    text_json(&text, c->job.name, strlen(c->job.name));
    text_printf(&text,
                "\",\n  \"model\": \"%s\",\n  \"sku\": \"%s\",\n  \"arch\": \"%s\",\n  \"ranks\": %d,\n"
                "  \"workers\": %d,\n",
                c->model->name, c->job.sku->name, c->job.sku->arch, c->job.tp, c->prog->workers);
    if (c->cubin) kernel_facts(&text, c);
    text_printf(&text, "  \"proved\": %s,\n  \"inputs\": {\n", c->job.prove ? "true" : "false");
    const Source *inputs[] = {c->model->source, c->sched->source};
    for (int i = 0; i < 2; i++) {
        sha256_hex_of(inputs[i]->text, inputs[i]->length, sha);
        text_printf(&text, "    \"");
        text_json(&text, base_name(inputs[i]->name), strlen(base_name(inputs[i]->name)));
        text_printf(&text, "\": \"%s\"%s\n", sha, i == 0 ? "," : "");
    }
    text_printf(&text, "  },\n  \"tunables\": {");
    for (size_t i = 0; i < c->sched->tunable_count; i++) {
        const Tunable *t = &c->sched->tunables[i];
        text_printf(&text, "%s\n    \"%s\": {\"value\": %lld, \"origin\": \"%s\"}", i ? "," : "", t->name,
                    (long long)t->value, origins[t->origin]);
    }
    text_printf(&text, "%s}\n}\n", c->sched->tunable_count ? "\n  " : "");
    return text.at;
}

bool bundle_encode(Ctx *ctx, const Compiled *c, const void **data, size_t *size) {
    char *json = manifest(ctx, c), *prog = prog_print(ctx, c->prog);
    Section sections[MAX_SECTIONS] = {{"manifest", json, strlen(json)},
                                      {"model", c->model->source->text, c->model->source->length},
                                      {"prog", prog, strlen(prog)}};
    int count = 3;
    if (c->cubin) {
        Section tasks = {.name = "tasks"};
        if (!tasks_encode(ctx, c, &tasks.data, &tasks.size)) return false;
        sections[count++] = (Section){"cubin", c->cubin->data, c->cubin->size};
        sections[count++] = tasks;
        if (c->graph) sections[count++] = (Section){"graph", c->graph->data, c->graph->size};
    }
    size_t at = HEADER + (size_t)count * ENTRY, offsets[MAX_SECTIONS];
    for (int i = 0; i < count; i++) {
        offsets[i] = (at + ALIGN - 1) / ALIGN * ALIGN;
        at = offsets[i] + sections[i].size;
    }
    uint8_t *out = arena_alloc(ctx->arena, at);
    memcpy(out, MAGIC, 8);
    put(out + 8, BUNDLE_FORMAT, 4);
    put(out + 12, (uint64_t)count, 4);
    for (int i = 0; i < count; i++) {
        uint8_t *entry = out + HEADER + i * ENTRY;
        char sha[65];
        sha256_hex_of(sections[i].data, sections[i].size, sha);
        memcpy(entry, sections[i].name, strlen(sections[i].name));
        put(entry + NAME, offsets[i], 8);
        put(entry + NAME + 8, sections[i].size, 8);
        memcpy(entry + NAME + 16, sha, 64);
        memcpy(out + offsets[i], sections[i].data, sections[i].size);
    }
    *data = out;
    *size = at;
    return true;
}

bool bundle_write(Ctx *ctx, const Compiled *c, const char *path) {
    const void *data;
    size_t size;
    return bundle_encode(ctx, c, &data, &size) && file_write(ctx, path, data, size);
}

Bundle *bundle_read(Ctx *ctx, const char *path) {
    Source *file = file_read(ctx, path, BUNDLE_FILE_CAP);
    return file ? bundle_decode(ctx, path, file->text, file->length) : NULL;
}

Bundle *bundle_decode(Ctx *ctx, const char *name, const void *bytes, size_t length) {
    Span span = file_span(ctx, name);
    const uint8_t *data = bytes;
    if (length < HEADER || memcmp(data, MAGIC, 8) != 0) {
        diag_error(ctx, E0431, span, "not a bundle");
        diag_help(ctx, "`tilegen build TARGET -o DIR` writes DIR/TARGET.bundle");
        return NULL;
    }
    uint64_t format = get(data + 8, 4), count = get(data + 12, 4);
    if (format > BUNDLE_FORMAT) {
        diag_error(ctx, E0432, span, "a bundle of format %llu; this program reads up to %d", (unsigned long long)format,
                   BUNDLE_FORMAT);
        diag_help(ctx, "build it again with this version of tilegen, or use the newer tilerun");
        return NULL;
    }
    Bundle *bundle = ARENA_NEW(ctx->arena, Bundle);
    bool damaged = format == 0 || count > MAX_SECTIONS || HEADER + count * ENTRY > length;
    for (uint64_t i = 0; !damaged && i < count; i++) {
        const uint8_t *entry = data + HEADER + i * ENTRY;
        uint64_t offset = get(entry + NAME, 8), size = get(entry + NAME + 8, 8);
        char sha[65];
        damaged = offset > length || size > length - offset || entry[NAME - 1] != 0;
        if (damaged) break;
        sha256_hex_of(data + offset, (size_t)size, sha);
        damaged = memcmp(sha, entry + NAME + 16, 64) != 0;
        // Sections are read as texts too: the copy ends with a zero byte.
        bundle->sections[bundle->count++] =
            (Section){arena_text(ctx->arena, (const char *)entry), arena_copy(ctx->arena, data + offset, (size_t)size),
                      (size_t)size};
    }
    if (!damaged) return bundle;
    diag_error(ctx, E0433, span, "the bundle is damaged: its table or a hash does not hold");
    diag_help(ctx, "build it again");
    return NULL;
}

const Section *bundle_section(const Bundle *bundle, const char *name) {
    for (int i = 0; i < bundle->count; i++)
        if (strcmp(bundle->sections[i].name, name) == 0) return &bundle->sections[i];
    return NULL;
}
