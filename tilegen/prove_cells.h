// Buffers cut into cells, the finest parts that any region tells apart. Private to prove.
#ifndef TILEGEN_PROVE_CELLS_H
#define TILEGEN_PROVE_CELLS_H
#include "prove_parts.h"

// A region in cells. Index `self` is filled in for a rank.
typedef struct Access {
    const Region *region;
    int lo[REGION_RANK], hi[REGION_RANK];
    bool conditional; // of active keys alone
} Access;

typedef struct Cell {
    int writer, rank; // agent of the last task that writes it whatever is active, -1: none; its rank
    Tick tick;
    int round;     // of that write
    int chosen_at; // instance of the last item that wrote it, -1: none
    Tick *chosen;  // those items since, newest tick of each agent
    Tick *readers; // reads since, likewise
} Cell;

typedef struct Grid {
    int *cuts[REGION_RANK], counts[REGION_RANK]; // cell i of a dimension is [cuts[i], cuts[i + 1])
    bool keyed[REGION_RANK];                     // cells stand for symbolic keys
    bool ranked;                                 // ranks write it unlike each other, or each other's
    int layers, copies;                          // copies: ranks looked at
    size_t size;                                 // cells of a layer
    Cell *cells;                                 // [copies][layers][size]
} Grid;

// The region of a node, or of a step's cover (node NULL).
Access access_of(Prove *p, int body, const Node *node, const Region *region);

// The cells of an access of a rank, in turn: `for (CellWalk w = cell_walk(...); w.more; cell_step(&w)) ... w.index`,
// an index into one layer.
typedef struct CellWalk {
    const Grid *grid;
    int lo[REGION_RANK], hi[REGION_RANK], at[REGION_RANK];
    size_t index;
    bool more;
} CellWalk;
CellWalk cell_walk(const Prove *p, const Access *access, int rank);
void cell_step(CellWalk *walk);
#endif
