// Hazards: each access of each event against the newest accesses that the sequential program puts before it.
//
// A cell remembers its last writer and who has read it since. What comes after both by clocks comes after all that was
// before. Items write only if their key is active, so that they do not take the place of older accesses: a cell keeps
// them beside its last writer, and what follows must come after all of them, each being over or its key not active.
// Ticks of one agent include the older ones, so that the newest of each is enough (for items see prove_order.c).
//
// A buffer that is no state must be read after a write of the same round: of a task, or of an item of the same key in
// the same instance, which is active if its reader reads it.
#include "prove_cells.h"
#include <stdlib.h>
#include <string.h>

static int int_order(const void *a, const void *b) {
    return (*(const int *)a > *(const int *)b) - (*(const int *)a < *(const int *)b);
}

typedef LIST(int) Cuts;

static void cut_regions(Prove *p, Cuts (*cuts)[REGION_RANK], const Region *regions, int count) {
    for (int i = 0; i < count; i++) {
        const Region *region = &regions[i];
        Grid *grid = &p->grids[region->buffer];
        grid->ranked |= region->all_ranks;
        for (int d = 0; d < p->prog->buffers[region->buffer].rank; d++) {
            const Index *at = &region->at[d];
            Cuts *list = &cuts[region->buffer][d];
            if (at->kind == INDEX_RANGE) {
                if (list->count && list->at[list->count - 1] == at->hi && list->at[list->count - 2] == at->lo) continue;
                LIST_ADD(p->arena, list, at->lo);
                LIST_ADD(p->arena, list, at->hi);
            } else if (at->kind == INDEX_SELF) {
                grid->ranked = true;
                for (int rank = 0; rank <= p->prog->ranks; rank++) LIST_ADD(p->arena, list, rank);
            } else
                grid->keyed[d] = true;
        }
    }
}

bool prove_grids(Prove *p) {
    const Prog *prog = p->prog;
    p->grids = ARENA_ARRAY(p->arena, Grid, prog->buffer_count + 1);
    Cuts(*cuts)[REGION_RANK] = arena_array(p->arena, (size_t)prog->buffer_count + 1, sizeof *cuts);
    for (int b = 0; b < prog->body_count; b++) {
        for (int s = 0; s < prog->bodies[b].step_count; s++)
            cut_regions(p, cuts, prog->bodies[b].steps[s].covers, prog->bodies[b].steps[s].cover_count);
        for (int n = 0; n < p->bodies[b].node_count; n++) {
            const Node *node = &p->bodies[b].nodes[n];
            if (node->kind != NODE_TASK && node->kind != NODE_ITEM) continue;
            cut_regions(p, cuts, node->task->reads, node->task->read_count);
            cut_regions(p, cuts, node->task->writes, node->task->write_count);
        }
    }
    int64_t cells = 0;
    for (int b = 0; b < prog->buffer_count; b++) {
        const Buffer *buffer = &prog->buffers[b];
        Grid *grid = &p->grids[b];
        grid->layers = buffer->layers > 0 ? buffer->layers : 1;
        grid->copies = grid->ranked ? prog->ranks : 1;
        int64_t size = 1;
        for (int d = 0; d < REGION_RANK; d++) {
            Cuts *list = &cuts[b][d];
            int extent = d < buffer->rank ? buffer->dims[d] : 1;
            if (grid->keyed[d]) {
                list->count = 0;
                extent = extent < KEYS_SHOWN ? extent : KEYS_SHOWN;
                for (int key = 1; key < extent; key++) LIST_ADD(p->arena, list, key);
            }
            LIST_ADD(p->arena, list, 0);
            LIST_ADD(p->arena, list, extent);
            qsort(list->at, list->count, sizeof *list->at, int_order);
            size_t kept = 0;
            for (size_t i = 0; i < list->count; i++)
                if (list->at[i] <= extent && (!kept || list->at[kept - 1] != list->at[i]))
                    list->at[kept++] = list->at[i];
            grid->cuts[d] = list->at;
            grid->counts[d] = (int)kept - 1;
            size *= grid->counts[d];
            if (size > PROVE_CELLS_MAX) break;
        }
        grid->size = (size_t)size;
        cells += size > PROVE_CELLS_MAX ? size : size * grid->layers * grid->copies;
        if (cells > PROVE_CELLS_MAX) {
            if (prove_fails(p, E0610, b, 0, 0, 0))
                diag_error(p->ctx, E0610, NO_SPAN, "too large to be proved: buffer %s is cut into too many parts",
                           buffer->name);
            return false;
        }
        size_t all = grid->size * (size_t)grid->layers * (size_t)grid->copies;
        grid->cells = ARENA_ARRAY(p->arena, Cell, all);
        for (size_t c = 0; c < all; c++) grid->cells[c].writer = grid->cells[c].chosen_at = -1;
    }
    for (int b = 0; b < prog->body_count; b++) {
        BodyForm *form = &p->bodies[b];
        int count = 0;
        form->access_at = ARENA_ARRAY(p->arena, int, form->node_count + 1);
        for (int n = 0; n < form->node_count; n++) {
            const Node *node = &form->nodes[n];
            form->access_at[n] = count;
            if (node->kind == NODE_TASK || node->kind == NODE_ITEM)
                count += node->task->read_count + node->task->write_count;
        }
        form->accesses = ARENA_ARRAY(p->arena, Access, count + 1);
        for (int n = 0; n < form->node_count; n++) {
            const Node *node = &form->nodes[n];
            Access *at = form->accesses + form->access_at[n];
            if (node->kind != NODE_TASK && node->kind != NODE_ITEM) continue;
            for (int i = 0; i < node->task->read_count; i++) *at++ = access_of(p, b, node, &node->task->reads[i]);
            for (int i = 0; i < node->task->write_count; i++) *at++ = access_of(p, b, node, &node->task->writes[i]);
        }
    }
    return true;
}

