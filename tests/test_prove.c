// prove: each rule by small Progs that keep it and that break it, and mutants against executions drawn at random.
#include "interleave.h"
#include "prove.h"

#define HEAD(ranks, workers, rows)                                                                                     \
    "prog 1\nmodel m\nsku host\nranks " #ranks "\nworkers " #workers "\nrows " #rows                                   \
    "\nrole load warps 1 registers 0\nrole compute warps 1 registers 0\nrole control warps 1 registers 0\n"

// Two layers of two steps on three workers. Tiles of y are handed on one by one, x as a whole, and y's readers wait for
// all of them to be done with x (`x.r`).
static const char chain[] = HEAD(
    1, 3,
    1) "buffer x f32 [6]\nbuffer y f32 [6]\ncounter x.w 1\ncounter x.r 1\ncounter y.w 3\n"
       "body in\n  step 0 embed covers x[0:6]\n"
       "  queue 1 compute\n    s0 0:6 writes x[0:6] wait x.w[0]>=0 signal x.w[0]+3\n"
       "body layer\n  step 0 qkv covers y[0:6]\n  step 1 o_proj covers x[0:6]\n"
       "  queue 0 compute\n"
       "    s0 0:2 reads x[0:6] writes y[0:2] wait x.w[0]>=0 signal y.w[0]+1,x.r[0]+1\n"
       "    s1 0:2 reads y[0:4],x[0:2] writes x[0:2] wait y.w[0]>=1,y.w[1]>=1,x.r[0]>=3 signal x.w[0]+1\n"
       "  queue 1 compute\n"
       "    s0 2:4 reads x[0:6] writes y[2:4] wait x.w[0]>=0 signal y.w[1]+1,x.r[0]+1\n"
       "    s1 2:4 reads y[2:6],x[2:4] writes x[2:4] wait y.w[1]>=1,y.w[2]>=1,x.r[0]>=3 signal x.w[0]+1\n"
       "  queue 2 compute\n"
       "    s0 4:6 reads x[0:6] writes y[4:6] wait x.w[0]>=0 signal y.w[2]+1,x.r[0]+1\n"
       "    s1 4:6 reads y[0:6],x[4:6] writes x[4:6] wait y.w[0]>=1,y.w[1]>=1,y.w[2]>=1,x.r[0]>=3 signal x.w[0]+1\n"
       "round\n  target in 0:1\n  target layer 0:2\nend\n";

// Double buffering: the writer may run one round ahead of the reader, by a lag of one round.
static const char ahead[] =
    HEAD(1, 2, 1) "buffer a f32 [2]\nbuffer b f32 [2]\nbuffer out f32 [2]\ncounter a.w 1\ncounter b.w 1\ncounter a.r "
                  "1\ncounter b.r 1\n"
                  "body even\n  step 0 qkv covers a[0:2]\n  step 1 o_proj covers out[0:2]\n"
                  "  queue 0 compute\n    s0 0:2 writes a[0:2] wait a.r[0]-1>=0 signal a.w[0]+1\n"
                  "  queue 1 compute\n    s1 0:2 reads a[0:2] writes out[0:2] wait a.w[0]>=1 signal a.r[0]+1\n"
                  "body odd\n  step 0 qkv covers b[0:2]\n  step 1 o_proj covers out[0:2]\n"
                  "  queue 0 compute\n    s0 0:2 writes b[0:2] wait b.r[0]-1>=0 signal b.w[0]+1\n"
                  "  queue 1 compute\n    s1 0:2 reads b[0:2] writes out[0:2] wait b.w[0]>=1 signal b.r[0]+1\n"
                  "round\n  target even 0:1\n  target odd 0:1\nend\n";

