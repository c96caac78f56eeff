#include "lua_box.h"
#include "sched_run.h"
#include "text.h"
#include <lauxlib.h>
#include <string.h>

SchedRun *sched_run(lua_State *lua) { return box_of(lua)->user; }

void sched_count_call(lua_State *lua, Span span) {
    if (++sched_run(lua)->calls > MAX_CALLS) box_fail(lua, E0220, span, "more than %d calls of op and on", MAX_CALLS);
}

static const char *const claims[] = {"static", "dynamic"}, *const pers[] = {"all", "tile", "expert", "token"},
                         *const vias[] = {"counter", "data"};

static int find_word(const char *const *words, int count, const char *word) {
    for (int i = 0; i < count; i++)
        if (strcmp(words[i], word) == 0) return i;
    return -1;
}

// The index of the text on the top among the words; fails as `key` otherwise.
static int word_option(lua_State *lua, Span span, const char *key, const char *const *words, int count) {
    const char *word = box_show(lua, -1);
    int found = lua_type(lua, -1) == LUA_TSTRING ? find_word(words, count, word) : -1;
    if (found >= 0) return found;
    box_unknown(lua, E0221, span, arena_printf(sched_run(lua)->ctx->arena, "value of %s", key), word, words,
                (size_t)count);
}

// Calls `set` for each key of the table at the top, sorted, with the value at the top. `what` names the table.
typedef void Setter(lua_State *lua, SchedRun *run, int key, Span span, void *user);
static void read_table(lua_State *lua, const char *what, const char *const *keys, int key_count, DiagCode code,
                       Setter *set, void *user) {
    SchedRun *run = sched_run(lua);
    if (lua_type(lua, -1) != LUA_TTABLE)
        box_fail(lua, E0221, box_span(lua, NULL, what), "%s wants a table, not %s", what, box_show(lua, -1));
    luaL_checkstack(lua, 20, NULL);
    int table = lua_gettop(lua);
    lua_Integer count = box_sorted_keys(lua, table);
    for (lua_Integer i = 1; i <= count; i++) {
        lua_rawgeti(lua, table + 1, i);
        const char *name = box_show(lua, -1);
        int key = lua_type(lua, -1) == LUA_TSTRING ? find_word(keys, key_count, name) : -1;
        Span span = box_span(lua, what, name);
        if (key < 0)
            box_unknown(lua, code, span, arena_printf(run->ctx->arena, "key of %s", what), name, keys,
                        (size_t)key_count);
        lua_gettable(lua, table);
        set(lua, run, key, span, user);
        lua_settop(lua, table + 1);
    }
    lua_settop(lua, table);
}

// ---- op ----

static const char *const option_names[] = {"tile", "full_tile", "split", "workers", "steps", "claim", "per", "via"};
static const char option_letters[] = "tfswncpv";
enum { OPTIONS = sizeof option_letters - 1 };

static void set_option(lua_State *lua, SchedRun *run, int option, Span span, void *user) {
    SchedStep *step = user;
    const char *key = option_names[option];
    if (!strchr(op_options(step->op), option_letters[option])) {
        box_error(lua, E0223, span, "%s has no option %s", op_name(step->op), key);
        Text text = text_new(run->ctx->arena);
        for (int i = 0; i < OPTIONS; i++)
            if (strchr(op_options(step->op), option_letters[i]))
                text_printf(&text, "%s%s", text.length ? ", " : "", option_names[i]);
        diag_help(run->ctx, "it has %s", text.length ? text.at : "no options at all: op \"...\" {}");
        box_leave(lua);
    }
    switch (option_letters[option]) {
    case 't': step->tile = (int)box_integer(lua, -1, key, 1, 1 << 24, E0221, span); break;
    case 'f': step->full_tile = (int)box_integer(lua, -1, key, 1, 1 << 24, E0221, span); break;
    case 's': step->split = (int)box_integer(lua, -1, key, 1, 128, E0221, span); break;
    case 'w': step->workers = (int)box_integer(lua, -1, key, 1, 1024, E0221, span); break;
    case 'n': step->steps = (int)box_integer(lua, -1, key, 1, 2, E0221, span); break;
    case 'c': step->claim = (Claim)word_option(lua, span, key, claims, 2); break;
    case 'v': step->via = (Via)word_option(lua, span, key, vias, 2); break;
    default:
        step->per = (Per)word_option(lua, span, key, pers, 4);
        if (step->per == PER_EXPERT && step->op != OP_EXPERTS_UP)
            box_fail(lua, E0223, span, "per = \"expert\" is for experts_up alone");
        if (step->per == PER_TOKEN && step->op != OP_EXPERTS_DOWN)
            box_fail(lua, E0223, span, "per = \"token\" is for experts_down alone");
    }
}

