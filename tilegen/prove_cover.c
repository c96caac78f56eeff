// Coverage: the tasks of a step write each element of what the step covers exactly once and nothing else, and none of
// them reads what another one writes. It concerns one body at a time: layers and rounds differ in nothing.
//
// Planes of cells: of each rank's buffer that is looked at, this layer and, for `all_layers`, the others.
#include "prove_cells.h"
#include <string.h>

typedef struct Plane {
    bool covered, read_twice;
    int writer, reader; // node * ranks + rank + 1; 0: none
} Plane;

typedef struct Cover {
    Prove *p;
    int body, step;
    Plane **planes; // of a buffer: [copies][2][size], NULL: not touched
    int *touched, touched_count;
} Cover;

typedef enum CoverUse { USE_COVER, USE_WRITE, USE_READ } CoverUse;

static bool cover_fails(Cover *c, DiagCode code, const Node *node, const Region *region, const char *what,
                        const char *help) {
    Prove *p = c->p;
    if (!prove_fails(p, code, c->body, c->step, region->buffer, what[0] << 8 | what[7])) return false;
    if (node)
        diag_error(p->ctx, code, prove_span(p, c->body, node), "%s %s %s", prove_task(p, c->body, node, -1), what,
                   prove_region(p, region));
    else
        diag_error(p->ctx, code, p->prog->bodies[c->body].steps[c->step].span, "step %s of body %s %s %s",
                   prove_step(p, c->body, c->step), p->prog->bodies[c->body].name, what, prove_region(p, region));
    diag_help(p->ctx, "%s", help);
    return true;
}

static void plane_use(Cover *c, Plane *plane, CoverUse use, const Node *node, int who, const Region *region) {
    if (use == USE_COVER) {
        plane->covered = true;
    } else if (use == USE_WRITE) {
        if (plane->writer)
            cover_fails(c, E0606, node, region, "writes what the step has written already, a part of",
                        "tiles of a step do not overlap");
        else if (!plane->covered)
            cover_fails(c, E0606, node, region, "writes what its step does not cover, a part of",
                        "each step says what it covers, and writes nothing else");
        plane->writer = who;
    } else if (plane->writer && plane->writer != who) {
        cover_fails(c, E0602, node, region, "reads what another task of its step writes, a part of",
                    "tasks of a step run at the same time: give the output a buffer of its own");
    }
}

static void cover_use(Cover *c, CoverUse use, const Node *node, int id, const Access *access) {
    Prove *p = c->p;
    const Region *region = access->region;
    const Grid *grid = &p->grids[region->buffer];
    if (!c->planes[region->buffer]) {
        c->planes[region->buffer] = ARENA_ARRAY(p->arena, Plane, grid->size * 2 * (size_t)grid->copies);
        c->touched[c->touched_count++] = region->buffer;
    }
    // A read of what no task of the step writes needs no look at its cells.
    for (int rank = 0; rank < grid->copies; rank++)
        for (int owner = 0; owner < grid->copies; owner++) {
            if (owner != rank && !region->all_ranks) continue;
            for (size_t plane = 0; plane < (region->all_layers && grid->layers > 1 ? 2 : 1); plane++) {
                Plane *at = c->planes[region->buffer] + ((size_t)owner * 2 + plane) * grid->size;
                for (CellWalk walk = cell_walk(p, access, rank); walk.more; cell_step(&walk))
                    plane_use(c, &at[walk.index], use, node, id * p->prog->ranks + rank + 1, region);
            }
        }
}

static void cover_step(Cover *c, const int *nodes, int count) {
    Prove *p = c->p;
    const Step *step = &p->prog->bodies[c->body].steps[c->step];
    const BodyForm *form = &p->bodies[c->body];
    ArenaMark mark = arena_push(p->arena);
    c->planes = ARENA_ARRAY(p->arena, Plane *, p->prog->buffer_count + 1);
    c->touched = ARENA_ARRAY(p->arena, int, p->prog->buffer_count + 1);
    c->touched_count = 0;
    Access *covers = ARENA_ARRAY(p->arena, Access, step->cover_count + 1);
    for (int i = 0; i < step->cover_count; i++) {
        covers[i] = access_of(p, c->body, NULL, &step->covers[i]);
        cover_use(c, USE_COVER, NULL, 0, &covers[i]);
    }
    for (int use = USE_WRITE; use <= USE_READ; use++) {
        for (int i = 0; i < count; i++) {
            const Node *node = &form->nodes[nodes[i]];
            const Access *access = form->accesses + form->access_at[nodes[i]];
            int reads = node->task->read_count, all = reads + node->task->write_count;
            for (int a = use == USE_WRITE ? reads : 0; a < (use == USE_WRITE ? all : reads); a++)
                if (use == USE_WRITE || c->planes[access[a].region->buffer])
                    cover_use(c, (CoverUse)use, node, nodes[i], &access[a]);
            // One task writes it for all active keys, but each key's item does.
            bool twice = use == USE_WRITE && node->kind == NODE_ITEM && node->key == 0 &&
                         p->prog->bodies[c->body].pools[node->pool].keys > 1;
            for (int a = reads; twice && a < all; a++)
                if (!access[a].conditional)
                    cover_fails(c, E0606, node, access[a].region, "writes once for each active key",
                                "index what the items of a pool write by [key]");
        }
    }
    for (int i = 0; i < step->cover_count; i++) {
        const Region *region = &step->covers[i];
        const Grid *grid = &p->grids[region->buffer];
        for (size_t cell = 0; cell < grid->size * 2 * (size_t)grid->copies; cell++) {
            const Plane *plane = &c->planes[region->buffer][cell];
            if (!plane->covered || plane->writer) continue;
            cover_fails(c, E0606, NULL, region, "leaves unwritten a part of", "a tile is missing, or placed nowhere");
            break;
        }
    }
    arena_pop(p->arena, mark);
}

void prove_cover(Prove *p) {
    for (int b = 0; b < p->prog->body_count; b++) {
        const BodyForm *form = &p->bodies[b];
        int at = 0;
        for (int s = 0; s < p->prog->bodies[b].step_count && p->errors < PROVE_ERRORS; s++) {
            int from = at;
            while (at < form->by_step_count && form->nodes[form->by_step[at]].task->step == s) at++;
            Cover cover = {.p = p, .body = b, .step = s};
            cover_step(&cover, form->by_step + from, at - from);
        }
    }
}
