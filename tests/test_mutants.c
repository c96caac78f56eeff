// prove against the brute-force interleaver: thousands of small Progs, each a right one with a change or two. What
// prove accepts must not break in any execution.
#include "check.h"
#include "file.h"
#include "interleaver.h"
#include "prove.h"
#include "small_progs.h"

enum { STATES = 100000, WANTED = 5000, TRIES = 700, SMALL_PROGS = 150, SMALL_TRIES = 120 };

static const char *root;
static const char *const hand_written[] = {
    "chain",       "fan_in",      "back_pressure", "pages", "inbox",  "pool_dynamic", "pool_static",
    "pool_pages",  "pool_chunks", "draft",         "lag",   "cache",  "one_counter",  "pool_ranks",
    "pool_tokens", "pool_ranges", "context",       "data",  "slices", "ring",
};
enum { HAND_WRITTEN = sizeof hand_written / sizeof *hand_written };

static void in_ctx(void (*body)(Ctx *, void *), void *user) {
    Ctx *ctx = ctx_new((Env){0});
    if (ctx && !ctx_protect(ctx, body, user)) diag_print(ctx, stderr, DIAG_TEXT);
    ctx_free(ctx);
}

static Prog *parse(Ctx *ctx, const char *name, const char *text) {
    return prog_parse(ctx, source_new(ctx, name, text, strlen(text)));
}
static Prog *read_prog(Ctx *ctx, const char *name) {
    Source *source = file_read(ctx, arena_printf(ctx->arena, "%s/tests/progs/%s.prog", root, name), 1 << 20);
    return source ? prog_parse(ctx, source) : NULL;
}

// ---- Mutations ----

static int roll(uint64_t *dice, int sides) { return sides > 0 ? (int)(check_random(dice) % (uint64_t)sides) : 0; }

// A task or item; pool entries count as tasks with waits alone.
typedef struct Pick {
    Task *task;
    Pool *pool; // of an item
    const Body *body;
} Pick;
typedef LIST(Pick) Picks;

static void pick_tasks(Ctx *ctx, const Prog *prog, Picks *picks) {
    for (int b = 0; b < prog->body_count; b++) {
        const Body *body = &prog->bodies[b];
        for (int q = 0; q < prog->workers * ROLE_COUNT; q++)
            for (int e = 0; e < body->queues[q].count; e++)
                if (body->queues[q].entries[e].kind != ENTRY_LOAD)
                    LIST_ADD(ctx->arena, picks, (Pick){&body->queues[q].entries[e].task, NULL, body});
        for (int p = 0; p < body->pool_count; p++)
            for (int t = 0; t < body->pools[p].item_count; t++)
                LIST_ADD(ctx->arena, picks, (Pick){&body->pools[p].items[t], &body->pools[p], body});
    }
}

static Index random_group(uint64_t *dice, const Prog *prog, const Pool *pool, int counter, bool signal) {
    int kind = pool ? roll(dice, signal ? 3 : 2) : 0, group = roll(dice, prog->counters[counter].groups);
    if (kind == 1) return (Index){.kind = INDEX_KEY};
    if (kind == 2) return (Index){.kind = INDEX_TOKEN};
    return (Index){INDEX_RANGE, group, group + 1};
}

static void queue_insert(Ctx *ctx, Queue *queue, int at, Entry entry) {
    Entry *entries = ARENA_ARRAY(ctx->arena, Entry, queue->count + 1);
    memcpy(entries, queue->entries, (size_t)at * sizeof *entries);
    entries[at] = entry;
    memcpy(entries + at + 1, queue->entries + at, (size_t)(queue->count - at) * sizeof *entries);
    *queue = (Queue){entries, queue->count + 1, queue->count + 1};
}
static void queue_remove(Queue *queue, int at) {
    memmove(queue->entries + at, queue->entries + at + 1, (size_t)(queue->count - at - 1) * sizeof *queue->entries);
    queue->count--;
}