static int cut_find(const Grid *grid, int d, int value) {
    int lo = 0, hi = grid->counts[d];
    while (lo < hi) {
        int middle = lo + (hi - lo) / 2;
        if (grid->cuts[d][middle] < value)
            lo = middle + 1;
        else
            hi = middle;
    }
    return lo;
}

static void access_rule(Prove *p, int body, const Node *node, const Region *region, const char *what) {
    if (!prove_fails(p, E0609, body, node ? node->task->step : -1, region->buffer, -1)) return;
    diag_error(p->ctx, E0609, node ? prove_span(p, body, node) : NO_SPAN, "%s %s of %s",
               node ? prove_task(p, body, node, -1) : "a step covers", what, prove_region(p, region));
    diag_help(p->ctx, "write [key] in a pool's items, [active] or all keys elsewhere");
}

Access access_of(Prove *p, int body, const Node *node, const Region *region) {
    const Grid *grid = &p->grids[region->buffer];
    const Buffer *buffer = &p->prog->buffers[region->buffer];
    Access access = {.region = region};
    if (region->all_ranks && node && node->kind == NODE_ITEM)
        access_rule(p, body, node, region, "is a pool item and writes to other ranks");
    for (int d = 0; d < REGION_RANK; d++) {
        const Index *at = &region->at[d];
        access.hi[d] = grid->counts[d];
        if (d >= buffer->rank) continue;
        if (!grid->keyed[d]) {
            if (at->kind != INDEX_RANGE) continue; // self: see cell_walk
            access.lo[d] = cut_find(grid, d, at->lo);
            access.hi[d] = cut_find(grid, d, at->hi);
            continue;
        }
        int keys = p->prog->bodies[body].pool_count ? p->bodies[body].pools[0].keys : grid->counts[d];
        if (keys > grid->counts[d]) keys = grid->counts[d];
        if (at->kind == INDEX_RANGE) {
            if (at->lo != 0 || at->hi != buffer->dims[d])
                access_rule(p, body, node, region, "names some of the keys by their numbers, a part");
        } else if (at->kind == INDEX_SELF) {
            access_rule(p, body, node, region, "uses the rank as a key, a part");
        } else {
            access.conditional = true;
            access.hi[d] = keys;
            if (at->kind != INDEX_KEY || !node) continue; // covers: of every key
            if (node->kind != NODE_ITEM) access_rule(p, body, node, region, "has no key but uses [key]");
            if (node->key >= 0 && node->key < keys) access.lo[d] = node->key, access.hi[d] = node->key + 1;
        }
    }
    return access;
}

CellWalk cell_walk(const Prove *p, const Access *access, int rank) {
    const Region *region = access->region;
    const Grid *grid = &p->grids[region->buffer];
    CellWalk walk = {.grid = grid, .more = true};
    for (int d = 0; d < REGION_RANK; d++) {
        bool self = d < p->prog->buffers[region->buffer].rank && region->at[d].kind == INDEX_SELF && !grid->keyed[d];
        walk.lo[d] = walk.at[d] = self ? cut_find(grid, d, rank) : access->lo[d];
        walk.hi[d] = self ? cut_find(grid, d, rank + 1) : access->hi[d];
        walk.index = walk.index * (size_t)grid->counts[d] + (size_t)walk.lo[d];
        if (walk.lo[d] >= walk.hi[d]) walk.more = false;
    }
    return walk;
}

