#include "pack_file.h"
#include "file.h"
#include "sha256.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DATA_ALIGN = 4096, ROOM = 32 << 20, MAX_SEGMENTS = 1 << 20, MAX_THREADS = 64 };
static const char MAGIC[8] = {'T', 'I', 'L', 'E', 'P', 'A', 'C', 'K'};

static void sha_field(const void *data, size_t bytes, char out[64]) {
    char hex[65];
    sha256_hex_of(data, bytes, hex);
    memcpy(out, hex, 64);
}

static void table_sha(const PackHeader *header, const PackEntry *entries, char out[64]) {
    PackHeader bare = *header;
    char hex[65];
    Sha256 sha;
    memset(bare.table_sha, 0, sizeof bare.table_sha);
    sha256_init(&sha);
    sha256_add(&sha, &bare, sizeof bare);
    sha256_add(&sha, entries, header->count * sizeof *entries);
    sha256_hex(&sha, hex);
    memcpy(out, hex, 64);
}

static void copy_name(char *out, size_t room, const char *text) {
    size_t length = strlen(text);
    memcpy(out, text, length < room - 1 ? length : room - 1);
}

// ---- Writing ----

typedef struct Writing {
    Ctx *ctx;
    const char *path, *part;
    int fd;
    PackHeader header;
    PackEntry *entries;
    uint8_t *room;
} Writing;

static void release(void *user) {
    Writing *w = user;
    if (w->fd >= 0) close(w->fd);
    free(w->room);
}

static bool failed(Writing *w, int error) {
    diag_error(w->ctx, E0004, file_span(w->ctx, w->path), "cannot write: %s", strerror(error));
    if (error == ENOSPC || error == EDQUOT || error == EFBIG)
        diag_help(w->ctx, "the packed weights take %llu MB; started again, it goes on from here",
                  (unsigned long long)(w->header.file_bytes >> 20));
    return false;
}

static bool put(Writing *w, uint64_t at, const void *data, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pwrite(w->fd, (const char *)data + done, bytes - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return failed(w, errno);
        done += (size_t)n;
    }
    return true;
}

static bool get(int fd, uint64_t at, void *data, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pread(fd, (char *)data + done, bytes - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        done += (size_t)n;
    }
    return true;
}

static void describe(Writing *w, const Model *model, const Checkpoint *weights, const Source *tokenizer,
                     const PackList *list, int rank, int ranks) {
    PackHeader *h = &w->header;
    *h = (PackHeader){.version = PACK_FILE_VERSION,
                      .abi = ENGINE_ABI,
                      .rank = (uint32_t)rank,
                      .ranks = (uint32_t)ranks,
                      .tables = (uint32_t)list->tables,
                      .count = (uint32_t)list->count,
                      .bytes = list->bytes,
                      .end_token_count = (uint32_t)weights->end_token_count};
    memcpy(h->magic, MAGIC, sizeof MAGIC);
    copy_name(h->model, sizeof h->model, model->name);
    sha_field(model->source->text, model->source->length, h->model_sha);
    for (int i = 0; i < weights->end_token_count; i++) h->end_tokens[i] = weights->end_tokens[i];
    h->tokenizer_at = sizeof *h + list->count * sizeof(PackEntry);
    if (tokenizer) {
        h->tokenizer_bytes = tokenizer->length;
        sha_field(tokenizer->text, tokenizer->length, h->tokenizer_sha);
    }
    h->data_at = (h->tokenizer_at + h->tokenizer_bytes + DATA_ALIGN - 1) / DATA_ALIGN * DATA_ALIGN;
    h->file_bytes = h->data_at + h->bytes;
    w->entries = ARENA_ARRAY(w->ctx->arena, PackEntry, list->count);
    for (size_t i = 0; i < list->count; i++) {
        const PackSegment *s = &list->at[i];
        w->entries[i] =
            (PackEntry){.slot = (uint32_t)s->slot, .table = s->table, .offset = s->offset, .bytes = s->bytes};
        copy_name(w->entries[i].group, sizeof w->entries[i].group, s->group);
        copy_name(w->entries[i].name, sizeof w->entries[i].name, s->name);
    }
}

