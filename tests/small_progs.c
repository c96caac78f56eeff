#include "small_progs.h"
#include "text.h"
#include <stdio.h>

enum { UNITS = 6, GROUPS_MAX = 3, BUFFERS_MAX = 5, STEPS_MAX = 4, WORKERS_MAX = 3 };

typedef struct Dice {
    uint64_t state;
} Dice;
static int roll(Dice *dice, int sides) { // 0..sides-1
    uint64_t z = (dice->state += 0x9E3779B97F4A7C15u);
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (int)((z ^ z >> 31) % (uint64_t)sides);
}

static void print_head(Text *text, int ranks, int workers, int rows, int pages) {
    text_printf(text,
                "prog 1\nmodel small\nsku host\nranks %d\nworkers %d\nrows %d\nrole load warps 1 registers 24\n"
                "role compute warps 4 registers 128\nrole control warps 1 registers 48\n",
                ranks, workers, rows);
    if (pages) text_printf(text, "pages %d x 64\n", pages);
}

// ---- Steps and buffers ----

typedef struct Shape {                         // of one buffer
    int groups;                                // of its counters
    bool inbox, state;                         // inbox: [ranks, units], every rank writes its row on all ranks
    bool written;                              // earlier in the round
    int writes[GROUPS_MAX], reads[GROUPS_MAX]; // signals so far in this instance, of one rank's counters
} Shape;

// "wait" or "," and so on: the word before the first, a comma before the others.
static const char *comma(int *count, const char *word) { return (*count)++ ? "," : word; }

static bool overlaps(int group, int groups, int lo, int hi) {
    return group * UNITS / groups < hi && lo < (group + 1) * UNITS / groups;
}

static void print_queues(Text *text, Text queues[WORKERS_MAX][ROLE_COUNT], int workers) {
    for (int w = 0; w < workers; w++)
        for (int r = 0; r < ROLE_COUNT; r++)
            if (queues[w][r].length) text_printf(text, "  queue %d %s\n%s", w, role_name((Role)r), queues[w][r].at);
}