void cell_step(CellWalk *walk) {
    int last = REGION_RANK - 1;
    if (++walk->at[last] < walk->hi[last]) {
        walk->index++;
        return;
    }
    walk->at[last] = walk->lo[last];
    int d = last - 1;
    for (; d >= 0 && ++walk->at[d] == walk->hi[d]; d--) walk->at[d] = walk->lo[d];
    walk->more = d >= 0;
    walk->index = 0;
    for (int i = 0; i < REGION_RANK; i++)
        walk->index = walk->index * (size_t)walk->grid->counts[i] + (size_t)walk->at[i];
}

// ---- Accesses in turn ----

typedef struct Event { // whose access
    Prove *p;
    int instance, rank;
    const Node *node;
    const Tick *clock;
    Tick own; // its own tick
} Event;

static bool hazard_found(const Event *e, Hazard hazard, const Region *region, int agent, Tick tick, bool elsewhere) {
    Prove *p = e->p;
    int body = p->instances[e->instance].body, before_body, before_instance;
    const Node *before = prove_event(p, agent, tick, &before_body, &before_instance);
    if (p->quiet) {
        p->first = (Unordered){hazard, region->buffer, before_body, before->task->step, body, e->node->task->step};
        return false;
    }
    DiagCode code = hazard == HAZARD_READ_AFTER_WRITE ? E0601 : E0602;
    if (!prove_fails(p, code, region->buffer << 2 | (int)hazard, before_body << 6 | before->task->step, body,
                     e->node->task->step))
        return p->errors < PROVE_ERRORS;
    const char *done = hazard == HAZARD_WRITE_AFTER_READ ? "read" : "written";
    const char *earlier = prove_task(p, before_body, before, before_instance);
    diag_error(p->ctx, code, prove_span(p, body, e->node), "%s may %s %s before %s%s has %s it",
               prove_task(p, body, e->node, e->instance), hazard == HAZARD_READ_AFTER_WRITE ? "read" : "write",
               prove_region(p, region), earlier, elsewhere ? " on another rank" : "", done);
    diag_note(p->ctx, prove_span(p, before_body, before), "%s here", done);
    diag_help(p->ctx,
              "let the later one wait for a counter that the earlier one signals, or that tasks after it signal%s",
              hazard == HAZARD_WRITE_AFTER_READ ? ": its readers hand the buffer back" : "");
    return p->errors < PROVE_ERRORS;
}

// Everything in `past` (a tick an agent, of the buffer's rank) must be known; what the event did itself is.
static bool past_check(const Event *e, const Tick *past, Hazard hazard, const Region *region, int owner) {
    const Prove *p = e->p;
    if (!past) return true;
    const Tick *known = e->rank == owner ? e->clock : e->clock + p->width;
    size_t count = ((size_t)p->agents + 3) & ~(size_t)3;
    for (ptrdiff_t a = 0; (a = clock_lacks(known, past, (size_t)a, count)) >= 0; a++) {
        if (e->rank == owner && (int)a == e->node->agent && past[a] == e->own) continue;
        if (!hazard_found(e, hazard, region, (int)a, past[a], e->rank != owner)) return false;
    }
    return true;
}

static bool writer_check(const Event *e, const Cell *cell, Hazard hazard, const Region *region) {
    if (cell->writer < 0) return true;
    const Tick *known = e->rank == cell->rank ? e->clock : e->clock + e->p->width;
    if (known[cell->writer] >= cell->tick) return true;
    return hazard_found(e, hazard, region, cell->writer, cell->tick, e->rank != cell->rank);
}

static void past_add(const Event *e, Tick **past) {
    size_t count = ((size_t)e->p->agents + 3) & ~(size_t)3;
    if (!*past) *past = ARENA_ARRAY(e->p->arena, Tick, count);
    int agent = e->node->agent;
    // An item that does not come after the one before it leaves that one to be found.
    if (e->node->kind == NODE_ITEM && (*past)[agent] > e->clock[agent] && (*past)[agent] != e->own) return;
    (*past)[agent] = e->own;
}

