// What tokenizer.c (reading), tokenizer_encode.c and bpe.c share.
#ifndef TILERUN_TOKENIZER_PARTS_H
#define TILERUN_TOKENIZER_PARTS_H
#include "tokenizer.h"
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

typedef struct Merge { // open addressing; left -1: empty
    int left, right, rank, id;
} Merge;

typedef struct TokenText {
    const char *bytes;
    size_t length;
    bool known, special, added;
} TokenText;

typedef struct Bpe {
    int byte_id[256]; // id of each single byte
    Merge *merges;
    size_t merge_room; // a power of two
    TokenText *tokens; // [vocab]
    int vocab;
    int *by_text; // open addressing over the tokens' bytes, -1: empty
    size_t text_room;
    bool ignore_merges; // a piece that is a token as it stands is that token
} Bpe;

enum { MAX_SPLITS = 4 };
struct Tokenizer {
    Bpe bpe;
    pcre2_code *splits[MAX_SPLITS];
    int split_count, bos;
    bool nfc;
    int *added; // ids of added tokens
    size_t added_count;
};

// Ids of one piece, appended to `ids` (room for `length` more). Scratch comes from the arena.
size_t bpe_encode(Arena *arena, const Bpe *bpe, const char *piece, size_t length, int *ids);
const Merge *bpe_merge(const Bpe *bpe, int left, int right);
// The token with these bytes, or -1.
int bpe_find(const Bpe *bpe, const char *bytes, size_t length);
uint64_t bpe_hash(const void *bytes, size_t length);
#endif
