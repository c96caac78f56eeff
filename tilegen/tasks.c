#include "tasks.h"
#include "../templates/abi.h"
bool tasks_encode(Ctx *ctx, const Compiled *compiled, const void **data, size_t *size) {
    EngineTables *t = ARENA_NEW(ctx->arena, EngineTables);
    *t = (EngineTables){
        .magic = TABLES_MAGIC, .abi = ENGINE_ABI, .size = sizeof *t, .workers = (uint32_t)compiled->prog->workers};
    *data = t;
    *size = sizeof *t;
    return true;
}
