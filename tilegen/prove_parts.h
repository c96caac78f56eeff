// What the parts of prove share. The words:
//
//   instance    one pass over a body in the two rounds that are laid out; `occurrence` counts those of its body
//   node        an entry of a compute or control queue, the end of a pool entry, or a pool item for a symbolic key,
//               of one body; a node of an instance is an event
//   group       a counter's group that some signal or wait names. Groups `[key]` stand for one of the symbolic keys,
//               groups `[token]` for any one row
//   group step  all signals of one step of a body to one group; a mark is a group step of an instance
//   clock       what an event knows to be over when it starts, `parts * width` ticks: a part for its own rank and, when
//               there are several, one for each other rank. Ranks hold the same Prog and differ by number alone, so a
//               clock is the same for every rank and knows the same of every other rank: two parts do for any number.
//
// Ticks. Of a queue: entry n (over all instances) ended 2n + 1, and all its signals done 2n + 2. Of an item for a key:
// o + 1 says that up to occurrence o it has ended or its key was not active. Of a group (a `known` tick): that many
// marks have been delivered.
#ifndef TILEGEN_PROVE_PARTS_H
#define TILEGEN_PROVE_PARTS_H
#include "prove.h"

typedef int32_t Tick;
enum {
    TICK_NEVER = INT32_MAX,
    KEYS_SHOWN = 2, // symbolic keys: any two keys differ by their number alone
    PROVE_ERRORS = 8,
    PROVE_INSTANCES_MAX = 8192,
    PROVE_EVENTS_MAX = 1 << 26,
    PROVE_CELLS_MAX = 1 << 24,
};

typedef enum NodeKind { NODE_TASK, NODE_POOL, NODE_POOL_END, NODE_ITEM } NodeKind;

// How a wait orders. WEAK: it may block, but nothing is concluded from it.
typedef enum WaitMode { WAIT_PLAIN, WAIT_OWN_KEY, WAIT_ALL_ROWS, WAIT_WEAK } WaitMode;
typedef struct WaitForm {
    int group, lag;
    int64_t need;
    WaitMode mode;
} WaitForm;

typedef struct Node {
    NodeKind kind;
    const Task *task; // pool entries: the entry's waits alone
    int pool, key;    // -1: none
    int worker;       // -1: any (items)
    Role role;
    int agent;
    int order;  // of its queue's entries in this body
    int before; // node before it in its queue, -1: first of the body
    bool multi; // more than one signal arrives somewhere, in an order that is not known
    WaitForm *waits;
    int wait_count, load_count; // those of the load queue's entry follow
    const Task *loader;         // pool entries: the load queue's entry for the same pool
} Node;

typedef enum MemberMode { MEMBER_TASK, MEMBER_KEY, MEMBER_EACH, MEMBER_TOKEN } MemberMode;
// A signal. Items: KEY to the group of their key, EACH for every key to the same group, TOKEN to rows; `node` is then
// the item of symbolic key 0 (KEY: of its own), and `publisher` credits what is not active.
typedef struct Member {
    int group, step, node, publisher;
    int64_t amount; // all ranks, all keys
    MemberMode mode;
    bool all_ranks;
} Member;

typedef struct GroupStep {
    int group, step;
    int64_t amount;
    Member *members;
    int count;
    int before; // group step before it of the same group, -1: none
} GroupStep;

typedef struct PoolForm {
    int publisher; // node, -1: not one task
    int keys;      // symbolic keys
    int agent;     // first item's first key
    int *starts;   // participants' entries
    int start_count;
    int *chain; // items in an order of claims
    int chain_count;
} PoolForm;

typedef struct BodyForm {
    Node *nodes;
    int node_count;
    GroupStep *steps;
    int step_count;
    PoolForm *pools;
    int *by_step; // tasks and items in the order of the sequential program
    int by_step_count;
    // What may block what, apart from waits: nodes, then group steps; `edges[edge_at[i]..edge_at[i + 1])` wait for i.
    int *edge_at, *edges, *indegree;
    struct Access *accesses; // prove_cells.c
    int *access_at;          // of a node, node_count + 1
    int occurrences;
    int *queue_count; // entries of an agent in this body
} BodyForm;

