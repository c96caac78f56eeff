#include "pickle.h"
#include "matrix.h"
#include <string.h>

// A range of bytes with checked reads.
typedef struct Bytes {
    const uint8_t *at;
    size_t count;
} Bytes;

static uint64_t little(const uint8_t *at, int bytes) {
    uint64_t out = 0;
    for (int i = 0; i < bytes; i++) out |= (uint64_t)at[i] << (8 * i);
    return out;
}

// CRC-32 of zip (ISO 3309, reflected polynomial EDB88320).
static uint32_t crc32_of(Bytes data) {
    uint32_t crc = 0xFFFFFFFF;
    for (size_t i = 0; i < data.count; i++) {
        crc ^= data.at[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320 : 0);
    }
    return ~crc;
}

typedef struct Reader {
    Ctx *ctx;
    Span file;
    Bytes zip;
} Reader;

static bool refuse(Reader *r, const char *what) {
    diag_error(r->ctx, E0708, r->file, "not a mask embedding as torch.save writes it: %s", what);
    return false;
}

// The bytes of the stored entry "FOLDER/name", whatever FOLDER is.
static bool zip_entry(Reader *r, const char *name, Bytes *out) {
    enum { END_SIZE = 22, CENTRAL_SIZE = 46, LOCAL_SIZE = 30 };
    const uint8_t *zip = r->zip.at;
    size_t total = r->zip.count, length = strlen(name);
    // No comment is allowed after the end record, so it is found without a search.
    if (total < END_SIZE || little(zip + total - END_SIZE, 4) != 0x06054B50)
        return refuse(r, "no zip end record where it should be");
    const uint8_t *end = zip + total - END_SIZE;
    size_t entries = (size_t)little(end + 10, 2), at = (size_t)little(end + 16, 4);
    bool found = false;
    for (size_t i = 0; i < entries; i++) {
        if (at > total || total - at < CENTRAL_SIZE || little(zip + at, 4) != 0x02014B50)
            return refuse(r, "a damaged zip directory");
        const uint8_t *entry = zip + at;
        size_t name_length = (size_t)little(entry + 28, 2);
        size_t record = CENTRAL_SIZE + name_length + (size_t)little(entry + 30, 2) + (size_t)little(entry + 32, 2);
        if (total - at < record) return refuse(r, "a damaged zip directory");
        at += record;
        const uint8_t *slash = memchr(entry + CENTRAL_SIZE, '/', name_length);
        size_t skip = slash ? (size_t)(slash - (entry + CENTRAL_SIZE)) + 1 : 0;
        if (!slash || name_length - skip != length || memcmp(slash + 1, name, length) != 0) continue;
        if (found) return refuse(r, "an entry of the zip stands twice");
        found = true;
        size_t size = (size_t)little(entry + 24, 4), local = (size_t)little(entry + 42, 4);
        if (little(entry + 10, 2) != 0 || little(entry + 20, 4) != size) return refuse(r, "a compressed entry");
        if (little(entry + 8, 2) & 1) return refuse(r, "an encrypted entry");
        if (local > total || total - local < LOCAL_SIZE || little(zip + local, 4) != 0x04034B50)
            return refuse(r, "a damaged zip entry");
        size_t start = local + LOCAL_SIZE + (size_t)little(zip + local + 26, 2) + (size_t)little(zip + local + 28, 2);
        if (start > total || total - start < size) return refuse(r, "an entry outside the zip");
        *out = (Bytes){zip + start, size};
        if (crc32_of(*out) != little(entry + 16, 4)) return refuse(r, "an entry's checksum does not match");
    }
    return found || refuse(r, arena_printf(r->ctx->arena, "no entry %s", name));
}

typedef enum Kind {
    KIND_MARK,
    KIND_DICT,
    KIND_INT,
    KIND_BOOL,
    KIND_TEXT,
    KIND_GLOBAL,
    KIND_TUPLE,
    KIND_STORAGE,
    KIND_TENSOR,
    KIND_HOOKS // the empty OrderedDict of backward hooks
} Kind;

typedef struct Value Value;
struct Value {
    Kind kind;
    int64_t number;      // INT, BOOL; STORAGE: elements; TENSOR: offset in elements
    const char *text;    // TEXT, GLOBAL ("module name"); STORAGE: key
    size_t text_length;  //
    const Value *item;   // TUPLE, shape of a TENSOR
    size_t count;        //
    bool wide;           // STORAGE, TENSOR: float32, else bfloat16
    const Value *source; // TENSOR: its storage
};

