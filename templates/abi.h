// abi: what the engine kernel shares with the host programs that feed it: the layout of packed weights, caches, tables,
// mailbox and ring. Plain C11 and CUDA C++; little endian; only fixed-size fields, and no padding that matters.
//
// PACKED WEIGHTS. y = W x is cut in strips of 16 rows and blocks of 128 inputs. A matrix is its strips in order, a
// strip its blocks in order, so a tile of rows is one run of bytes, whatever the tile. Rows and inputs past the matrix
// are zero. A block is the A operand of eight m16n8k16 products as 32 lanes read it, 16 bytes a lane at a time. Lane 4g
// + t holds rows g and g + 8, and of the block's inputs 32t .. 32t + 31 (the order of k is free as long as both
// operands share it); product s of the eight takes inputs 32t + 4s .. 32t + 4s + 3.
//   bf16   4096 bytes: [s 8][lane 32] { row g inputs 0,1 | row g+8 inputs 0,1 | row g inputs 2,3 | row g+8 inputs 2,3 }
//   fp8    2064 bytes: [u 4][lane 32] { row g inputs 8u..8u+3, 8u+4..8u+7 | row g+8 likewise }, a word each, then two
//          floats: the factors of rows 0-7 and of rows 8-15 for this block, then 8 zero bytes
//   mxfp4  1088 bytes: [half 2][lane 32] { 4 words, word j the codes of inputs 8j..8j+7 of row g + 8 half }, then
//          [lane 32] { u16: u + 126 of row g in the low byte, of row g + 8 in the high byte }, u the E8M0 byte, at most
//          128. In a word the code of input i = 2p + h has its sign, two exponent bits and mantissa bit at bits 16h +
//          {15,8,7,6}, {12,5,4,3}, {9,2,1,0} or {11,10,14,13}, for p from 0 to 3.
//   f32    8192 bytes: two blocks of bf16: the values, and what is left of them
// A matrix pair (gate, up) is packed as one: rows 0-7 of strip n are gate rows 8n .. 8n+7, rows 8-15 the same up rows.
//
// ACTIVATIONS. A row of inputs of a matrix (x, dx, attn, dattn, act, dact, eact, taps, c) is padded to whole blocks of
// 128 inputs, and lies so that four lanes read 64 bytes side by side: of a block, input 32t + 8i + e of bf16 (e < 8) at
// place 32i + 8t + e; input 32t + 4i + e of float (e < 4) at place 16i + 4t + e. Other rows lie in order.
//
// CACHES. Of a layer, bf16: k [kv_heads][capacity / 64][KEY_DIM(qk_dim) / 8][64 positions][8 dims], padded by zeros;
// v [kv_heads][capacity / 8][v_dim][8 positions]. So a chunk of 64 positions is one run of bytes, and in it eight
// positions by eight dims of a key, or eight dims by eight positions of a value, are 128 bytes side by side, as
// products of a warpgroup want them in shared memory. Position p lies at p & mask.
#ifndef TILEGEN_ABI_H
#define TILEGEN_ABI_H
#ifdef __CUDACC_RTC__
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#else
#include <stdint.h>
#endif

enum {
    ENGINE_ABI = 6,   // of everything here; part of the tables' header
    ENGINE_ROWS = 8,  // columns of a product: the rows of a round
    STRIP_ROWS = 16,  // rows of a strip
    BLOCK_K = 128,    // inputs of a block
    KEY_CHUNK = 64,   // positions of a chunk of keys
    MXFP4_BIAS = 126, // packed scale byte = E8M0 byte + this
    BF16_BLOCK = 4096,
    FP8_BLOCK = 2064,
    MXFP4_BLOCK = 1088,
    F32_BLOCK = 8192,
    ENGINE_RANKS = 8,
    ENGINE_STOPS = 16,
    COUNTER_STRIDE = 32, // words from counter group to counter group: a line each, or they would be in each other's way
    ENGINE_GATES = 8,    // rounds that a slow worker may be behind before their state is overwritten
    POOL_STEPS = 4,      // steps of a pool
    ENGINE_THREADS = 512,       // load group 4 warps, compute 8, control 4
    ENGINE_SHARED_FIXED = 45056 // shared memory beside the pages, at most
};
#define KEY_DIM(qk_dim) (((qk_dim) + 31) / 32 * 32)

