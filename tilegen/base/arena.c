#include "arena.h"
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Block Block;
struct Block {
    Block *prev;
    size_t size, used;
    _Alignas(16) unsigned char data[];
};

struct Arena {
    Block *top;
    void (*oom)(void *);
    void *user;
};

enum { FIRST_BLOCK = 64 * 1024 };

static Block *block_new(size_t size, Block *prev) {
    Block *block = malloc(sizeof(Block) + size);
    if (!block) return NULL;
    block->prev = prev;
    block->size = size;
    block->used = 0;
    return block;
}

Arena *arena_new(void (*oom)(void *), void *user) {
    Arena *arena = malloc(sizeof *arena);
    if (!arena) return NULL;
    *arena = (Arena){block_new(FIRST_BLOCK, NULL), oom, user};
    if (!arena->top) {
        free(arena);
        return NULL;
    }
    return arena;
}

void arena_free(Arena *arena) {
    if (!arena) return;
    for (Block *block = arena->top; block;) {
        Block *prev = block->prev;
        free(block);
        block = prev;
    }
    free(arena);
}

void *arena_alloc(Arena *arena, size_t bytes) {
    Block *top = arena->top;
    if (bytes > SIZE_MAX / 4) arena->oom(arena->user);
    bytes = (bytes + 15) & ~(size_t)15;
    if (top->size - top->used < bytes) {
        size_t size = top->size * 2 > bytes ? top->size * 2 : bytes;
        if (size > (size_t)8 << 20 && size > bytes) size = bytes > (size_t)8 << 20 ? bytes : (size_t)8 << 20;
        top = block_new(size, arena->top);
        if (!top) arena->oom(arena->user);
        arena->top = top;
    }
    void *out = top->data + top->used;
    top->used += bytes;
    return memset(out, 0, bytes);
}

void *arena_array(Arena *arena, size_t count, size_t size) {
    if (size && count > SIZE_MAX / 4 / size) arena->oom(arena->user);
    return arena_alloc(arena, count * size);
}

void *arena_copy(Arena *arena, const void *data, size_t bytes) {
    char *out = arena_alloc(arena, bytes + 1);
    if (bytes) memcpy(out, data, bytes);
    return out;
}

char *arena_text(Arena *arena, const char *text) { return arena_copy(arena, text, strlen(text)); }

char *arena_printf(Arena *arena, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length < 0) length = 0;
    char *out = arena_alloc(arena, (size_t)length + 1);
    va_start(args, format);
    vsnprintf(out, (size_t)length + 1, format, args);
    va_end(args);
    return out;
}

ArenaMark arena_push(Arena *arena) { return (ArenaMark){arena->top, arena->top->used}; }

void arena_pop(Arena *arena, ArenaMark mark) {
    while (arena->top != mark.block) {
        Block *prev = arena->top->prev;
        free(arena->top);
        arena->top = prev;
    }
    arena->top->used = mark.used;
}

void *list_grow(Arena *arena, void *at, size_t count, size_t *room, size_t size) {
    size_t grown = *room ? *room * 2 : 8;
    void *out = arena_array(arena, grown, size);
    if (count) memcpy(out, at, count * size);
    *room = grown;
    return out;
}