enum { MAX_STACK = 64, MAX_MEMO = 256, MAX_PICKLE = 65536 };

// The stack machine. What the finished dict holds is kept as soon as it is set.
typedef struct Machine {
    Reader *reader;
    Bytes code;
    size_t at;
    Value stack[MAX_STACK], memo[MAX_MEMO];
    bool known[MAX_MEMO];
    size_t depth;
    bool has_token, has_tensor;
    int64_t token;
    Value tensor;
} Machine;

static bool bad(Machine *m, const char *what) { return refuse(m->reader, what); }

static bool push(Machine *m, Value value) {
    if (m->depth == MAX_STACK) return bad(m, "a pickle nested too deeply");
    m->stack[m->depth++] = value;
    return true;
}

static const uint8_t *take(Machine *m, size_t bytes) {
    if (m->code.count - m->at < bytes) return NULL;
    m->at += bytes;
    return m->code.at + m->at - bytes;
}

static bool is_text(const Value *v, Kind kind, const char *text) {
    return v->kind == kind && v->text_length == strlen(text) && memcmp(v->text, text, v->text_length) == 0;
}

// A line of a GLOBAL, without its newline.
static bool line(Machine *m, Bytes *out) {
    const uint8_t *from = m->code.at + m->at, *stop = memchr(from, '\n', m->code.count - m->at);
    if (!stop) return bad(m, "a cut name");
    *out = (Bytes){from, (size_t)(stop - from)};
    m->at += out->count + 1;
    return true;
}

static bool global(Machine *m) {
    static const char *const names[] = {"torch._utils _rebuild_tensor_v2", "torch BFloat16Storage",
                                        "torch FloatStorage", "collections OrderedDict"};
    Bytes module, name;
    if (!line(m, &module) || !line(m, &name)) return false;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *space = strchr(names[i], ' ');
        size_t before = (size_t)(space - names[i]), after = strlen(space + 1);
        if (module.count == before && name.count == after && memcmp(module.at, names[i], before) == 0 &&
            memcmp(name.at, space + 1, after) == 0)
            return push(m, (Value){.kind = KIND_GLOBAL, .text = names[i], .text_length = before + 1 + after});
    }
    return bad(m, "a name that such a file has no use for");
}

// The topmost `count` values become one tuple.
static bool tuple(Machine *m, size_t count) {
    if (m->depth < count) return bad(m, "a tuple of too few values");
    Value *items = ARENA_ARRAY(m->reader->ctx->arena, Value, count + 1);
    for (size_t i = 0; i < count; i++) {
        items[i] = m->stack[m->depth - count + i];
        if (items[i].kind == KIND_MARK) return bad(m, "a mark inside a tuple");
    }
    m->depth -= count;
    return push(m, (Value){.kind = KIND_TUPLE, .item = items, .count = count});
}

static bool mark(Machine *m, size_t *above) {
    for (size_t i = m->depth; i-- > 0;)
        if (m->stack[i].kind == KIND_MARK) {
            *above = m->depth - i - 1;
            return true;
        }
    return bad(m, "no mark on the stack");
}

// ("storage", type, key, device, elements)
static bool persistent(Machine *m) {
    Value *top = m->depth ? &m->stack[m->depth - 1] : NULL;
    if (!top || top->kind != KIND_TUPLE || top->count != 5) return bad(m, "no description of a storage");
    const Value *v = top->item;
    bool wide = is_text(&v[1], KIND_GLOBAL, "torch FloatStorage");
    if (!is_text(&v[0], KIND_TEXT, "storage") || (!wide && !is_text(&v[1], KIND_GLOBAL, "torch BFloat16Storage")) ||
        v[2].kind != KIND_TEXT || v[3].kind != KIND_TEXT || v[4].kind != KIND_INT || v[4].number < 0)
        return bad(m, "a storage of another kind than bfloat16 or float32");
    *top = (Value){
        .kind = KIND_STORAGE, .text = v[2].text, .text_length = v[2].text_length, .number = v[4].number, .wide = wide};
    return true;
}

