#include "prog.h"
#include "text.h"
#include <limits.h>
#include <stdarg.h>
#include <string.h>

// Names of buffers or counters, for look-ups that do not grow with their number.
enum {
    SLOTS = 2048,
    MAX_ENTRIES = 1 << 20,
    MAX_BODIES = 256,
    MAX_LINES_OF_ROUND = 1024
}; // a power of two, at least twice the most names
typedef struct Names {
    const char *at[SLOTS / 2];
    int count;
    short slots[SLOTS]; // 1 + index of the name, 0: free
} Names;

// One pass over the text, line by line; `at` never leaves [text, end], and the text ends with a zero byte.
typedef struct Parse {
    Ctx *ctx;
    const Source *source;
    const char *at, *line_start;
    uint32_t line;
    bool failed;
    Prog *prog;
    Names buffer_names, counter_names;
    int entry_count;
    LIST(Buffer) buffers;
    LIST(Counter) counters;
    LIST(Body) bodies;
    LIST(RoundItem) round;
} Parse;

typedef LIST(Region) Regions;

static Span span_here(const Parse *p, const char *at, size_t length) {
    return (Span){p->source, p->line, (uint32_t)(at - p->line_start) + 1, (uint32_t)length};
}

__attribute__((format(printf, 3, 4))) static bool fail(Parse *p, const char *at, const char *format, ...) {
    if (p->failed) return false;
    va_list args;
    va_start(args, format);
    char text[400];
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    size_t length = strcspn(at, " \n,[]");
    diag_error(p->ctx, E0501, span_here(p, at, length ? length : 1), "%s", text);
    return p->failed = true, false;
}

static void skip_spaces(Parse *p) {
    while (*p->at == ' ') p->at++;
}

// The literal, after spaces.
static bool accept(Parse *p, const char *text) {
    skip_spaces(p);
    size_t length = strlen(text);
    if (strncmp(p->at, text, length) != 0) return false;
    char last = text[length - 1], next = p->at[length];
    bool word = (last >= 'a' && last <= 'z') || (last >= '0' && last <= '9');
    if (word && ((next >= 'a' && next <= 'z') || next == '_' || (next >= '0' && next <= '9'))) return false;
    p->at += length;
    return true;
}

static bool expect(Parse *p, const char *text) {
    return accept(p, text) || fail(p, p->at, "\"%s\" is wanted here", text);
}

static bool number(Parse *p, int *out) {
    skip_spaces(p);
    const char *start = p->at;
    bool negative = *p->at == '-';
    if (negative) p->at++;
    if (*p->at < '0' || *p->at > '9') return fail(p, start, "a number is wanted here");
    int64_t value = 0;
    while (*p->at >= '0' && *p->at <= '9') {
        value = value * 10 + (*p->at++ - '0');
        if (value > INT_MAX) return fail(p, start, "the number is too large");
    }
    *out = (int)(negative ? -value : value);
    return true;
}

static size_t word_length(const char *at) {
    size_t n = 0;
    while ((at[n] >= 'a' && at[n] <= 'z') || (at[n] >= 'A' && at[n] <= 'Z') || (at[n] >= '0' && at[n] <= '9') ||
           (at[n] && strchr("_.", at[n])))
        n++;
    return n;
}

// A name of letters, digits, '_', '.' (and '-' where `dashes`). NULL after reporting.
static char *name(Parse *p, bool dashes) {
    skip_spaces(p);
    size_t n = word_length(p->at);
    while (dashes && (p->at[n] == '-' || p->at[n] == '/')) n += 1 + word_length(p->at + n + 1);
    if (!n) {
        fail(p, p->at, "a name is wanted here");
        return NULL;
    }
    char *out = arena_copy(p->ctx->arena, p->at, n);
    p->at += n;
    return out;
}

// Skips empty lines and those of comments (`# ...`), from the start of a line.
static void skip_lines(Parse *p) {
    for (;;) {
        const char *s = p->at;
        while (*s == ' ') s++;
        if (*s == '#')
            while (*s && *s != '\n') s++;
        if (*s != '\n') {
            if (!*s) p->at = s;
            return;
        }
        p->at = s + 1;
        p->line++;
        p->line_start = p->at;
    }
}

// Ends the line at hand and goes to the next that says something.
static bool line_end(Parse *p) {
    skip_spaces(p);
    if (!*p->at) return true;
    if (*p->at != '\n') return fail(p, p->at, "the line should end here");
    p->at++;
    p->line++;
    p->line_start = p->at;
    skip_lines(p);
    return true;
}

