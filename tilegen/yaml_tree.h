// A small typed reader over libyaml's events: a tree of nodes with spans. Refused, each with a diagnostic: tabs,
// anchors and aliases, tags, duplicate keys, several documents, text that is not UTF-8, nesting deeper than YAML_DEPTH.
#ifndef TILEGEN_YAML_TREE_H
#define TILEGEN_YAML_TREE_H
#include "diag.h"

enum { YAML_DEPTH = 32 };
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
#endif
