// What the files of diff share. Private to them and to its tests.
#ifndef TILERUN_DIFF_PARTS_H
#define TILERUN_DIFF_PARTS_H
#include "diff.h"
#include "ops.h"

typedef enum NumberKind { NUMBER_F32, NUMBER_BF16, NUMBER_INT } NumberKind;
typedef enum Tie {
    TIE_NONE,
    TIE_OF_VALUE, // may differ where the value before it agrees within tolerance
    TIE_NEAR      // may differ: the scores behind it are nearly equal
} Tie;

// Numbers of one row that lie side by side on the host, and on the device too or, `in_blocks`, as abi.h has rows of
// inputs.
typedef struct Patch {
    const uint8_t *device; // of the first number; in_blocks: of the row
    void *host;
    size_t device_step, host_step; // bytes from one to the next
    NumberKind device_kind, host_kind;
    int count;
    int channel, slot; // numbers of one channel and slot are alike in size; slot: row of the round
    const char *of;    // buffer, or what of it
    int key, row, col; // of the first; key, or kv head of a cache, or -1; row, or position in a cache
    Tie tie;
    bool in_blocks; // `col` is an input
    bool in_eights; // of a key: eights of a chunk's positions lie between (abi.h, CACHES)
    bool look_only; // `host` is a copy: nothing is taken over
} Patch;
typedef LIST(Patch) Patches;

enum { CHANNELS = 4 };
typedef struct Scales { // sums of squares of the host's values of a whole step, and how many
    double sum[CHANNELS][MAX_ROWS], count[CHANNELS][MAX_ROWS];
} Scales;

typedef struct DeviceCache { // of one layer
    int layer;               // -1: none
    uint32_t capacity, mask;
    size_t k_bytes, v_bytes;
    uint8_t *k, *v;
} DeviceCache;

typedef struct Diff {
    Ctx *ctx;
    const Compiled *c;
    const Prog *prog;
    const Model *model;
    const KernelSteps *steps;
    Engine *engine;
    Rank *rank; // the engine's only one
    const DiffDevice *device;
    const DiffOptions *options;
    DiffReport *report;
    uint8_t *slab, *slab_before; // after the step at hand, and after the one before it
    float *x_before, *dx_before; // the host's, before the step at hand
    bool use_before;             // patches of x and dx are of before the step
    DeviceCache cache;           // of the newest request
    bool prompt;                 // the round at hand is the prompt's
    int start, rows;
    int instance, step, layer;
    Exit code;
} Diff;

// diff_patches.c: where what a region names lies on both machines, in the arena. `key` stands for INDEX_KEY. An empty
// list where nothing of it is to be compared (state).
void region_patches(Diff *d, const Region *region, int key, Patches *out);
// Reads the cache of a layer back unless it is there.
const DeviceCache *device_cache(Diff *d, int layer);
// The positions [from, to) of a layer's cache, all kv heads.
void cache_patches(Diff *d, bool drafter, int layer, int head_lo, int head_hi, int from, int to, Patches *out);
// NULL, or what cannot be of the device's routes.
const char *routes_fault(Diff *d);
void routes_take(Diff *d);
const char *region_text(Diff *d, const Region *region, int key);

// diff_compare.c
typedef struct Finding { // of a task, or several
    double ratio;        // of the worst element: difference over tolerance; above 1: it differs
    double error, norm;  // sums of squares of differences and of the host's values
    double device, host, tolerance;
    Patch patch; // of the worst element, and which it is
    int element;
} Finding;
void patches_scale(const Patches *patches, Scales *scales);
// Near ties are added to the report.
void patches_compare(Diff *d, OpId op, const Patches *patches, const Scales *scales, Finding *finding);
const char *finding_place(Ctx *ctx, const Finding *finding);
void patches_take(const Patches *patches);
DiffDigest patches_digest(const Patches *patches, bool of_device);
#endif
