// A small typed reader over libyaml's events: a tree of nodes with spans, in the arena. Refused, each with a
// diagnostic: tabs in the indentation, anchors and aliases, tags, duplicate keys, several documents, text that is not
// UTF-8, nesting deeper than YAML_DEPTH, more than YAML_NODES values. Time and memory are linear in the text, whatever
// it holds.
#ifndef TILEGEN_YAML_TREE_H
#define TILEGEN_YAML_TREE_H
#include "diag.h"

enum { YAML_DEPTH = 32, YAML_NODES = 16384 };
typedef enum YamlKind { YAML_SCALAR, YAML_LIST, YAML_MAP } YamlKind;
typedef struct YamlNode YamlNode;
struct YamlNode {
    YamlKind kind;
    Span span;
    const char *text; // scalar
    bool quoted;
    const char **keys; // map
    Span *key_spans;
    YamlNode **items; // list, map values
    size_t count;
};

// NULL after reporting (E0101..E0109).
YamlNode *yaml_read(Ctx *ctx, Source *source);
// The value of a key of a map, NULL when `map` is none or lacks it. `key_span`, where given, gets the key's place.
YamlNode *yaml_child(const YamlNode *map, const char *key, size_t key_length, Span *key_span);
// Any text as one short line for a message: cut, control characters replaced.
const char *yaml_shown(Ctx *ctx, const char *text);
#endif
