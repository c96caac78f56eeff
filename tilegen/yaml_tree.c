#include "yaml_tree.h"
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

// libyaml counts characters, spans count bytes. `at` walks the text once, from one mark to the next.
typedef struct Cursor {
    size_t index; // characters before `offset`
    size_t offset, line_start;
    uint32_t line;
} Cursor;

// On the heap and released by ctx_defer, with the one event that may hold memory of libyaml's.
typedef struct Reader {
    Ctx *ctx;
    Source *source;
    yaml_parser_t parser;
    yaml_event_t event;
    size_t start; // bytes of a byte order mark
    Cursor at;
    int depth, nodes;
} Reader;

static void reader_free(void *reader) {
    Reader *r = reader;
    yaml_event_delete(&r->event);
    yaml_parser_delete(&r->parser);
    free(r);
}

static bool continues(char c) { return ((unsigned char)c & 0xC0) == 0x80; }

static Span mark_span(Reader *r, yaml_mark_t mark, yaml_mark_t end) {
    const char *text = r->source->text;
    Cursor *at = &r->at;
    if (mark.index < at->index) *at = (Cursor){0, r->start, 0, 1};
    while (at->index < mark.index && at->offset < r->source->length) {
        if (text[at->offset++] == '\n') {
            at->line++;
            at->line_start = at->offset;
        }
        while (at->offset < r->source->length && continues(text[at->offset])) at->offset++;
        at->index++;
    }
    size_t stop = at->offset, left = end.index > mark.index ? end.index - mark.index : 0;
    for (; left && stop < r->source->length && text[stop] != '\n' && text[stop] != '\r'; left--) {
        stop++;
        while (stop < r->source->length && continues(text[stop])) stop++;
    }
    uint32_t length = stop > at->offset ? (uint32_t)(stop - at->offset) : 1;
    return (Span){r->source, at->line, (uint32_t)(at->offset - at->line_start) + 1, length};
}

const char *yaml_shown(Ctx *ctx, const char *text) {
    enum { ROOM = 60 };
    char *out = arena_alloc(ctx->arena, ROOM + 4);
    size_t n = 0;
    for (; text[n] && n < ROOM; n++) out[n] = (unsigned char)text[n] < 0x20 || text[n] == 0x7F ? ' ' : text[n];
    if (!text[n]) return out;
    while (n > 0 && continues(text[n])) n--;
    memcpy(out + n, "...", 4);
    return out;
}

YamlNode *yaml_child(const YamlNode *map, const char *key, size_t key_length, Span *key_span) {
    for (size_t i = 0; map && map->kind == YAML_MAP && i < map->count; i++) {
        if (strlen(map->keys[i]) != key_length || memcmp(map->keys[i], key, key_length) != 0) continue;
        if (key_span) *key_span = map->key_spans[i];
        return map->items[i];
    }
    return NULL;
}

static YamlNode *read_node(Reader *r);

// Reads one event into r->event; its type then, YAML_NO_EVENT after reporting.
static yaml_event_type_t next(Reader *r) {
    yaml_event_delete(&r->event);
    if (yaml_parser_parse(&r->parser, &r->event)) return r->event.type;
    const char *problem = r->parser.problem ? r->parser.problem : "not YAML";
    if (r->parser.error == YAML_MEMORY_ERROR) ctx_out_of_memory(r->ctx);
    if (r->parser.error == YAML_READER_ERROR) {
        diag_error(r->ctx, E0102, source_span(r->source, r->start + r->parser.problem_offset, 1), "not valid UTF-8: %s",
                   problem);
        diag_help(r->ctx, "save the file as UTF-8");
        return YAML_NO_EVENT;
    }
    Span span = mark_span(r, r->parser.problem_mark, r->parser.problem_mark);
    const char *context = r->parser.context;
    yaml_mark_t from = r->parser.context_mark;
    diag_error(r->ctx, E0101, span, "%s", problem);
    if (context) diag_note(r->ctx, mark_span(r, from, from), "%s that begins here", context);
    diag_help(r->ctx, "a description has one `key: value` a line; a map's keys begin at the same column");
    return YAML_NO_EVENT;
}

static YamlNode *anchored(Reader *r, Span span, bool alias) {
    diag_error(r->ctx, E0104, span, alias ? "aliases are not allowed" : "anchors are not allowed");
    diag_help(r->ctx, "write the value out where it is used");
    return NULL;
}

static YamlNode *tagged(Reader *r, Span span) {
    diag_error(r->ctx, E0105, span, "tags are not allowed");
    diag_help(r->ctx, "types follow from the schema; leave the tag out");
    return NULL;
}

