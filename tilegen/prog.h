// Prog: the round as tasks in queues, with counters and pages. One Prog, two executors.
//
// SHAPE. Every rank holds the same Prog (SPMD); a rank has `workers` workers, a worker has one queue a role and body.
// A body is a list of queues for one kind of layer (or for the ends of the round); the round is a list of
// (body, layer) instances and repeats without the host. Bodies loop over layers by tables: `layer` selects weights and
// the layered buffers. Instances run in order within each queue; nothing else orders them.
//
// MEANING. The sequential program is: for each instance of the round in order, for each step of its body in order, all
// tasks of the step (on every rank). A schedule is right when each read sees what that program would have it see.
//   Steps      Each step covers regions: its tasks write every element of them exactly once.
//   Reads      A task reads its regions at any time between its start and its end, and writes likewise.
//   Waits      A task starts when all of its waits hold and the entries before it in its queue have ended.
//              `c[g]>=n` holds when counter c, group g of this rank has reached base + n, where base is what all
//              signals of the instances before this one amount to (of the instance `lag` before this one when lag > 0;
//              when the first instance is nearer than that, it holds).
//              So n = 0 means: all earlier instances have signalled.
//   Signals    Happen after the task's end, release all its writes. `c[g]+n` on this rank, `c@all[g]+n` on each rank.
//   Pages      Shared memory of a worker. A task with pages p0,p1,... consumes its weights in that many chunks, chunk k
//   in
//              page pk. A load entry (in the load queue) of the same step, tile and part fills them: chunk k into pk,
//              waiting until every earlier use of that page is over. The task waits for chunk k when it comes to it,
//              and releases it before chunk k + 1. Loads stand in the order of their uses; they wait for nothing else.
//              `pages p0..`: what comes is not weights but what earlier rounds left (cached keys and values), in as
//              many chunks as the round's state says, none perhaps, which loader and task know alike. Chunk k is in
//              page p0 + k, round and round all pages. The host executor reads the caches where they lie.
//   Pools      Tasks whose number is known only after routing. The pool's step `publisher` decides which keys are
//   active:
//              keys 0..n-1 for some 1 <= n <= keys; each of the round's rows has `top` distinct active keys. An item is
//              a task template executed once for each active key; items are claimed in the order: step by step, in a
//              step key by key, in a key tile by tile. Every worker with a `pool` entry takes part: dynamic: the next
//              unclaimed item goes to whoever asks first; static: item i to participant i modulo their number. A worker
//              runs its items in claim order; its pool entry ends when no item is left to claim and its own have ended.
//              With pages, the load queue's pool entry claims and hands each item on to the compute queue in order; the
//              worker's items cycle through the pool's page range (`chunks` each), beginning at its first page.
//              Signals of items whose key is not active are credited by the publisher when it ends. Index `key` is the
//              item's key, and stands in whatever items write; a signal to `[token]` goes to the group of each row that
//              chose the key (rows not in the round are credited too). A region index `active` means all active keys.
//   Skipping   Draft instances are skipped in rounds that do not draft (prompt, --no-draft), context instances in
//   requests
//              that never do: their tasks do nothing, but wait and signal as ever. The same for rows that a round
//              lacks.
//
// Rules that prog_verify checks (shape) and prove establishes (order) are in prove.h.
#ifndef TILEGEN_PROG_H
#define TILEGEN_PROG_H
#include "schedule.h"

enum { REGION_RANK = 3, PROG_FILE_CAP = 256 << 20 };

typedef enum IndexKind {
    INDEX_RANGE,  // [lo, hi)
    INDEX_KEY,    // the pool item's key
    INDEX_TOKEN,  // signals of items: each row that chose the key
    INDEX_SELF,   // this rank's number
    INDEX_ACTIVE, // all active keys
} IndexKind;
typedef struct Index {
    IndexKind kind;
    int lo, hi;
} Index;

// A part of a buffer; at most one index is a key or all active keys, and one SELF. `all_ranks`: of the buffers of every
// rank (writes only). `all_layers`: every layer of a layered buffer; otherwise the instance's layer is meant. Buffers
// with fewer than 3 dimensions leave the last indexes 0:0.
typedef struct Region {
    int buffer;
    bool all_ranks, all_layers;
    Index at[REGION_RANK];
} Region;

typedef struct Buffer {
    const char *name;
    Dtype dtype;
    int rank, dims[REGION_RANK]; // in the units that regions speak of
    int layers;                  // > 0: layered, one a layer
    bool state; // keeps its contents from round to round: may be read before a round writes it; zero at first
} Buffer;

