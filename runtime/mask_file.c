#include "mask_file.h"
#include "file.h"
#include "matrix.h"
#include <string.h>

enum { FILE_CAP = 64 << 20, STACK = 64, MEMO = 256, TEXT = 64 };

typedef enum Kind {
    VALUE_MARK,
    VALUE_DICT,
    VALUE_TEXT,
    VALUE_INT,
    VALUE_TUPLE,
    VALUE_GLOBAL,
    VALUE_STORAGE,
    VALUE_TENSOR
} Kind;
typedef struct Value {
    Kind kind;
    char text[TEXT]; // text, name of a global, key of a storage
    int64_t number;
    int parts[6], count; // tuple: indexes into `values`
    Dtype dtype;         // storage, tensor
} Value;

typedef struct Pickle {
    const uint8_t *at, *end;
    Value values[512];
    int value_count, stack[STACK], depth, memo[MEMO];
    int tensor, mask_token; // what the dict held: index of the tensor, -1
} Pickle;

static uint64_t le(const uint8_t *at, int bytes) {
    uint64_t out = 0;
    for (int i = 0; i < bytes; i++) out |= (uint64_t)at[i] << 8 * i;
    return out;
}

static Value *push(Pickle *p, Kind kind) {
    if (p->value_count == 512 || p->depth == STACK) return NULL;
    p->stack[p->depth++] = p->value_count;
    Value *v = &p->values[p->value_count++];
    *v = (Value){.kind = kind};
    return v;
}

static Value *top(Pickle *p, int below) { return p->depth > below ? &p->values[p->stack[p->depth - 1 - below]] : NULL; }

// Makes a tuple of the `count` topmost values.
static bool tuple(Pickle *p, int count) {
    int parts[6];
    if (count > 6 || count > p->depth) return false;
    for (int i = 0; i < count; i++) parts[i] = p->stack[p->depth - count + i];
    p->depth -= count;
    Value *v = push(p, VALUE_TUPLE);
    if (!v) return false;
    v->count = count;
    memcpy(v->parts, parts, sizeof parts);
    return true;
}

static int mark_depth(const Pickle *p) {
    for (int i = p->depth - 1; i >= 0; i--)
        if (p->values[p->stack[i]].kind == VALUE_MARK) return i;
    return -1;
}

static bool is_text(const Value *v, const char *text) {
    return v && v->kind == VALUE_TEXT && strcmp(v->text, text) == 0;
}

static bool set_item(Pickle *p, const Value *key, int value) {
    const Value *v = &p->values[value];
    if (is_text(key, "mask_token_id") && v->kind == VALUE_INT)
        p->mask_token = (int)v->number;
    else if (is_text(key, "embedding") && v->kind == VALUE_TENSOR)
        p->tensor = value;
    else
        return false;
    return true;
}

// storage: ("storage", torch.XStorage, key, location, count)
static bool persistent(Pickle *p) {
    Value *t = top(p, 0);
    if (!t || t->kind != VALUE_TUPLE || t->count != 5) return false;
    const Value *word = &p->values[t->parts[0]], *type = &p->values[t->parts[1]], *key = &p->values[t->parts[2]],
                *count = &p->values[t->parts[4]];
    if (!is_text(word, "storage") || type->kind != VALUE_GLOBAL || key->kind != VALUE_TEXT || count->kind != VALUE_INT)
        return false;
    Dtype dtype;
    if (strcmp(type->text, "torch BFloat16Storage") == 0)
        dtype = DTYPE_BF16;
    else if (strcmp(type->text, "torch FloatStorage") == 0)
        dtype = DTYPE_F32;
    else
        return false;
    p->depth--;
    Value *storage = push(p, VALUE_STORAGE);
    if (!storage) return false;
    memcpy(storage->text, key->text, TEXT);
    storage->number = count->number;
    storage->dtype = dtype;
    return true;
}

