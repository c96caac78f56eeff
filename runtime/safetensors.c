#include "safetensors.h"
#include "text.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEADER_CAP = 100 << 20, NAME_CAP = 400 };

struct Safetensors {
    uint8_t *base;
    size_t bytes;
    Tensor *tensors;
    size_t count;
};

static const struct {
    const char *name;
    int bits;
} dtypes[] = {{"F64", 64},    {"F32", 32}, {"F16", 16}, {"BF16", 16}, {"F8_E4M3", 8},
              {"F8_E5M2", 8}, {"I64", 64}, {"I32", 32}, {"I16", 16},  {"I8", 8},
              {"U8", 8},      {"U16", 16}, {"U32", 32}, {"U64", 64},  {"BOOL", 8}};

__attribute__((format(printf, 3, 4))) static bool bad(Ctx *ctx, Span file, const char *format, ...) {
    va_list args;
    va_start(args, format);
    Text text = text_new(ctx->arena);
    text_vprintf(&text, format, args);
    va_end(args);
    diag_error(ctx, E0701, file, "%s", text.at);
    diag_help(ctx, "the file is damaged or cut short: fetch it again");
    return false;
}

static void root_free(void *root) { json_decref(root); }

static int by_offset(const void *a, const void *b) {
    const Tensor *x = *(Tensor *const *)a, *y = *(Tensor *const *)b;
    uintptr_t p = (uintptr_t)x->data, q = (uintptr_t)y->data;
    if (p != q) return p < q ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}
static int by_name(const void *a, const void *b) {
    return strcmp(((const Tensor *)a)->name, ((const Tensor *)b)->name);
}

// One entry of the header. Offsets are kept in `data` relative to the buffer until all are checked.
static bool parse_tensor(Ctx *ctx, Span file, const char *name, json_t *entry, size_t buffer, Tensor *out) {
    json_t *dtype = json_object_get(entry, "dtype"), *shape = json_object_get(entry, "shape"),
           *offsets = json_object_get(entry, "data_offsets");
    if (strlen(name) > NAME_CAP || !json_is_string(dtype) || !json_is_array(shape) || !json_is_array(offsets) ||
        json_array_size(offsets) != 2)
        return bad(ctx, file, "tensor \"%.*s\" has no dtype, shape and data_offsets", NAME_CAP, name);
    out->name = arena_text(ctx->arena, name);
    int bits = 0;
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtypes[i].name, json_string_value(dtype)) == 0) bits = dtypes[i].bits;
    if (!bits) return bad(ctx, file, "tensor %s has the unknown dtype \"%.20s\"", name, json_string_value(dtype));
    strcpy(out->dtype, json_string_value(dtype));
    if (json_array_size(shape) > 4)
        return bad(ctx, file, "tensor %s has %zu dimensions; at most 4 are known", name, json_array_size(shape));
    uint64_t count = 1;
    out->rank = (int)json_array_size(shape);
    for (int i = 0; i < out->rank; i++) {
        json_t *dim = json_array_get(shape, (size_t)i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0 || json_integer_value(dim) > (json_int_t)1 << 40)
            return bad(ctx, file, "tensor %s: a dimension is no size", name);
        out->shape[i] = json_integer_value(dim);
        if (__builtin_mul_overflow(count, (uint64_t)out->shape[i], &count))
            return bad(ctx, file, "tensor %s: its shape overflows", name);
    }
    json_t *from = json_array_get(offsets, 0), *to = json_array_get(offsets, 1);
    if (!json_is_integer(from) || !json_is_integer(to) || json_integer_value(from) < 0 ||
        json_integer_value(to) < json_integer_value(from) || (uint64_t)json_integer_value(to) > buffer)
        return bad(ctx, file, "tensor %s: its data_offsets lie outside the %zu bytes of data", name, buffer);
    uint64_t bytes;
    if (__builtin_mul_overflow(count, (uint64_t)bits / 8, &bytes) ||
        bytes != (uint64_t)(json_integer_value(to) - json_integer_value(from)))
        return bad(ctx, file, "tensor %s: its shape takes another number of bytes than its data_offsets", name);
    out->data = (const uint8_t *)(uintptr_t)json_integer_value(from);
    out->bytes = (size_t)bytes;
    return true;
}

static bool parse_all(Ctx *ctx, Span file, json_t *root, size_t buffer, Tensor **tensors, size_t *count) {
    const char *name;
    json_t *entry;
    if (!json_is_object(root)) return bad(ctx, file, "the header is no JSON object");
    size_t n = 0;
    Tensor *list = ARENA_ARRAY(ctx->arena, Tensor, json_object_size(root) + 1);
    json_object_foreach(root, name, entry) {
        if (strcmp(name, "__metadata__") == 0) {
            if (!json_is_object(entry)) return bad(ctx, file, "__metadata__ is no JSON object");
            continue;
        }
        if (!parse_tensor(ctx, file, name, entry, buffer, &list[n++])) return false;
    }
    Tensor **order = ARENA_ARRAY(ctx->arena, Tensor *, n + 1);
    for (size_t i = 0; i < n; i++) order[i] = &list[i];
    qsort(order, n, sizeof *order, by_offset);
    size_t end = 0;
    for (size_t i = 0; i < n; i++) {
        size_t from = (size_t)(uintptr_t)order[i]->data;
        if (from < end) return bad(ctx, file, "tensors %s and %s overlap", order[i - 1]->name, order[i]->name);
        if (from > end)
            return bad(ctx, file, "there is a hole of %zu bytes before tensor %s", from - end, order[i]->name);
        end = from + order[i]->bytes;
    }
    if (end != buffer) return bad(ctx, file, "%zu bytes of data belong to no tensor", buffer - end);
    qsort(list, n, sizeof *list, by_name);
    *tensors = list;
    *count = n;
    return true;
}