static bool range(Parse *p, Index *index) {
    index->kind = INDEX_RANGE;
    return number(p, &index->lo) && expect(p, ":") && number(p, &index->hi);
}

static bool lookup_failed(Parse *p, const char *at, const char *what, const char *word, const char *const *names,
                          size_t count) {
    const char *near = text_nearest(word, names, count);
    fail(p, at, "no %s \"%s\"", what, word);
    if (near) diag_help(p->ctx, "did you mean \"%s\"?", near);
    return false;
}

static short *names_slot(Names *names, const char *word, size_t length) {
    uint32_t hash = 2166136261u; // FNV-1a
    for (size_t i = 0; i < length; i++) hash = (hash ^ (uint8_t)word[i]) * 16777619u;
    for (;; hash++) {
        short *slot = &names->slots[hash % SLOTS];
        if (!*slot) return slot;
        const char *name_there = names->at[*slot - 1];
        if (strncmp(name_there, word, length) == 0 && !name_there[length]) return slot;
    }
}

// A name declared for the first time. NULL after reporting.
static const char *declare(Parse *p, Names *names, const char *what) {
    skip_spaces(p);
    const char *at = p->at;
    char *word = name(p, false);
    if (!word) return NULL;
    short *slot = names_slot(names, word, strlen(word));
    if (*slot || names->count == SLOTS / 2) {
        if (*slot)
            fail(p, at, "%s \"%s\" is declared twice", what, word);
        else
            fail(p, at, "more than %d %ss", SLOTS / 2, what);
        return NULL;
    }
    names->at[names->count++] = word;
    *slot = (short)names->count;
    return word;
}

static bool find(Parse *p, Names *names, const char *what, int *out) {
    skip_spaces(p);
    const char *at = p->at;
    size_t length = word_length(at);
    if (!length) return fail(p, at, "a %s is wanted here", what);
    p->at += length;
    *out = *names_slot(names, at, length) - 1;
    if (*out >= 0) return true;
    return lookup_failed(p, at, what, arena_copy(p->ctx->arena, at, length), names->at, (size_t)names->count);
}

static bool region(Parse *p, Region *out) {
    *out = (Region){0};
    if (!find(p, &p->buffer_names, "buffer", &out->buffer)) return false;
    out->all_ranks = accept(p, "@all");
    out->all_layers = accept(p, "*");
    if (!expect(p, "[")) return false;
    int rank = p->buffers.at[out->buffer].rank;
    for (int d = 0; d < rank; d++) {
        if (d && !expect(p, ",")) return false;
        if (accept(p, "key"))
            out->at[d].kind = INDEX_KEY;
        else if (accept(p, "self"))
            out->at[d].kind = INDEX_SELF;
        else if (accept(p, "active"))
            out->at[d].kind = INDEX_ACTIVE;
        else if (!range(p, &out->at[d]))
            return false;
    }
    return expect(p, "]");
}

static bool regions(Parse *p, Region **out, int *count) {
    Regions list = {0};
    do {
        Region r;
        if (!region(p, &r)) return false;
        LIST_ADD(p->ctx->arena, &list, r);
    } while (accept(p, ","));
    *out = list.at;
    *count = (int)list.count;
    return true;
}

static bool group(Parse *p, Index *out) {
    if (!expect(p, "[")) return false;
    *out = (Index){0};
    if (accept(p, "key"))
        out->kind = INDEX_KEY;
    else if (accept(p, "token"))
        out->kind = INDEX_TOKEN;
    else {
        if (!number(p, &out->lo)) return false;
        if (out->lo == INT_MAX) return fail(p, p->at, "the group is too large");
        out->hi = out->lo + 1;
    }
    return expect(p, "]");
}

static bool waits(Parse *p, Task *task) {
    LIST(Wait) list = {0};
    do {
        Wait w = {0};
        if (!find(p, &p->counter_names, "counter", &w.counter) || !group(p, &w.group)) return false;
        if (accept(p, "-") && !number(p, &w.lag)) return false;
        if (!expect(p, ">=") || !number(p, &w.need)) return false;
        LIST_ADD(p->ctx->arena, &list, w);
    } while (accept(p, ","));
    task->waits = list.at;
    task->wait_count = (int)list.count;
    return true;
}