// _rebuild_tensor_v2(storage, offset, (size,), (stride,), requires_grad, OrderedDict())
static bool reduce(Pickle *p) {
    const Value *args = top(p, 0), *function = top(p, 1);
    if (!args || !function || args->kind != VALUE_TUPLE || function->kind != VALUE_GLOBAL) return false;
    if (strcmp(function->text, "collections OrderedDict") == 0 && args->count == 0) {
        p->depth -= 2;
        return push(p, VALUE_DICT) != NULL;
    }
    if (strcmp(function->text, "torch._utils _rebuild_tensor_v2") != 0 || args->count < 5) return false;
    const Value *storage = &p->values[args->parts[0]], *offset = &p->values[args->parts[1]];
    const Value *size = &p->values[args->parts[2]], *stride = &p->values[args->parts[3]];
    if (storage->kind != VALUE_STORAGE || offset->kind != VALUE_INT || offset->number != 0) return false;
    if (size->kind != VALUE_TUPLE || stride->kind != VALUE_TUPLE || size->count < 1 || size->count != stride->count)
        return false;
    const Value *last = &p->values[size->parts[size->count - 1]], *step = &p->values[stride->parts[size->count - 1]];
    if (last->kind != VALUE_INT || step->kind != VALUE_INT || step->number != 1) return false;
    for (int i = 0; i + 1 < size->count; i++)
        if (p->values[size->parts[i]].number != 1) return false; // [1, hidden] is fine
    Value tensor = *storage;
    tensor.kind = VALUE_TENSOR;
    tensor.number = last->number;
    p->depth -= 2;
    Value *out = push(p, VALUE_TENSOR);
    if (!out) return false;
    *out = tensor;
    return true;
}

static bool text_value(Pickle *p, size_t length) {
    Value *v = push(p, VALUE_TEXT);
    if (!v || length >= TEXT || (size_t)(p->end - p->at) < length) return false;
    memcpy(v->text, p->at, length);
    p->at += length;
    return true;
}

static bool global_value(Pickle *p) {
    const uint8_t *first = memchr(p->at, '\n', (size_t)(p->end - p->at));
    const uint8_t *second = first ? memchr(first + 1, '\n', (size_t)(p->end - first - 1)) : NULL;
    Value *v = second && second - p->at < TEXT ? push(p, VALUE_GLOBAL) : NULL;
    if (!v) return false;
    memcpy(v->text, p->at, (size_t)(second - p->at));
    v->text[first - p->at] = ' ';
    p->at = second + 1;
    return true;
}

static bool int_value(Pickle *p, int64_t number, int used) {
    Value *v = push(p, VALUE_INT);
    if (v) v->number = number;
    p->at += used;
    return v != NULL;
}

static bool memo_get(Pickle *p, int slot) {
    if (slot < 0 || slot >= MEMO || p->memo[slot] < 0 || p->depth == STACK) return false;
    p->stack[p->depth++] = p->memo[slot];
    return true;
}
static bool memo_put(Pickle *p, int slot) {
    if (slot < 0 || slot >= MEMO || !p->depth) return false;
    p->memo[slot] = p->stack[p->depth - 1];
    return true;
}

static bool set_items(Pickle *p) {
    int mark = mark_depth(p);
    if (mark < 1 || (p->depth - mark) % 2 == 0 || p->values[p->stack[mark - 1]].kind != VALUE_DICT) return false;
    for (int i = mark + 1; i + 1 < p->depth; i += 2)
        if (!set_item(p, &p->values[p->stack[i]], p->stack[i + 1])) return false;
    p->depth = mark;
    return true;
}

// Runs the opcodes of protocol 2. True at STOP; *ok false for anything that does not belong here.
static bool step(Pickle *p, bool *ok) {
    size_t left = (size_t)(p->end - p->at);
    if (left < 1) return *ok = false, true;
    uint8_t op = *p->at++;
    left--;
    static const uint8_t operand[256] = {
        [0x80] = 1, ['q'] = 1, ['h'] = 1, ['r'] = 4, ['j'] = 4, ['X'] = 4, ['J'] = 4, ['K'] = 1, ['M'] = 2, [0x8a] = 1};
    if (left < operand[op]) return *ok = false, true;
    const uint8_t *arg = p->at;
    switch (op) {
    case 0x80: p->at++; break;
    case '}': *ok = push(p, VALUE_DICT) != NULL; break;
    case '(': *ok = push(p, VALUE_MARK) != NULL; break;
    case ')': *ok = push(p, VALUE_TUPLE) != NULL; break;
    case 'q':
        p->at++;
        *ok = memo_put(p, arg[0]);
        break;
    case 'r':
        p->at += 4;
        *ok = memo_put(p, (int)(le(arg, 4) & 0xFFFF));
        break;
    case 'h':
        p->at++;
        *ok = memo_get(p, arg[0]);
        break;
    case 'j':
        p->at += 4;
        *ok = memo_get(p, (int)(le(arg, 4) & 0xFFFF));
        break;
    case 'X':
        p->at += 4;
        *ok = text_value(p, (size_t)le(arg, 4));
        break;
    case 'c': *ok = global_value(p); break;
    case 'J': *ok = int_value(p, (int32_t)le(arg, 4), 4); break;
    case 'K': *ok = int_value(p, arg[0], 1); break;
    case 'M': *ok = int_value(p, (int64_t)le(arg, 2), 2); break;
    case 0x8a: *ok = arg[0] <= 7 && left > arg[0] && int_value(p, (int64_t)le(arg + 1, arg[0]), 1 + arg[0]); break;
    case 0x88:
    case 0x89: *ok = int_value(p, op == 0x88, 0); break;
    case 'N': *ok = int_value(p, 0, 0); break;
    case 0x85:
    case 0x86:
    case 0x87: *ok = tuple(p, op - 0x84); break;
    case 't': {
        int mark = mark_depth(p), count = p->depth - mark - 1;
        *ok = mark >= 0 && tuple(p, count);
        if (*ok) { // the mark lies under the new tuple
            p->stack[p->depth - 2] = p->stack[p->depth - 1];
            p->depth--;
        }
        break;
    }
    case 'Q': *ok = persistent(p); break;
    case 'R': *ok = reduce(p); break;
    case 's':
        *ok = p->depth >= 3 && top(p, 2)->kind == VALUE_DICT && set_item(p, top(p, 1), p->stack[p->depth - 1]);
        if (*ok) p->depth -= 2;
        break;
    case 'u': *ok = set_items(p); break;
    case '.': return true;
    default: *ok = false;
    }
    return !*ok;
}