static bool mutate_wait(Ctx *ctx, uint64_t *dice, const Prog *prog, const Pick *pick) {
    Task *task = pick->task;
    int kind = roll(dice, 9), at = roll(dice, task->wait_count);
    if (kind == 0 && prog->counter_count) { // one more
        Wait *waits = ARENA_ARRAY(ctx->arena, Wait, task->wait_count + 1);
        memcpy(waits, task->waits, (size_t)task->wait_count * sizeof *waits);
        int counter = roll(dice, prog->counter_count);
        waits[task->wait_count++] =
            (Wait){counter, random_group(dice, prog, pick->pool, counter, false), 0, roll(dice, 3)};
        task->waits = waits;
        return true;
    }
    if (!task->wait_count) return false;
    Wait *wait = &task->waits[at];
    int64_t total = prog_total(prog, pick->body, wait->counter, wait->group.kind == INDEX_RANGE ? wait->group.lo : 0);
    switch (kind) {
    case 1:
    case 2:
        memmove(wait, wait + 1, (size_t)(task->wait_count - at - 1) * sizeof *wait);
        task->wait_count--;
        return true;
    case 3: wait->need += roll(dice, 2) ? 1 : -1; return true;
    case 4: wait->need = roll(dice, (int)total + 2); return true;
    case 5: wait->group = random_group(dice, prog, pick->pool, wait->counter, false); return true;
    case 6: wait->lag = wait->lag ? wait->lag - 1 : 1; return true;
    case 7: wait->lag = roll(dice, 7); return true;
    default:
        wait->counter = roll(dice, prog->counter_count);
        wait->group = random_group(dice, prog, pick->pool, wait->counter, false);
        return true;
    }
}

static bool mutate_signal(Ctx *ctx, uint64_t *dice, const Prog *prog, const Pick *pick) {
    Task *task = pick->task;
    int kind = roll(dice, 7), at = roll(dice, task->signal_count);
    if (!task->write_count) return false; // a pool entry
    if (kind == 0) {
        Signal *signals = ARENA_ARRAY(ctx->arena, Signal, task->signal_count + 1);
        memcpy(signals, task->signals, (size_t)task->signal_count * sizeof *signals);
        int counter = roll(dice, prog->counter_count);
        signals[task->signal_count++] =
            (Signal){counter, random_group(dice, prog, pick->pool, counter, true), 1 + roll(dice, 2), roll(dice, 2)};
        task->signals = signals;
        return true;
    }
    if (!task->signal_count) return false;
    Signal *signal = &task->signals[at];
    switch (kind) {
    case 1:
    case 2:
        memmove(signal, signal + 1, (size_t)(task->signal_count - at - 1) * sizeof *signal);
        task->signal_count--;
        return true;
    case 3: signal->amount += roll(dice, 2) ? 1 : -1; return true;
    case 4: signal->group = random_group(dice, prog, pick->pool, signal->counter, true); return true;
    case 5: signal->all_ranks = !signal->all_ranks; return true;
    default:
        signal->counter = roll(dice, prog->counter_count);
        signal->group = random_group(dice, prog, pick->pool, signal->counter, true);
        return true;
    }
}

static bool mutate_region(uint64_t *dice, const Prog *prog, Region *r, int ranks) {
    const Buffer *buffer = &prog->buffers[r->buffer];
    Index *index = &r->at[roll(dice, buffer->rank)];
    switch (roll(dice, 5)) {
    case 0: r->all_ranks = !r->all_ranks; return ranks > 1;
    case 1: r->all_layers = !r->all_layers; return buffer->layers > 0;
    case 2: // shift
        index->lo++;
        index->hi++;
        return index->kind == INDEX_RANGE;
    case 3: *(roll(dice, 2) ? &index->lo : &index->hi) += roll(dice, 2) ? 1 : -1; return index->kind == INDEX_RANGE;
    default: {
        int at = roll(dice, buffer->dims[0]);
        *index = index->kind == INDEX_RANGE ? (Index){roll(dice, 2) ? INDEX_KEY : INDEX_SELF, 0, 0}
                                            : (Index){INDEX_RANGE, at, at + 1};
        return true;
    }
    }
}

