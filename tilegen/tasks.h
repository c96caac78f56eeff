// Tasks: Prog -> the tables that the engine kernel walks (templates/abi.h, EngineTables): the bundle's section "tasks".
#ifndef TILEGEN_TASKS_H
#define TILEGEN_TASKS_H
#include "compile.h"

// Little-endian bytes in the ctx's arena. False after reporting.
bool tasks_encode(Ctx *ctx, const Compiled *compiled, const void **data, size_t *size);
#endif
