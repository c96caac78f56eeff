// steps: the table of steps that tilegen emits into a kernel: what the tasks of one step of one body have in common.
// Plain C11 and CUDA C++.
#ifndef TILEGEN_STEPS_H
#define TILEGEN_STEPS_H
#include "abi.h"

// Op bodies. Linear ops of one dtype share a body; what they do with their sums is the finishers' (Finish).
enum Op {
    RUN_LINEAR_BF16,
    RUN_LINEAR_FP8,
    RUN_LINEAR_MXFP4,
    RUN_LINEAR_F32,
    RUN_EMBED, // and draft_embed
    RUN_ATTEND,
    RUN_ATTEND_CHUNKS, // its keys and values come through pages
    RUN_ATTEND_DRAFT,
    RUN_KEEP, // append and context_append: keys and values into a cache
    RUN_JOIN, // merge; `parts` are of the rows
    RUN_ROUTE_ROWS,
    RUN_COMBINE_ROWS,
    RUN_SUM_EXPERTS,
    RUN_SUM_RANKS, // reduce
    RUN_PUSH_TILE,
    RUN_CHOOSE, // draft_pick and sample
    RUN_ACCEPT_ROUND,
    RUN_LEAVE, // the kernel's end
};
// What a warp holds of its inputs in registers at most: quarters of blocks in float (8 warps x 4 x 32 = 1024 inputs),
// blocks in bf16 (8 x 6 x 128 = 6144 inputs).
enum { MOST_HELD_QUARTERS = 4, MOST_HELD_BLOCKS = 6 };
// Pages of a worker at most: a parity bit each in a word that has another.
enum { MOST_PAGES = 31 };
// experts_sum: blocks of an expert's inputs at most, and bytes of its outputs, before they are summed.
enum { MOST_SUM_BLOCKS = 2, SUM_ROOM = 16384 };
enum Finish {
    FINISH_STORE,       // as activations are kept
    FINISH_STORE_INPUT, // the same, as inputs of a matrix lie
    FINISH_RESIDUAL,    // added to what is there, bf16, and into the drafter's tap
    FINISH_F32,         // float: scores
    FINISH_SCORES,    // float, of a part of the inputs, and the sum of the rows' squares; the norm's factor comes later
    FINISH_PUSH,      // float: partial sums, into this rank's slab of every rank's inbox
    FINISH_SWIGLU,    // gate in rows 0-7, up in rows 8-15
    FINISH_EXPERT_UP, // the same for the rows that chose the expert
    FINISH_EXPERT_DOWN, // float, for the rows that chose the expert
    FINISH_LOGITS,      // float, and the best token of each strip
    FINISH_BEST,        // the best token of each strip
};

enum { SITE_OF_FC = 6 }; // SITE_FC of prog.h: what is pushed are inputs of a matrix

// Offsets and sizes in bytes; offsets are those of the slab.
typedef struct EngineStep {
    uint32_t op, finish;
    uint32_t kind; // attention: 0 full, 1 window, 2 drafter. choose: 0 sample, 2 draft. embed: likewise
    uint32_t k, blocks, warps_k;
    uint32_t run, warp_runs; // units of a run, runs of a warp at most: see geometry.h
    uint32_t direct;         // the compute warps themselves store what a strip comes to
    uint32_t input;          // kernel step that reads the same inputs with the same norm: itself, or one before it
    uint32_t chunk_blocks, chunks_of_strip, strips_of_chunk;
    // Where every warp has whole runs, and as many: from one of its runs to the next, chunks and bytes within a chunk;
    // and the chunk of its first one, four bits a warp.
    uint32_t regular, run_chunks, run_bytes, first_chunks;
    uint32_t stream; // a pool's tiles go through as they come, without an instruction each: linear.cuh
    uint32_t strip_outputs, first_strip;     // first_strip: of the slot's matrix, where output 0 lies
    uint32_t slot, norm_slot;                // SLOT_COUNT: none
    uint32_t item_bytes;                     // an expert's share of its slot
    uint32_t parts;                          // of a strip's inputs: `k`, `blocks` and `strip_bytes` are of one
    uint32_t in, in_row, in_slab_k, in_slab; // inputs, in slabs of in_slab_k a row (0: in one piece)
    uint32_t in_item;                        // a key's share of the inputs
    uint32_t out, out_row, out_item;         // out_item: of a key, or of a rank's slab of an inbox
    uint32_t outputs;                        // of the op on this rank
    uint32_t best;                           // where best tokens go, or come from
    uint32_t chunk_bytes, strip_bytes, block_bytes;
    uint32_t taps; // a residual that the drafter may listen to
    uint32_t pool; // 1 + index of the pool that the step publishes, or 0
    uint32_t site; // push, reduce: Site of prog.h
    // attention: of this rank; a chunk of the fused rows is [Q | K | V]
    uint32_t heads, kv_heads, chunk_heads, chunk_kv, chunk_rows, window, causal, split;
    float value_scale;
    float eps, alpha, limit;
} EngineStep;
#endif
