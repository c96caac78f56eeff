// Pack: a rank's weights as the GPU reads them (templates/abi.h), straight from the mapped checkpoint.
//
// A list of segments, one a weight, is the rank's one allocation in order: each segment begins at a multiple of
// PACK_ALIGN, and EngineLayer tables point at segments by (slot, table). A segment is units that can be made in any
// order by any thread: strips of 16 rows, rows of embeddings, whole vectors.
#ifndef TILERUN_PACK_H
#define TILERUN_PACK_H
#include "../templates/abi.h"
#include "views.h"

enum { PACK_ALIGN = 256, PACK_ALL_TABLES = -1 };

typedef enum PackKind {
    PACK_STACK,  // matrices one below the other, packed as one
    PACK_EACH,   // matrices packed one after the other
    PACK_PAIRS,  // pairs (gate, up) packed one after the other
    PACK_ROWS,   // rows of a bf16 matrix as they are
    PACK_HALVES, // a vector as bf16
    PACK_FLOATS, // a vector as f32
    PACK_BYTES,  // packed ahead of time
} PackKind;

typedef struct PackSegment {
    const char *name, *group; // "layer 3 qkv"; "experts"
    PackKind kind;
    int slot, table;        // SLOT_*; EngineLayer, or PACK_ALL_TABLES
    uint64_t offset, bytes; // in the rank's allocation
    uint64_t units;
    size_t unit_bytes;
    // What it is made of.
    Dtype dtype;
    const Matrix *a, *b; // [count]; b: the up matrices of pairs
    int count, rows;     // matrices; packed rows of each (of the stack: of all)
    uint64_t strips;     // of each
    const float *vector;
    const uint8_t *packed;
} PackSegment;

typedef struct PackList {
    PackSegment *at;
    size_t count, room;
    uint64_t bytes; // of the allocation
    int tables;     // EngineLayers: layers of the target, of the drafter, and one for the ends of the round
    size_t largest; // unit, bytes
} PackList;

// Where in the weights a value stands that the layout cannot hold.
typedef struct PackFault {
    const PackSegment *segment; // NULL: none
    int matrix, row, col, scale;
} PackFault;

// Every weight of a rank. False after reporting E0741, E0743 or E0744.
bool pack_list(Ctx *ctx, const Model *model, const Checkpoint *weights, int rank, int ranks, PackList *list);
// Units [first, first + count) of a segment, one after the other. A fault leaves the units as they are.
void pack_units(const PackSegment *segment, uint64_t first, uint64_t count, uint8_t *out, PackFault *fault);

// Runs through a list: each call packs as many whole units as `room` holds, with up to `threads` threads.
typedef struct PackCursor {
    size_t segment;
    uint64_t unit;
} PackCursor;
// The bytes from `*offset` of the allocation that were made; 0 at the end or after a fault. `room` is at least
// `largest` + PACK_ALIGN. With `one`, a call stays in one segment.
size_t pack_next(const PackList *list, PackCursor *cursor, bool one, uint8_t *out, size_t room, int threads,
                 uint64_t *offset, PackFault *fault);
// Reports E0742.
void pack_report(Ctx *ctx, const PackFault *fault);
#endif