static bool signals(Parse *p, Task *task) {
    LIST(Signal) list = {0};
    do {
        Signal s = {0};
        if (!find(p, &p->counter_names, "counter", &s.counter)) return false;
        s.all_ranks = accept(p, "@all");
        if (!group(p, &s.group) || !expect(p, "+") || !number(p, &s.amount)) return false;
        LIST_ADD(p->ctx->arena, &list, s);
    } while (accept(p, ","));
    task->signals = list.at;
    task->signal_count = (int)list.count;
    return true;
}

static bool pages(Parse *p, Task *task) {
    LIST(int) list = {0};
    do {
        int page;
        if (!number(p, &page)) return false;
        LIST_ADD(p->ctx->arena, &list, page);
    } while (accept(p, ","));
    task->ring = accept(p, "..");
    task->pages = list.at;
    task->page_count = (int)list.count;
    return true;
}

// s3 0:64 part 1 reads ... writes ... wait ... signal ... pages ...
static bool task(Parse *p, Task *out) {
    *out = (Task){0};
    skip_spaces(p);
    const char *start = p->at;
    Index tile;
    if (*p->at != 's') return fail(p, p->at, "a step like s3 is wanted here");
    p->at++;
    if (!number(p, &out->step) || !range(p, &tile)) return false;
    out->lo = tile.lo;
    out->hi = tile.hi;
    out->span = span_here(p, start, (size_t)(p->at - start));
    if (accept(p, "part") && !number(p, &out->part)) return false;
    if (accept(p, "reads") && !regions(p, &out->reads, &out->read_count)) return false;
    if (accept(p, "writes") && !regions(p, &out->writes, &out->write_count)) return false;
    if (accept(p, "wait") && !waits(p, out)) return false;
    if (accept(p, "signal") && !signals(p, out)) return false;
    if (accept(p, "pages") && !pages(p, out)) return false;
    return line_end(p);
}

static bool entry(Parse *p, Entry *out) {
    *out = (Entry){0};
    skip_spaces(p);
    const char *start = p->at;
    if (++p->entry_count > MAX_ENTRIES) return fail(p, start, "more than %d entries", MAX_ENTRIES);
    if (accept(p, "load")) {
        out->kind = ENTRY_LOAD;
        return task(p, &out->task);
    }
    if (!accept(p, "pool")) return task(p, &out->task);
    out->kind = ENTRY_POOL;
    if (!number(p, &out->pool)) return false;
    out->task.span = span_here(p, start, (size_t)(p->at - start));
    if (accept(p, "wait") && !waits(p, &out->task)) return false;
    return line_end(p);
}

// Is the line at hand an entry (s3..., load, pool 0 in a queue)?
static bool at_entry(const Parse *p) {
    const char *s = p->at;
    while (*s == ' ') s++;
    return (s[0] == 's' && s[1] >= '0' && s[1] <= '9') || strncmp(s, "load ", 5) == 0 || strncmp(s, "pool ", 5) == 0;
}

static bool queue(Parse *p, Queue *out) {
    LIST(Entry) list = {0};
    while (at_entry(p)) {
        Entry e;
        if (!entry(p, &e)) return false;
        LIST_ADD(p->ctx->arena, &list, e);
    }
    *out = (Queue){list.at, (int)list.count, (int)list.room};
    return true;
}

static bool step(Parse *p, int number_wanted, Step *out) {
    int index;
    *out = (Step){0};
    if (!number(p, &index)) return false;
    if (index != number_wanted) return fail(p, p->at, "step %d is wanted here", number_wanted);
    skip_spaces(p);
    const char *at = p->at;
    char *word = name(p, false);
    if (!word) return false;
    int op = op_from(word);
    if (op < 0) {
        const char *names[OP_COUNT];
        for (int i = 0; i < OP_COUNT; i++) names[i] = op_name((OpId)i);
        return lookup_failed(p, at, "op", word, names, OP_COUNT);
    }
    out->op = (OpId)op;
    out->span = span_here(p, at, strlen(word));
    if (accept(p, "covers") && !regions(p, &out->covers, &out->cover_count)) return false;
    return line_end(p);
}

