// A bundle for the driver without a GPU (fake_cuda.h): the Prog and tables of the demo model for the h200, and no real
// kernel.
#ifndef FAKE_BUNDLE_H
#define FAKE_BUNDLE_H
#include "fake_model.h"
#include "sha256.h"
#include "../templates/abi.h"

// Of the next bundle.
static uint32_t fake_abi = ENGINE_ABI;
static bool fake_without_kernel;
static int fake_ranks = 1;

static void fake_put(uint8_t *at, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) at[i] = (uint8_t)(value >> 8 * i);
}

static void fake_sections(Ctx *c, const char *path, const Section *sections, int count) {
    size_t at = 16 + (size_t)count * 104;
    uint8_t *out = arena_alloc(c->arena, 64 << 20);
    memcpy(out, "TILEBNDL", 8);
    fake_put(out + 8, BUNDLE_FORMAT, 4);
    fake_put(out + 12, (uint64_t)count, 4);
    for (int i = 0; i < count; i++) {
        uint8_t *entry = out + 16 + i * 104;
        char sha[65];
        at = (at + 63) / 64 * 64;
        sha256_hex_of(sections[i].data, sections[i].size, sha);
        memcpy(entry, sections[i].name, strlen(sections[i].name));
        fake_put(entry + 24, at, 8);
        fake_put(entry + 32, sections[i].size, 8);
        memcpy(entry + 40, sha, 64);
        memcpy(out + at, sections[i].data, sections[i].size);
        at += sections[i].size;
    }
    CHECK(file_write(c, path, out, at));
}

static void fake_body(Ctx *c, void *user) {
    Compiled *compiled = fake_compiled(c, fake_ranks);
    const char *prog = prog_print(c, compiled->prog);
    const void *tasks;
    size_t tasks_bytes;
    CHECK(tasks_encode(c, compiled, &tasks, &tasks_bytes));
    EngineTables *tables = arena_copy(c->arena, tasks, tasks_bytes);
    tables->abi = fake_abi;
    Section sections[] = {{"manifest", "{}", 2},
                          {"model", compiled->model->source->text, compiled->model->source->length},
                          {"prog", prog, strlen(prog)},
                          {"tasks", tables, tasks_bytes},
                          {"cubin", "cubin", 6}};
    fake_sections(c, user, sections, fake_without_kernel ? 4 : 5);
}

static void fake_bundle(const char *path) {
    Ctx *c = ctx_new((Env){0});
    char copy[1000];
    snprintf(copy, sizeof copy, "%s", path);
    CHECK(ctx_protect(c, fake_body, copy));
    diag_print(c, stderr, DIAG_TEXT);
    ctx_free(c);
}
#endif