static bool cell_read(const Event *e, Cell *cell, const Access *access) {
    Prove *p = e->p;
    const Region *region = access->region;
    const Instance *at = &p->instances[e->instance];
    bool written = cell->writer >= 0 && cell->round == at->round;
    if (access->conditional && cell->chosen_at == e->instance) written = true;
    if (!written && !p->quiet && !p->prog->buffers[region->buffer].state &&
        prove_fails(p, E0605, region->buffer, at->body, e->node->task->step, -2)) {
        diag_error(p->ctx, E0605, prove_span(p, at->body, e->node), "%s reads %s, of which a part %s",
                   prove_task(p, at->body, e->node, e->instance), prove_region(p, region),
                   cell->chosen_at >= 0 ? "may not be written, as its keys may not be active"
                   : cell->writer < 0   ? "is not written before"
                                        : "was last written in the round before");
        diag_help(p->ctx, "only state keeps its contents from round to round");
    }
    if (!writer_check(e, cell, HAZARD_READ_AFTER_WRITE, region)) return false;
    if (!past_check(e, cell->chosen, HAZARD_READ_AFTER_WRITE, region, e->rank)) return false;
    past_add(e, &cell->readers);
    return true;
}

static bool cell_write(const Event *e, Cell *cell, const Access *access, int owner) {
    Prove *p = e->p;
    const Region *region = access->region;
    if (!writer_check(e, cell, HAZARD_WRITE_AFTER_WRITE, region)) return false;
    if (!past_check(e, cell->chosen, HAZARD_WRITE_AFTER_WRITE, region, owner)) return false;
    if (!past_check(e, cell->readers, HAZARD_WRITE_AFTER_READ, region, owner)) return false;
    if (access->conditional) {
        past_add(e, &cell->chosen);
        cell->chosen_at = e->instance;
        return true;
    }
    cell->writer = e->node->agent;
    cell->rank = e->rank;
    cell->tick = e->own;
    cell->round = p->instances[e->instance].round;
    cell->chosen_at = -1;
    size_t bytes = (size_t)p->agents * sizeof(Tick);
    if (cell->readers) memset(cell->readers, 0, bytes);
    if (cell->chosen) memset(cell->chosen, 0, bytes);
    return true;
}

static bool access_run(Event *e, const Access *access, bool write) {
    Prove *p = e->p;
    const Grid *grid = &p->grids[access->region->buffer];
    int layer = p->prog->buffers[access->region->buffer].layers > 0 ? p->instances[e->instance].layer : 0;
    int layer_lo = access->region->all_layers ? 0 : layer;
    int layer_hi = access->region->all_layers ? grid->layers : layer + 1;
    if (layer_hi > grid->layers) layer_hi = grid->layers; // prog_verify: covers alone are checked
    for (e->rank = 0; e->rank < grid->copies; e->rank++)
        for (int owner = 0; owner < grid->copies; owner++) {
            if (owner != e->rank && !access->region->all_ranks) continue;
            for (int l = layer_lo; l < layer_hi; l++) {
                Cell *cells = grid->cells + ((size_t)owner * (size_t)grid->layers + (size_t)l) * grid->size;
                for (CellWalk walk = cell_walk(p, access, e->rank); walk.more; cell_step(&walk))
                    if (!(write ? cell_write(e, &cells[walk.index], access, owner)
                                : cell_read(e, &cells[walk.index], access)))
                        return false;
            }
        }
    return true;
}

bool prove_hazards(Prove *p, int instance) {
    const Instance *at = &p->instances[instance];
    const BodyForm *form = &p->bodies[at->body];
    for (int lo = 0, hi; lo < form->by_step_count; lo = hi) {
        int step = form->nodes[form->by_step[lo]].task->step;
        for (hi = lo; hi < form->by_step_count && form->nodes[form->by_step[hi]].task->step == step;) hi++;
        // Tasks of a step do not see each other (prove_cover.c), so that all reads come first.
        for (int write = 0; write < 2; write++)
            for (int i = lo; i < hi; i++) {
                int n = form->by_step[i];
                const Node *node = &form->nodes[n];
                const Access *access = form->accesses + form->access_at[n];
                Event event = {.p = p, .instance = instance, .node = node, .clock = node_clock(p, n)};
                event.own = node->kind == NODE_ITEM ? at->occurrence + 1 : entry_ended(p, node);
                int from = write ? node->task->read_count : 0;
                int to = node->task->read_count + (write ? node->task->write_count : 0);
                for (int a = from; a < to; a++)
                    if (!access_run(&event, &access[a], write)) return false;
            }
    }
    return p->quiet || p->errors < PROVE_ERRORS;
}
