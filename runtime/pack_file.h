// Packed weights of a rank in a file, made ahead of time by `tilerun pack`. Little endian:
//
//   PackHeader, a PackEntry each segment, tokenizer.json, then from data_at on the rank's allocation as it will lie in
//   the GPU's memory.
//
// It is written as FILE.part, segment by segment, each entry getting its SHA-256 when its bytes are there, and renamed
// when done. Started again, it goes on behind the segments that are there and whole.
#ifndef TILERUN_PACK_FILE_H
#define TILERUN_PACK_FILE_H
#include "pack.h"
#include "progress.h"

enum { PACK_FILE_VERSION = 1, PACK_END_TOKENS = 16 };

typedef struct PackHeader {
    char magic[8]; // "TILEPACK"
    uint32_t version, abi, rank, ranks, tables, count;
    uint64_t bytes;                         // of the allocation
    uint64_t tokenizer_at, tokenizer_bytes; // 0 bytes: there is none
    uint64_t data_at, file_bytes;
    int32_t end_tokens[PACK_END_TOKENS];
    uint32_t end_token_count, pad;
    char model[64];         // name
    char model_sha[64];     // of the description's text, as the bundle has it
    char tokenizer_sha[64]; //
    char table_sha[64];     // of this header, this field zero, and the entries; written last
} PackHeader;

typedef struct PackEntry {
    uint32_t slot;
    int32_t table;
    uint64_t offset, bytes;
    char group[16], name[56];
    char sha[64];
} PackEntry;

typedef struct PackFile {
    PackList list; // of PACK_BYTES
    int end_tokens[PACK_END_TOKENS], end_token_count;
    Source *tokenizer; // NULL: none
    void *map;
    size_t map_bytes;
} PackFile;

// `weights`' list, packed, into `path`. `tokenizer` may be NULL. False after reporting.
bool pack_file_write(Ctx *ctx, const char *path, const Model *model, const Checkpoint *weights, const Source *tokenizer,
                     int rank, int ranks, int threads, const Progress *progress);
// Maps and checks everything. NULL after reporting E0745 or E0746.
PackFile *pack_file_open(Ctx *ctx, const char *path, const Model *model, int rank, int ranks, int threads,
                         const Progress *progress);
void pack_file_close(PackFile *file);
#endif