// How many segments of an interrupted file are there and whole; their hashes are taken over.
static size_t resumed(Writing *w) {
    PackHeader *old = ARENA_NEW(w->ctx->arena, PackHeader);
    size_t count = w->header.count, whole = 0;
    PackEntry *entries = ARENA_ARRAY(w->ctx->arena, PackEntry, count);
    if (!get(w->fd, 0, old, sizeof *old)) return 0;
    memset(old->table_sha, 0, sizeof old->table_sha);
    if (memcmp(old, &w->header, sizeof *old) != 0 || !get(w->fd, sizeof *old, entries, count * sizeof *entries))
        return 0;
    for (; whole < count; whole++) {
        PackEntry bare = entries[whole];
        memset(bare.sha, 0, sizeof bare.sha);
        if (memcmp(&bare, &w->entries[whole], sizeof bare) != 0 || !entries[whole].sha[0]) break;
        Sha256 sha;
        char hex[65];
        sha256_init(&sha);
        bool there = true;
        for (uint64_t at = 0; at < bare.bytes && there; at += ROOM) {
            size_t some = bare.bytes - at < ROOM ? (size_t)(bare.bytes - at) : ROOM;
            there = get(w->fd, w->header.data_at + bare.offset + at, w->room, some);
            if (there) sha256_add(&sha, w->room, some);
        }
        sha256_hex(&sha, hex);
        if (!there || memcmp(hex, entries[whole].sha, 64) != 0) break;
        w->entries[whole] = entries[whole];
    }
    return whole;
}

static bool segments_write(Writing *w, const PackList *list, size_t room, int threads, const Progress *progress) {
    PackCursor cursor = {resumed(w), 0};
    if (cursor.segment == 0 && ftruncate(w->fd, 0) < 0) return failed(w, errno);
    if (!put(w, 0, &w->header, sizeof w->header) ||
        !put(w, sizeof w->header, w->entries, w->header.count * sizeof *w->entries))
        return false;
    if (ftruncate(w->fd, (off_t)w->header.file_bytes) < 0) return failed(w, errno);
    Sha256 sha;
    sha256_init(&sha);
    while (cursor.segment < list->count) {
        size_t at = cursor.segment;
        PackFault fault;
        uint64_t offset;
        progress_tell(progress, "packing weights", (double)list->at[at].offset / (double)list->bytes);
        size_t bytes = pack_next(list, &cursor, true, w->room, room, threads, &offset, &fault);
        if (fault.segment) return pack_report(w->ctx, &fault), false;
        if (!put(w, w->header.data_at + offset, w->room, bytes)) return false;
        sha256_add(&sha, w->room, bytes);
        if (cursor.segment == at) continue;
        char hex[65];
        sha256_hex(&sha, hex);
        sha256_init(&sha);
        memcpy(w->entries[at].sha, hex, 64);
        if (!put(w, sizeof w->header + at * sizeof *w->entries, &w->entries[at], sizeof *w->entries)) return false;
    }
    return true;
}