static void steps_body(Ctx *ctx, Dice *dice, Text *text, const char *name, Shape *shapes, int buffers, int ranks,
                       int workers, int pages) {
    static const char *const ops[] = {"embed", "qkv", "o_proj", "merge"};
    Text queues[WORKERS_MAX][ROLE_COUNT], steps = text_new(ctx->arena);
    for (int w = 0; w < WORKERS_MAX; w++)
        for (int r = 0; r < ROLE_COUNT; r++) queues[w][r] = text_new(ctx->arena);
    int page_at[WORKERS_MAX] = {0}, turn = 0, step_count = 1 + roll(dice, 3), must_read = -1;
    for (int b = 0; b < buffers; b++)
        for (int g = 0; g < GROUPS_MAX; g++) shapes[b].writes[g] = shapes[b].reads[g] = 0;
    for (int s = 0; s < step_count; s++) {
        int to = roll(dice, buffers), tiles = 1 + roll(dice, 3);
        // A step after an inbox's writers reads all of it on every rank: so prove sees that its signals have arrived.
        if (to == must_read || (shapes[to].inbox && s + 1 == step_count)) to = 0;
        Shape *target = &shapes[to];
        bool control = roll(dice, 4) == 0;
        text_printf(&steps, "  step %d %s covers b%d%s[%s0:%d]\n", s, ops[s], to, target->inbox ? "@all" : "",
                    target->inbox ? "self," : "", UNITS);
        int from[2], lo[2], hi[2], reads = roll(dice, 3), count = 0;
        if (must_read >= 0) {
            from[0] = must_read;
            lo[0] = 0;
            hi[0] = UNITS;
            count = 1;
        }
        must_read = target->inbox ? to : -1;
        for (int r = count; r < reads; r++) {
            int b = roll(dice, buffers);
            if (b == to || (count && from[0] == b)) continue;
            if (!shapes[b].written) shapes[b].state = true;
            from[count] = b;
            lo[count] = roll(dice, 2) * 3;
            hi[count] = lo[count] + (lo[count] ? 3 : 3 + 3 * roll(dice, 2));
            count++;
        }
        bool own = !target->inbox && roll(dice, 3) == 0; // reads its own tile too
        if (own && !target->written) target->state = true;
        Shape after[BUFFERS_MAX];
        for (int b = 0; b < buffers; b++) after[b] = shapes[b];
        for (int t = 0; t < tiles; t++) {
            int tile_lo = t * UNITS / tiles, tile_hi = (t + 1) * UNITS / tiles, worker = turn++ % workers, n = 0;
            Text *queue = &queues[worker][control ? ROLE_CONTROL : ROLE_COMPUTE], *loads = &queues[worker][ROLE_LOAD];
            text_printf(queue, "    s%d %d:%d", s, tile_lo, tile_hi);
            for (int r = 0; r < count; r++)
                text_printf(queue, "%sb%d[%s%d:%d]", comma(&n, " reads "), from[r],
                            shapes[from[r]].inbox ? ranks == 2 ? "0:2," : "0:1," : "", lo[r], hi[r]);
            if (own) text_printf(queue, "%sb%d[%d:%d]", comma(&n, " reads "), to, tile_lo, tile_hi);
            text_printf(queue, " writes b%d%s[%s%d:%d]", to, target->inbox ? "@all" : "", target->inbox ? "self," : "",
                        tile_lo, tile_hi);
            n = 0;
            for (int r = 0; r < count; r++)
                for (int g = 0; g < shapes[from[r]].groups; g++)
                    if (overlaps(g, shapes[from[r]].groups, lo[r], hi[r]))
                        text_printf(queue, "%sb%d.w[%d]>=%d", comma(&n, " wait "), from[r], g,
                                    shapes[from[r]].writes[g]);
            for (int g = 0; g < target->groups; g++)
                if (overlaps(g, target->groups, tile_lo, tile_hi))
                    text_printf(queue, "%sb%d.w[%d]>=%d,b%d.r[%d]>=%d", comma(&n, " wait "), to, g, target->writes[g],
                                to, g, target->reads[g]);
            n = 0;
            for (int g = 0; g < target->groups; g++)
                if (overlaps(g, target->groups, tile_lo, tile_hi)) {
                    text_printf(queue, "%sb%d.w%s[%d]+1", comma(&n, " signal "), to, target->inbox ? "@all" : "", g);
                    after[to].writes[g] += target->inbox ? ranks : 1;
                }
            for (int r = 0; r < count; r++)
                for (int g = 0; g < shapes[from[r]].groups; g++)
                    if (overlaps(g, shapes[from[r]].groups, lo[r], hi[r])) {
                        bool all = shapes[from[r]].inbox;
                        text_printf(queue, "%sb%d.r%s[%d]+1", comma(&n, " signal "), from[r], all ? "@all" : "", g);
                        after[from[r]].reads[g] += all ? ranks : 1;
                    }
            if (pages && !control && roll(dice, 2)) {
                int chunks = 1 + roll(dice, 2);
                text_printf(loads, "    load s%d %d:%d", s, tile_lo, tile_hi);
                for (int c = 0; c < chunks; c++) {
                    text_printf(loads, "%s%d", c ? "," : " pages ", page_at[worker] % pages);
                    text_printf(queue, "%s%d", c ? "," : " pages ", page_at[worker]++ % pages);
                }
                text_printf(loads, "\n");
            }
            text_printf(queue, "\n");
        }
        for (int b = 0; b < buffers; b++) shapes[b] = after[b];
        target->written = true;
    }
    text_printf(text, "body %s\n%s", name, steps.at);
    print_queues(text, queues, workers);
}

static char *steps_prog(Ctx *ctx, Dice *dice) {
    int ranks = 1 + (roll(dice, 3) == 0), workers = 1 + roll(dice, ranks == 2 ? 2 : WORKERS_MAX),
        pages = roll(dice, 2) ? 1 + roll(dice, 3) : 0;
    int buffers = 2 + roll(dice, BUFFERS_MAX - 1), bodies = 1 + roll(dice, 2);
    Shape shapes[BUFFERS_MAX] = {0};
    for (int b = 0; b < buffers; b++) {
        shapes[b].groups = 1 + roll(dice, GROUPS_MAX);
        shapes[b].inbox = b && ranks == 2 && roll(dice, 2);
    }
    Text rest = text_new(ctx->arena), text = text_new(ctx->arena);
    for (int b = 0; b < bodies; b++)
        steps_body(ctx, dice, &rest, b ? "tail" : "head", shapes, buffers, ranks, workers, pages);
    print_head(&text, ranks, workers, 1, pages);
    for (int b = 0; b < buffers; b++)
        text_printf(&text, "buffer b%d f32 [%s%d]%s\n", b, shapes[b].inbox ? ranks == 2 ? "2," : "1," : "", UNITS,
                    shapes[b].state ? " state" : "");
    for (int b = 0; b < buffers; b++)
        text_printf(&text, "counter b%d.w %d\ncounter b%d.r %d\n", b, shapes[b].groups, b, shapes[b].groups);
    text_printf(&text, "%sround\n  %s head 0:%d\n", rest.at, roll(dice, 4) ? "target" : "draft",
                bodies == 1 ? 1 + roll(dice, 2) : 1);
    if (bodies == 2) text_printf(&text, "  target tail 0:%d\n", 1 + roll(dice, 2));
    text_printf(&text, "end\n");
    return text.at;
}