static Entry *random_entry(uint64_t *dice, const Prog *prog, Body **body, Queue **queue, int *at) {
    *body = &prog->bodies[roll(dice, prog->body_count)];
    *queue = &(*body)->queues[roll(dice, prog->workers * ROLE_COUNT)];
    if (!(*queue)->count) return NULL;
    *at = roll(dice, (*queue)->count);
    return &(*queue)->entries[*at];
}

static bool mutate_queue(Ctx *ctx, uint64_t *dice, Prog *prog) {
    Body *body;
    Queue *queue;
    int at;
    Entry *entry = random_entry(dice, prog, &body, &queue, &at), kept;
    if (!entry) return false;
    kept = *entry;
    switch (roll(dice, 6)) {
    case 0: { // swap
        int other = roll(dice, 2) ? at + 1 : roll(dice, queue->count);
        if (other >= queue->count || other == at) return false;
        *entry = queue->entries[other];
        queue->entries[other] = kept;
        return true;
    }
    case 1:
    case 2: { // move
        Queue *to = &body->queues[roll(dice, prog->workers * ROLE_COUNT)];
        queue_remove(queue, at);
        queue_insert(ctx, to, roll(dice, to->count + 1), kept);
        return true;
    }
    case 3: queue_remove(queue, at); return true;
    case 4: { // twice
        Queue *to = &body->queues[roll(dice, prog->workers * ROLE_COUNT)];
        queue_insert(ctx, to, roll(dice, to->count + 1), kept);
        return true;
    }
    default: // a task and its load go elsewhere
        for (int q = 0; kept.kind == ENTRY_TASK && q < prog->workers * ROLE_COUNT; q++)
            for (int e = 0; e < body->queues[q].count; e++) {
                Entry load = body->queues[q].entries[e];
                if (load.kind != ENTRY_LOAD || load.task.step != kept.task.step || load.task.lo != kept.task.lo)
                    continue;
                int worker = roll(dice, prog->workers);
                queue_remove(queue, at);
                queue_remove(&body->queues[q], e);
                Queue *to = prog_queue(prog, body, worker, ROLE_COMPUTE),
                      *loads = prog_queue(prog, body, worker, ROLE_LOAD);
                queue_insert(ctx, to, roll(dice, to->count + 1), kept);
                queue_insert(ctx, loads, roll(dice, loads->count + 1), load);
                return true;
            }
        return false;
    }
}

static bool mutate_pages(uint64_t *dice, Prog *prog) {
    Body *body;
    Queue *queue;
    int at, kind = roll(dice, 6);
    Entry *entry = random_entry(dice, prog, &body, &queue, &at);
    if (!entry || !entry->task.page_count) return false;
    if (kind == 5) {
        entry->task.ring = !entry->task.ring;
        return true;
    }
    int k = roll(dice, entry->task.page_count), page = roll(dice, prog->page_count);
    if (kind == 4) {
        entry->task.page_count--;
        return true;
    }
    for (int q = 0; kind < 2 && q < prog->workers * ROLE_COUNT; q++) // in load and task alike
        for (int e = 0; e < body->queues[q].count; e++) {
            Task *other = &body->queues[q].entries[e].task;
            if (other->step == entry->task.step && other->lo == entry->task.lo && k < other->page_count)
                other->pages[k] = page;
        }
    entry->task.pages[k] = page;
    return true;
}

