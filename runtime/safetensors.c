#include "safetensors.h"
#include "safetensors_dtype.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_HEADER = 100 * 1000 * 1000 }; // the format's own limit

struct Safetensors {
    void *map;
    size_t map_bytes;
    Tensor *tensors;
    size_t count;
};

static const struct {
    const char *name;
    unsigned bits;
} dtypes[] = {
    {"BOOL", 8}, {"U8", 8},   {"I8", 8},    {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"I16", 16},
    {"U16", 16}, {"F16", 16}, {"BF16", 16}, {"I32", 32},    {"U32", 32},    {"F32", 32},    {"F64", 64},
    {"I64", 64}, {"U64", 64}, {"C64", 64},  {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},
};

unsigned safetensors_bits(const char *dtype) {
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtype, dtypes[i].name) == 0) return dtypes[i].bits;
    return 0;
}

bool safetensors_bytes(const int64_t *shape, int rank, unsigned bits, size_t *bytes) {
    uint64_t total = bits;
    bool empty = false, fits = true;
    for (int i = 0; i < rank; i++) {
        empty |= shape[i] == 0;
        fits &= !__builtin_mul_overflow(total, (uint64_t)shape[i], &total);
    }
    *bytes = empty ? 0 : (size_t)(total / 8);
    return empty || (fits && total % 8 == 0);
}

// A name fit for a message: bounded, without control characters.
const char *safetensors_shown(Ctx *ctx, const char *name) {
    char *out = strlen(name) > 160 ? arena_printf(ctx->arena, "%.150s...", name) : arena_text(ctx->arena, name);
    for (char *s = out; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7F) *s = '?';
    return out;
}

// What a Tensor is while its header is checked.
typedef struct Entry {
    Tensor tensor;
    uint64_t begin, end; // in the data
} Entry;

static int entry_by_offset(const void *a, const void *b) {
    const Entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}
static int tensor_by_name(const void *a, const void *b) {
    return strcmp(((const Tensor *)a)->name, ((const Tensor *)b)->name);
}

static bool entry_wrong(Ctx *ctx, Span file, const char *name, const char *what) {
    diag_error(ctx, E0712, file, "tensor \"%s\": %s", safetensors_shown(ctx, name), what);
    return false;
}

// One entry of the header, all that can be checked without the others. `data_bytes` is the size of the data.
static bool entry_read(Ctx *ctx, Span file, const char *name, const json_t *value, uint64_t data_bytes, Entry *out) {
    const json_t *dtype = json_object_get(value, "dtype"), *shape = json_object_get(value, "shape"),
                 *offsets = json_object_get(value, "data_offsets");
    *out = (Entry){0};
    if (!json_is_object(value)) return entry_wrong(ctx, file, name, "its entry is not an object");
    if (!json_is_string(dtype)) return entry_wrong(ctx, file, name, "\"dtype\" is missing or not text");
    if (!json_is_array(shape)) return entry_wrong(ctx, file, name, "\"shape\" is missing or not a list");
    if (!json_is_array(offsets) || json_array_size(offsets) != 2)
        return entry_wrong(ctx, file, name, "\"data_offsets\" is missing or not a list of two numbers");
    if (json_object_size(value) != 3) return entry_wrong(ctx, file, name, "a key besides dtype, shape, data_offsets");
    Tensor *t = &out->tensor;
    t->name = arena_text(ctx->arena, name);
    unsigned bits = safetensors_bits(json_string_value(dtype));
    if (!bits) {
        diag_error(ctx, E0713, file, "tensor \"%s\": unknown dtype \"%s\"", safetensors_shown(ctx, name),
                   safetensors_shown(ctx, json_string_value(dtype)));
        return false;
    }
    snprintf(t->dtype, sizeof t->dtype, "%s", json_string_value(dtype));
    if (json_array_size(shape) > 4) return entry_wrong(ctx, file, name, "a shape of more than four dimensions");
    t->rank = (int)json_array_size(shape);
    for (int i = 0; i < t->rank; i++) {
        const json_t *n = json_array_get(shape, (size_t)i);
        if (!json_is_integer(n) || json_integer_value(n) < 0)
            return entry_wrong(ctx, file, name, "a dimension of the shape is no whole number of zero or more");
        t->shape[i] = json_integer_value(n);
    }
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (!json_is_integer(begin) || !json_is_integer(end) || json_integer_value(begin) < 0 ||
        json_integer_value(end) < json_integer_value(begin))
        return entry_wrong(ctx, file, name, "its data_offsets are no rising pair of whole numbers");
    out->begin = (uint64_t)json_integer_value(begin);
    out->end = (uint64_t)json_integer_value(end);
    if (!safetensors_bytes(t->shape, t->rank, bits, &t->bytes) || t->bytes != out->end - out->begin) {
        diag_error(ctx, E0714, file, "tensor \"%s\": its shape and dtype %s do not make the %llu bytes of its offsets",
                   safetensors_shown(ctx, name), t->dtype, (unsigned long long)(out->end - out->begin));
        return false;
    }
    if (out->end > data_bytes) {
        diag_error(ctx, E0701, file, "tensor \"%s\" ends at byte %llu of the data, which has %llu",
                   safetensors_shown(ctx, name), (unsigned long long)out->end, (unsigned long long)data_bytes);
        diag_help(ctx, "the file is cut short; fetch it again");
        return false;
    }
    return true;
}