// Partial sums of two ranks meet in inboxes, twice a layer, as x must not be pushed again before the other rank has
// read it.
static const char exchange[] = HEAD(
    2, 2, 1) "buffer x f32 [4]\nbuffer p f32 [4]\nbuffer ia f32 [2,4]\nbuffer ib f32 [2,4]\n"
             "counter x.w 1\ncounter p.w 2\ncounter ia.w 2\ncounter ib.w 2\n"
             "body in\n  step 0 embed covers x[0:4]\n"
             "  queue 0 compute\n    s0 0:4 writes x[0:4] wait x.w[0]>=0 signal x.w[0]+2\n"
             "body layer\n  step 0 o_proj covers p[0:4]\n  step 1 push covers ia@all[self,0:4]\n  step 2 reduce covers "
             "x[0:4]\n"
             "  step 3 mlp_down covers p[0:4]\n  step 4 push covers ib@all[self,0:4]\n  step 5 reduce covers x[0:4]\n"
             "  queue 0 compute\n"
             "    s0 0:2 reads x[0:4] writes p[0:2] wait x.w[0]>=0 signal p.w[0]+1\n"
             "    s2 0:2 reads ia[0:2,0:2] writes x[0:2] wait ia.w[0]>=2,ia.w[1]>=2 signal x.w[0]+1\n"
             "    s3 0:2 reads x[0:4] writes p[0:2] wait x.w[0]>=2 signal p.w[0]+1\n"
             "    s5 0:2 reads ib[0:2,0:2] writes x[0:2] wait ib.w[0]>=2,ib.w[1]>=2 signal x.w[0]+1\n"
             "  queue 0 control\n"
             "    s1 0:2 reads p[0:2] writes ia@all[self,0:2] wait p.w[0]>=1 signal ia.w@all[0]+1\n"
             "    s4 0:2 reads p[0:2] writes ib@all[self,0:2] wait p.w[0]>=2 signal ib.w@all[0]+1\n"
             "  queue 1 compute\n"
             "    s0 2:4 reads x[0:4] writes p[2:4] wait x.w[0]>=0 signal p.w[1]+1\n"
             "    s2 2:4 reads ia[0:2,2:4] writes x[2:4] wait ia.w[0]>=2,ia.w[1]>=2 signal x.w[0]+1\n"
             "    s3 2:4 reads x[0:4] writes p[2:4] wait x.w[0]>=2 signal p.w[1]+1\n"
             "    s5 2:4 reads ib[0:2,2:4] writes x[2:4] wait ib.w[0]>=2,ib.w[1]>=2 signal x.w[0]+1\n"
             "  queue 1 control\n"
             "    s1 2:4 reads p[2:4] writes ia@all[self,2:4] wait p.w[1]>=1 signal ia.w@all[1]+1\n"
             "    s4 2:4 reads p[2:4] writes ib@all[self,2:4] wait p.w[1]>=2 signal ib.w@all[1]+1\n"
             "round\n  target in 0:1\n  target layer 0:2\nend\n";

// A pool: up's output is handed on by key, down's by row.
static const char experts[] = HEAD(
    1, 2, 2) "pages 4 x 64\n"
             "buffer x f32 [2]\nbuffer routes i32 [1]\nbuffer eact f32 [3,2]\nbuffer ey f32 [3,2]\n"
             "counter x.w 1\ncounter routes.w 1\ncounter eact.w 3\ncounter ey.w 2\n"
             "body in\n  step 0 embed covers x[0:2]\n"
             "  queue 0 compute\n    s0 0:2 writes x[0:2] wait x.w[0]>=0 signal x.w[0]+2\n"
             "body layer\n  step 0 route covers routes[0:1]\n  step 1 experts_up covers eact[key,0:2]\n"
             "  step 2 experts_down covers ey[key,0:2]\n  step 3 combine covers x[0:2]\n"
             "  pool 0 experts keys 3 top 1 publisher s0 dynamic pages 0:4 chunks 2\n"
             "    s1 0:1 reads x[0:2],routes[0:1] writes eact[key,0:1] signal eact.w[key]+1\n"
             "    s1 1:2 reads x[0:2],routes[0:1] writes eact[key,1:2] signal eact.w[key]+1\n"
             "    s2 0:1 reads eact[key,0:2],routes[0:1] writes ey[key,0:1] wait eact.w[key]>=2 signal ey.w[token]+1\n"
             "    s2 1:2 reads eact[key,0:2],routes[0:1] writes ey[key,1:2] wait eact.w[key]>=2 signal ey.w[token]+1\n"
             "  queue 0 load\n    pool 0 wait routes.w[0]>=1\n"
             "  queue 0 compute\n"
             "    s0 0:1 reads x[0:2] writes routes[0:1] wait x.w[0]>=0 signal routes.w[0]+1\n"
             "    pool 0 wait routes.w[0]>=1\n"
             "    s3 0:1 reads ey[active,0:1],x[0:1],routes[0:1] writes x[0:1] wait "
             "ey.w[0]>=2,ey.w[1]>=2,routes.w[0]>=1 signal x.w[0]+1\n"
             "  queue 1 load\n    pool 0 wait routes.w[0]>=1\n"
             "  queue 1 compute\n"
             "    pool 0 wait routes.w[0]>=1\n"
             "    s3 1:2 reads ey[active,1:2],x[1:2],routes[0:1] writes x[1:2] wait "
             "ey.w[0]>=2,ey.w[1]>=2,routes.w[0]>=1 signal x.w[0]+1\n"
             "round\n  target in 0:1\n  target layer 0:2\nend\n";