static bool mutate_pool(uint64_t *dice, Prog *prog) {
    Body *body = &prog->bodies[roll(dice, prog->body_count)];
    if (!body->pool_count) return false;
    Pool *pool = body->pools;
    switch (roll(dice, 8)) {
    case 0: pool->top += roll(dice, 2) ? 1 : -1; return true;
    case 1: pool->keys += roll(dice, 2) ? 1 : -1; return true;
    case 2: pool->publisher = roll(dice, body->step_count); return true;
    case 3: pool->claim = pool->claim == CLAIM_STATIC ? CLAIM_DYNAMIC : CLAIM_STATIC; return true;
    case 4: pool->chunks += roll(dice, 2) ? 1 : -1; return prog->page_count > 0;
    case 5: pool->page_lo = roll(dice, prog->page_count + 1); return pool->chunks > 0;
    case 6: pool->page_hi = roll(dice, prog->page_count + 1); return pool->chunks > 0;
    default: { // items in another order
        int a = roll(dice, pool->item_count), b = roll(dice, pool->item_count);
        Task kept = pool->items[a];
        pool->items[a] = pool->items[b];
        pool->items[b] = kept;
        return a != b;
    }
    }
}

static bool mutate_round(uint64_t *dice, Prog *prog) {
    RoundItem *item = &prog->round[roll(dice, prog->round_count)];
    switch (roll(dice, 4)) {
    case 0: item->segment = (Segment)roll(dice, 3); return true;
    case 1: item->layer_hi++; return true;
    case 2: item->layer_lo++; return true;
    default: {
        RoundItem *other = &prog->round[roll(dice, prog->round_count)], kept = *item;
        *item = *other;
        *other = kept;
        return item != other;
    }
    }
}

// One change. False when the dice found nothing to change.
static bool mutate(Ctx *ctx, uint64_t *dice, Prog *prog) {
    Picks picks = {0};
    pick_tasks(ctx, prog, &picks);
    if (!picks.count) return false;
    Pick *pick = &picks.at[roll(dice, (int)picks.count)];
    Body *body = &prog->bodies[roll(dice, prog->body_count)];
    Step *step = &body->steps[roll(dice, body->step_count)];
    switch (roll(dice, 16)) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4: return mutate_wait(ctx, dice, prog, pick);
    case 5:
    case 6:
    case 7: return mutate_signal(ctx, dice, prog, pick);
    case 8:
    case 9:
    case 10: return mutate_queue(ctx, dice, prog);
    case 11:
        return pick->task->write_count &&
               mutate_region(dice, prog, &pick->task->writes[roll(dice, pick->task->write_count)], prog->ranks);
    case 12: return mutate_pages(dice, prog);
    case 13: return mutate_pool(dice, prog);
    case 14:
        if (roll(dice, 2)) return mutate_round(dice, prog);
        return step->cover_count &&
               mutate_region(dice, prog, &step->covers[roll(dice, step->cover_count)], prog->ranks);
    default: { // waits or signals of another task
        Task *from = picks.at[roll(dice, (int)picks.count)].task;
        if (roll(dice, 2)) {
            pick->task->waits = from->waits;
            pick->task->wait_count = from->wait_count;
        } else {
            pick->task->signals = from->signals;
            pick->task->signal_count = from->signal_count;
        }
        return from != pick->task;
    }
    }
}

// ---- Verdicts ----

typedef struct Tally {
    long decided, both_accept, both_reject, prove_alone, wrongly, too_big, same, shapeless;
    long by_code[DIAG_CODE_COUNT]; // rejected by prove alone
    bool split;                    // the two searches of the interleaver disagree
    uint64_t *seen;                // hashes of the texts so far
    size_t seen_mask;
    char why[4000];
    const char *base; // at hand
    uint64_t seed, dice;
} Tally;

static int longest_lag(const Prog *prog) {
    int lag = 0;
    for (int b = 0; b < prog->body_count; b++) {
        const Body *body = &prog->bodies[b];
        for (int q = 0; q < prog->workers * ROLE_COUNT; q++)
            for (int e = 0; e < body->queues[q].count; e++)
                for (int w = 0; w < body->queues[q].entries[e].task.wait_count; w++)
                    if (body->queues[q].entries[e].task.waits[w].lag > lag)
                        lag = body->queues[q].entries[e].task.waits[w].lag;
        for (int p = 0; p < body->pool_count; p++)
            for (int t = 0; t < body->pools[p].item_count; t++)
                for (int w = 0; w < body->pools[p].items[t].wait_count; w++)
                    if (body->pools[p].items[t].waits[w].lag > lag) lag = body->pools[p].items[t].waits[w].lag;
    }
    return lag;
}