// (storage, offset, shape, stride, requires_grad, hooks) of a vector, or of a matrix of one row.
static bool rebuild(Machine *m, const Value *arguments, Value *out) {
    const Value *v = arguments->item;
    if (arguments->count != 6 || v[0].kind != KIND_STORAGE || v[1].kind != KIND_INT || v[2].kind != KIND_TUPLE ||
        v[3].kind != KIND_TUPLE || v[4].kind != KIND_BOOL || v[5].kind != KIND_HOOKS)
        return bad(m, "a tensor of unexpected parts");
    size_t rank = v[2].count;
    if (rank < 1 || rank > 2 || v[3].count != rank) return bad(m, "a tensor that is no vector");
    for (size_t i = 0; i < rank; i++)
        if (v[2].item[i].kind != KIND_INT || v[3].item[i].kind != KIND_INT) return bad(m, "a shape of no numbers");
    if (rank == 2 && v[2].item[0].number != 1) return bad(m, "a tensor of more than one row");
    if (v[3].item[rank - 1].number != 1) return bad(m, "a tensor that is not contiguous");
    Value *storage = ARENA_NEW(m->reader->ctx->arena, Value);
    *storage = v[0];
    *out = (Value){.kind = KIND_TENSOR,
                   .number = v[1].number,
                   .count = (size_t)v[2].item[rank - 1].number,
                   .wide = v[0].wide,
                   .source = storage};
    if (v[1].number < 0 || v[2].item[rank - 1].number < 0 || v[1].number > storage->number ||
        v[2].item[rank - 1].number > storage->number - v[1].number)
        return bad(m, "a tensor outside its storage");
    return true;
}

static bool reduce(Machine *m) {
    if (m->depth < 2) return bad(m, "a call without arguments");
    const Value *function = &m->stack[m->depth - 2], *arguments = function + 1;
    Value out = {.kind = KIND_HOOKS};
    if (arguments->kind != KIND_TUPLE) return bad(m, "a call without arguments");
    if (is_text(function, KIND_GLOBAL, "torch._utils _rebuild_tensor_v2")) {
        if (!rebuild(m, arguments, &out)) return false;
    } else if (!is_text(function, KIND_GLOBAL, "collections OrderedDict") || arguments->count != 0)
        return bad(m, "a call that such a file has no use for");
    m->depth -= 2;
    return push(m, out);
}

// Pairs of a key and a value into the dict below them.
static bool set_items(Machine *m, size_t count) {
    if (count % 2 != 0 || m->depth < count + 1) return bad(m, "keys without values");
    for (size_t i = m->depth - count; i < m->depth; i += 2) {
        const Value *key = &m->stack[i], *value = key + 1;
        if (is_text(key, KIND_TEXT, "mask_token_id") && value->kind == KIND_INT && !m->has_token) {
            m->has_token = true;
            m->token = value->number;
        } else if (is_text(key, KIND_TEXT, "embedding") && value->kind == KIND_TENSOR && !m->has_tensor) {
            m->has_tensor = true;
            m->tensor = *value;
        } else
            return bad(m, "a dict of other things than mask_token_id and embedding");
    }
    m->depth -= count;
    return true;
}

static bool number(Machine *m, size_t bytes) {
    const uint8_t *at = take(m, bytes);
    if (!at) return bad(m, "a cut pickle");
    int64_t value = (int64_t)little(at, (int)bytes);
    return push(m, (Value){.kind = KIND_INT, .number = bytes == 4 ? (int32_t)(uint32_t)value : value});
}

static bool text(Machine *m) {
    const uint8_t *length = take(m, 4), *at = length ? take(m, (size_t)little(length, 4)) : NULL;
    if (!at) return bad(m, "a cut pickle");
    return push(m, (Value){.kind = KIND_TEXT, .text = (const char *)at, .text_length = (size_t)little(length, 4)});
}

static bool memo(Machine *m, size_t bytes, bool store) {
    const uint8_t *at = take(m, bytes);
    if (!at) return bad(m, "a cut pickle");
    size_t index = (size_t)little(at, (int)bytes);
    if (index >= MAX_MEMO || (store && !m->depth) || (!store && !m->known[index])) return bad(m, "a memo out of range");
    if (!store) return push(m, m->memo[index]);
    m->memo[index] = m->stack[m->depth - 1];
    m->known[index] = true;
    return true;
}