static YamlNode *node_new(Reader *r, Span span, YamlKind kind, const void *anchor, const void *tag) {
    if (anchor) return anchored(r, span, false);
    if (tag) return tagged(r, span);
    if (++r->nodes > YAML_NODES) {
        diag_error(r->ctx, E0109, span, "more than %d values", YAML_NODES);
        diag_help(r->ctx, "a description has a few dozen: this is some other file");
        return NULL;
    }
    YamlNode *node = ARENA_NEW(r->ctx->arena, YamlNode);
    node->kind = kind;
    node->span = span;
    return node;
}

typedef LIST(YamlNode *) Nodes;
typedef LIST(const char *) Names;
typedef LIST(Span) Spans;

static YamlNode *read_list(Reader *r, YamlNode *node) {
    Nodes items = {0};
    for (;;) {
        yaml_event_type_t type = next(r);
        if (type == YAML_NO_EVENT) return NULL;
        if (type == YAML_SEQUENCE_END_EVENT) {
            Span end = mark_span(r, r->event.start_mark, r->event.end_mark);
            if (end.line == node->span.line && end.col >= node->span.col)
                node->span.length = end.col + end.length - node->span.col;
            break;
        }
        YamlNode *item = read_node(r);
        if (!item) return NULL;
        LIST_ADD(r->ctx->arena, &items, item);
    }
    node->items = items.at;
    node->count = items.count;
    return node;
}

static YamlNode *read_map(Reader *r, YamlNode *node) {
    Nodes items = {0};
    Names keys = {0};
    Spans spans = {0};
    for (;;) {
        yaml_event_type_t type = next(r);
        if (type == YAML_NO_EVENT) return NULL;
        if (type == YAML_MAPPING_END_EVENT) break;
        YamlNode *key = read_node(r);
        if (!key) return NULL;
        if (key->kind != YAML_SCALAR) {
            diag_error(r->ctx, E0101, key->span, "a key must be a word");
            diag_help(r->ctx, "write `key: value`");
            return NULL;
        }
        for (size_t i = 0; i < keys.count; i++) {
            if (strcmp(keys.at[i], key->text) != 0) continue;
            diag_error(r->ctx, E0106, key->span, "the key \"%s\" stands here twice", yaml_shown(r->ctx, key->text));
            diag_note(r->ctx, spans.at[i], "it was first written here");
            diag_help(r->ctx, "keep one of them");
            return NULL;
        }
        if (next(r) == YAML_NO_EVENT) return NULL;
        YamlNode *value = read_node(r);
        if (!value) return NULL;
        LIST_ADD(r->ctx->arena, &keys, key->text);
        LIST_ADD(r->ctx->arena, &spans, key->span);
        LIST_ADD(r->ctx->arena, &items, value);
    }
    node->keys = keys.at;
    node->key_spans = spans.at;
    node->items = items.at;
    node->count = items.count;
    return node;
}

// Events own heap memory: what is wanted of one is copied to the arena before the next one is asked for.
static YamlNode *event_node(Reader *r) {
    const yaml_event_t *event = &r->event;
    Span span = mark_span(r, event->start_mark, event->end_mark);
    switch (event->type) {
    case YAML_SCALAR_EVENT: {
        YamlNode *node = node_new(r, span, YAML_SCALAR, event->data.scalar.anchor, event->data.scalar.tag);
        if (!node) return NULL;
        if (memchr(event->data.scalar.value, 0, event->data.scalar.length)) {
            diag_error(r->ctx, E0102, span, "a zero byte in a value");
            diag_help(r->ctx, "no name or number has one");
            return NULL;
        }
        node->text = arena_copy(r->ctx->arena, event->data.scalar.value, event->data.scalar.length);
        node->quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
        return node;
    }
    case YAML_SEQUENCE_START_EVENT:
        return node_new(r, span, YAML_LIST, event->data.sequence_start.anchor, event->data.sequence_start.tag);
    case YAML_MAPPING_START_EVENT:
        return node_new(r, span, YAML_MAP, event->data.mapping_start.anchor, event->data.mapping_start.tag);
    case YAML_ALIAS_EVENT: return anchored(r, span, true);
    default: diag_error(r->ctx, E0101, span, "a value is wanted here"); return NULL;
    }
}