static bool pool(Parse *p, int number_wanted, Pool *out) {
    int index;
    *out = (Pool){0};
    if (!number(p, &index)) return false;
    if (index != number_wanted) return fail(p, p->at, "pool %d is wanted here", number_wanted);
    if (!(out->name = name(p, false))) return false;
    if (!expect(p, "keys") || !number(p, &out->keys) || !expect(p, "top") || !number(p, &out->top)) return false;
    if (!expect(p, "publisher")) return false;
    skip_spaces(p);
    if (*p->at != 's') return fail(p, p->at, "a step like s3 is wanted here");
    p->at++;
    if (!number(p, &out->publisher)) return false;
    if (accept(p, "dynamic"))
        out->claim = CLAIM_DYNAMIC;
    else if (!expect(p, "static"))
        return false;
    if (accept(p, "pages")) {
        Index range_of_pages;
        if (!range(p, &range_of_pages) || !expect(p, "chunks") || !number(p, &out->chunks)) return false;
        out->page_lo = range_of_pages.lo;
        out->page_hi = range_of_pages.hi;
        if (out->chunks < 1) return fail(p, p->at, "a pool with pages has at least one chunk an item");
    }
    if (!line_end(p)) return false;
    LIST(Task) items = {0};
    while (at_entry(p)) {
        Task t;
        if (++p->entry_count > MAX_ENTRIES) return fail(p, p->at, "more than %d entries", MAX_ENTRIES);
        if (!task(p, &t)) return false;
        LIST_ADD(p->ctx->arena, &items, t);
    }
    out->items = items.at;
    out->item_count = (int)items.count;
    return true;
}

static bool body(Parse *p, Body *out) {
    LIST(Step) steps = {0};
    LIST(Pool) pools = {0};
    *out = (Body){0};
    if (!(out->name = name(p, false)) || !line_end(p)) return false;
    while (accept(p, "step")) {
        Step s;
        if (!step(p, (int)steps.count, &s)) return false;
        LIST_ADD(p->ctx->arena, &steps, s);
    }
    while (accept(p, "pool")) {
        Pool one;
        if (!pool(p, (int)pools.count, &one)) return false;
        LIST_ADD(p->ctx->arena, &pools, one);
    }
    out->steps = steps.at;
    out->step_count = (int)steps.count;
    out->pools = pools.at;
    out->pool_count = (int)pools.count;
    if (accept(p, "unplaced")) return line_end(p) && queue(p, &out->unplaced);
    out->queues = ARENA_ARRAY(p->ctx->arena, Queue, p->prog->workers * ROLE_COUNT);
    int last = -1;
    while (accept(p, "queue")) {
        int worker, role = 0;
        skip_spaces(p);
        const char *at = p->at;
        if (!number(p, &worker)) return false;
        if (worker < 0 || worker >= p->prog->workers) return fail(p, at, "there are %d workers", p->prog->workers);
        while (role < ROLE_COUNT && !accept(p, role_name((Role)role))) role++;
        if (role == ROLE_COUNT) return fail(p, p->at, "a role is wanted here: load, compute or control");
        int index = worker * ROLE_COUNT + role;
        if (index <= last) return fail(p, at, "queues come once each, in the order of workers and roles");
        last = index;
        if (!line_end(p) || !queue(p, &out->queues[index])) return false;
    }
    return true;
}

static bool buffer(Parse *p, Buffer *out) {
    *out = (Buffer){0};
    if (!(out->name = declare(p, &p->buffer_names, "buffer"))) return false;
    int dtype = 0;
    while (dtype < DTYPE_COUNT && !accept(p, dtype_name((Dtype)dtype))) dtype++;
    if (dtype == DTYPE_COUNT) return fail(p, p->at, "a dtype is wanted here");
    out->dtype = (Dtype)dtype;
    if (!expect(p, "[")) return false;
    do {
        if (out->rank == REGION_RANK) return fail(p, p->at, "a buffer has at most %d dimensions", REGION_RANK);
        if (!number(p, &out->dims[out->rank++])) return false;
    } while (accept(p, ","));
    if (!expect(p, "]")) return false;
    if (accept(p, "layers") && !number(p, &out->layers)) return false;
    out->state = accept(p, "state");
    return line_end(p);
}

static bool round_item(Parse *p, RoundItem *out) {
    *out = (RoundItem){0};
    if (accept(p, "draft"))
        out->segment = SEGMENT_DRAFT;
    else if (accept(p, "context"))
        out->segment = SEGMENT_CONTEXT;
    else if (!expect(p, "target"))
        return false;
    skip_spaces(p);
    const char *at = p->at;
    char *word = name(p, false);
    if (!word) return false;
    size_t i = 0;
    while (i < p->bodies.count && strcmp(p->bodies.at[i].name, word) != 0) i++;
    if (i == p->bodies.count) {
        const char *names[MAX_BODIES];
        for (i = 0; i < p->bodies.count; i++) names[i] = p->bodies.at[i].name;
        return lookup_failed(p, at, "body", word, names, i);
    }
    Index layers;
    if (!range(p, &layers)) return false;
    out->body = (int)i;
    out->layer_lo = layers.lo;
    out->layer_hi = layers.hi;
    return line_end(p);
}