// Both searches over two rounds, then as many rounds as a lag may need. Two searches that disagree are a fault of the
// test itself.
static Interleaving interleaved(Ctx *ctx, const Prog *prog, Tally *tally) {
    Interleaving states = interleave(ctx, prog, 2, STATES), pairs = interleave_pairs(ctx, prog, 2, STATES);
    if (states.verdict != VERDICT_TOO_BIG && pairs.verdict != VERDICT_TOO_BIG && states.verdict != pairs.verdict) {
        tally->split = true;
        snprintf(tally->why, sizeof tally->why, "states: %s, pairs: %s\n%s", states.why, pairs.why,
                 prog_print(ctx, prog));
    }
    if (states.verdict == VERDICT_BROKEN || pairs.verdict == VERDICT_BROKEN)
        return states.verdict == VERDICT_BROKEN ? states : pairs;
    int rounds = 3 + longest_lag(prog) / prog_instances(prog);
    Interleaving more = interleave_pairs(ctx, prog, rounds, STATES);
    if (more.verdict == VERDICT_BROKEN) return more;
    return states.verdict == VERDICT_RIGHT ? states : pairs;
}

static bool is_new(Tally *tally, const char *text) {
    uint64_t hash = 14695981039346656037u; // FNV-1a
    for (const char *s = text; *s; s++) hash = (hash ^ (uint8_t)*s) * 1099511628211u;
    size_t at = hash & tally->seen_mask;
    for (; tally->seen[at]; at = (at + 1) & tally->seen_mask)
        if (tally->seen[at] == hash) return false;
    tally->seen[at] = hash;
    return true;
}

static void decide(Ctx *ctx, const Prog *prog, Tally *tally) {
    size_t errors = diag_errors(ctx);
    if (!prog_verify(ctx, prog)) {
        diag_forget(ctx, errors);
        tally->shapeless++;
        return;
    }
    const char *text = prog_print(ctx, prog);
    if (!is_new(tally, text)) {
        tally->same++;
        return;
    }
    bool accepted = prog_prove(ctx, prog, NULL);
    DiagCode code = diag_code_at(ctx, errors);
    diag_forget(ctx, errors);
    Interleaving truth = interleaved(ctx, prog, tally);
    if (truth.verdict == VERDICT_TOO_BIG) {
        tally->too_big++;
        return;
    }
    tally->decided++;
    if (truth.verdict == VERDICT_RIGHT) {
        *(accepted ? &tally->both_accept : &tally->prove_alone) += 1;
        if (!accepted) tally->by_code[code]++;
        if (!accepted && getenv("SHOW_CAUTION")) fprintf(stderr, "%s\n%s\n", diag_code_name(code), text);
    } else if (!accepted)
        tally->both_reject++;
    else if (!tally->wrongly++ || getenv("SHOW_WRONG")) {
        snprintf(tally->why, sizeof tally->why, "of %s, dice %llu: %s\n%s", tally->base,
                 (unsigned long long)tally->seed, truth.why, text);
        if (getenv("SHOW_WRONG")) fprintf(stderr, "accepted wrongly: %s\n", tally->why);
    }
}

