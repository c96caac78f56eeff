// A small Prog unrolled for some rounds and one outcome of routing: agents (queues) that go from event to event.
// Private to the interleaver.
#ifndef MACHINE_H
#define MACHINE_H
#include "prog.h"

enum { MACHINE_AGENTS = 32, MACHINE_NODES = 512, MACHINE_CELLS = 512, SET_WORDS = MACHINE_CELLS / 64 };

// What chance decides in one round.
typedef struct Outcome {
    int rows;     // in the round
    bool skipped; // its draft instances
} Outcome;
typedef struct Routed { // one pool instance
    int active;
    unsigned chosen[8]; // a row: set of keys
} Routed;

typedef struct Need { // counter (of a rank's group) has reached
    int counter;
    int64_t value;
} Need;
typedef struct Add {
    int counter, amount;
} Add;
typedef struct Cell { // and the version that it must hold at the start
    int cell, version;
} Cell;

// One execution of a task or item.
typedef struct Node {
    int instance, rank, step, key;
    const Task *task;
    const Body *body;
    Need *needs;
    Add *adds;
    Cell *reads, *writes;
    int need_count, add_count, read_count, write_count;
    uint64_t read_set[SET_WORDS], write_set[SET_WORDS];
    uint64_t before[MACHINE_NODES / 64]; // nodes that must have ended when this one starts
    int stamp;                           // version that it writes
    int content;                         // of its first chunk
} Node;

// The items of one pool instance on one rank, in claim order.
typedef struct Run {
    const Pool *pool;
    int *nodes, total, publisher, owner_at; // owner_at: of its first item in the state
    int *participant, participants;         // [workers]: number, or -1
    int *loader_slot;                       // [workers]: slot of the load queue's entry, or -1
} Run;

typedef struct Slot {
    EntryKind kind;
    int node, content; // task; load: content of its first chunk
    int chunks;        // in pages
    const Task *task;
    Run *run;
    Need *needs; // of a pool entry
    int need_count;
} Slot;

typedef struct Agent {
    int rank, worker;
    Role role;
    Slot *slots;
    int count;
} Agent;

typedef struct Machine {
    const Prog *prog;
    Agent agents[MACHINE_AGENTS];
    int agent_count;
    Node *nodes;
    int node_count;
    Run *runs;
    int run_count;
    int counters, cells, pages, owners; // sizes of the state's parts
    size_t key_size, size;              // of a state: bytes of the key, of all
    size_t counters_at, versions_at, pages_at, status_at;
    bool quiet_first; // quiet events commute with all others
    char why[240];    // what went wrong
} Machine;

// A state is `size` bytes; the first `key_size` of them tell states apart, the rest follows from them.
typedef uint8_t State;

typedef enum Event {
    EVENT_NONE,  // blocked, or at the end of the queue
    EVENT_QUIET, // fill or use of a chunk, static claim, end of a pool entry: no other agent can prevent it or sees it
    EVENT_CLAIM, // of the next dynamic item
    EVENT_START,
    EVENT_END
} Event;

typedef enum Status { STATUS_WAITING, STATUS_RUNNING, STATUS_ENDED } Status;

// False when something is wrong whatever the order (m->why), or too big (m->why empty).
bool machine_make(Ctx *ctx, Machine *m, const Prog *prog, int rounds, const Outcome *outcomes, const Routed *routed,
                  bool skip_context);
void machine_start(const Machine *m, State *state);
// The next event of an agent, and the node that starts or ends by it.
Event machine_next(const Machine *m, const State *state, int agent, int *node);
// Makes it happen. False when that is wrong (m->why); with `strict` versions and overlaps are looked at.
bool machine_step(Machine *m, State *state, int agent, bool strict);
// All queues are through and every task and item has run; else false with m->why.
bool machine_done(Machine *m, const State *state);
Status machine_status(const Machine *m, const State *state, int node);
#endif