typedef struct Mark {
    int64_t sum; // of all signals to the group up to here
    int instance, step;
    int uses;
    Tick *joined, *strong; // clock of all signallers; strong: see prove_order.c
} Mark;

typedef struct Group {
    int counter, index; // index: of plain groups; symbolic key; 0 for rows
    Mark *marks;
    int count;
    int *upto;     // marks of the instances before i
    int known;     // its place in a clock, -1: none
    int64_t total; // a round's
    Tick *joined, *strong, *signalled, *fence;
    int strong_instance, fence_marks;
} Group;

typedef struct Instance {
    int body, layer, round, occurrence;
} Instance;

typedef enum CounterKind { COUNTER_PLAIN, COUNTER_KEY, COUNTER_TOKEN, COUNTER_BROKEN } CounterKind;

typedef struct Prove {
    Ctx *ctx;
    const Prog *prog;
    Arena *arena; // working memory, freed at the end
    bool quiet;   // prog_unordered
    size_t errors;
    bool failed;
    Instance *instances;
    int instance_count, round_instances;
    BodyForm *bodies;
    CounterKind *kinds;
    int *counter_keys; // keys of a COUNTER_KEY
    uint64_t *names;   // of groups, sorted: counter << 32 | index
    Group *groups;
    int group_count;
    int *queue_agent;                // worker * ROLE_COUNT + role, -1: unused
    int queue_agents, agents, parts; // agents: queues, then items
    size_t width;                    // ticks of one part, a multiple of 4
    int *queue_base;                 // entries of a queue before this instance
    Tick *clocks;                    // of this instance's nodes
    int *order;                      // of this instance's vertices
    struct Grid *grids;              // prove_cells.c
    Unordered first;                 // quiet: the first hazard
    Unordered overtaken;             // quiet: the first signal that may overtake
    struct Reported {
        DiagCode code;
        int a, b, c, d;
    } reported[PROVE_ERRORS]; // no pair is told twice
    int reported_count;
} Prove;

static inline Tick *node_clock(const Prove *p, int node) {
    return p->clocks + (size_t)node * (size_t)p->parts * p->width;
}
// What a group step is called in BodyForm's edges.
static inline int step_vertex(const BodyForm *form, int step) { return form->node_count + step; }
static inline Tick entry_ended(const Prove *p, const Node *node) {
    return 2 * (p->queue_base[node->agent] + node->order) + 1;
}

// prove_form.c. False: too large, or not placed.
bool prove_form(Prove *p, const Instance *instances, int count, int round_count);
// prove_marks.c: marks of all groups, uses of all waits. Reports thresholds that are never reached.
bool prove_marks(Prove *p);
// Marks that a wait is sure of (`sure`) and the mark it may block on (`last`, -1: none; of this instance at the
// latest).
typedef struct Bound {
    int sure, last;
    bool never;  // this and earlier instances do not reach it
    bool before; // it looks back before the first round, and may be left out there
} Bound;
Bound prove_bound(const Prove *p, int instance, const WaitForm *wait);
// prove_order.c: clocks of all events, signals that overtake, cycles; hands each instance to prove_cells.c.
bool prove_order(Prove *p);
// prove_cells.c
bool prove_grids(Prove *p);                 // false: too large
bool prove_hazards(Prove *p, int instance); // false: enough found
void prove_cover(Prove *p);                 // prove_cover.c

// prove_clock.c; `count` is a multiple of 4.
void clock_join(Tick *into, const Tick *from, size_t count);
void clock_meet(Tick *into, const Tick *from, size_t count);
// The first place from `from` on where `have` is less than `need`, -1: none.
ptrdiff_t clock_lacks(const Tick *have, const Tick *need, size_t from, size_t count);

// prove_say.c. Whether to say it: not quiet, not too many, not said of this pair before.
bool prove_fails(Prove *p, DiagCode code, int a, int b, int c, int d);
const char *prove_task(Prove *p, int body, const Node *node, int instance); // instance -1: leaves out the layer
const char *prove_step(const Prove *p, int body, int step);
const char *prove_group(Prove *p, int group);
const char *prove_region(Prove *p, const Region *region);
// The node and instance behind a tick of an agent.
const Node *prove_event(const Prove *p, int agent, Tick tick, int *body, int *instance);
Span prove_span(const Prove *p, int body, const Node *node);
#endif
