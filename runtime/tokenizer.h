// Tokenizer: tokenizer.json of byte-level BPE (split pattern on PCRE2, added and special tokens, normaliser none or
// NFC).
#ifndef TILERUN_TOKENIZER_H
#define TILERUN_TOKENIZER_H
#include "diag.h"

typedef struct Tokenizer Tokenizer;

// NULL after reporting (E08xx): a field that would change ids and is not supported is refused by name.
Tokenizer *tokenizer_read(Ctx *ctx, Source *source);
Tokenizer *tokenizer_open(Ctx *ctx, const char *path); // file_read with a cap of 64 MiB
void tokenizer_free(Tokenizer *tokenizer);
int tokenizer_vocab(const Tokenizer *tokenizer);
// The token that begins every sequence (post_processor), or -1.
int tokenizer_bos(const Tokenizer *tokenizer);

// Ids of `length` bytes of text (any bytes; invalid UTF-8 is encoded byte by byte). Special tokens in the text become
// their ids when `special`, and are plain text otherwise; other added tokens always become theirs. tokenizer_bos is not
// prepended. *ids in the ctx's arena. A text that costs the split pattern too much is told (E0811) and still encoded.
void tokenizer_encode(Ctx *ctx, const Tokenizer *tokenizer, const char *text, size_t length, bool special, int **ids,
                      size_t *count);
// Bytes of one token; special tokens give nothing unless `special`. The pointer lives as long as the tokenizer.
const char *tokenizer_bytes(const Tokenizer *tokenizer, int id, bool special, size_t *length);

// Streams text: holds back the bytes of an unfinished UTF-8 sequence.
typedef struct TextStream {
    char held[8];
    size_t count;
} TextStream;
// Appends one token's bytes to `out` (room for 4 more than the token's bytes) and returns how many were written.
size_t tokenizer_stream(const Tokenizer *tokenizer, TextStream *stream, int id, char *out, size_t room);
size_t tokenizer_stream_end(TextStream *stream, char *out, size_t room);
#endif