static bool metadata_fine(const json_t *value) {
    const char *key;
    json_t *text;
    if (!json_is_object(value)) return false;
    json_object_foreach((json_t *)(uintptr_t)value, key, text) if (!json_is_string(text)) return false;
    return true;
}

// The entries in the order of their data: each begins where the one before ends, and the last ends the data.
static bool entries_cover(Ctx *ctx, Span file, const Entry *entries, size_t count, uint64_t data_bytes) {
    uint64_t at = 0;
    for (size_t i = 0; i < count; i++) {
        const char *name = safetensors_shown(ctx, entries[i].tensor.name);
        if (entries[i].begin < at) {
            diag_error(ctx, E0716, file, "tensors \"%s\" and \"%s\" overlap",
                       safetensors_shown(ctx, entries[i - 1].tensor.name), name);
            return false;
        }
        if (entries[i].begin > at) {
            diag_error(ctx, E0717, file, "%llu bytes before tensor \"%s\" belong to no tensor",
                       (unsigned long long)(entries[i].begin - at), name);
            return false;
        }
        at = entries[i].end;
    }
    if (at == data_bytes) return true;
    diag_error(ctx, E0717, file, "the last %llu bytes of the file belong to no tensor",
               (unsigned long long)(data_bytes - at));
    return false;
}

static bool header_read(Ctx *ctx, Span file, const json_t *root, const uint8_t *base, uint64_t data_at,
                        uint64_t data_bytes, Tensor **tensors, size_t *count) {
    size_t room = json_object_size(root), n = 0;
    Entry *entries = ARENA_ARRAY(ctx->arena, Entry, room + 1);
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)root, name, value) {
        if (strcmp(name, "__metadata__") != 0) {
            if (!entry_read(ctx, file, name, value, data_bytes, &entries[n++])) return false;
        } else if (!metadata_fine(value)) {
            diag_error(ctx, E0712, file, "\"__metadata__\" is no map from text to text");
            return false;
        }
    }
    qsort(entries, n, sizeof *entries, entry_by_offset);
    if (!entries_cover(ctx, file, entries, n, data_bytes)) return false;
    *tensors = ARENA_ARRAY(ctx->arena, Tensor, n + 1);
    *count = n;
    for (size_t i = 0; i < n; i++) {
        (*tensors)[i] = entries[i].tensor;
        (*tensors)[i].data = base ? base + data_at + entries[i].begin : NULL;
    }
    qsort(*tensors, n, sizeof **tensors, tensor_by_name);
    return true;
}

