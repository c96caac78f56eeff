#include "yaml_tree.h"
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

typedef struct Reader {
    Ctx *ctx;
    Source *source;
    yaml_parser_t *parser;
    int depth;
} Reader;

static void parser_free(void *parser) {
    yaml_parser_delete(parser);
    free(parser);
}

static Span mark_span(const Reader *r, yaml_mark_t mark, yaml_mark_t end) {
    size_t length = end.line == mark.line && end.column > mark.column ? end.column - mark.column : 1;
    return (Span){r->source, (uint32_t)mark.line + 1, (uint32_t)mark.column + 1, (uint32_t)length};
}

static YamlNode *read_node(Reader *r, yaml_event_t *event);

static bool next(Reader *r, yaml_event_t *event) {
    if (yaml_parser_parse(r->parser, event)) return true;
    if (r->parser->error == YAML_MEMORY_ERROR) ctx_out_of_memory(r->ctx);
    yaml_mark_t at = r->parser->problem_mark;
    if (r->parser->error == YAML_READER_ERROR)
        diag_error(r->ctx, E0102, source_span(r->source, r->parser->problem_offset, 1), "not valid UTF-8: %s",
                   r->parser->problem);
    else
        diag_error(r->ctx, E0101, mark_span(r, at, at), "%s", r->parser->problem ? r->parser->problem : "bad YAML");
    return false;
}

// libyaml's events own heap memory: everything wanted is copied to the arena before the next one.
static YamlNode *finish(Reader *r, yaml_event_t *event, YamlKind kind, const char *anchor, const char *tag) {
    Span span = mark_span(r, event->start_mark, event->end_mark);
    if (anchor || tag) {
        diag_error(r->ctx, anchor ? E0104 : E0105, span, anchor ? "anchors are not allowed" : "tags are not allowed");
        diag_help(r->ctx,
                  anchor ? "write the value out where it is used" : "types follow from the schema; leave the tag out");
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
        yaml_event_t event;
        if (!next(r, &event)) return NULL;
        if (event.type == YAML_SEQUENCE_END_EVENT) break;
        YamlNode *item = read_node(r, &event);
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
        yaml_event_t event;
        if (!next(r, &event)) return NULL;
        if (event.type == YAML_MAPPING_END_EVENT) break;
        YamlNode *key = read_node(r, &event);
        if (!key) return NULL;
        if (key->kind != YAML_SCALAR) {
            diag_error(r->ctx, E0101, key->span, "a key must be a word");
            return NULL;
        }
        for (size_t i = 0; i < keys.count; i++) {
            if (strcmp(keys.at[i], key->text) != 0) continue;
            diag_error(r->ctx, E0106, key->span, "the key \"%s\" stands here twice", key->text);
            diag_note(r->ctx, spans.at[i], "it was first written here");
            diag_help(r->ctx, "keep one of them");
            return NULL;
        }
        if (!next(r, &event)) return NULL;
        YamlNode *value = read_node(r, &event);
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

// Turns the event into a node and deletes it.
static YamlNode *read_node(Reader *r, yaml_event_t *event) {
    YamlNode *node = NULL;
    yaml_event_type_t type = event->type;
    if (type == YAML_SCALAR_EVENT) {
        bool quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
        size_t length = event->data.scalar.length;
        if (memchr(event->data.scalar.value, 0, length))
            diag_error(r->ctx, E0102, mark_span(r, event->start_mark, event->end_mark), "a zero byte in a value");
        else if ((node = finish(r, event, YAML_SCALAR, (const char *)event->data.scalar.anchor,
                                (const char *)event->data.scalar.tag))) {
            node->text = arena_copy(r->ctx->arena, event->data.scalar.value, length);
            node->quoted = quoted;
        }
    } else if (type == YAML_SEQUENCE_START_EVENT) {
        node = finish(r, event, YAML_LIST, (const char *)event->data.sequence_start.anchor,
                      (const char *)event->data.sequence_start.tag);
    } else if (type == YAML_MAPPING_START_EVENT) {
        node = finish(r, event, YAML_MAP, (const char *)event->data.mapping_start.anchor,
                      (const char *)event->data.mapping_start.tag);
    } else {
        Span span = mark_span(r, event->start_mark, event->end_mark);
        diag_error(r->ctx, type == YAML_ALIAS_EVENT ? E0104 : E0101, span,
                   type == YAML_ALIAS_EVENT ? "aliases are not allowed" : "a value is wanted here");
        if (type == YAML_ALIAS_EVENT) diag_help(r->ctx, "write the value out where it is used");
    }
    yaml_event_delete(event);
    if (!node || node->kind == YAML_SCALAR) return node;
    if (++r->depth > YAML_DEPTH) {
        diag_error(r->ctx, E0107, node->span, "nested deeper than %d levels", YAML_DEPTH);
        return NULL;
    }
    node = node->kind == YAML_LIST ? read_list(r, node) : read_map(r, node);
    r->depth--;
    return node;
}

// Tabs in the indentation, and flow nesting before libyaml sees it: nested brackets cost it super-linear time.
static bool scan(Ctx *ctx, const Source *source) {
    int flow = 0;
    bool indent = true;
    for (size_t i = 0; i < source->length; i++) {
        char c = source->text[i];
        if (indent && c == '\t') {
            diag_error(ctx, E0103, source_span(source, i, 1), "a tab in the indentation");
            diag_help(ctx, "use spaces");
            return false;
        }
        if (c == '\n')
            indent = true;
        else if (c != ' ')
            indent = false;
        if (c == '[' || c == '{') flow++;
        if ((c == ']' || c == '}') && flow > 0) flow--;
        if (flow > YAML_DEPTH) {
            diag_error(ctx, E0107, source_span(source, i, 1), "nested deeper than %d levels", YAML_DEPTH);
            return false;
        }
    }
    return true;
}

YamlNode *yaml_read(Ctx *ctx, Source *source) {
    if (!scan(ctx, source)) return NULL;
    yaml_parser_t *parser = malloc(sizeof *parser);
    if (!parser) ctx_out_of_memory(ctx);
    if (!yaml_parser_initialize(parser)) {
        free(parser);
        ctx_out_of_memory(ctx);
    }
    ctx_defer(ctx, parser_free, parser);
    yaml_parser_set_encoding(parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(parser, (const unsigned char *)source->text, source->length);
    Reader reader = {ctx, source, parser, 0};
    YamlNode *root = NULL;
    yaml_event_t event;
    if (next(&reader, &event) && (yaml_event_delete(&event), next(&reader, &event))) {
        if (event.type == YAML_STREAM_END_EVENT) {
            yaml_event_delete(&event);
            diag_error(ctx, E0101, source_span(source, 0, 1), "the file is empty");
        } else {
            yaml_event_delete(&event);
            if (next(&reader, &event)) root = read_node(&reader, &event);
        }
    }
    // document end, then stream end
    if (root && next(&reader, &event)) {
        yaml_event_delete(&event);
        if (!next(&reader, &event))
            root = NULL;
        else {
            if (event.type != YAML_STREAM_END_EVENT) {
                diag_error(ctx, E0108, mark_span(&reader, event.start_mark, event.end_mark), "a second document");
                diag_help(ctx, "a description is one document; remove everything from \"---\" on");
                root = NULL;
            }
            yaml_event_delete(&event);
        }
    } else
        root = NULL;
    ctx_done(ctx, parser);
    return root;
}
