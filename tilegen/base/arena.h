// An arena hands out memory that is freed all at once, or back to a mark.
//
// Every IR lives in one. Memory comes zeroed and aligned to 16 bytes. When the system has no more,
// arena_alloc does not return: it leaves through the `oom` handler of the arena (see ctx.h), so
// that no caller checks for NULL.
#ifndef TILEGEN_ARENA_H
#define TILEGEN_ARENA_H
#include <stddef.h>

typedef struct Arena Arena;
typedef struct ArenaMark {
    void *block;
    size_t used;
} ArenaMark;

// `oom(user)` must not return (longjmp). NULL when even the first block cannot be had.
Arena *arena_new(void (*oom)(void *user), void *user);
void arena_free(Arena *arena);

void *arena_alloc(Arena *arena, size_t bytes);
// `count * size` bytes, with the product checked.
void *arena_array(Arena *arena, size_t count, size_t size);
// A copy of `bytes` bytes; one zero byte is added, so text stays a C string.
void *arena_copy(Arena *arena, const void *data, size_t bytes);
char *arena_text(Arena *arena, const char *text);
__attribute__((format(printf, 2, 3))) char *arena_printf(Arena *arena, const char *format, ...);

ArenaMark arena_push(Arena *arena);
// Frees what was allocated since the mark.
void arena_pop(Arena *arena, ArenaMark mark);

#define ARENA_NEW(arena, Type)          ((Type *)arena_alloc((arena), sizeof(Type)))
#define ARENA_ARRAY(arena, Type, count) ((Type *)arena_array((arena), (size_t)(count), sizeof(Type)))

// A growing array of Type inside an arena: `struct { Type *at; size_t count, room; }`.
// The old storage stays in the arena until it is popped.
#define LIST(Type)                                                                                                     \
    struct {                                                                                                           \
        Type *at;                                                                                                      \
        size_t count, room;                                                                                            \
    }
void *list_grow(Arena *arena, void *at, size_t count, size_t *room, size_t size);
#define LIST_ADD(arena, list, ...)                                                                                     \
    do {                                                                                                               \
        if ((list)->count == (list)->room)                                                                             \
            (list)->at = list_grow((arena), (list)->at, (list)->count, &(list)->room, sizeof *(list)->at);             \
        (list)->at[(list)->count++] = (__VA_ARGS__);                                                                   \
    } while (0)
#endif