// What op "..." { ... } gives is the number of the step in run->steps, as a value that scripts cannot make.
static int op_values(lua_State *lua) { // upvalue: the op
    SchedRun *run = sched_run(lua);
    OpId op = (OpId)lua_tointeger(lua, lua_upvalueindex(1));
    SchedStep step = {.op = op, .span = box_span(lua, NULL, op_name(op))};
    sched_count_call(lua, step.span);
    lua_settop(lua, 1);
    read_table(lua, op_name(op), option_names, OPTIONS, E0222, set_option, &step);
    LIST_ADD(run->ctx->arena, &run->steps, step);
    lua_pushlightuserdata(lua, (void *)(uintptr_t)run->steps.count);
    return 1;
}

static int lua_op(lua_State *lua) {
    if (lua_type(lua, 1) != LUA_TSTRING)
        box_fail(lua, E0220, box_span(lua, NULL, "op"), "op wants a name, not %s: op \"qkv\" { tile = 64 }",
                 lua_isnone(lua, 1) ? "nothing" : box_show(lua, 1));
    const char *name = lua_tostring(lua, 1);
    int op = op_from(name);
    if (op < 0) {
        const char *names[OP_COUNT];
        for (int i = 0; i < OP_COUNT; i++) names[i] = op_name((OpId)i);
        box_unknown(lua, E0220, box_span(lua, NULL, name), "op", name, names, OP_COUNT);
    }
    lua_pushinteger(lua, op);
    lua_pushcclosure(lua, op_values, 1);
    return 1;
}

// ---- kernel ----

static void set_role_value(lua_State *lua, SchedRun *run, int key, Span span, void *user) {
    (void)run;
    SchedRole *role = user;
    if (key == 0) {
        role->warps = (int)box_integer(lua, -1, "warps", 1, 32, E0221, span);
        return;
    }
    role->registers = (int)box_integer(lua, -1, "registers", 24, 256, E0221, span);
    if (role->registers % 8) box_fail(lua, E0221, span, "registers come in eights, not %d", role->registers);
}

static void set_role(lua_State *lua, SchedRun *run, int key, Span span, void *user) {
    static const char *const keys[] = {"warps", "registers"};
    SchedRole *role = (SchedRole *)user + key;
    *role = (SchedRole){true, 1, 0, span};
    if (lua_type(lua, -1) != LUA_TTABLE) {
        box_error(lua, E0224, span, "%s wants a table, not %s", role_name((Role)key), box_show(lua, -1));
        diag_help(run->ctx, "%s = { warps = 4, registers = 40 }", role_name((Role)key));
        box_leave(lua);
    }
    read_table(lua, role_name((Role)key), keys, 2, E0222, set_role_value, role);
}

static void read_roles(lua_State *lua, SchedRun *run, Span span) {
    const char *names[ROLE_COUNT];
    for (int i = 0; i < ROLE_COUNT; i++) names[i] = role_name((Role)i);
    read_table(lua, "roles", names, ROLE_COUNT, E0224, set_role, run->sched->roles);
    if (!run->sched->roles[ROLE_COMPUTE].used) {
        box_error(lua, E0224, span, "a kernel needs the role compute");
        diag_help(run->ctx, "add compute = { warps = 8 }");
        box_leave(lua);
    }
}