// Runs the pickle. True when it ends with one dict of both values.
static bool machine_run(Machine *m) {
    const uint8_t *head = take(m, 2);
    if (!head || head[0] != 0x80 || head[1] != 2) return bad(m, "a pickle of another protocol than 2");
    for (const uint8_t *op; (op = take(m, 1)) != NULL;) {
        size_t count = 0;
        bool ok;
        switch (*op) {
        case '}': ok = push(m, (Value){.kind = KIND_DICT}); break;
        case '(': ok = push(m, (Value){.kind = KIND_MARK}); break;
        case ')': ok = tuple(m, 0); break;
        case 0x85: ok = tuple(m, 1); break;
        case 0x86: ok = tuple(m, 2); break;
        case 0x87: ok = tuple(m, 3); break;
        case 't':
            ok = mark(m, &count) && tuple(m, count);
            if (ok) { // the mark below it goes
                m->stack[m->depth - 2] = m->stack[m->depth - 1];
                m->depth--;
            }
            break;
        case 0x88: ok = push(m, (Value){.kind = KIND_BOOL, .number = 1}); break;
        case 0x89: ok = push(m, (Value){.kind = KIND_BOOL}); break;
        case 'K': ok = number(m, 1); break;
        case 'M': ok = number(m, 2); break;
        case 'J': ok = number(m, 4); break;
        case 'X': ok = text(m); break;
        case 'q': ok = memo(m, 1, true); break;
        case 'r': ok = memo(m, 4, true); break;
        case 'h': ok = memo(m, 1, false); break;
        case 'j': ok = memo(m, 4, false); break;
        case 'c': ok = global(m); break;
        case 'Q': ok = persistent(m); break;
        case 'R': ok = reduce(m); break;
        case 's':
            ok = m->depth >= 3 && m->stack[m->depth - 3].kind == KIND_DICT ? set_items(m, 2) : bad(m, "no dict");
            break;
        case 'u':
            ok = mark(m, &count);
            if (ok && (m->depth < count + 2 || m->stack[m->depth - count - 2].kind != KIND_DICT))
                ok = bad(m, "no dict");
            ok = ok && set_items(m, count);
            if (ok) m->depth--;
            break;
        case '.':
            if (m->depth != 1 || m->stack[0].kind != KIND_DICT || !m->has_token || !m->has_tensor)
                return bad(m, "no dict of mask_token_id and embedding");
            return m->at == m->code.count || bad(m, "bytes after the end of the pickle");
        default:
            return bad(m,
                       arena_printf(m->reader->ctx->arena, "the opcode 0x%02x, which such a file has no use for", *op));
        }
        if (!ok) return false;
    }
    return bad(m, "a cut pickle");
}

bool mask_embedding_parse(Ctx *ctx, Span file, const uint8_t *data, size_t bytes, int hidden, int64_t *mask_token,
                          float **embedding) {
    Reader reader = {ctx, file, {data, bytes}};
    Machine *m = ARENA_NEW(ctx->arena, Machine);
    m->reader = &reader;
    if (!zip_entry(&reader, "data.pkl", &m->code)) return false;
    if (m->code.count > MAX_PICKLE) return refuse(&reader, "a pickle too large for two values");
    if (!machine_run(m)) return false;
    const Value *tensor = &m->tensor, *storage = tensor->source;
    if (tensor->count != (size_t)hidden)
        return refuse(&reader, arena_printf(ctx->arena, "an embedding of %zu values, not %d", tensor->count, hidden));
    for (size_t i = 0; i < storage->text_length; i++)
        if (storage->text[i] < '0' || storage->text[i] > '9' || storage->text_length > 8)
            return refuse(&reader, "a storage whose key is no number");
    Bytes values;
    if (!zip_entry(&reader, arena_printf(ctx->arena, "data/%.*s", (int)storage->text_length, storage->text), &values))
        return false;
    size_t size = tensor->wide ? 4 : 2;
    if (values.count / size != (size_t)storage->number || values.count % size != 0)
        return refuse(&reader, "a storage of another size than the pickle says");
    *mask_token = m->token;
    *embedding = ARENA_ARRAY(ctx->arena, float, hidden);
    for (int i = 0; i < hidden; i++) {
        uint64_t raw = little(values.at + ((size_t)tensor->number + (size_t)i) * size, (int)size);
        uint32_t bits = tensor->wide ? (uint32_t)raw : 0;
        if (tensor->wide)
            memcpy(&(*embedding)[i], &bits, sizeof bits);
        else
            (*embedding)[i] = bf16_to_float((uint16_t)raw);
    }
    return true;
}
