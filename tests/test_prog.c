// Prog: text form, verifier, small helpers.
#include "check.h"
#include "file.h"
#include "prog.h"
#include "text.h"
#include <dirent.h>

static const char *root;

static void in_ctx(void (*body)(Ctx *, void *), void *user) {
    Ctx *ctx = ctx_new((Env){0});
    bool ok = ctx && ctx_protect(ctx, body, user);
    if (ctx && (!ok || diag_errors(ctx))) diag_print(ctx, stderr, DIAG_TEXT);
    ctx_free(ctx);
}

// The text without lines of comments.
static char *without_comments(Ctx *ctx, const char *text) {
    Text out = text_new(ctx->arena);
    while (*text) {
        size_t n = strcspn(text, "\n") + 1;
        if (*text != '#') text_add(&out, text, n);
        text += n;
    }
    return out.at;
}

static Source *read_prog(Ctx *ctx, const char *name) {
    return file_read(ctx, arena_printf(ctx->arena, "%s/tests/progs/%s", root, name), 1 << 20);
}

// ---- Text ----

typedef struct Count {
    int done;
    char why[300];
} Count;

static void round_trip_body(Ctx *ctx, void *user) {
    Count *count = user;
    DIR *folder = opendir(arena_printf(ctx->arena, "%s/tests/progs", root));
    if (!folder) return;
    for (struct dirent *e; (e = readdir(folder)) && !count->why[0];) {
        if (e->d_name[0] == '.') continue;
        snprintf(count->why, sizeof count->why, "%s", e->d_name);
        Source *source = read_prog(ctx, e->d_name);
        Prog *prog = source ? prog_parse(ctx, source) : NULL;
        if (!prog || strcmp(prog_print(ctx, prog), without_comments(ctx, source->text)) != 0) continue;
        if (!prog_verify(ctx, prog) || strcmp(prog_print(ctx, prog_copy(ctx, prog)), prog_print(ctx, prog)) != 0)
            continue;
        count->why[0] = 0;
        count->done++;
    }
    closedir(folder);
}
static void the_text_of_every_prog_comes_back(void) {
    Count count = {0};
    in_ctx(round_trip_body, &count);
    CHECK(!count.why[0], "%s", count.why);
    CHECK(count.done >= 19, "only %d", count.done);
}

// An edit of a Prog and what is said about it. A `~` in `to` is where; an error with a place but no `~` is at the entry
// of the edited line. `want` begins with "p:" when there is a place, which the test works out.
typedef struct Edit {
    const char *file, *from, *to, *want, *help;
} Edit;

static const Edit parse_edits[] = {
    {"chain.prog", "prog 1", "prog ~2", "p: error[E0501]: \"1\" is wanted here", NULL},
    {"chain.prog", "workers 2", "workers ~1025", "p: error[E0501]: workers go from 1 to 1024", NULL},
    {"chain.prog", "workers 2", "workers ~two", "p: error[E0501]: a number is wanted here", NULL},
    {"chain.prog", "workers 2", "workers ~99999999999999999999", "p: error[E0501]: the number is too large", NULL},
    {"chain.prog", "rows 1\n", "rows 1 ~1\n", "p: error[E0501]: the line should end here", NULL},
    {"chain.prog", "role compute", "role ~comptue", "p: error[E0501]: a role is wanted here", NULL},
    {"chain.prog", "buffer y", "buffer ~x", "p: error[E0501]: buffer \"x\" is declared twice", NULL},
    {"chain.prog", "buffer y f32", "buffer y ~f33", "p: error[E0501]: a dtype is wanted here", NULL},
    {"chain.prog", "counter y.w", "counter ~x.w", "p: error[E0501]: counter \"x.w\" is declared twice", NULL},
    {"chain.prog", "step 1 qkv", "step 1 ~qvk", "p: error[E0501]: no op \"qvk\"", "did you mean \"qkv\"?"},
    {"chain.prog", "step 1 qkv", "step 2~ qkv", "p: error[E0501]: step 1 is wanted here", NULL},
    {"chain.prog", "wait y.w[0]>=2 signal z.w[0]+1", "wait ~q.w[0]>=2 signal z.w[0]+1",
     "p: error[E0501]: no counter \"q.w\"", "did you mean \"x.w\"?"},
    {"cache.prog", "reads kv[0:2,0:2] writes y[0:1]", "reads ~vk[0:2,0:2] writes y[0:1]",
     "p: error[E0501]: no buffer \"vk\"", NULL},
    {"chain.prog", "s0 0:2 writes x[0:2]", "s0 0:2 writes x[0~-2]", "p: error[E0501]: \":\" is wanted here", NULL},
    {"chain.prog", "s0 0:2 writes x[0:2]", "~t0 0:2 writes x[0:2]", "p: error[E0501]: \"round\" is wanted here", NULL},
    {"chain.prog", "queue 1 compute", "queue ~0 compute", "p: error[E0501]: queues come once each", NULL},
    {"chain.prog", "queue 1 compute", "queue ~2 compute", "p: error[E0501]: there are 2 workers", NULL},
    {"chain.prog", "target a 0:1", "target ~b 0:1", "p: error[E0501]: no body \"b\"", NULL},
    {"chain.prog", "target a 0:1", "~traget a 0:1", "p: error[E0501]: \"target\" is wanted here", NULL},
    {"chain.prog", "end\n", "end\n~more\n", "p: error[E0501]: the Prog has ended; nothing may follow", NULL},
    {"chain.prog", "end\n", "~", "p: error[E0501]: \"target\" is wanted here", NULL},
    {"chain.prog", "end\n", "~en", "p: error[E0501]: \"target\" is wanted here", NULL},
    {"pool_pages.prog", "chunks 1", "chunks 0~", "p: error[E0501]: a pool with pages has", NULL},
    {"lag.prog", "y.w[0]-1>=0", "y.w[0]-~x>=0", "p: error[E0501]: a number is wanted here", NULL},
};