static void mutants_of(Ctx *ctx, const Prog *base, int tries, Tally *tally) {
    uint64_t dice = tally->seed;
    for (int i = 0; i < tries && !tally->split; i++) {
        ArenaMark mark = arena_push(ctx->arena);
        Prog *mutant = prog_copy(ctx, base);
        int changes = 1 + (roll(&dice, 3) == 0) + (roll(&dice, 8) == 0);
        bool changed = false;
        while (changes--) {
            changed |= mutate(ctx, &dice, mutant);
            // A later change rests on a verified Prog.
            size_t errors = diag_errors(ctx);
            if (!prog_verify(ctx, mutant)) {
                diag_forget(ctx, errors);
                changed = false;
                tally->shapeless++;
                break;
            }
        }
        if (changed) decide(ctx, mutant, tally);
        arena_pop(ctx->arena, mark);
    }
}

static void mutants_body(Ctx *ctx, void *user) {
    Tally *tally = user;
    const char *extra = getenv("MUTANTS"); // more of everything
    int times = extra ? atoi(extra) : 1;
    for (int i = 0; i < HAND_WRITTEN && !tally->split; i++) {
        ArenaMark mark = arena_push(ctx->arena);
        tally->base = hand_written[i];
        tally->seed = (uint64_t)i + 1;
        Prog *base = read_prog(ctx, hand_written[i]);
        if (base) mutants_of(ctx, base, TRIES * times, tally);
        arena_pop(ctx->arena, mark);
    }
    for (int i = 0; i < SMALL_PROGS * times && !tally->split; i++) {
        ArenaMark mark = arena_push(ctx->arena);
        char name[40];
        snprintf(name, sizeof name, "small Prog %d", i);
        tally->base = name;
        tally->seed = (uint64_t)i + 1000;
        Prog *base = parse(ctx, "small", small_prog(ctx, (uint64_t)i));
        if (base) mutants_of(ctx, base, SMALL_TRIES, tally);
        arena_pop(ctx->arena, mark);
    }
}

static void what_prove_accepts_does_not_break(void) {
    Tally tally = {.seen_mask = (1 << 22) - 1};
    tally.seen = calloc(tally.seen_mask + 1, sizeof *tally.seen);
    CHECK(tally.seen);
    in_ctx(mutants_body, &tally);
    free(tally.seen);
    printf(
        "# mutants: %ld decided, %ld accepted by both, %ld rejected by both, %ld rejected by prove alone, %ld accepted "
        "wrongly\n",
        tally.decided, tally.both_accept, tally.both_reject, tally.prove_alone, tally.wrongly);
    printf("# of those rejected by prove alone:");
    for (int c = 0; c < DIAG_CODE_COUNT; c++)
        if (tally.by_code[c]) printf(" %s %ld", diag_code_name((DiagCode)c), tally.by_code[c]);
    printf("; not counted: %ld too big, %ld met before, %ld of no shape\n", tally.too_big, tally.same, tally.shapeless);
    CHECK(!tally.split, "the interleaver's searches differ: %s", tally.why);
    CHECK(tally.wrongly == 0, "%s", tally.why);
    CHECK(tally.decided >= WANTED, "only %ld", tally.decided);
    CHECK(tally.both_accept > 100 && tally.both_reject > 1000);
}

// ---- Right ones, and wrong ones chosen by hand ----

typedef struct Bases {
    int right, proved, count;
    char why[4000];
} Bases;