// The place of a number in the caches of a layer: of kv head `kv`, place `at` of its `capacity`, dim d.
#ifdef __CUDACC_RTC__
#define ABI_FUNCTION static __device__ __forceinline__
#else
#define ABI_FUNCTION static inline
#endif
ABI_FUNCTION uint64_t key_place(uint32_t capacity, uint32_t key_dim, uint32_t kv, uint32_t at, uint32_t d) {
    return ((uint64_t)kv * capacity + at / KEY_CHUNK * KEY_CHUNK) * key_dim + d / 8 * (KEY_CHUNK * 8) +
           at % KEY_CHUNK * 8 + d % 8;
}
ABI_FUNCTION uint64_t value_place(uint32_t capacity, uint32_t v_dim, uint32_t kv, uint32_t at, uint32_t d) {
    return ((uint64_t)kv * capacity + at / 8 * 8) * v_dim + d * 8 + at % 8;
}

// Weights of a layer by slot: device addresses. Those after SLOT_LAYER belong to the whole model and stand in every
// table.
enum {
    SLOT_QKV,         // packed; the fused rows of this rank in the checkpoint's order
    SLOT_O,           // packed
    SLOT_UP,          // packed pair: dense MLP or the drafter's
    SLOT_DOWN,        // packed
    SLOT_ROUTER,      // packed f32 or bf16
    SLOT_EXPERT_UP,   // packed pairs, expert after expert
    SLOT_EXPERT_DOWN, // packed, expert after expert
    SLOT_INPUT_NORM,  // bf16 [hidden]
    SLOT_POST_NORM,   // bf16 [hidden]
    SLOT_SINK,        // f32 [query heads of this rank]
    SLOT_Q_NORM,      // bf16 [qk_dim]
    SLOT_K_NORM,      // bf16 [qk_dim]
    SLOT_ROUTER_BIAS, // f32 [experts]
    SLOT_LAYER,
    SLOT_EMBED = SLOT_LAYER, // bf16 [vocab][hidden], as published
    SLOT_HEAD,               // packed, this rank's rows
    SLOT_NORM,               // bf16 [hidden], before the head
    SLOT_FC,                 // packed, this rank's rows
    SLOT_HIDDEN_NORM,        // bf16 [hidden]
    SLOT_DRAFT_NORM,         // bf16 [hidden]
    SLOT_MASK,               // bf16 [hidden], the mask embedding
    SLOT_COUNT
};

// One a layer of the target, then one a layer of the drafter, then one for the ends of the round. Absent: 0.
typedef struct EngineLayer {
    uint64_t weight[SLOT_COUNT];
    uint64_t k, v;     // cache
    uint32_t mask;     // of positions: capacity - 1 for a ring, all ones where every position is kept
    uint32_t capacity; // positions, a multiple of KEY_CHUNK
} EngineLayer;

// ---- The bundle's section "tasks": this header, then arrays at byte offsets from the section's start. ----

enum { TABLES_MAGIC = 0x4B534154 }; // "TASK"
typedef struct EngineTables {
    uint32_t magic, abi, size;
    uint32_t workers, instances, bodies, groups, layers; // layers: EngineLayers that instances point to
    uint32_t instance_at, queue_at, entry_at, wait_at, signal_at, pool_at, credit_at, prefix_at, total_at;
    uint32_t entry_count, wait_count, signal_count, pool_count;
    uint32_t counter_at; // in the slab: a uint32 every COUNTER_STRIDE words
    uint32_t logits_at;  // in the slab: float [ranks][rows][vocab / ranks]
    uint64_t slab_bytes; // buffers and counters of a rank; zero at first
} EngineTables;

typedef struct EngineInstance {
    uint16_t body, layer; // layer: of the target or the drafter
    uint16_t table;       // EngineLayer
    uint8_t segment;      // Segment of prog.h
    uint8_t tap;          // 1 + index of the drafter's tap after this layer, or 0
} EngineInstance;

typedef struct EngineQueue {
    uint32_t first, count; // entries; [bodies][workers][3 roles]
} EngineQueue;

enum {
    ENGINE_TASK,
    ENGINE_LOAD,
    ENGINE_POOL,
    ENGINE_KEYS, // a load of keys and values
    ENGINE_EARLY // a task that begins when all before it on its worker have: it sees by its inputs that they are there
};
typedef struct EngineEntry {
    uint16_t step;      // of the kernel's table of steps
    uint8_t kind, page; // page: the first one; of a pool: 1 where the worker chooses the experts itself
    int32_t lo, hi;
    uint16_t part, chunks;
    uint32_t wait, signal; // first
    uint16_t wait_count, signal_count;
    uint16_t pool, body_step; // body_step: index in its body
} EngineEntry;                // 32 bytes

enum { GROUP_MASK = 0x1FFFFFF, GROUP_ALL_RANKS = 1 << 25, GROUP_TOKEN = 1 << 26, LAG_SHIFT = 25 };
#define GROUP_KEY 0x80000000u
typedef struct EngineWait {
    uint32_t group; // group | lag << LAG_SHIFT (6 bits) | GROUP_KEY
    int32_t need;
} EngineWait;
typedef struct EngineSignal {
    uint32_t group; // group | GROUP_KEY | GROUP_TOKEN | GROUP_ALL_RANKS
    uint32_t amount;
} EngineSignal;