static const Edit verify_edits[] = {
    {"chain.prog", "ranks 1", "ranks 9", "error[E0502]: 9 ranks", NULL},
    {"chain.prog", "rows 1", "rows 9", "error[E0502]: 9 rows", NULL},
    {"chain.prog", "registers 128", "registers 100000", "error[E0502]: role compute", NULL},
    {"pages.prog", "pages 3 x 64", "pages 257 x 64", "error[E0502]: 257 pages", NULL},
    {"pages.prog", "load s0 0:1 pages 0", "load s0 0:1 pages 3", "p: error[E0502]: body a: page 3 of 3", NULL},
    {"chain.prog", "buffer y f32 [4]", "buffer y f32 [0]", "error[E0502]: buffer y: 0 in dimension 0", NULL},
    {"inbox.prog", "buffer inbox f32 [2,2]", "buffer inbox f32 [16777216,16777216]",
     "error[E0502]: buffer inbox is too large", NULL},
    {"chain.prog", "buffer y f32 [4]", "buffer y f32 [4] layers 257", "error[E0502]: buffer y: shape", NULL},
    {"chain.prog", "counter y.w 1", "counter y.w 65537", "error[E0502]: counter y.w: 65537 groups", NULL},
    {"chain.prog", "counter y.w 1", "counter y.w 0", "error[E0502]: counter y.w: 0 groups", NULL},
    {"chain.prog", "covers y[0:4]", "covers y[0:5]", "error[E0502]: body a: y has 4 in dimension 0, not 0:5", NULL},
    {"chain.prog", "covers y[0:4]", "covers y[2:2]", "error[E0502]: body a: y has 4 in dimension 0, not 2:2", NULL},
    {"chain.prog", "covers y[0:4]", "covers y[-1:4]", "error[E0502]: body a: y has 4 in dimension 0, not -1:4", NULL},
    {"chain.prog", "s1 0:2 reads x[0:4]", "s1 0:2 reads x[0:5]", "p: error[E0502]: body a: x has 4", NULL},
    {"chain.prog", "s1 0:2 reads x[0:4]", "s1 0:2 reads x@all[0:4]", "p: error[E0502]: body a: x@all is read", NULL},
    {"chain.prog", "s1 0:2 reads x[0:4]", "s1 0:2 reads x*[0:4]", "p: error[E0502]: body a: x has no layers", NULL},
    {"chain.prog", "s1 0:2 reads x[0:4]", "s1 0:2 reads x[key]", "p: error[E0502]: body a: x[key] outside a pool",
     NULL},
    {"chain.prog", "s1 0:2 reads x[0:4]", "s1 0:2 reads x[active]", "p: error[E0502]: body a: x[active] in a body",
     NULL},
    {"chain.prog", "s1 0:2 reads", "s3 0:2 reads", "p: error[E0502]: body a: no step s3", NULL},
    {"chain.prog", "s1 0:2 reads", "s1 2:2 reads", "p: error[E0502]: body a: an empty tile 2:2", NULL},
    {"chain.prog", "wait x.w[0]>=2", "wait x.w[1]>=2", "p: error[E0502]: body a: x.w has 1 groups", NULL},
    {"chain.prog", "wait x.w[0]>=2", "wait x.w[0]>=-2", "p: error[E0502]: body a: a threshold of -2", NULL},
    {"chain.prog", "wait x.w[0]>=2", "wait x.w[0]-5000>=2", "p: error[E0502]: body a: a lag of 5000", NULL},
    {"chain.prog", "wait x.w[0]>=2", "wait x.w[key]>=2", "p: error[E0502]: body a: x.w[key] outside a pool", NULL},
    {"chain.prog", "wait x.w[0]>=2", "wait x.w[token]>=2", "p: error[E0502]: body a: x.w[token] is for signals", NULL},
    {"chain.prog", "signal x.w[0]+1", "signal x.w[0]+0", "p: error[E0502]: body a: a signal of 0", NULL},
    {"chain.prog", "signal x.w[0]+1", "signal x.w[token]+1", "p: error[E0502]: body a: x.w[token] is for signals",
     NULL},
    {"chain.prog", "queue 0 compute", "queue 0 control", "error[E0502]: body a: worker 0 has a control queue, but",
     NULL},
    {"chain.prog", "signal x.w[0]+1", "signal x.w[0]+1 pages 0", "p: error[E0502]: body a: page 0 of 0", NULL},
    {"chain.prog", "target a 0:1", "target a 1:1", "error[E0502]: body a: layers 1:1", NULL},
    {"chain.prog", "target a 0:1", "target a 0:257", "error[E0502]: body a: layers 0:257", NULL},
    {"chain.prog", "  target a 0:1\n", "", "error[E0502]: the round is empty", NULL},
    {"chain.prog", "target a 0:1",
     "target a 0:256\n  target a 0:256\n  target a 0:256\n  target a 0:256\n  target a 0:1",
     "error[E0502]: more than 1024 instances", NULL},
    {"lag.prog", "buffer y f32 [1] layers 2", "buffer y f32 [1] layers 1",
     "error[E0502]: body a: runs layer 1 of y, which has 1", NULL},
    {"chain.prog", "round\n", "body a\n  step 0 embed\nround\n", "error[E0502]: body a is declared twice", NULL},
    {"pages.prog", "load s0 0:1 pages 0", "s0 0:1 pages 0", "p: error[E0502]: body a: a task in a load queue", NULL},
    {"pages.prog", "load s0 0:1 pages 0", "load s0 0:1", "p: error[E0502]: body a: a load without pages", NULL},
    {"ring.prog", "load s1 0:1 pages 1..", "load s1 0:1 pages 1,2..", "p: error[E0502]: body a: chunks in a ring", NULL},
    {"pages.prog", "load s0 0:1 pages 0", "load s0 0:1 wait x.w[0]>=1 pages 0",
     "p: error[E0502]: body a: a load has pages", NULL},
    {"pages.prog", "    s0 0:1 writes", "    load s0 0:1 writes", "p: error[E0502]: body a: a load outside", NULL},
    {"pages.prog", "load s0 0:1 pages 0", "pool 0", "p: error[E0502]: body a: no pool 0", NULL},
    {"pool_static.prog", "top 1", "top 3", "error[E0502]: body a: pool experts: 2 keys, top 3", NULL},
    {"pool_static.prog", "publisher s0", "publisher s4", "error[E0502]: body a: pool experts: no step s4", NULL},
    {"pool_static.prog", "publisher s0", "publisher s1", "error[E0502]: body a: an item of s1, not after", NULL},
    {"pool_static.prog", "s1 0:2 reads r[0:1] writes", "s3 0:2 reads r[0:1] writes",
     "error[E0502]: body a: items come step by step", NULL},
    {"pool_static.prog", "writes d[key,0:2]", "writes d[0:1,0:2]",
     "p: error[E0502]: body a: d is written by a pool's items", NULL},
    {"pool_static.prog", "covers d[key,0:2]", "covers d[0:2,0:2]",
     "error[E0502]: body a: d is written by a pool's items", NULL},
    {"pool_static.prog", "writes d[key,0:2]", "writes d[key,key]", "p: error[E0502]: body a: d is indexed twice", NULL},
    {"pool_static.prog", "signal e.w[key]+1", "signal e.w[key]+1 pages 0", "p: error[E0502]: body a: page 0 of 0",
     NULL},
    {"pool_static.prog", "counter e.w 2", "counter e.w 3", "error[E0502]: body a: e.w has 3 groups, the pool 2 keys",
     NULL},
    {"pool_static.prog", "counter d.w 2", "counter d.w 3", "error[E0502]: body a: d.w has 3 groups for 2 rows", NULL},
    {"pool_static.prog", "buffer d f32 [2,2]", "buffer d f32 [1,2]", "error[E0502]: body a: d has 1 of 2 keys", NULL},
    {"pool_static.prog", "s0 0:1 writes", "s1 0:1 writes", "p: error[E0502]: body a: s1 belongs to a pool", NULL},
    {"pool_static.prog", "s0 0:1 writes r[0:1]", "s0 0:1 reads d[active,0:2] writes r[0:1]",
     "p: error[E0502]: body a: d[active] before the pool's publisher", NULL},
    {"pool_static.prog", "reads r[0:1],d[active,0:2] writes x[0:1]", "reads r[0:1] writes d[active,0:2],x[0:1]",
     "p: error[E0502]: body a: d[active] is written", NULL},
    {"pool_pages.prog", "pages 0:2 chunks 1", "pages 0:3 chunks 1",
     "error[E0502]: body a: pool experts: pages 0:3 of 2", NULL},
    {"pool_pages.prog", "pages 0:2 chunks 1", "pages 0:2 chunks 5000",
     "error[E0502]: body a: pool experts: 5000 chunks", NULL},
    {"pool_pages.prog", " pages 0:2 chunks 1", "", "error[E0502]: body a: a load queue runs a pool without pages",
     NULL},
    {"pool_ranks.prog", "buffer inbox f32 [2,1]", "buffer inbox f32 [1,1]",
     "error[E0502]: body a: inbox has 1 of 2 ranks", NULL},
};