static void base_body(Ctx *ctx, Bases *bases, Prog *prog) {
    Tally tally = {0};
    bases->count++;
    Interleaving truth = prog ? interleaved(ctx, prog, &tally) : (Interleaving){VERDICT_BROKEN, 0, "does not parse"};
    bool proved = prog && prog_prove(ctx, prog, NULL);
    bases->right += truth.verdict != VERDICT_BROKEN && !tally.split;
    bases->proved += proved;
    if (truth.verdict == VERDICT_BROKEN || tally.split || !proved)
        snprintf(bases->why, sizeof bases->why, "%s\n%s", truth.why, prog ? prog_print(ctx, prog) : "");
    if (diag_errors(ctx)) diag_print(ctx, stderr, DIAG_TEXT); // while the text that they point at lives
}
static void hand_written_body(Ctx *ctx, void *user) {
    for (int i = 0; i < HAND_WRITTEN; i++) base_body(ctx, user, read_prog(ctx, hand_written[i]));
}
static void hand_written_progs_are_right_and_proved(void) {
    Bases bases = {0};
    in_ctx(hand_written_body, &bases);
    CHECK(bases.right == HAND_WRITTEN && bases.proved == HAND_WRITTEN, "%s", bases.why);
}
static void small_body(Ctx *ctx, void *user) {
    for (int i = 0; i < 3 * SMALL_PROGS; i++) {
        ArenaMark mark = arena_push(ctx->arena);
        base_body(ctx, user, parse(ctx, "small", small_prog(ctx, (uint64_t)i)));
        arena_pop(ctx->arena, mark);
    }
}
static void small_progs_are_right_and_proved(void) {
    Bases bases = {0};
    in_ctx(small_body, &bases);
    CHECK(bases.right == bases.count && bases.proved == bases.count, "%s", bases.why);
}

// Each breaks for the reason told.
static const struct {
    const char *base, *from, *to, *why;
} traps[] = {
    {"chain", "wait x.w[0]>=2,z.w[0]>=0", "wait x.w[0]>=1,z.w[0]>=0", "race"},
    {"chain", "wait x.w[0]>=2,z.w[0]>=0", "wait x.w[0]>=3,z.w[0]>=0", "stuck"},
    {"chain", "reads x[0:4] writes y[0:2]", "reads x[0:4] writes y[1:2]", "written 0 times"},
    {"chain", "s1 2:4 reads x[0:4] writes y[2:4]", "s1 2:4 reads x[0:4] writes y[1:4]", "written 2 times"},
    {"fan_in", "wait x.w[0]>=1,x.w[1]>=1", "wait x.w[0]>=1,x.w[2]>=1", "race"},
    {"fan_in", "wait x.r[2]>=0 ", "", "race"},
    {"pages", "load s1 0:1 pages 1,2", "load s1 0:1 pages 2,1", "another chunk"},
    {"pages", "load s1 0:1 pages 1,2\n", "", "stuck"},
    {"ring", "load s1 0:1 pages 1..", "load s1 0:1 pages 2..", "another chunk"},
    {"ring", "load s1 0:1 pages 1..", "load s1 0:1 pages 1", "another chunk"},
    {"ring", "    load s1 1:2 pages 2..\n", "", "stuck"},
    {"pages", "    load s0 0:1 pages 0\n    load s1 0:1 pages 1,2\n",
     "    load s1 0:1 pages 1,0\n    load s0 0:1 pages 0\n", ""},
    {"inbox", "wait p.w[0]>=1,x.w[0]>=0", "wait p.w[0]>=1", "race"},
    {"inbox", "signal inbox.w@all[0]+1", "signal inbox.w[0]+2", "race"},
    {"inbox", "signal x.w@all[0]+1", "signal x.w[0]+2", "race"},
    {"slices", "wait inbox.w[0]>=2", "wait inbox.w[0]>=1", "race"},
    {"slices", "wait x.w[0]>=2", "wait x.w[0]>=1", "race"},
    {"slices", "signal x.w@all[0]+1", "signal x.w[0]+2", "race"},
    {"slices", "signal inbox.w@all[0]+1", "signal inbox.w[0]+2", "race"},
    {"slices", "writes x@all[self,0:1]", "writes x[self,0:1]", "written 0 times"},
    {"pool_dynamic", "  queue 1 compute\n    pool 0 wait r.w[0]>=1", "  queue 1 compute\n    pool 0", "claims before"},
    {"pool_dynamic", "wait e.w[key]>=1 ", "", "race"},
    {"pool_dynamic", "wait d.w[0]>=1,d.w[1]>=1 signal x.w[0]+1\n  queue 1", "wait d.w[0]>=1 signal x.w[0]+1\n  queue 1",
     "race"},
    {"pool_dynamic", "wait d.w[0]>=1,d.w[1]>=1 signal x.w[0]+1\n  queue 1",
     "wait d.w[0]>=1,d.w[0]>=1 signal x.w[0]+1\n  queue 1", "race"},
    {"pool_pages", "pages 0:2 chunks 1", "pages 0:2 chunks 3", NULL}, // right: more chunks than pages
    {"draft", "reads drafts[0:2] writes x[0:1] wait drafts.w[0]>=0",
     "reads drafts[0:2] writes x[0:1] wait drafts.w[0]-1>=0", "race"},
    {"lag", "y.w[0]-1>=0", "y.w[0]-2>=0", "race"},
    {"lag", "wait slot.w[0]>=1", "wait slot.w[0]>=1,slot.w[0]-6>=99", "stuck"},
    {"cache", ",a.w[0]>=0", "", "race"},
    {"one_counter", "wait c[0]>=5", "wait c[0]>=2", "race"},
    {"pool_side", "wait q.w[0]>=1,x.w[0]>=0", "wait e.w[1]>=1,x.w[0]>=0", "race"}, // key 1 may be inactive
    {"pool_tokens", "d.w[0]>=4,d.w[1]>=4", "d.w[1]>=4", "race"},                   // row 1 may be absent
    {"pool_ranges", "wait e.w[0]>=3", "wait e.w[0]>=2", "race"},
    {"one_counter", "signal c[0]+3", "signal c[0]+1", "stuck"},
    {"back_pressure", "wait x.w[0]>=1 signal y.w[0]+2", "wait x.w[0]>=0 signal y.w[0]+2", "race"},
};

