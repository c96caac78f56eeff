// Geometry: how the packed weights of an op (templates/abi.h) are cut for the pages and warps of a GPU worker. Depends
// on the model, the degree and the page size alone, so that no sum depends on tiles or workers.
#ifndef TILEGEN_GEOMETRY_H
#define TILEGEN_GEOMETRY_H
#include "plan.h"

typedef struct Geometry {
    Dtype dtype;
    int k, blocks;       // inputs of a row; blocks of a strip
    int block_bytes;     //
    int strip_outputs;   // outputs of the op's tile in a strip: 16, or 8 where gate and up share it
    int warps_k;         // compute warps that share a strip's inputs: 1, 2, 4 or 8
    int unit;            // quarters of a block that a warp takes at a time: 4, or 1 where activations are float
    int warp_units;      // units of such a warp, at most
    int run;             // units in a row that a warp takes: runs kw, kw + warps_k, kw + 2 warps_k ... of a strip
    bool direct;         // one warp has a strip's whole sums and stores them itself
    int chunk_blocks;    // blocks a chunk, when a strip is cut in several chunks
    int chunks_of_strip; // 1 when a strip fits into a page
    int strips_of_chunk; // 1 when it does not
} Geometry;

// Units of a run at most; a run lies in one chunk. 3 or 2, what divides a warp's share of the hidden size.
int geometry_run(const Plan *plan);
// False for ops without weights.
bool plan_geometry(const Plan *plan, OpId op, LayerAttention kind, Geometry *out);
// Bytes of shared memory that an attention task of `heads` query heads keeps its own rows in (Own of attention.cuh),
// and what there is.
int geometry_own_bytes(const Attention *attention, bool wide, int heads);
enum { GEOMETRY_OWN_ROOM = 32768 };
enum { PAGED_HEADS = 16 }; // query heads of a task whose keys and values come through pages
// Pages that a task of `outputs` outputs goes through.
int geometry_chunks(const Geometry *g, int outputs);
int geometry_strips(const Geometry *g, int outputs);
// Experts whose part of an experts_sum task fits into a page; at least 1.
int geometry_keys(const Plan *plan, const Geometry *g);
// Bytes of a packed block of 16 rows x 128 inputs.
int pack_block_bytes(Dtype dtype);
#endif