typedef struct EditRun {
    const Edit *edits;
    int count, done;
    char why[800];
} EditRun;

// "p:LINE:COL:" of a byte, or of the entry that its line holds.
static char *place_of(Ctx *ctx, const char *text, size_t offset, bool entry) {
    int line = 1, col = 1;
    for (size_t i = 0; i < offset; i++) col = text[i] == '\n' ? line++, 1 : col + 1;
    const char *start = text + offset - (col - 1);
    if (entry) {
        const char *s = start + strspn(start, " ");
        if (strncmp(s, "load ", 5) == 0) s += 5;
        col = (int)(s - start) + 1;
    }
    return arena_printf(ctx->arena, "p:%d:%d:", line, col);
}

static void edits_body(Ctx *ctx, void *user) {
    EditRun *run = user;
    for (; run->done < run->count; run->done++) {
        const Edit *edit = &run->edits[run->done];
        if (!*edit->want) continue;
        Source *source = read_prog(ctx, edit->file);
        const char *at = source ? strstr(source->text, edit->from) : NULL;
        snprintf(run->why, sizeof run->why, "%s has no \"%s\"", edit->file, edit->from);
        if (!at) return;
        const char *mark = strchr(edit->to, '~');
        size_t before = (size_t)(at - source->text), to = mark ? (size_t)(mark - edit->to) : strlen(edit->to);
        char *text = arena_printf(ctx->arena, "%.*s%.*s%s%s", (int)before, source->text, (int)to, edit->to,
                                  mark ? mark + 1 : "", at + strlen(edit->from));
        char *place = place_of(ctx, text, mark ? before + to : before, mark == NULL);
        bool parsed = prog_parse(ctx, source_new(ctx, "p", text, strlen(text))) != NULL;
        char *said = NULL;
        size_t size = 0;
        FILE *out = open_memstream(&said, &size);
        diag_print(ctx, out, DIAG_TEXT);
        fclose(out);
        const char *want = edit->want;
        if (strncmp(want, "p:", 2) == 0) want = arena_printf(ctx->arena, "%s%s", place, edit->want + 2);
        const char *found = strstr(said, want);
        if (want != edit->want && found != said) found = NULL;
        bool fine = !parsed && found && (!edit->help || strstr(said, edit->help));
        snprintf(run->why, sizeof run->why, "%s, \"%s\": wanted \"%s\", got %s\"%s\"", edit->file, edit->to, want,
                 parsed ? "a Prog, and " : "", said);
        free(said);
        if (!fine) return;
    }
    run->why[0] = 0;
}
static void parse_errors_name_the_place(void) {
    EditRun run = {parse_edits, sizeof parse_edits / sizeof *parse_edits, 0, ""};
    in_ctx(edits_body, &run);
    CHECK(!run.why[0] && run.done == run.count, "%s", run.why);
}
static void shapes_that_verify_refuses(void) {
    EditRun run = {verify_edits, sizeof verify_edits / sizeof *verify_edits, 0, ""};
    in_ctx(edits_body, &run);
    CHECK(!run.why[0] && run.done == run.count, "%s", run.why);
}