// "race" stands for every way in which two tasks may be seen to be out of order.
static bool why_fits(const char *got, const char *want) {
    if (strcmp(want, "race") != 0) return strstr(got, want) != NULL;
    return strstr(got, "reads version") || strstr(got, "writes over") || strstr(got, "starts while") ||
           strstr(got, "starts before");
}

static void traps_body(Ctx *ctx, void *user) {
    Bases *bases = user;
    for (size_t i = 0; i < sizeof traps / sizeof *traps; i++) {
        Source *source =
            file_read(ctx, arena_printf(ctx->arena, "%s/tests/progs/%s.prog", root, traps[i].base), 1 << 20);
        const char *at = source ? strstr(source->text, traps[i].from) : NULL;
        snprintf(bases->why, sizeof bases->why, "%s: no \"%s\"", traps[i].base, traps[i].from);
        if (!at) return;
        Prog *prog = parse(ctx, traps[i].base,
                           arena_printf(ctx->arena, "%.*s%s%s", (int)(at - source->text), source->text, traps[i].to,
                                        at + strlen(traps[i].from)));
        if (!prog) return;
        Tally tally = {0};
        Interleaving truth = interleaved(ctx, prog, &tally);
        bool proved = prog_prove(ctx, prog, NULL), right = truth.verdict == VERDICT_RIGHT;
        diag_forget(ctx, 0);
        bool fine = traps[i].why ? truth.verdict == VERDICT_BROKEN && why_fits(truth.why, traps[i].why) && !proved
                                 : right && proved;
        snprintf(bases->why, sizeof bases->why, "%s, \"%s\": %s, %s, \"%s\"", traps[i].base, traps[i].to,
                 proved ? "proved" : "not proved", right ? "right" : "broken", truth.why);
        if (!fine || tally.split) return;
    }
    bases->why[0] = 0;
}
static void traps_break_and_are_rejected(void) {
    Bases bases = {0};
    in_ctx(traps_body, &bases);
    CHECK(!bases.why[0], "%s", bases.why);
}

int main(void) {
    root = getenv("ROOT") ? getenv("ROOT") : ".";
    RUN(hand_written_progs_are_right_and_proved);
    RUN(small_progs_are_right_and_proved);
    RUN(traps_break_and_are_rejected);
    RUN(what_prove_accepts_does_not_break);
    return check_done();
}