static bool header(Parse *p) {
    Prog *prog = p->prog;
    if (!expect(p, "prog") || !expect(p, "1") || !line_end(p)) return false;
    if (!expect(p, "model") || !(prog->model = name(p, true)) || !line_end(p)) return false;
    if (!expect(p, "sku") || !(prog->sku = name(p, true)) || !line_end(p)) return false;
    if (!expect(p, "ranks") || !number(p, &prog->ranks) || !line_end(p)) return false;
    if (!expect(p, "workers")) return false;
    skip_spaces(p);
    const char *at = p->at;
    if (!number(p, &prog->workers)) return false;
    if (prog->workers < 1 || prog->workers > 1024) return fail(p, at, "workers go from 1 to 1024");
    if (!line_end(p) || !expect(p, "rows") || !number(p, &prog->rows) || !line_end(p)) return false;
    while (accept(p, "role")) {
        int role = 0;
        while (role < ROLE_COUNT && !accept(p, role_name((Role)role))) role++;
        if (role == ROLE_COUNT) return fail(p, p->at, "a role is wanted here: load, compute or control");
        SchedRole *r = &prog->roles[role];
        r->used = true;
        if (!expect(p, "warps") || !number(p, &r->warps) || !expect(p, "registers") || !number(p, &r->registers))
            return false;
        if (!line_end(p)) return false;
    }
    if (accept(p, "pages") &&
        (!number(p, &prog->page_count) || !expect(p, "x") || !number(p, &prog->page_bytes) || !line_end(p)))
        return false;
    return true;
}

static bool whole(Parse *p) {
    if (!header(p)) return false;
    while (accept(p, "buffer")) {
        Buffer b;
        if (!buffer(p, &b)) return false;
        LIST_ADD(p->ctx->arena, &p->buffers, b);
    }
    while (accept(p, "counter")) {
        Counter c = {0};
        if (!(c.name = declare(p, &p->counter_names, "counter")) || !number(p, &c.groups)) return false;
        c.via = accept(p, "data") ? VIA_DATA : VIA_COUNTER;
        if (!line_end(p)) return false;
        LIST_ADD(p->ctx->arena, &p->counters, c);
    }
    while (accept(p, "body")) {
        Body b;
        const char *at = p->at;
        if (p->bodies.count == MAX_BODIES) return fail(p, at, "more than %d bodies", MAX_BODIES);
        if (!body(p, &b)) return false;
        LIST_ADD(p->ctx->arena, &p->bodies, b);
    }
    if (!expect(p, "round") || !line_end(p)) return false;
    while (!accept(p, "end")) {
        RoundItem item;
        if (p->round.count == MAX_LINES_OF_ROUND)
            return fail(p, p->at, "more than %d lines of the round", MAX_LINES_OF_ROUND);
        if (!round_item(p, &item)) return false;
        LIST_ADD(p->ctx->arena, &p->round, item);
    }
    if (!line_end(p)) return false;
    return !*p->at || fail(p, p->at, "the Prog has ended; nothing may follow");
}

Prog *prog_parse(Ctx *ctx, Source *source) {
    Parse *p = ARENA_NEW(ctx->arena, Parse);
    *p = (Parse){.ctx = ctx, .source = source, .at = source->text, .line_start = source->text, .line = 1};
    p->prog = ARENA_NEW(ctx->arena, Prog);
    p->prog->source = source;
    if (strlen(source->text) != source->length) {
        diag_error(ctx, E0501, source_span(source, strlen(source->text), 1), "a zero byte in a Prog");
        return NULL;
    }
    skip_lines(p);
    if (!whole(p)) return NULL;
    Prog *prog = p->prog;
    prog->buffers = p->buffers.at;
    prog->buffer_count = (int)p->buffers.count;
    prog->counters = p->counters.at;
    prog->counter_count = (int)p->counters.count;
    prog->bodies = p->bodies.at;
    prog->body_count = (int)p->bodies.count;
    prog->round = p->round.at;
    prog->round_count = (int)p->round.count;
    return prog_verify(ctx, prog) ? prog : NULL;
}
