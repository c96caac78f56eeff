// model, sku and tp as a schedule sees them: read-only tables that answer for their fields and nothing else.
#include "sched_run.h"
#include <string.h>

static void set_integer(lua_State *lua, const char *key, int64_t value) {
    lua_pushinteger(lua, value);
    lua_setfield(lua, -2, key);
}

static void set_real(lua_State *lua, const char *key, double value) {
    lua_pushnumber(lua, value);
    lua_setfield(lua, -2, key);
}

static void set_text(lua_State *lua, const char *key, const char *value) {
    lua_pushstring(lua, value ? value : "");
    lua_setfield(lua, -2, key);
}

static void set_heads(lua_State *lua, const Attention *a) {
    set_integer(lua, "heads", a->heads);
    set_integer(lua, "kv_heads", a->kv_heads);
    set_integer(lua, "qk_dim", a->qk_dim);
    set_integer(lua, "v_dim", a->v_dim);
    set_integer(lua, "window", a->window);
    set_integer(lua, "rotary", a->rope.rotary);
    lua_pushboolean(lua, a->qk_norm);
    lua_setfield(lua, -2, "qk_norm");
    set_integer(lua, "qkv_rows", (int64_t)a->heads * a->qk_dim + (int64_t)a->kv_heads * (a->qk_dim + a->v_dim));
}

// What the model has not is nil, so that a schedule can ask.
static void set_attention(lua_State *lua, const char *key, const Attention *a) {
    if (a->heads) {
        lua_newtable(lua);
        set_heads(lua, a);
        box_freeze(lua, E0206);
    } else
        box_push_absent(lua);
    lua_setfield(lua, -2, key);
}

static void set_experts(lua_State *lua, const Experts *experts) {
    if (experts->count) {
        lua_newtable(lua);
        set_integer(lua, "count", experts->count);
        set_integer(lua, "top_k", experts->top_k);
        set_integer(lua, "inner", experts->inner);
        set_integer(lua, "inter", experts->inner); // the name that mixtures of experts often go by
        box_freeze(lua, E0206);
    } else
        box_push_absent(lua);
    lua_pushvalue(lua, -1);
    lua_setfield(lua, -3, "experts");
    lua_setfield(lua, -2, "moe");
}

static void set_drafter(lua_State *lua, const Model *model) {
    const Drafter *drafter = &model->drafter;
    if (model->has_drafter) {
        lua_newtable(lua);
        set_integer(lua, "layers", drafter->layers);
        set_integer(lua, "block", drafter->block);
        set_integer(lua, "inner", drafter->inner);
        set_heads(lua, &drafter->attention);
        box_freeze(lua, E0206);
    } else
        box_push_absent(lua);
    lua_setfield(lua, -2, "drafter");
}

void sched_env(lua_State *lua, const SchedRun *run) {
    const Model *model = run->model;
    lua_newtable(lua);
    set_text(lua, "name", model->name);
    set_integer(lua, "hidden", model->hidden);
    set_integer(lua, "vocab", model->vocab);
    set_integer(lua, "layers", model->layer_count);
    set_integer(lua, "context", model->context);
    set_integer(lua, "dense_inner", model->dense_inner);
    set_attention(lua, "full", &model->attention[ATTENTION_FULL]);
    set_attention(lua, "window", &model->attention[ATTENTION_WINDOW]);
    set_experts(lua, &model->experts);
    set_drafter(lua, model);
    box_freeze(lua, E0206);
    lua_setglobal(lua, "model");

    const Sku *sku = run->sku;
    lua_newtable(lua);
    set_text(lua, "name", sku->name);
    set_text(lua, "arch", sku->arch);
    set_integer(lua, "workers", sku->workers);
    set_integer(lua, "shared_memory", sku->shared_memory);
    set_integer(lua, "page_memory", sku_page_memory(sku));
    set_integer(lua, "registers", sku->registers);
    set_integer(lua, "memory", sku->memory);
    set_integer(lua, "l2", sku->l2);
    set_real(lua, "bandwidth", sku->bandwidth);
    set_real(lua, "clock", sku->clock);
    box_freeze(lua, E0206);
    lua_setglobal(lua, "sku");

    lua_pushinteger(lua, run->tp);
    lua_setglobal(lua, "tp");
}