typedef struct Counter {
    const char *name;
    int groups;
    Via via; // data: readiness is carried in the data; each group then has one signal an instance of one producer
} Counter;

typedef struct Wait {
    int counter;
    Index group; // one group (lo, hi = lo + 1) or INDEX_KEY
    int lag, need;
} Wait;

typedef struct Signal {
    int counter;
    Index group; // one group, INDEX_KEY or INDEX_TOKEN
    int amount;
    bool all_ranks;
} Signal;

typedef struct Task {
    int step;   // of its body
    int lo, hi; // tile: outputs (heads, experts, rows, ...) [lo, hi) of the step
    int part;   // which part of a split; site of a push or reduce (Site)
    Region *reads, *writes;
    Wait *waits;
    Signal *signals;
    int *pages;
    bool ring; // its pages are one, the first: chunks go on from there, as many as the round's state says
    int read_count, write_count, wait_count, signal_count, page_count;
    Span span; // the schedule's op (lowered) or the text line (parsed)
} Task;

typedef enum EntryKind { ENTRY_TASK, ENTRY_LOAD, ENTRY_POOL } EntryKind;
typedef struct Entry {
    EntryKind kind;
    Task task; // task, load (step, lo, hi, part and pages alone), pool (waits alone)
    int pool;
} Entry;

typedef struct Pool {
    const char *name;
    int keys, top, publisher; // publisher: a step of the body before the items' steps
    Claim claim;
    int page_lo, page_hi, chunks; // chunks 0: no pages
    Task *items;                  // by step, then tile
    int item_count;
} Pool;

typedef struct Step {
    OpId op;
    Region *covers;
    int cover_count;
    Span span;
} Step;

typedef struct Queue {
    Entry *entries;
    int count, room;
} Queue;

typedef struct Body {
    const char *name;
    Step *steps;
    int step_count;
    Pool *pools;
    int pool_count;
    Queue *queues;  // [workers * ROLE_COUNT], worker-major; NULL before place
    Queue unplaced; // before place: tasks in step order, the pools as pool entries
} Body;

typedef enum Segment { SEGMENT_TARGET, SEGMENT_DRAFT, SEGMENT_CONTEXT } Segment;
typedef struct RoundItem {
    Segment segment; // see Skipping
    int body;
    int layer_lo, layer_hi; // one instance a layer; 0:1 where the body has no layer
} RoundItem;

// Where partial or sliced results meet between ranks: `part` of push and reduce.
typedef enum Site {
    SITE_ATTENTION,
    SITE_MLP,
    SITE_DRAFT_ATTENTION,
    SITE_DRAFT_MLP,
    SITE_HEAD,
    SITE_DRAFT_HEAD,
    SITE_FC
} Site;

typedef struct Prog {
    const char *model, *sku; // names
    int ranks, workers, rows;
    SchedRole roles[ROLE_COUNT];
    int page_count, page_bytes;
    Buffer *buffers;
    Counter *counters;
    Body *bodies;
    RoundItem *round;
    int buffer_count, counter_count, body_count, round_count;
    const Source *source; // when parsed
} Prog;

int prog_buffer(const Prog *prog, const char *name);  // -1: none
int prog_counter(const Prog *prog, const char *name); // -1: none
Queue *prog_queue(const Prog *prog, const Body *body, int worker, Role role);
// What all signals of one instance of `body` add to counter c, group g, of one rank.
int64_t prog_total(const Prog *prog, const Body *body, int counter, int group);
int prog_instances(const Prog *prog); // of one round
// Instance i of the round: its item and layer.
const RoundItem *prog_instance(const Prog *prog, int index, int *layer);

// Prints; prog_parse(prog_print(p)) prints the same bytes again.
char *prog_print(Ctx *ctx, const Prog *prog);
// Lines that begin with # are comments. NULL after reporting with file:line:col (E05xx). Accepts only what prog_verify
// accepts.
Prog *prog_parse(Ctx *ctx, Source *source);
// Every index in range, every name declared, ranges not empty and inside their buffers, queues only of used roles,
// loads only in load queues, pages in range, steps of tasks exist, pool publishers come first, ... False after
// reporting (E05xx).
bool prog_verify(Ctx *ctx, const Prog *prog);
// The Prog without one body's entry etc. is made by tests; this is a deep copy to work on.
Prog *prog_copy(Ctx *ctx, const Prog *prog);
#endif