typedef struct EnginePool {
    uint32_t keys, top, item, items; // templates: entries [item, item + items), one a step, its first tile
    uint32_t participants, dynamic;
    uint32_t chunks;
    uint32_t credit, credits; // what the publisher signals for keys that are not active: EngineSignals; a plain group's
                              // amount is for each inactive key, GROUP_KEY's for each inactive key's own group,
                              // GROUP_TOKEN's for each row that the round lacks
    uint32_t publisher;       // kernel step
} EnginePool;

// ---- What runs ----

typedef struct EngineRequest {
    uint32_t prompt; // tokens in the prompt buffer
    uint32_t limit;  // tokens to emit at most, at least 1
    uint32_t flags;  // REQUEST_*
    float temperature, top_p;
    int32_t top_k;
    uint64_t seed;
    uint32_t stop_count;
    int32_t stops[ENGINE_STOPS];
    uint32_t start; // position of the first prompt token (bench: the caches before it are as they are)
    uint32_t halt_instance, halt_body_step; // REQUEST_HALT: tasks after this step of this instance do nothing
    uint32_t accept_seed;                   // REQUEST_ACCEPT: accepted lengths are drawn, see accept.cuh
    float accept_mean;
} EngineRequest;
enum {
    REQUEST_DRAFT = 1,
    REQUEST_HOLD = 2, // after each round the engine waits until the host has acknowledged it
    REQUEST_HALT = 4,
    REQUEST_ACCEPT = 8,
};

// Host memory that the device reads. The host writes a request, then its number, then nothing of it until it is over.
typedef struct EngineMailbox {
    volatile uint32_t request; // number of the newest request; 0: none yet
    volatile uint32_t cancel;  // number of a request to give up
    volatile uint32_t taken;   // ring entries that the host has read
    volatile uint32_t stop;    // 1: leave the kernel when idle
    volatile uint32_t abort;   // 1: leave the kernel at once
    uint32_t pad[11];
    EngineRequest body;
} EngineMailbox;

// Host memory that the device writes: one entry a round. `number` is written last; it counts from 1.
typedef struct EngineRound {
    volatile uint32_t number;
    uint32_t flags;       // ROUND_*
    uint32_t start, rows; // of the round
    uint32_t accepted, count;
    int32_t tokens[ENGINE_ROWS]; // the tokens that the round emits, cut at the first end token and at the limit
    uint64_t nanoseconds;        // the GPU's clock at the end of the round
} EngineRound;                   // 64 bytes
enum {
    ROUND_LAST = 1,   // of its request
    ROUND_PROMPT = 2, // a block of the prompt
    ROUND_ENDED = 4,  // by an end token
    ROUND_CANCELLED = 8,
    ROUND_DRAFTED = 16,
};

// Who waited for what when the engine gave up: a record a warp of each worker. Host memory, zero at first; `kind` is
// written last.
enum { REPORT_RECORDS = 4096 };
enum {
    WAITER_COUNTER = 1,
    WAITER_RING,
    WAITER_GATE,
    WAITER_RANK,   // for the word of rank `group` of the round before (EngineMeeting)
    WAITER_DIGEST, // does not wait: of the round before this rank has the digest `want`, rank `group` has `have`
};
typedef struct EngineReport {
    volatile uint32_t kind;
    uint32_t worker, role, instance, step, lo, hi; // role: Role of roles.def; step: body_step
    uint32_t group, want, have;                    // of a counter
    uint32_t round, timed_out;                     // timed_out: the one that raised the alarm
} EngineReport;

// In the device's memory, zero at first.
typedef struct EngineState {
    int32_t start, rows, anchor;
    uint32_t given;    // a bit for each row of the target whose token stands in `tokens`: all in a block of the prompt,
                       // and the drafts where these are drawn
    uint32_t drafting; // the request drafts
    uint32_t logits;   // somebody reads them: they are drawn from, or the host asks for them
    int32_t tokens[ENGINE_ROWS];
    float temperature, top_p;
    int32_t top_k;
    uint64_t seed;
    uint32_t halt, halt_instance, halt_step;
} EngineState;

// Several ranks: behind the buffers of each rank's slab, where its peers write. Zero at first.
typedef struct EngineMeeting {
    // Of round r at r mod 2, a rank each: (r + 1) << 32 | digest of what the round came to << 1 | whether the request
    // is to be given up, which rank 0 says. Looked at when the next round ends.
    uint64_t word[2][ENGINE_RANKS];
    uint32_t abort[32]; // the first: all are to end
    uint32_t greeting;  // while opening: 1 + rank
    uint32_t pad[31];
} EngineMeeting;