bool safetensors_parse(Ctx *ctx, Span file, const uint8_t *head, size_t head_bytes, size_t file_bytes,
                       const uint8_t *base, Tensor **tensors, size_t *count) {
    if (head_bytes < 8 || file_bytes < 8) return bad(ctx, file, "%zu bytes are no safetensors file", file_bytes);
    uint64_t length = 0;
    for (int i = 0; i < 8; i++) length |= (uint64_t)head[i] << 8 * i;
    if (length > HEADER_CAP)
        return bad(ctx, file, "the header claims %llu bytes, more than the %d allowed", (unsigned long long)length,
                   HEADER_CAP);
    if (length > file_bytes - 8 || length > head_bytes - 8)
        return bad(ctx, file, "the header claims %llu bytes, but the file has %zu", (unsigned long long)length,
                   file_bytes);
    json_error_t error;
    json_t *root = json_loadb((const char *)head + 8, (size_t)length, JSON_REJECT_DUPLICATES, &error);
    if (!root) {
        if (json_error_code(&error) == json_error_out_of_memory) ctx_out_of_memory(ctx);
        return bad(ctx, file, "the header is not valid JSON: %s", error.text);
    }
    ctx_defer(ctx, root_free, root);
    bool ok = parse_all(ctx, file, root, file_bytes - 8 - (size_t)length, tensors, count);
    ctx_done(ctx, root);
    for (size_t i = 0; ok && i < *count; i++)
        (*tensors)[i].data = base ? base + 8 + length + (uintptr_t)(*tensors)[i].data : NULL;
    return ok;
}

Safetensors *safetensors_open(Ctx *ctx, const char *path) {
    Span span = file_span(ctx, path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        diag_error(ctx, E0002, span, "cannot read: %s", fd < 0 ? strerror(errno) : "not a regular file");
        if (fd >= 0) close(fd);
        return NULL;
    }
    if (st.st_size < 8) {
        close(fd);
        bad(ctx, span, "%lld bytes are no safetensors file", (long long)st.st_size);
        return NULL;
    }
    uint8_t *base = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (base == MAP_FAILED) {
        diag_error(ctx, E0002, span, "cannot map: %s", strerror(errno));
        return NULL;
    }
    Safetensors *file = ARENA_NEW(ctx->arena, Safetensors);
    *file = (Safetensors){.base = base, .bytes = (size_t)st.st_size};
    if (safetensors_parse(ctx, span, base, file->bytes, file->bytes, base, &file->tensors, &file->count)) return file;
    safetensors_close(file);
    return NULL;
}

void safetensors_close(Safetensors *file) {
    if (file && file->base) munmap(file->base, file->bytes);
    if (file) file->base = NULL;
}

const Tensor *safetensors_tensors(const Safetensors *file, size_t *count) {
    *count = file->count;
    return file->tensors;
}

const Tensor *safetensors_find(const Safetensors *file, const char *name) {
    Tensor key = {.name = name};
    return file->count ? bsearch(&key, file->tensors, file->count, sizeof key, by_name) : NULL;
}

bool safetensors_write(Ctx *ctx, const char *path, const TensorOut *tensors, size_t count) {
    Text head = text_new(ctx->arena);
    size_t offset = 0;
    text_printf(&head, "{");
    for (size_t i = 0; i < count; i++) {
        text_printf(&head, "%s\"", i ? "," : "");
        text_json(&head, tensors[i].name, strlen(tensors[i].name));
        text_printf(&head, "\":{\"dtype\":\"%s\",\"shape\":[", tensors[i].dtype);
        for (int d = 0; d < tensors[i].rank; d++)
            text_printf(&head, "%s%lld", d ? "," : "", (long long)tensors[i].shape[d]);
        text_printf(&head, "],\"data_offsets\":[%zu,%zu]}", offset, offset + tensors[i].bytes);
        offset += tensors[i].bytes;
    }
    text_printf(&head, "}");
    while (head.length % 8) text_add(&head, " ", 1);
    uint8_t length[8];
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)((uint64_t)head.length >> 8 * i);
    char *staged = arena_printf(ctx->arena, "%s.%ld.partial", path, (long)getpid());
    FILE *out = fopen(staged, "wb");
    bool ok = out && fwrite(length, 1, 8, out) == 8 && fwrite(head.at, 1, head.length, out) == head.length;
    for (size_t i = 0; ok && i < count; i++) ok = fwrite(tensors[i].data, 1, tensors[i].bytes, out) == tensors[i].bytes;
    int error = ok ? 0 : errno;
    if (out && fclose(out) != 0 && !error) error = errno, ok = false;
    if (ok && rename(staged, path) != 0) error = errno, ok = false;
    if (ok) return true;
    if (out) unlink(staged);
    diag_error(ctx, E0004, file_span(ctx, path), "cannot write: %s", strerror(error ? error : EIO));
    return false;
}