// Layers count for what a task touches beside its step's cover too.
static void layers_body(Ctx *ctx, void *user) {
    static const char text[] =
        "prog 1\nmodel m\nsku s\nranks 1\nworkers 1\nrows 1\nrole compute warps 1 registers 24\n"
        "buffer a f32 [1] layers 1 state\nbuffer b f32 [1]\nbody b\n  step 0 embed covers b[0:1]\n"
        "  queue 0 compute\n    s0 0:1 reads a[0:1] writes b[0:1]\nround\n  target b 1:2\nend\n";
    *(bool *)user = !prog_parse(ctx, source_new(ctx, "p", text, strlen(text))) && diag_code_at(ctx, 0) == E0502;
    diag_forget(ctx, 0);
}
static void a_read_of_a_layer_that_a_buffer_lacks_is_refused(void) {
    bool ok = false;
    in_ctx(layers_body, &ok);
    CHECK(ok);
}

// Every prefix of a Prog but the whole, and every Prog with one byte changed, is refused or verified: never a crash.
static void damage_body(Ctx *ctx, void *user) {
    int *accepted = user;
    Source *source = read_prog(ctx, "pool_chunks.prog");
    if (!source) return;
    for (size_t i = 0; i < source->length * 3; i++) {
        ArenaMark mark = arena_push(ctx->arena);
        char *text = arena_copy(ctx->arena, source->text, source->length);
        size_t length = source->length, at = i / 3;
        static const char bytes[] = {'\n', '9'};
        if (i % 3)
            text[at] = bytes[i % 3 - 1];
        else
            text[length = at] = 0;
        Prog *prog = prog_parse(ctx, source_new(ctx, "p", text, length));
        accepted[prog ? 1 : 0]++;
        if (prog && !prog_verify(ctx, prog_copy(ctx, prog))) accepted[0] = -1000000;
        diag_forget(ctx, 0);
        arena_pop(ctx->arena, mark);
    }
}
static void damaged_text_is_refused_or_sound(void) {
    int accepted[2] = {0};
    in_ctx(damage_body, accepted);
    CHECK(accepted[0] > 1000, "%d refused", accepted[0]);
    CHECK(accepted[1] > 10, "%d accepted", accepted[1]); // bytes of comments and names, larger thresholds
}