// One a task of a worker: nanoseconds of the GPU's clock. `step`: body_step, and above 16 bits the tiles that it is,
// less one.
typedef struct EngineTrace {
    uint32_t instance, step;
    uint64_t posted, ready, begun, ended;
} EngineTrace;

typedef struct EngineParams {
    uint64_t tables, layers, slab;
    uint64_t peers[ENGINE_RANKS]; // slabs of all ranks, this one's included
    uint64_t state;               // EngineState [ENGINE_GATES]: of round r at r mod ENGINE_GATES
    uint64_t
        gate; // uint64 [ENGINE_GATES + 1]: of round r at r mod ENGINE_GATES (r + 1) << 8 | flags; then whether to end
    uint64_t abort;                     // uint32 in device memory, of several ranks in the slab
    uint64_t meeting;                   // EngineMeeting in the slab; 0: the ranks are not there, or there is one
    uint64_t claims, exits;             // uint32 an instance
    uint64_t mailbox, ring, report;     // host memory
    uint64_t prompt_host, prompt;       // int32 tokens: host memory, and the device's copy
    uint64_t rope_high[3], rope_low[3]; // double2 (cos, sin): [position / 256][rotary / 2], [position % 256][rotary /
                                        // 2]; full, window, drafter
    uint64_t trace;                     // EngineTrace [workers][trace_room], or 0
    uint32_t trace_room;
    uint32_t rank, context, ring_size; // ring_size: a power of two
    uint32_t timeout_ms;               // a wait longer than this is a hang
} EngineParams;
enum { ROPE_LOW = 256 };

// ---- The graph arm (graph.cuh): a launch of GRAPH_KERNEL runs a node, some steps of some instances ----

enum { NODE_INSTANCES = 4, NODE_STEPS = 16, NODE_LINES = 8, NODE_SERVING = 256 };
typedef struct EngineNode {
    EngineParams params; // its `tables` is where the offsets below count from; `claims` has a word a pool of the node's
                         // tables: first those of the bundle, then POOL_STEPS of each, a step's own
    EngineTables tables; // of the node alone: its instances and their queues; entries neither wait nor signal. An entry
                         // of a pool has lo = 1 where the kernel before may still be routing
    EngineInstance instances[NODE_INSTANCES]; // body: among the node's queues; layer: number in the round
    uint64_t serving;                         // device memory, NODE_SERVING bytes, zero at first
    uint32_t flags, skips;                    // NODE_*; GATE_SKIP_* of the round
    // What a block asks for at once when it begins, since it will need it: a chain of loads would take as long as a
    // step. Entries: worker w's are those from entry + w * entries on.
    uint32_t entry, entries;
    uint32_t step_count, line_count;
    uint16_t step[NODE_STEPS]; // of the kernel's table
    uint32_t line[NODE_LINES]; // 32 bytes each, offsets as in `tables`
} EngineNode;
enum {
    NODE_FIRST = 1,  // of a round: its state is new
    NODE_TAKE = 2,   // takes the request in the mailbox, and does nothing else; one block
    NODE_CACHES = 4, // reads what earlier rounds left in the caches
};

// ---- Weights and caches at random, made on the GPU: one launch of the kernel FILL_KERNEL a segment ----

enum {
    FILL_BF16, // packed, by dtype
    FILL_FP8,
    FILL_MXFP4,
    FILL_F32,
    FILL_HALVES, // rows of bf16, and of float, one after the other
    FILL_FLOATS,
    FILL_THREADS = 256,
};
typedef struct EngineFill {
    uint64_t at, quads;      // device address; 16 bytes each
    uint64_t key;            // of the random numbers, which depend on it and on a value's place alone
    uint32_t kind;           // FILL_*
    uint32_t rows, cols;     // packed: outputs and inputs of a matrix; else rows, and values a row that are not zero
    uint32_t strips, blocks; // packed: strips of a matrix, blocks of a strip
    uint32_t pairs;          // packed: gate and up share strips
    uint32_t pitch;          // else: values a row, the padding included
    uint32_t scale, upper;   // mxfp4: E8M0 byte; it is one more in `upper` of 2^24 cases
    float mean, std;         // fp8: std 1 is that of the codes
} EngineFill;

// ---- The memory's streaming rate: one launch of STREAM_KERNEL reads all of a range, a block an SM ----

enum { STREAM_CHUNK = 32768, STREAM_STAGES = 6, STREAM_THREADS = 32 }; // 192 KB on their way an SM
typedef struct EngineStream {
    uint64_t at, chunks; // of STREAM_CHUNK bytes
} EngineStream;
enum { GATE_SKIP_DRAFT = 1, GATE_SKIP_CONTEXT = 2, GATE_EXIT = 4 };
#endif
