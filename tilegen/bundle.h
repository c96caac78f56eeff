// Bundle: what `tilegen build` writes and tilerun runs. One file, little endian:
//
//   "TILEBNDL"  u32 format (1)  u32 sections
//   a section each: char name[24] (zero padded), u64 offset, u64 size, char sha256[64]
//   the sections, each at a multiple of 64: "manifest" (JSON), "model" (YAML), "prog" (text), and for a GPU "cubin"
//   and "tasks" (tasks.h)
//
// The same inputs give the same bytes: no times, no paths of the machine.
#ifndef TILEGEN_BUNDLE_H
#define TILEGEN_BUNDLE_H
#include "compile.h"

typedef struct Section {
    const char *name;
    const void *data;
    size_t size;
} Section;

typedef struct Bundle {
    Section sections[8];
    int count;
} Bundle;

enum { BUNDLE_FORMAT = 1, BUNDLE_FILE_CAP = 1 << 30 };

// The bytes of a compiled target's bundle. False after reporting.
bool bundle_encode(Ctx *ctx, const Compiled *compiled, const void **data, size_t *size);
// Encoded and written, staged and renamed. False after reporting.
bool bundle_write(Ctx *ctx, const Compiled *compiled, const char *path);
// Reads and checks magic, format, bounds and hashes. NULL after reporting (E0431..E0434).
Bundle *bundle_read(Ctx *ctx, const char *path);
// The same of a bundle's bytes; `name` is what diagnostics call it.
Bundle *bundle_decode(Ctx *ctx, const char *name, const void *data, size_t size);
// NULL when there is none of that name.
const Section *bundle_section(const Bundle *bundle, const char *name);
#endif