static void hostile_body(Ctx *ctx, void *user) {
    int *refused = user;
    static const char head[] =
        "prog 1\nmodel m\nsku s\nranks 1\nworkers 1024\nrows 1\nrole compute warps 1 registers 24\n";
    for (int kind = 0; kind < 4; kind++) {
        Text text = text_new(ctx->arena);
        text_printf(&text, "%s", head);
        for (int i = 0; kind == 0 && i < 2000; i++) text_printf(&text, "buffer b%d f32 [1]\n", i);
        for (int i = 0; kind == 1 && i < 2000; i++) text_printf(&text, "counter c%d 1\n", i);
        for (int i = 0; kind == 2 && i < 300; i++) text_printf(&text, "body b%d\n  step 0 embed\n", i);
        if (kind == 3)
            text_printf(&text, "buffer x f32 [1]\nbody b\n  step 0 embed covers x[0:1]\n  queue 0 compute\n");
        for (int i = 0; kind == 3 && i <= 1 << 20; i++) text_add(&text, "s0 0:1\n", 7);
        text_printf(&text, "round\n  target b 0:1\nend\n");
        if (!prog_parse(ctx, source_new(ctx, "p", text.at, text.length)) && diag_code_at(ctx, 0) == E0501) ++*refused;
        diag_forget(ctx, 0);
    }
    static const char zero[] = "prog 1\0 and more";
    if (!prog_parse(ctx, source_new(ctx, "p", zero, sizeof zero - 1)) && diag_code_at(ctx, 0) == E0501) ++*refused;
    diag_forget(ctx, 0);
}
static void hostile_counts_are_refused(void) {
    int refused = 0;
    in_ctx(hostile_body, &refused);
    CHECK(refused == 5, "%d", refused);
}