static void json_release(void *root) { json_decref(root); }

bool safetensors_parse(Ctx *ctx, Span file, const uint8_t *head, size_t head_bytes, size_t file_bytes,
                       const uint8_t *base, Tensor **tensors, size_t *count) {
    *tensors = NULL;
    *count = 0;
    uint64_t length = 0;
    for (size_t i = 0; i < 8 && i < head_bytes; i++) length |= (uint64_t)head[i] << (8 * i);
    if (head_bytes < 8 || file_bytes < 8) {
        diag_error(ctx, E0701, file, "%zu bytes are too few for a safetensors file", file_bytes);
        return false;
    }
    if (length > MAX_HEADER) {
        diag_error(ctx, E0701, file, "a header of %llu bytes; the format allows %d", (unsigned long long)length,
                   MAX_HEADER);
        return false;
    }
    if (length > file_bytes - 8 || length > head_bytes - 8) {
        diag_error(ctx, E0701, file, "a header of %llu bytes in a file of %zu", (unsigned long long)length, file_bytes);
        return false;
    }
    if (length == 0 || head[8] != '{') {
        diag_error(ctx, E0701, file, "the header does not begin with '{'");
        return false;
    }
    json_error_t error;
    json_t *root = json_loadb((const char *)head + 8, (size_t)length, JSON_REJECT_DUPLICATES, &error);
    if (!root) {
        enum json_error_code why = json_error_code(&error);
        if (why == json_error_out_of_memory) ctx_out_of_memory(ctx);
        Span at = file;
        at.line = (uint32_t)(error.line > 0 ? error.line : 1);
        at.col = (uint32_t)(error.column > 0 ? error.column : 1);
        diag_error(ctx, why == json_error_duplicate_key ? E0711 : E0701, at, "header: %s",
                   safetensors_shown(ctx, error.text));
        return false;
    }
    ctx_defer(ctx, json_release, root);
    bool ok = header_read(ctx, file, root, base, 8 + length, file_bytes - 8 - length, tensors, count);
    ctx_done(ctx, root);
    return ok;
}

void safetensors_close(Safetensors *file) {
    if (file && file->map) munmap(file->map, file->map_bytes);
    if (file) file->map = NULL;
}
static void release(void *file) {
    Safetensors **guarded = file;
    safetensors_close(*guarded);
}

Safetensors *safetensors_open(Ctx *ctx, const char *path) {
    Span span = file_span(ctx, path);
    Safetensors *file = ARENA_NEW(ctx->arena, Safetensors), **guard = ARENA_NEW(ctx->arena, Safetensors *);
    *guard = file;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int error = fd < 0 ? errno : 0;
    struct stat st = {0};
    if (!error && fstat(fd, &st) < 0) error = errno;
    bool regular = S_ISREG(st.st_mode);
    if (!error && regular && st.st_size >= 8) {
        file->map_bytes = (size_t)st.st_size;
        file->map = mmap(NULL, file->map_bytes, PROT_READ, MAP_SHARED, fd, 0);
        if (file->map == MAP_FAILED) {
            error = errno;
            file->map = NULL;
        }
    }
    if (fd >= 0) close(fd);
    if (error || !regular) {
        diag_error(ctx, E0002, span, "cannot read: %s", error ? strerror(error) : "not a regular file");
        return NULL;
    }
    ctx_defer(ctx, release, guard);
    bool ok = safetensors_parse(ctx, span, file->map, file->map_bytes, file->map_bytes, file->map, &file->tensors,
                                &file->count);
    if (ok) *guard = NULL; // the caller's now
    ctx_done(ctx, guard);
    return ok ? file : NULL;
}

const Tensor *safetensors_tensors(const Safetensors *file, size_t *count) {
    *count = file->count;
    return file->tensors;
}

const Tensor *safetensors_find(const Safetensors *file, const char *name) {
    Tensor key = {.name = name};
    return file->count ? bsearch(&key, file->tensors, file->count, sizeof key, tensor_by_name) : NULL;
}