static void set_pages(lua_State *lua, SchedRun *run, int key, Span span, void *user) {
    (void)user;
    if (key == 0)
        run->sched->page_bytes = (int)box_integer(lua, -1, "bytes", 16, 1 << 20, E0221, span);
    else
        run->sched->page_count = (int)box_integer(lua, -1, "count", 1, 256, E0221, span);
}

static void read_pages(lua_State *lua, SchedRun *run, Span span) {
    static const char *const keys[] = {"bytes", "count"};
    read_table(lua, "pages", keys, 2, E0222, set_pages, NULL);
    if (!run->sched->page_bytes || !run->sched->page_count)
        box_fail(lua, E0221, span, "pages needs bytes and count: pages = { bytes = 16384, count = 8 }");
}

static void read_steps(lua_State *lua, SchedRun *run, Span span) {
    if (lua_type(lua, -1) != LUA_TTABLE)
        box_fail(lua, E0220, span, "steps wants a list, not %s: steps = { op \"qkv\" {...}, ... }", box_show(lua, -1));
    lua_Integer count = box_sorted_keys(lua, -1); // numbers first
    const SchedStep *seen[OP_COUNT] = {NULL};
    SchedStep *steps = ARENA_ARRAY(run->ctx->arena, SchedStep, run->steps.count + 1);
    for (lua_Integer i = 1; i <= count; i++) {
        lua_rawgeti(lua, -1, i);
        int exact;
        if (lua_tointegerx(lua, -1, &exact) != i || !exact || lua_type(lua, -1) != LUA_TNUMBER)
            box_fail(lua, E0220, span, "steps is a list without gaps and names; \"%s\" does not belong",
                     box_show(lua, -1));
        lua_gettable(lua, -3);
        size_t index = lua_type(lua, -1) == LUA_TLIGHTUSERDATA ? (size_t)(uintptr_t)lua_touserdata(lua, -1) : 0;
        if (index < 1 || index > run->steps.count)
            box_fail(lua, E0220, span, "entry %lld of steps is not op \"...\" {...}, but a %s", (long long)i,
                     luaL_typename(lua, -1));
        lua_pop(lua, 1);
        const SchedStep *step = &run->steps.at[index - 1];
        if (seen[step->op]) {
            box_error(lua, E0220, step->span, "op \"%s\" stands in the steps twice", op_name(step->op));
            diag_note(run->ctx, seen[step->op]->span, "here it stands first");
            box_leave(lua);
        }
        seen[step->op] = step;
        steps[run->sched->step_count++] = *step;
    }
    run->sched->steps = steps;
}

static Dtype read_dtype(lua_State *lua, Span span, const char *key) {
    static const char *const names[] = {"f32", "bf16"};
    return word_option(lua, span, key, names, 2) ? DTYPE_BF16 : DTYPE_F32;
}

static void set_kernel(lua_State *lua, SchedRun *run, int key, Span span, void *user) {
    Sched *sched = user;
    switch (key) {
    case 0: sched->rows = (int)box_integer(lua, -1, "rows", 1, MAX_ROWS, E0221, span); break;
    case 1: sched->activations = read_dtype(lua, span, "activations"); break;
    case 2: sched->cache = read_dtype(lua, span, "cache"); break;
    case 3: read_roles(lua, run, span); break;
    case 4: read_pages(lua, run, span); break;
    default: read_steps(lua, run, span); break;
    }
}