// ---- Helpers ----

typedef struct Facts {
    int64_t e[2], d[2], x, inbox;
    int buffer, none, counter, instances, layer[5], body[5];
    bool copied;
} Facts;

static void facts_body(Ctx *ctx, void *user) {
    Facts *f = user;
    Prog *prog = prog_parse(ctx, read_prog(ctx, "pool_static.prog"));
    if (!prog) return;
    f->buffer = prog_buffer(prog, "d");
    f->none = prog_buffer(prog, "D");
    f->counter = prog_counter(prog, "x.w");
    for (int g = 0; g < 2; g++) {
        f->e[g] = prog_total(prog, prog->bodies, prog_counter(prog, "e.w"), g);
        f->d[g] = prog_total(prog, prog->bodies, prog_counter(prog, "d.w"), g);
    }
    f->x = prog_total(prog, prog->bodies, f->counter, 0);
    Prog *ranks = prog_parse(ctx, read_prog(ctx, "inbox.prog"));
    if (ranks) f->inbox = prog_total(ranks, ranks->bodies, prog_counter(ranks, "inbox.w"), 0);

    Prog *layers = prog_parse(ctx, read_prog(ctx, "back_pressure.prog"));
    if (!layers) return;
    f->instances = prog_instances(layers);
    for (int i = 0; i < 3; i++) f->body[i] = prog_instance(layers, i, &f->layer[i])->body;

    char *before = prog_print(ctx, prog);
    Prog *copy = prog_copy(ctx, prog);
    Body *body = copy->bodies;
    body->steps[1].covers[0].at[1].hi = 1;
    body->pools[0].items[1].waits[0].need = 7;
    body->queues[1].entries[1].task.signals[0].amount = 7;
    body->queues[1].entries[1].task.reads[0].buffer = 3;
    copy->round[0].layer_hi = 2;
    copy->buffers[0].dims[0] = 5;
    f->copied = strcmp(before, prog_print(ctx, prog)) == 0 && strcmp(before, prog_print(ctx, copy)) != 0;
}
static void helpers(void) {
    Facts f = {0};
    in_ctx(facts_body, &f);
    CHECK(f.buffer == 2 && f.none == -1 && f.counter == 3);
    // Items signal e.w once a key, and d.w `top` times a row, whatever is active.
    CHECK(f.e[0] == 1 && f.e[1] == 1 && f.d[0] == 1 && f.d[1] == 1);
    CHECK(f.x == 2);     // two tasks of the last step
    CHECK(f.inbox == 2); // each of two ranks' push to all
    CHECK(f.instances == 3 && f.body[0] == 0 && f.body[1] == 1 && f.body[2] == 1);
    CHECK(f.layer[0] == 0 && f.layer[1] == 0 && f.layer[2] == 1);
    CHECK(f.copied);
}

int main(void) {
    root = getenv("ROOT") ? getenv("ROOT") : ".";
    RUN(the_text_of_every_prog_comes_back);
    RUN(parse_errors_name_the_place);
    RUN(shapes_that_verify_refuses);
    RUN(a_read_of_a_layer_that_a_buffer_lacks_is_refused);
    RUN(damaged_text_is_refused_or_sound);
    RUN(hostile_counts_are_refused);
    RUN(helpers);
    return check_done();
}