// The node that begins with r->event.
static YamlNode *read_node(Reader *r) {
    YamlNode *node = event_node(r);
    if (!node || node->kind == YAML_SCALAR) return node;
    if (++r->depth > YAML_DEPTH) {
        diag_error(r->ctx, E0107, node->span, "nested deeper than %d levels", YAML_DEPTH);
        diag_help(r->ctx, "a description has four");
        return NULL;
    }
    node = node->kind == YAML_LIST ? read_list(r, node) : read_map(r, node);
    r->depth--;
    return node;
}

// Bytes of a line break that only YAML 1.1 knows (NEL, LS, PS), or of a lone carriage return. Editors and carets show
// other lines than libyaml there.
static size_t strange_break(const char *s, size_t left) {
    if (s[0] == '\r') return left < 2 || s[1] != '\n' ? 1 : 0;
    if (left >= 2 && memcmp(s, "\xC2\x85", 2) == 0) return 2;
    return left >= 3 && (memcmp(s, "\xE2\x80\xA8", 3) == 0 || memcmp(s, "\xE2\x80\xA9", 3) == 0) ? 3 : 0;
}

// Tabs in the indentation, and flow nesting before libyaml sees it: nested brackets cost it super-linear time.
// Brackets in comments do not count; after the first quote they do, since a '#' may then be part of a text.
static bool scan(Ctx *ctx, const Source *source, size_t start) {
    int flow = 0;
    bool indent = true, comment = false, quotes = false;
    for (size_t i = start; i < source->length; i++) {
        char c = source->text[i];
        if (strange_break(source->text + i, source->length - i)) {
            diag_error(ctx, E0102, source_span(source, i, 1), "an unusual line break");
            diag_help(ctx, "end lines with a line feed");
            return false;
        }
        if (indent && c == '\t') {
            diag_error(ctx, E0103, source_span(source, i, 1), "a tab in the indentation");
            diag_help(ctx, "use spaces");
            return false;
        }
        if (c == '#' && !quotes && (i == start || memchr(" \t\n", source->text[i - 1], 3))) comment = true;
        if (c == '\n') {
            indent = true;
            comment = false;
        } else if (c != ' ')
            indent = false;
        if (comment) continue;
        quotes |= c == '"' || c == '\'';
        if (c == '[' || c == '{') flow++;
        if ((c == ']' || c == '}') && flow > 0) flow--;
        if (flow > YAML_DEPTH) {
            diag_error(ctx, E0107, source_span(source, i, 1), "nested deeper than %d levels", YAML_DEPTH);
            diag_help(ctx, "a description has four");
            return false;
        }
    }
    return true;
}

static YamlNode *read_document(Reader *r) {
    if (next(r) == YAML_NO_EVENT || next(r) == YAML_NO_EVENT) return NULL; // the stream begins, the document begins
    const yaml_event_t *event = &r->event;
    Span span = mark_span(r, event->start_mark, event->end_mark);
    if (event->type == YAML_STREAM_END_EVENT) {
        diag_error(r->ctx, E0101, (Span){r->source, 1, 1, 1}, "the file holds no description");
        diag_help(r->ctx, "models/SCHEMA.md lists the keys; `tilegen import` writes one from a checkpoint");
        return NULL;
    }
    if (event->data.document_start.tag_directives.start != event->data.document_start.tag_directives.end)
        return tagged(r, span);
    if (next(r) == YAML_NO_EVENT) return NULL;
    YamlNode *root = read_node(r);
    if (!root || next(r) == YAML_NO_EVENT || next(r) == YAML_NO_EVENT) return NULL; // both end
    if (event->type == YAML_STREAM_END_EVENT) return root;
    diag_error(r->ctx, E0108, mark_span(r, event->start_mark, event->end_mark), "a second document");
    diag_help(r->ctx, "a description is one document; remove everything from here on");
    return NULL;
}

YamlNode *yaml_read(Ctx *ctx, Source *source) {
    size_t start = source->length >= 3 && memcmp(source->text, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
    if (!scan(ctx, source, start)) return NULL;
    Reader *reader = calloc(1, sizeof *reader);
    if (!reader) ctx_out_of_memory(ctx);
    *reader = (Reader){.ctx = ctx, .source = source, .start = start, .at = {0, start, 0, 1}};
    if (!yaml_parser_initialize(&reader->parser)) {
        free(reader);
        ctx_out_of_memory(ctx);
    }
    ctx_defer(ctx, reader_free, reader);
    yaml_parser_set_encoding(&reader->parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&reader->parser, (const unsigned char *)source->text + start, source->length - start);
    YamlNode *root = read_document(reader);
    ctx_done(ctx, reader);
    return root;
}
