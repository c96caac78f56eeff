// What the files of the tokenizer share: tokenizer.c (pipeline), tokenizer_vocab.c (tokens, merges), split.c
// (patterns), tokenizer_encode.c, bpe.c, nfc.c.
#ifndef TILERUN_TOKENIZER_PARTS_H
#define TILERUN_TOKENIZER_PARTS_H
#include "tokenizer.h"
#include <jansson.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

typedef struct Merge { // open addressing; left -1: empty
    int left, right, rank, id;
} Merge;

typedef struct TokenText {
    const char *bytes;
    size_t length;
    bool known, special;
} TokenText;

typedef struct Bpe {
    int byte_id[256]; // id of each single byte
    Merge *merges;
    size_t merge_room; // a power of two
    TokenText *tokens; // [vocab]
    int vocab;
    int *by_text; // open addressing over the bytes of tokens that text can have, -1: empty
    size_t text_room;
    bool ignore_merges; // a piece that is a token as it stands is that token
} Bpe;

// What becomes of the matches of a pattern, and of what lies between them.
typedef enum Behaviour {
    SPLIT_ISOLATED,             // each match is a piece, each gap too
    SPLIT_REMOVED,              // matches are dropped
    SPLIT_MERGED_WITH_PREVIOUS, // a match ends the gap before it
    SPLIT_MERGED_WITH_NEXT,     // a match begins the gap after it
    SPLIT_CONTIGUOUS            // neighbouring matches are one piece
} Behaviour;

typedef struct Split {
    pcre2_code *code;
    Behaviour behaviour;
    bool invert; // gaps count as matches, matches as gaps
} Split;

// Added tokens of one kind, by first byte, the longest first: those of byte b are at [from[b], from[b + 1]).
typedef struct Added {
    int *ids;
    int from[257];
} Added;

enum { MAX_SPLITS = 8 };
struct Tokenizer {
    Bpe bpe;
    Split splits[MAX_SPLITS];
    int split_count, bos;
    bool nfc;
    Added raw, normal; // looked for in the text as it is, and in normalised text
};

// ---- Reading ----
typedef struct Reader {
    Ctx *ctx;
    Tokenizer *t;
    Span file;
    int byte_of[512]; // byte that each letter of a byte-level vocabulary stands for, -1: none
} Reader;

// Reports and returns false.
__attribute__((format(printf, 3, 4))) bool reader_wrong(Reader *reader, DiagCode code, const char *format, ...);
// A boolean field, false when absent. Clears *ok after reporting another type.
bool reader_flag(Reader *reader, const json_t *object, const char *path, const char *key, bool *ok);
// True when the object has no other keys than those listed (NULL ends the list), or only with the value null.
bool reader_keys(Reader *reader, const json_t *object, const char *path, const char *const *keys);
bool vocab_read(Reader *reader, const json_t *model, const json_t *added);
bool merges_read(Reader *reader, const json_t *merges);
bool added_read(Reader *reader, const json_t *model, const json_t *added);
// Compiles one pattern into the next of the tokenizer's splits.
bool split_add(Reader *reader, const char *pattern, bool literal, Behaviour behaviour, bool invert);

// ---- Encoding ----
// Ids of one piece, appended to `ids` (room for `length` more). Scratch comes from the arena.
size_t bpe_encode(Arena *arena, const Bpe *bpe, const char *piece, size_t length, int *ids);
const Merge *bpe_merge(const Bpe *bpe, int left, int right);
// The token with these bytes, or -1.
int bpe_find(const Bpe *bpe, const char *bytes, size_t length);
uint64_t bpe_hash(const void *bytes, size_t length);

// Cuts valid UTF-8 by splits[0] and each piece by those after it, and calls `piece` with each that is not empty.
typedef struct Splitter {
    Ctx *ctx;
    const Tokenizer *t;
    pcre2_match_data *match[MAX_SPLITS];
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    bool told; // of a text that costs too much
    void (*piece)(void *user, const char *text, size_t length);
    void *user;
} Splitter;
void splitter_open(Splitter *splitter, Ctx *ctx, const Tokenizer *t);
void splitter_close(Splitter *splitter);
void splitter_run(Splitter *splitter, const char *text, size_t length);

// Canonical composition (NFC) of valid UTF-8, into the arena.
const char *nfc_text(Arena *arena, const char *text, size_t length, size_t *out_length);
#endif
