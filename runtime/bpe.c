#include "tokenizer_parts.h"
#include <string.h>

uint64_t bpe_hash(const void *bytes, size_t length) { // FNV-1a, finished by a multiply
    uint64_t hash = 0xCBF29CE484222325u;
    for (size_t i = 0; i < length; i++) hash = (hash ^ ((const uint8_t *)bytes)[i]) * 0x100000001B3u;
    return (hash ^ hash >> 29) * 0xBF58476D1CE4E5B9u;
}

const Merge *bpe_merge(const Bpe *bpe, int left, int right) {
    int key[2] = {left, right};
    for (size_t at = bpe_hash(key, sizeof key) & (bpe->merge_room - 1);; at = (at + 1) & (bpe->merge_room - 1)) {
        const Merge *m = &bpe->merges[at];
        if (m->left < 0) return NULL;
        if (m->left == left && m->right == right) return m;
    }
}

int bpe_find(const Bpe *bpe, const char *bytes, size_t length) {
    for (size_t at = bpe_hash(bytes, length) & (bpe->text_room - 1);; at = (at + 1) & (bpe->text_room - 1)) {
        int id = bpe->by_text[at];
        if (id < 0) return -1;
        if (bpe->tokens[id].length == length && memcmp(bpe->tokens[id].bytes, bytes, length) == 0) return id;
    }
}

// A pair that could be merged: the lowest rank first, then the leftmost.
typedef struct Candidate {
    int rank, at, left, right, id;
} Candidate;

typedef struct Heap {
    Candidate *at;
    size_t count;
} Heap;

static bool before(const Candidate *a, const Candidate *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void heap_push(Heap *heap, Candidate c) {
    size_t i = heap->count++;
    for (; i && before(&c, &heap->at[(i - 1) / 2]); i = (i - 1) / 2) heap->at[i] = heap->at[(i - 1) / 2];
    heap->at[i] = c;
}

static Candidate heap_pop(Heap *heap) {
    Candidate top = heap->at[0], last = heap->at[--heap->count];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < heap->count; i = child) {
        if (child + 1 < heap->count && before(&heap->at[child + 1], &heap->at[child])) child++;
        if (!before(&heap->at[child], &last)) break;
        heap->at[i] = heap->at[child];
    }
    heap->at[i] = last;
    return top;
}

enum { SHORT = 64 };

// The usual piece is a word: its ranks lie in an array, and the lowest is looked for each time.
static size_t encode_short(const Bpe *bpe, const char *piece, size_t length, int *ids) {
    const Merge *merge[SHORT]; // of symbols i and i + 1
    size_t count = length;
    for (size_t i = 0; i < length; i++) ids[i] = bpe->byte_id[(uint8_t)piece[i]];
    for (size_t i = 0; i + 1 < length; i++) merge[i] = bpe_merge(bpe, ids[i], ids[i + 1]);
    while (count > 1) {
        size_t best = count;
        for (size_t i = 0; i + 1 < count; i++)
            if (merge[i] && (best == count || merge[i]->rank < merge[best]->rank)) best = i;
        if (best == count) break;
        ids[best] = merge[best]->id;
        count--;
        memmove(ids + best + 1, ids + best + 2, (count - best - 1) * sizeof *ids);
        memmove(merge + best, merge + best + 1, (count - best) * sizeof *merge);
        if (best + 1 < count) merge[best] = bpe_merge(bpe, ids[best], ids[best + 1]);
        if (best) merge[best - 1] = bpe_merge(bpe, ids[best - 1], ids[best]);
    }
    return count;
}

size_t bpe_encode(Arena *arena, const Bpe *bpe, const char *piece, size_t length, int *ids) {
    if (length == 0) return 0;
    int whole = bpe->ignore_merges ? bpe_find(bpe, piece, length) : -1;
    if (whole >= 0) return ids[0] = whole, 1;
    if (length <= SHORT) return encode_short(bpe, piece, length, ids);
    // Symbols as a list through `next` and `last`; a merged-away symbol has id -1. Each merge adds at most two
    // candidates.
    int *symbol = ARENA_ARRAY(arena, int, length), *next = ARENA_ARRAY(arena, int, length),
        *last = ARENA_ARRAY(arena, int, length);
    Heap heap = {ARENA_ARRAY(arena, Candidate, 3 * length), 0};
    for (size_t i = 0; i < length; i++) {
        symbol[i] = bpe->byte_id[(uint8_t)piece[i]];
        next[i] = i + 1 < length ? (int)i + 1 : -1;
        last[i] = (int)i - 1;
        const Merge *m = i ? bpe_merge(bpe, symbol[i - 1], symbol[i]) : NULL;
        if (m) heap_push(&heap, (Candidate){m->rank, (int)i - 1, m->left, m->right, m->id});
    }
    while (heap.count) {
        Candidate c = heap_pop(&heap);
        int right = symbol[c.at] == c.left ? next[c.at] : -1;
        if (right < 0 || symbol[right] != c.right) continue; // one of the two has been merged since
        symbol[c.at] = c.id;
        symbol[right] = -1;
        next[c.at] = next[right];
        if (next[right] >= 0) last[next[right]] = c.at;
        const Merge *m = last[c.at] >= 0 ? bpe_merge(bpe, symbol[last[c.at]], c.id) : NULL;
        if (m) heap_push(&heap, (Candidate){m->rank, last[c.at], m->left, m->right, m->id});
        m = next[c.at] >= 0 ? bpe_merge(bpe, c.id, symbol[next[c.at]]) : NULL;
        if (m) heap_push(&heap, (Candidate){m->rank, c.at, m->left, m->right, m->id});
    }
    size_t count = 0;
    for (int i = 0; i >= 0; i = next[i]) ids[count++] = symbol[i];
    return count;
}