static bool whole_write(Writing *w, const PackList *list, const Source *tokenizer, size_t room, int threads,
                        const Progress *progress) {
    w->fd = open(w->part, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (w->fd < 0) return failed(w, errno);
    if (!segments_write(w, list, room, threads, progress)) return false;
    if (tokenizer && !put(w, w->header.tokenizer_at, tokenizer->text, tokenizer->length)) return false;
    table_sha(&w->header, w->entries, w->header.table_sha);
    if (!put(w, 0, &w->header, sizeof w->header)) return false;
    if (fsync(w->fd) < 0 && errno != EINVAL && errno != EROFS) return failed(w, errno);
    if (rename(w->part, w->path) < 0) return failed(w, errno);
    progress_tell(progress, "packing weights", 1);
    return true;
}

bool pack_file_write(Ctx *ctx, const char *path, const Model *model, const Checkpoint *weights, const Source *tokenizer,
                     int rank, int ranks, int threads, const Progress *progress) {
    PackList list;
    if (!pack_list(ctx, model, weights, rank, ranks, &list)) return false;
    Writing *w = ARENA_NEW(ctx->arena, Writing);
    *w = (Writing){.ctx = ctx, .path = path, .part = arena_printf(ctx->arena, "%s.part", path), .fd = -1};
    size_t room = list.largest + PACK_ALIGN > ROOM ? list.largest + PACK_ALIGN : ROOM;
    ctx_defer(ctx, release, w);
    w->room = malloc(room);
    if (!w->room) ctx_out_of_memory(ctx);
    describe(w, model, weights, tokenizer, &list, rank, ranks);
    bool ok = whole_write(w, &list, tokenizer, room, threads, progress);
    ctx_done(ctx, w);
    return ok;
}

// ---- Opening ----

typedef struct Checking {
    const PackEntry *entries;
    const uint8_t *data;
    uint32_t count;
    uint64_t bytes;
    atomic_uint next, bad; // bad: the first entry that does not hold, or count
    _Atomic uint64_t done;
    const Progress *progress; // told by the first thread alone
} Checking;

static void check_some(Checking *c, const Progress *progress) {
    for (unsigned i; (i = atomic_fetch_add(&c->next, 1)) < c->count;) {
        char hex[65];
        sha256_hex_of(c->data + c->entries[i].offset, (size_t)c->entries[i].bytes, hex);
        unsigned bad = atomic_load(&c->bad);
        if (memcmp(hex, c->entries[i].sha, 64) != 0)
            while (i < bad && !atomic_compare_exchange_weak(&c->bad, &bad, i)) continue;
        uint64_t done = atomic_fetch_add(&c->done, c->entries[i].bytes) + c->entries[i].bytes;
        progress_tell(progress, "checking weights", (double)done / (double)c->bytes);
    }
}
static void *check_main(void *user) {
    check_some(user, NULL);
    return NULL;
}

// The first segment whose bytes do not match its hash, or the number of segments.
static unsigned check_all(const PackHeader *h, const PackEntry *entries, const uint8_t *data, int threads,
                          const Progress *progress) {
    Checking c = {.entries = entries, .data = data, .count = h->count, .bytes = h->bytes + 1, .bad = h->count};
    pthread_t handles[MAX_THREADS];
    int started = 0;
    while (started + 1 < threads && started < MAX_THREADS &&
           pthread_create(&handles[started], NULL, check_main, &c) == 0)
        started++;
    check_some(&c, progress);
    for (int i = 0; i < started; i++) pthread_join(handles[i], NULL);
    return atomic_load(&c.bad);
}

static bool damaged(Ctx *ctx, const char *path, const char *what) {
    diag_error(ctx, E0745, file_span(ctx, path), "%s", what);
    diag_help(ctx, "`tilerun pack BUNDLE --weights DIR -o FILE` writes one");
    return false;
}

static bool other(Ctx *ctx, const char *path, const char *what) {
    diag_error(ctx, E0746, file_span(ctx, path), "%s", what);
    diag_help(ctx, "pack the weights again with this bundle");
    return false;
}

static bool entries_hold(const PackHeader *h, const PackEntry *entries) {
    for (uint32_t i = 0; i < h->count; i++)
        if (entries[i].slot >= SLOT_COUNT || entries[i].table < PACK_ALL_TABLES ||
            entries[i].table >= (int32_t)h->tables || entries[i].offset % PACK_ALIGN || entries[i].offset > h->bytes ||
            entries[i].bytes > h->bytes - entries[i].offset || entries[i].group[sizeof entries[i].group - 1] ||
            entries[i].name[sizeof entries[i].name - 1])
            return false;
    return true;
}

static bool header_holds(Ctx *ctx, const char *path, const PackHeader *h, size_t bytes) {
    if (bytes < sizeof *h || memcmp(h->magic, MAGIC, sizeof MAGIC) != 0)
        return damaged(ctx, path, "not a file of packed weights");
    if (h->version != PACK_FILE_VERSION || h->abi != ENGINE_ABI)
        return other(ctx, path,
                     arena_printf(ctx->arena, "packed weights of version %u.%u; this program reads %d.%d", h->version,
                                  h->abi, PACK_FILE_VERSION, ENGINE_ABI));
    char sha[64];
    const PackEntry *entries = (const PackEntry *)(h + 1);
    bool fits = h->count <= MAX_SEGMENTS && sizeof *h + h->count * sizeof *entries <= bytes && h->file_bytes == bytes &&
                h->data_at <= bytes && h->bytes == bytes - h->data_at && h->tokenizer_at <= bytes &&
                h->tokenizer_bytes <= bytes - h->tokenizer_at && h->end_token_count <= PACK_END_TOKENS &&
                h->model[sizeof h->model - 1] == 0;
    if (fits) table_sha(h, entries, sha);
    if (!fits || memcmp(sha, h->table_sha, 64) != 0 || !entries_hold(h, entries))
        return damaged(ctx, path, "the file is damaged or cut short: its table does not hold");
    return true;
}

static bool file_check(Ctx *ctx, const char *path, PackFile *file, const Model *model, int rank, int ranks, int threads,
                       const Progress *progress) {
    const PackHeader *h = file->map;
    const PackEntry *entries = (const PackEntry *)(h + 1);
    const uint8_t *data = (const uint8_t *)file->map + h->data_at, *text = (const uint8_t *)file->map + h->tokenizer_at;
    char sha[64];
    sha_field(model->source->text, model->source->length, sha);
    if (memcmp(sha, h->model_sha, 64) != 0)
        return other(ctx, path,
                     arena_printf(ctx->arena, "packed for the model \"%s\"; the bundle's description of \"%s\" is %s",
                                  h->model, model->name,
                                  strcmp(h->model, model->name) == 0 ? "another text" : "another model"));
    if (h->rank != (uint32_t)rank || h->ranks != (uint32_t)ranks)
        return other(ctx, path,
                     arena_printf(ctx->arena, "packed for rank %u of %u; rank %d of %d is wanted", h->rank, h->ranks,
                                  rank, ranks));
    if (h->tokenizer_bytes) {
        sha_field(text, (size_t)h->tokenizer_bytes, sha);
        if (memcmp(sha, h->tokenizer_sha, 64) != 0)
            return damaged(ctx, path, "its tokenizer does not match its SHA-256");
        char *copy = arena_copy(ctx->arena, text, (size_t)h->tokenizer_bytes);
        file->tokenizer =
            source_new(ctx, arena_printf(ctx->arena, "%s (tokenizer)", path), copy, (size_t)h->tokenizer_bytes);
    }
    unsigned bad = check_all(h, entries, data, threads, progress);
    if (bad < h->count)
        return damaged(
            ctx, path,
            arena_printf(ctx->arena, "the file is damaged: %s does not match its SHA-256", entries[bad].name));
    file->end_token_count = (int)h->end_token_count;
    for (int i = 0; i < file->end_token_count; i++) file->end_tokens[i] = h->end_tokens[i];
    file->list = (PackList){.bytes = h->bytes, .tables = (int)h->tables, .largest = 1};
    for (uint32_t i = 0; i < h->count; i++) {
        PackSegment s = {.name = entries[i].name,
                         .group = entries[i].group,
                         .kind = PACK_BYTES,
                         .slot = (int)entries[i].slot,
                         .table = entries[i].table,
                         .offset = entries[i].offset,
                         .bytes = entries[i].bytes,
                         .units = entries[i].bytes,
                         .unit_bytes = 1,
                         .packed = data + entries[i].offset};
        LIST_ADD(ctx->arena, &file->list, s);
    }
    return true;
}

static void release_guard(void *guard) { pack_file_close(*(PackFile **)guard); }

PackFile *pack_file_open(Ctx *ctx, const char *path, const Model *model, int rank, int ranks, int threads,
                         const Progress *progress) {
    PackFile *file = ARENA_NEW(ctx->arena, PackFile), **guard = ARENA_NEW(ctx->arena, PackFile *);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0) {
        diag_error(ctx, E0002, file_span(ctx, path), "cannot read: %s", strerror(errno));
        if (fd >= 0) close(fd);
        return NULL;
    }
    void *map = st.st_size > 0 ? mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    close(fd);
    if (map == MAP_FAILED) return damaged(ctx, path, "not a file of packed weights"), NULL;
    file->map = map;
    file->map_bytes = (size_t)st.st_size;
    *guard = file;
    ctx_defer(ctx, release_guard, guard);
    bool ok = header_holds(ctx, path, map, file->map_bytes) &&
              file_check(ctx, path, file, model, rank, ranks, threads, progress);
    if (ok) *guard = NULL; // the caller's now
    ctx_done(ctx, guard);
    return ok ? file : NULL;
}

void pack_file_close(PackFile *file) {
    if (file && file->map) munmap(file->map, file->map_bytes);
    if (file) file->map = NULL;
}