static int kernel_values(lua_State *lua) { // upvalue: the name
    static const char *const keys[] = {"rows", "activations", "cache", "roles", "pages", "steps"};
    SchedRun *run = sched_run(lua);
    run->kernel = box_span(lua, NULL, "kernel");
    if (lua_type(lua, 1) != LUA_TTABLE)
        box_fail(lua, E0225, run->kernel, "kernel \"...\" wants a table: kernel \"decode\" { steps = {...} }");
    if (run->sched->name) box_fail(lua, E0225, run->kernel, "a schedule describes one kernel");
    run->sched->name = arena_text(run->ctx->arena, lua_tostring(lua, lua_upvalueindex(1)));
    lua_settop(lua, 1);
    read_table(lua, "kernel", keys, 6, E0222, set_kernel, run->sched);
    lua_pushlightuserdata(lua, run->sched);
    return 1;
}

static int lua_kernel(lua_State *lua) {
    size_t length = 0;
    const char *name = lua_type(lua, 1) == LUA_TSTRING ? lua_tolstring(lua, 1, &length) : "";
    if (!sched_name(name, length))
        box_fail(lua, E0225, box_span(lua, NULL, "kernel"),
                 "kernel wants a name of letters, digits and _: kernel \"decode\" {...}");
    lua_pushvalue(lua, 1);
    lua_pushcclosure(lua, kernel_values, 1);
    return 1;
}

// ---- the run ----

static int schedule_body(lua_State *lua) {
    SchedRun *run = sched_run(lua);
    sched_tune(lua);
    sched_env(lua, run);
    lua_pushcfunction(lua, lua_op);
    lua_setglobal(lua, "op");
    lua_pushcfunction(lua, lua_kernel);
    lua_setglobal(lua, "kernel");
    box_seal_globals(lua);
    box_load(run->box, lua);
    lua_call(lua, 0, 1);
    if (lua_touserdata(lua, -1) == run->sched) return 0;
    Span file = {run->box->source, 0, 0, 0};
    box_error(lua, E0225, run->sched->name ? run->kernel : file,
              run->sched->name ? "the schedule does not return its kernel" : "the schedule returns no kernel");
    diag_help(run->ctx, "end it with: return kernel \"decode\" { ... }");
    box_leave(lua);
}

Sched *sched_read_within(Ctx *ctx, Source *source, const Model *model, const Sku *sku, int tp, const Setting *settings,
                         size_t setting_count, bool tuning, size_t memory, int64_t instructions) {
    SchedRun *run = ARENA_NEW(ctx->arena, SchedRun);
    *run = (SchedRun){.ctx = ctx,
                      .model = model,
                      .sku = sku,
                      .tp = tp,
                      .settings = settings,
                      .setting_count = setting_count,
                      .tuning = tuning};
    Sched *sched = run->sched = ARENA_NEW(ctx->arena, Sched);
    *sched = (Sched){.rows = MAX_ROWS, .activations = DTYPE_F32, .cache = DTYPE_BF16, .source = source};
    size_t errors = diag_errors(ctx);
    run->box = box_open(ctx, source, (BoxLimits){memory, instructions});
    if (!run->box) return NULL;
    bool ok = box_run(run->box, schedule_body, run, E0201);
    box_close(run->box);
    if (!ok && sched->failed_check) { // a pruned point: what fails after its check does not matter
        diag_forget(ctx, errors);
        ok = true;
    }
    if (!ok) return NULL;
    if (!run->tuned && setting_count && !sched->failed_check) {
        diag_error(ctx, E0212, NO_SPAN, "%s is set, but the schedule declares no tunables", settings[0].name);
        return NULL;
    }
    if (!sched->name) sched->name = "";
    if (!sched->roles[ROLE_COMPUTE].used) sched->roles[ROLE_COMPUTE] = (SchedRole){true, 1, 0, NO_SPAN};
    sched->tunables = run->tunables.at;
    sched->tunable_count = run->tunables.count;
    return sched;
}

Sched *sched_read(Ctx *ctx, Source *source, const Model *model, const Sku *sku, int tp, const Setting *settings,
                  size_t setting_count, bool tuning) {
    return sched_read_within(ctx, source, model, sku, tp, settings, setting_count, tuning, SCHED_MEMORY_CAP,
                             SCHED_INSTRUCTIONS);
}