static const char *const right[] = {chain, ahead, exchange, experts};
enum { RIGHT = sizeof right / sizeof *right };

typedef struct Asked {
    const char *text;
    DiagCode codes[4];
    bool parsed, proved, show;
    Unordered first;
} Asked;

static void ask_body(Ctx *ctx, void *user) {
    Asked *asked = user;
    Prog *prog = prog_parse(ctx, source_new(ctx, "test", asked->text, strlen(asked->text)));
    asked->parsed = prog != NULL;
    if (!prog) return;
    asked->first = prog_unordered(ctx, prog);
    asked->proved = diag_errors(ctx) == 0 && prog_prove(ctx, prog, NULL);
    for (int i = 0; i < 4; i++) asked->codes[i] = diag_code_at(ctx, (size_t)i);
}

static Asked ask(const char *text) {
    Asked asked = {.text = text};
    Ctx *ctx = ctx_new((Env){0});
    ctx_protect(ctx, ask_body, &asked);
    if (getenv("SHOW_DIAGS")) diag_print(ctx, stderr, DIAG_TEXT);
    ctx_free(ctx);
    return asked;
}

// `text` with its occurrence number `nth` of `from` (from 0) replaced.
static const char *with(const char *text, const char *from, const char *to, int nth) {
    static char made[8][8192];
    static int turn;
    const char *at = strstr(text, from);
    while (at && nth-- > 0) at = strstr(at + 1, from);
    if (!at) {
        printf("# no %s\n", from);
        return "";
    }
    char *out = made[turn = (turn + 1) % 8];
    snprintf(out, sizeof made[0], "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    return out;
}

#define REFUSED(text, code)                                                                                            \
    do {                                                                                                               \
        Asked asked_ = ask(text);                                                                                      \
        CHECK(asked_.parsed);                                                                                          \
        CHECK(!asked_.proved);                                                                                         \
        CHECK(asked_.codes[0] == (code), "code %s", diag_code_name(asked_.codes[0]));                                  \
    } while (0)

static void right_progs_are_proved(void) {
    for (int i = 0; i < RIGHT; i++) {
        Asked asked = ask(right[i]);
        CHECK(asked.parsed, "number %d", i);
        CHECK(asked.proved, "number %d: %s", i, diag_code_name(asked.codes[0]));
        CHECK(asked.first.hazard == HAZARD_NONE, "number %d", i);
    }
}

static void reads_come_after_writes(void) {
    // One of y's tiles is not waited for; the threshold of x is that of the instance before.
    const char *missing = with(chain, "wait y.w[0]>=1,y.w[1]>=1,x.r", "wait y.w[0]>=1,x.r", 0);
    REFUSED(with(missing, ",x.r[0]>=3", "", 0), E0601);
    REFUSED(with(exchange, "wait x.w[0]>=2 signal p.w[1]", "wait x.w[0]>=1 signal p.w[1]", 0), E0601);
    REFUSED(with(experts, "wait eact.w[key]>=2", "wait eact.w[key]>=1", 0), E0601);
    REFUSED(with(experts, "wait ey.w[0]>=2,ey.w[1]>=2", "wait ey.w[0]>=2", 0), E0601);
    Asked asked = ask(with(experts, "wait eact.w[key]>=2", "wait eact.w[key]>=1", 0));
    CHECK(asked.first.hazard == HAZARD_READ_AFTER_WRITE && asked.first.first_step == 1 && asked.first.second_step == 2);
}

static void writes_come_after_reads(void) {
    REFUSED(with(chain, ",x.r[0]>=3", "", 0), E0602);
    REFUSED(with(ahead, "-1>=0", "-2>=0", 0), E0602);
    Asked asked = ask(with(ahead, "-1>=0", "-2>=0", 0));
    CHECK(asked.first.hazard == HAZARD_WRITE_AFTER_READ && asked.first.buffer == 0);
}

// One inbox for both sites: a rank pushes again while the other may not have read.
static void ranks_hand_inboxes_back(void) {
    static char text[8192];
    snprintf(text, sizeof text, "%s", exchange);
    for (char *at; (at = strstr(text, "ib.w@all[0]"));) memcpy(at, "ia.w@all[0]", 11);
    Asked asked = ask(text);
    CHECK(asked.parsed && !asked.proved);
}

static void thresholds_must_be_reached(void) {
    REFUSED(with(chain, "y.w[0]>=1", "y.w[0]>=2", 0), E0603);
    REFUSED(with(chain, "wait x.w[0]>=0 signal x.w[0]+3", "wait x.w[0]>=1 signal x.w[0]+3", 0), E0608);
}

static void queues_do_not_wait_in_a_circle(void) {
    // The tasks of a queue change places.
    REFUSED(with(with(chain, "    s0 0:2 reads x[0:6] writes y[0:2] wait x.w[0]>=0 signal y.w[0]+1,x.r[0]+1\n", "", 0),
                 "  queue 1 compute\n    s0 2:4",
                 "    s0 0:2 reads x[0:6] writes y[0:2] wait x.w[0]>=0 signal y.w[0]+1,x.r[0]+1\n"
                 "  queue 1 compute\n    s0 2:4",
                 0),
            E0608);
}

// Two writers take turns at one counter, but nothing makes the later one wait for the earlier.
static void later_signals_do_not_stand_in(void) {
    static const char text[] =
        HEAD(1, 3,
             1) "buffer a f32 [1] state\nbuffer b f32 [1] state\nbuffer c f32 [1]\ncounter n 1\n"
                "body layer\n  step 0 qkv covers a[0:1]\n  step 1 o_proj covers b[0:1]\n  step 2 mlp_up covers c[0:1]\n"
                "  queue 0 compute\n    s0 0:1 writes a[0:1] wait n[0]>=0 signal n[0]+1\n"
                "  queue 1 compute\n    s1 0:1 writes b[0:1] wait n[0]>=0 signal n[0]+1\n"
                "  queue 2 compute\n    s2 0:1 reads a[0:1] writes c[0:1] wait n[0]>=1 signal n[0]+1\n"
                "round\n  target layer 0:2\nend\n";
    REFUSED(text, E0604);
    CHECK(ask(with(text, "s1 0:1 writes b[0:1] wait n[0]>=0", "s1 0:1 writes b[0:1] wait n[0]>=1", 0)).proved);
}

static void scratch_is_written_each_round(void) {
    const char *body = "body in\n  step 0 embed covers x[0:6]\n  queue 1 compute\n    s0 0:6 writes x[0:6] wait "
                       "x.w[0]>=0 signal x.w[0]+3\n";
    const char *without = with(chain, body, "", 0);
    REFUSED(with(without, "  target in 0:1\n", "", 0), E0605);
    CHECK(ask(with(with(without, "  target in 0:1\n", "", 0), "buffer x f32 [6]", "buffer x f32 [6] state", 0)).proved);
    REFUSED(with(experts, "reads ey[active,0:1]", "reads ey[0:3,0:1]", 0), E0605); // of keys that are not active
}

static void steps_write_what_they_cover(void) {
    REFUSED(with(chain, "writes y[2:4]", "writes y[2:3]", 0), E0606);
    REFUSED(with(chain, "writes y[2:4]", "writes y[1:4]", 0), E0606);
    REFUSED(with(chain, "covers y[0:6]", "covers y[0:5]", 0), E0606);
    REFUSED(with(experts, "writes ey[key,1:2]", "writes ey[key,0:1]", 0), E0606);
    REFUSED(with(exchange, "covers ia@all[self,0:4]", "covers ia[self,0:4]", 0), E0606);
}

static void tasks_of_a_step_do_not_see_each_other(void) {
    REFUSED(with(chain, "reads y[0:4],x[0:2]", "reads y[0:4],x[0:3]", 0), E0602);
}

static void pools_know_their_keys(void) {
    REFUSED(with(experts, "  queue 1 compute\n    pool 0 wait routes.w[0]>=1", "  queue 1 compute\n    pool 0", 0),
            E0607);
    REFUSED(with(experts, "load\n    pool 0 wait routes.w[0]>=1", "load\n    pool 0", 1), E0607);
    REFUSED(with(experts, "load\n    pool 0 wait routes.w[0]>=1", "load\n    pool 0 wait routes.w[0]>=0", 0), E0607);
}

static void keys_and_rows_are_not_mixed(void) {
    REFUSED(with(experts, "signal x.w[0]+2", "signal x.w[0]+2,eact.w[0]+1", 0), E0609);
    REFUSED(with(experts, "reads ey[active,0:1]", "reads ey[0:2,0:1]", 0), E0609);
}

// Waits for each row twice over are not waits for all rows.
static void rows_are_counted_once(void) {
    REFUSED(with(experts, "wait ey.w[0]>=2,ey.w[1]>=2,routes", "wait ey.w[0]>=2,ey.w[0]>=2,routes", 0), E0601);
}

static void loads_match_their_uses(void) {
    const char *pages = with(chain, "buffer x", "pages 4 x 64\nbuffer x", 0);
    const char *used = with(pages, "y.w[0]+1,x.r[0]+1\n", "y.w[0]+1,x.r[0]+1 pages 0,1\n", 0);
    REFUSED(used, E0611);
    static char loaded[8192];
    snprintf(loaded, sizeof loaded, "%s",
             with(used, "  queue 0 compute\n", "  queue 0 load\n    load s0 0:2 pages 0,1\n  queue 0 compute\n", 0));
    CHECK(ask(loaded).proved);
    REFUSED(with(loaded, "load s0 0:2 pages 0,1", "load s0 0:2 pages 1,0", 0), E0611);
    REFUSED(with(loaded, "load s0 0:2", "load s1 0:2", 0), E0611);
    static char ring[8192];
    snprintf(ring, sizeof ring, "%s", with(with(loaded, "pages 0,1\n", "pages 3..\n", 0), "pages 0,1\n", "pages 3..\n", 0));
    CHECK(ask(ring).proved);
    REFUSED(with(ring, "load s0 0:2 pages 3..", "load s0 0:2 pages 3", 0), E0611);
    REFUSED(with(loaded, "pages 0,1\n  queue", "pages 0,1\n    load s1 0:2 pages 2\n  queue", 0), E0611);
    REFUSED(with(experts, "  queue 1 load\n    pool 0 wait routes.w[0]>=1\n", "", 0), E0611);
}

// ---- Mutants ----

typedef struct Hunt {
    const char *text;
    uint64_t seed;
    int mutants, runs;
    int proved, refused, broken, bad; // broken: refused, and some execution breaks; bad: proved, and some breaks
    char why[600];
} Hunt;

static int below(uint64_t *state, int n) { return n > 0 ? (int)(check_random(state) % (uint64_t)n) : 0; }

// A task or pool entry of the Prog, drawn at random.
static Task *any_task(Prog *prog, uint64_t *seed, Queue **queue, int *index) {
    for (int tries = 0; tries < 200; tries++) {
        Body *body = &prog->bodies[below(seed, prog->body_count)];
        *queue = NULL;
        if (body->pool_count && below(seed, 3) == 0)
            return &body->pools[0].items[below(seed, body->pools[0].item_count)];
        *queue = &body->queues[below(seed, prog->workers * ROLE_COUNT)];
        if (!(*queue)->count) continue;
        *index = below(seed, (*queue)->count);
        return &(*queue)->entries[*index].task;
    }
    return NULL;
}

static void mutate(Ctx *ctx, Prog *prog, uint64_t *seed) {
    Queue *queue;
    int at = 0;
    Task *task = any_task(prog, seed, &queue, &at);
    if (!task) return;
    Wait *wait = task->wait_count ? &task->waits[below(seed, task->wait_count)] : NULL;
    Signal *signal = task->signal_count ? &task->signals[below(seed, task->signal_count)] : NULL;
    int counter = below(seed, prog->counter_count);
    switch (below(seed, 12)) {
    case 0:
        if (wait) *wait = task->waits[--task->wait_count];
        break;
    case 1:
        if (wait) wait->need += below(seed, 2) ? 1 : -1;
        break;
    case 2:
        if (wait) wait->lag = below(seed, 4);
        break;
    case 3: // one more wait
    case 4: {
        Wait *waits = ARENA_ARRAY(ctx->arena, Wait, task->wait_count + 1);
        if (task->wait_count) memcpy(waits, task->waits, (size_t)task->wait_count * sizeof *waits);
        int group = below(seed, prog->counters[counter].groups);
        waits[task->wait_count++] =
            (Wait){counter, {INDEX_RANGE, group, group + 1}, below(seed, 8) ? 0 : 1, below(seed, 4)};
        task->waits = waits;
        break;
    }
    case 5: {
        Signal *signals = ARENA_ARRAY(ctx->arena, Signal, task->signal_count + 1);
        if (task->signal_count) memcpy(signals, task->signals, (size_t)task->signal_count * sizeof *signals);
        int group = below(seed, prog->counters[counter].groups);
        signals[task->signal_count++] =
            (Signal){counter, {INDEX_RANGE, group, group + 1}, 1 + below(seed, 2), below(seed, 2)};
        task->signals = signals;
        break;
    }
    case 6:
        if (signal) *signal = task->signals[--task->signal_count];
        break;
    case 7:
        if (signal) signal->amount += below(seed, 2) ? 1 : -1;
        break;
    case 8: // neighbours change places
        if (queue && at + 1 < queue->count) {
            Entry entry = queue->entries[at];
            queue->entries[at] = queue->entries[at + 1];
            queue->entries[at + 1] = entry;
        }
        break;
    case 9: { // to another worker's queue, or role's
        if (!queue || queue->entries[at].kind == ENTRY_LOAD) break;
        Body *body = NULL;
        for (int b = 0; b < prog->body_count; b++)
            if (queue >= prog->bodies[b].queues && queue < prog->bodies[b].queues + prog->workers * ROLE_COUNT)
                body = &prog->bodies[b];
        Queue *to = &body->queues[below(seed, prog->workers) * ROLE_COUNT +
                                  (below(seed, 4) ? (int)ROLE_COMPUTE : (int)ROLE_CONTROL)];
        if (to == queue) break;
        Entry *entries = ARENA_ARRAY(ctx->arena, Entry, to->count + 1);
        int place = below(seed, to->count + 1);
        for (int i = 0; i <= to->count; i++)
            entries[i] = i == place ? queue->entries[at] : to->entries[i < place ? i : i - 1];
        to->entries = entries;
        to->count++;
        memmove(&queue->entries[at], &queue->entries[at + 1], (size_t)(queue->count - at - 1) * sizeof(Entry));
        queue->count--;
        break;
    }
    case 10:
        if (wait && wait->group.kind == INDEX_RANGE) {
            wait->group.lo = below(seed, prog->counters[wait->counter].groups);
            wait->group.hi = wait->group.lo + 1;
        }
        break;
    case 11:
        if (signal && signal->group.kind == INDEX_RANGE) {
            signal->group.lo = below(seed, prog->counters[signal->counter].groups);
            signal->group.hi = signal->group.lo + 1;
        }
        break;
    }
}

// Of what a mutant's counters add up to, thresholds follow: most mutants would else fail for that alone.
static void hunt_body(Ctx *ctx, void *user) {
    Hunt *hunt = user;
    Prog *base = prog_parse(ctx, source_new(ctx, "test", hunt->text, strlen(hunt->text)));
    if (!base) return;
    Sim *sim = ARENA_NEW(ctx->arena, Sim);
    for (int m = 0; m < hunt->mutants && !hunt->bad; m++) {
        ArenaMark mark = arena_push(ctx->arena);
        Prog *prog = prog_copy(ctx, base);
        for (int many = 1 + below(&hunt->seed, 3); many > 0; many--) mutate(ctx, prog, &hunt->seed);
        bool shaped = prog_verify(ctx, prog);
        bool proved = shaped && prog_prove(ctx, prog, NULL), breaks = false, ran = true;
        bool order = proved || (diag_code_at(ctx, 0) != E0606 && diag_code_at(ctx, 0) != E0605);
        diag_forget(ctx, 0);
        for (int r = 0; shaped && order && r < (proved ? hunt->runs : hunt->runs / 8) && ran && !breaks; r++)
            breaks = !sim_run(sim, prog, check_random(&hunt->seed), &ran);
        if (shaped) *(proved ? &hunt->proved : &hunt->refused) += 1;
        if (breaks && !proved) hunt->broken++;
        if (breaks && proved) {
            hunt->bad++;
            snprintf(hunt->why, sizeof hunt->why, "mutant %d, seed of the run %llu: %s", m,
                     (unsigned long long)hunt->seed, sim->why);
            if (getenv("SHOW_DIAGS")) fprintf(stderr, "%s", prog_print(ctx, prog));
        }
        arena_pop(ctx->arena, mark);
    }
}

static void hunt_in(const char *text, int mutants, int runs) {
    uint64_t seed = getenv("TEST_SEED") ? strtoull(getenv("TEST_SEED"), NULL, 10) : 20240607;
    int scale = getenv("TEST_SCALE") ? atoi(getenv("TEST_SCALE")) : 1;
    Hunt hunt = {.text = text, .seed = seed, .mutants = mutants * scale, .runs = runs};
    Ctx *ctx = ctx_new((Env){0});
    ctx_protect(ctx, hunt_body, &hunt);
    ctx_free(ctx);
    printf("# seed %llu: %d mutants proved, %d refused, of which %d were seen to break\n", (unsigned long long)seed,
           hunt.proved, hunt.refused, hunt.broken);
    CHECK(!hunt.bad, "%s", hunt.why);
    CHECK(hunt.proved > mutants / 50 && hunt.broken > mutants / 20);
}

static void proved_mutants_of_a_chain_run_right(void) { hunt_in(chain, 800, 40); }
static void proved_mutants_with_lags_run_right(void) { hunt_in(ahead, 800, 40); }
static void proved_mutants_of_an_exchange_run_right(void) { hunt_in(exchange, 600, 40); }
static void proved_mutants_of_a_pool_run_right(void) { hunt_in(experts, 800, 40); }
// Static claims without pages; down's items are counted together, and keys of up are waited for by their numbers.
static void proved_mutants_of_a_counted_pool_run_right(void) {
    const char *text = with(experts, "dynamic pages 0:4 chunks 2", "static", 0);
    text = with(text, "  queue 0 load\n    pool 0 wait routes.w[0]>=1\n", "", 0);
    text = with(text, "  queue 1 load\n    pool 0 wait routes.w[0]>=1\n", "", 0);
    for (int i = 0; i < 2; i++) {
        text = with(text, "ey.w[token]+1", "ey.w[0]+1", 0);
        text = with(text, "wait ey.w[0]>=2,ey.w[1]>=2", "wait ey.w[0]>=6,eact.w[0]>=2,eact.w[1]>=2,eact.w[2]>=2", 0);
    }
    hunt_in(text, 800, 40);
}
static void proved_mutants_of_three_ranks_run_right(void) {
    static char text[8192];
    const char *from = exchange;
    size_t length = 0;
    // Every threshold and index that speaks of two ranks speaks of three.
    while (*from) {
        static const char *const pairs[][2] = {
            {"ranks 2", "ranks 3"},       {"ia f32 [2", "ia f32 [3"},   {"ib f32 [2", "ib f32 [3"},
            {"ia[0:2,", "ia[0:3,"},       {"ib[0:2,", "ib[0:3,"},       {"ia.w[0]>=2", "ia.w[0]>=3"},
            {"ia.w[1]>=2", "ia.w[1]>=3"}, {"ib.w[0]>=2", "ib.w[0]>=3"}, {"ib.w[1]>=2", "ib.w[1]>=3"}};
        size_t pair = 0, count = sizeof pairs / sizeof *pairs;
        while (pair < count && strncmp(from, pairs[pair][0], strlen(pairs[pair][0])) != 0) pair++;
        if (pair < count) {
            memcpy(text + length, pairs[pair][1], strlen(pairs[pair][1]));
            length += strlen(pairs[pair][1]);
            from += strlen(pairs[pair][0]);
        } else
            text[length++] = *from++;
    }
    hunt_in(text, 300, 40);
}

int main(void) {
    RUN(right_progs_are_proved);
    RUN(reads_come_after_writes);
    RUN(writes_come_after_reads);
    RUN(ranks_hand_inboxes_back);
    RUN(thresholds_must_be_reached);
    RUN(queues_do_not_wait_in_a_circle);
    RUN(later_signals_do_not_stand_in);
    RUN(scratch_is_written_each_round);
    RUN(steps_write_what_they_cover);
    RUN(tasks_of_a_step_do_not_see_each_other);
    RUN(pools_know_their_keys);
    RUN(keys_and_rows_are_not_mixed);
    RUN(rows_are_counted_once);
    RUN(loads_match_their_uses);
    RUN(proved_mutants_of_a_chain_run_right);
    RUN(proved_mutants_with_lags_run_right);
    RUN(proved_mutants_of_an_exchange_run_right);
    RUN(proved_mutants_of_a_pool_run_right);
    RUN(proved_mutants_of_a_counted_pool_run_right);
    RUN(proved_mutants_of_three_ranks_run_right);
    return check_done();
}