// The stored (uncompressed) entry of the zip whose name ends so; through the central directory.
static const uint8_t *zip_entry(const uint8_t *zip, size_t size, const char *tail, size_t *length) {
    if (size < 22) return NULL;
    size_t end = size - 22;
    while (end > 0 && le(zip + end, 4) != 0x06054b50 && size - end < 65557) end--;
    if (le(zip + end, 4) != 0x06054b50) return NULL;
    size_t count = (size_t)le(zip + end + 10, 2), at = (size_t)le(zip + end + 16, 4);
    for (size_t i = 0; i < count && at + 46 <= size && le(zip + at, 4) == 0x02014b50; i++) {
        size_t name = (size_t)le(zip + at + 28, 2), extra = (size_t)le(zip + at + 30, 2),
               comment = (size_t)le(zip + at + 32, 2);
        size_t bytes = (size_t)le(zip + at + 24, 4), local = (size_t)le(zip + at + 42, 4), n = strlen(tail);
        if (at + 46 + name > size) return NULL;
        if (name >= n && memcmp(zip + at + 46 + name - n, tail, n) == 0) {
            if (le(zip + at + 10, 2) != 0 || local + 30 > size || le(zip + local, 4) != 0x04034b50) return NULL;
            size_t data = local + 30 + (size_t)le(zip + local + 26, 2) + (size_t)le(zip + local + 28, 2);
            if (data > size || bytes > size - data) return NULL;
            *length = bytes;
            return zip + data;
        }
        at += 46 + name + extra + comment;
    }
    return NULL;
}

float *mask_file_read(Ctx *ctx, const char *path, int hidden, int mask_token) {
    Source *file = file_read(ctx, path, FILE_CAP);
    if (!file) return NULL;
    const uint8_t *zip = (const uint8_t *)file->text;
    size_t length = 0, bytes = 0;
    const uint8_t *pickle = zip_entry(zip, file->length, "/data.pkl", &length);
    Pickle *p = ARENA_NEW(ctx->arena, Pickle);
    p->at = pickle;
    p->end = pickle + length;
    p->tensor = p->mask_token = -1;
    memset(p->memo, -1, sizeof p->memo);
    bool ok = pickle != NULL;
    while (ok && !step(p, &ok)) {}
    Value *tensor = ok && p->tensor >= 0 ? &p->values[p->tensor] : NULL;
    const uint8_t *data =
        tensor ? zip_entry(zip, file->length, arena_printf(ctx->arena, "/data/%s", tensor->text), &bytes) : NULL;
    size_t width = tensor && tensor->dtype == DTYPE_F32 ? 4 : 2;
    Span span = file_span(ctx, path);
    if (!data || bytes < (size_t)hidden * width) {
        diag_error(ctx, E0708, span, "not a zip with a pickle of exactly {mask_token_id, embedding}");
        diag_help(ctx, "store the embedding as a tensor mask_embedding in the drafter's safetensors instead");
        return NULL;
    }
    if (tensor->number != hidden || (p->mask_token >= 0 && p->mask_token != mask_token)) {
        diag_error(ctx, E0708, span, "an embedding of %lld for token %d; the model has hidden %d and mask token %d",
                   (long long)tensor->number, p->mask_token, hidden, mask_token);
        return NULL;
    }
    float *out = ARENA_ARRAY(ctx->arena, float, hidden);
    for (int i = 0; i < hidden; i++) {
        if (width == 4)
            memcpy(&out[i], data + 4 * i, 4);
        else
            out[i] = bf16_to_float((uint16_t)le(data + 2 * i, 2));
    }
    return out;
}