// ---- Pools ----

static char *pool_prog(Ctx *ctx, Dice *dice) {
    enum { BY_ROW, BY_ALL, BY_KEY };
    int by = roll(dice, 3), keys = by == BY_KEY ? 1 + roll(dice, 2) : 1 + roll(dice, 3), rows = 1 + roll(dice, 2);
    int top = 1 + (keys > 1 && roll(dice, 3) == 0), workers = 1 + roll(dice, 2),
        chunks = roll(dice, 3) == 0 ? 1 + roll(dice, 2) : 0;
    int pages = chunks ? 1 + roll(dice, 3) : 0, ups = 1 + (roll(dice, 4) == 0),
        downs = roll(dice, 4) ? 1 + (roll(dice, 4) == 0) : 0;
    int combines = 1 + roll(dice, 2), last = downs ? downs : ups;
    bool dynamic = roll(dice, 2);
    Text text = text_new(ctx->arena);
    print_head(&text, 1, workers, rows, pages);
    text_printf(&text, "buffer r i32 [1]\nbuffer e f32 [%d,2]\nbuffer d f32 [%d,2]\nbuffer x f32 [2]\n", keys, keys);
    text_printf(&text, "counter r.w 1\ncounter e.w %d\ncounter d.w %d\ncounter x.w 1\n", keys,
                by == BY_ROW   ? rows
                : by == BY_ALL ? 1
                               : keys);
    text_printf(&text, "body a\n  step 0 route covers r[0:1]\n");
    if (downs) text_printf(&text, "  step 1 experts_up covers e[key,0:2]\n");
    text_printf(&text, "  step %d experts_down covers d[key,0:2]\n  step %d combine covers x[0:2]\n", downs ? 2 : 1,
                downs ? 3 : 2);
    text_printf(&text, "  pool 0 experts keys %d top %d publisher s0 %s", keys, top, dynamic ? "dynamic" : "static");
    if (chunks) text_printf(&text, " pages 0:%d chunks %d", pages, chunks);
    text_printf(&text, "\n");
    static const char *const groups[] = {"[token]", "[0]", "[key]"};
    for (int t = 0; downs && t < ups; t++)
        text_printf(&text, "    s1 %d:%d reads r[0:1] writes e[key,%d:%d] signal e.w[key]+1\n", t, t + 1, t * 2 / ups,
                    (t + 1) * 2 / ups);
    for (int t = 0; t < last; t++) {
        text_printf(&text, "    s%d %d:%d reads r[0:1]%s writes d[key,%d:%d]", downs ? 2 : 1, t, t + 1,
                    downs ? ",e[key,0:2]" : "", t * 2 / last, (t + 1) * 2 / last);
        if (downs) text_printf(&text, " wait e.w[key]>=%d", ups);
        text_printf(&text, " signal d.w%s+1\n", groups[by]);
    }
    int takes_part = 1 + roll(dice, (1 << workers) - 1), publishes = roll(dice, workers);
    for (int w = 0; w < workers; w++) {
        if (chunks && takes_part >> w & 1) text_printf(&text, "  queue %d load\n    pool 0 wait r.w[0]>=1\n", w);
        if (!(takes_part >> w & 1) && w != publishes && combines <= w) continue;
        text_printf(&text, "  queue %d compute\n", w);
        if (w == publishes) text_printf(&text, "    s0 0:1 writes r[0:1] wait x.w[0]>=0 signal r.w[0]+1\n");
        if (takes_part >> w & 1) text_printf(&text, "    pool 0 wait r.w[0]>=1\n");
        for (int t = 0; t < combines; t++) {
            if (t % workers != w) continue;
            text_printf(&text, "    s%d %d:%d reads r[0:1],d[active,0:2] writes x[%d:%d]", downs ? 3 : 2, t, t + 1,
                        t * 2 / combines, (t + 1) * 2 / combines);
            int n = 0;
            for (int g = 0; g < (by == BY_ROW ? rows : by == BY_ALL ? 1 : keys); g++)
                text_printf(&text, "%sd.w[%d]>=%d", comma(&n, " wait "), g,
                            last * (by == BY_ROW   ? top
                                    : by == BY_ALL ? keys
                                                   : 1));
            text_printf(&text, " signal x.w[0]+1\n");
        }
    }
    text_printf(&text, "round\n  target a 0:1\nend\n");
    return text.at;
}

char *small_prog(Ctx *ctx, uint64_t seed) {
    Dice dice = {seed * 0x2545F4914F6CDD1Du + 1};
    return roll(&dice, 3) ? steps_prog(ctx, &dice) : pool_prog(ctx, &dice);
}
