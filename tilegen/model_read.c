#include "model_schema.h"
#include "text.h"
#include "yaml_tree.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct Reader {
    Ctx *ctx;
    YamlNode *root;
    Model *m;
    bool ok;
} Reader;

enum { MAX_UNKNOWN = 20 }; // unknown keys of one map that are reported

// The node at a dotted path below `root`, and the place to point at: a map's key, a value itself.
static YamlNode *node_at(YamlNode *root, const char *path, Span *place) {
    YamlNode *node = root;
    while (*path) {
        size_t length = strcspn(path, ".");
        Span key = NO_SPAN;
        YamlNode *child = yaml_child(node, path, length, &key);
        if (!child) return NULL;
        if (place) *place = child->kind == YAML_MAP ? key : child->span;
        node = child;
        path += length + (path[length] == '.');
    }
    return node;
}

// Where the deepest part of the path stands that the user wrote.
static Span place_in_yaml(Ctx *ctx, const void *user, const char *path) {
    YamlNode *root = (YamlNode *)(uintptr_t)user;
    if (!root) return NO_SPAN;
    Span place = {root->span.source, root->span.line, root->span.col, 1};
    (void)ctx;
    node_at(root, path, &place);
    return place;
}

static void wrong(Reader *r, const YamlNode *node, const char *where, const char *wanted) {
    r->ok = false;
    if (node->kind != YAML_SCALAR)
        diag_error(r->ctx, E0112, node->span, "%s wants %s, not a %s", where, wanted,
                   node->kind == YAML_LIST ? "list" : "map");
    else if (!*node->text)
        diag_error(r->ctx, E0112, node->span, "%s wants %s, not nothing", where, wanted);
    else
        diag_error(r->ctx, E0112, node->span, "%s wants %s, not %s\"%s\"", where, wanted,
                   node->quoted ? "the text " : "", yaml_shown(r->ctx, node->text));
}

// The same, with a line that says what would be right.
static void wrong_field(Reader *r, const YamlNode *node, const char *where, const Field *field) {
    wrong(r, node, where, field_wants(r->ctx, field));
    int count;
    const char *const *words = field_words(field->kind, &count);
    const char *near = words && node->kind == YAML_SCALAR ? text_nearest(node->text, words, (size_t)count) : NULL;
    if (near)
        diag_help(r->ctx, "did you mean \"%s\"?", near);
    else if (node->kind == YAML_SCALAR && node->quoted && field->kind != FIELD_NAME)
        diag_help(r->ctx, "write it without quotes");
    else
        diag_help(r->ctx, "models/SCHEMA.md says what each key means");
}

static bool read_number(const YamlNode *node, double *out) {
    if (node->kind != YAML_SCALAR || node->quoted || !node->text[0]) return false;
    if (node->text[strspn(node->text, "0123456789+-.eE")]) return false;
    char *end;
    errno = 0;
    *out = strtod(node->text, &end);
    return *end == 0 && isfinite(*out);
}

static bool read_word(const YamlNode *node, FieldKind kind, int *out) {
    int count;
    const char *const *words = field_words(kind, &count);
    for (int i = 0; node->kind == YAML_SCALAR && !(kind == FIELD_BOOL && node->quoted) && i < count; i++)
        if (strcmp(node->text, words[i]) == 0) return *out = i, true;
    return false;
}

static bool is_name(const YamlNode *node) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    return node->kind == YAML_SCALAR && node->text[0] && !strchr("._-", node->text[0]) && strlen(node->text) <= 200 &&
           !node->text[strspn(node->text, letters)];
}

// Whether the node is one of the words of a neutral field.
static bool is_neutral(const YamlNode *node, const char *words) {
    if (node->kind != YAML_SCALAR || !node->text[0]) return false;
    for (size_t length; *words; words += length + (words[length] == ' ')) {
        length = strcspn(words, " ");
        if (strlen(node->text) == length && memcmp(node->text, words, length) == 0) return true;
    }
    return false;
}

static bool read_list(Reader *r, const YamlNode *node, const char *where, const Field *field, int room, int *out,
                      int *count) {
    *count = 0;
    if (node->kind != YAML_LIST) {
        wrong_field(r, node, where, field);
        return false;
    }
    for (size_t i = 0; i < node->count; i++) {
        const YamlNode *item = node->items[i];
        double number;
        if (!read_number(item, &number) || number != floor(number) || number < 0) {
            wrong(r, item, where, "numbers of layers");
            diag_help(r->ctx, "layers count from 0: [0, 3, 5]");
            return false;
        }
        if (number >= r->m->layer_count) {
            r->ok = false;
            diag_error(r->ctx, E0115, item->span, "%s: there is no layer %s", where, yaml_shown(r->ctx, item->text));
            diag_help(r->ctx, "layers count from 0; the last one is %d", r->m->layer_count - 1);
            return false;
        }
        if (*count && number <= out[*count - 1]) {
            r->ok = false;
            diag_error(r->ctx, E0115, item->span, "%s must ascend, and %s follows %d", where,
                       yaml_shown(r->ctx, item->text), out[*count - 1]);
            diag_help(r->ctx, "sort the list and write each layer once");
            return false;
        }
        if (*count == room) {
            r->ok = false;
            diag_error(r->ctx, E0115, item->span, "%s has more than %d entries", where, room);
            diag_help(r->ctx, "leave some out");
            return false;
        }
        out[(*count)++] = (int)number;
    }
    return true;
}

// A list of layers goes into the layers themselves, or into the taps.
static void read_layers(Reader *r, const YamlNode *node, const char *where, const Section *section,
                        const Field *field) {
    int list[MAX_LAYERS], count;
    if (strcmp(section->path, "drafter") == 0) {
        if (read_list(r, node, where, field, MAX_TAPS, list, &count)) {
            memcpy(r->m->drafter.taps, list, (size_t)count * sizeof *list);
            r->m->drafter.tap_count = count;
        }
        return;
    }
    if (!read_list(r, node, where, field, MAX_LAYERS, list, &count)) return;
    bool dense = strcmp(section->path, "dense") == 0;
    for (int i = 0; i < r->m->layer_count; i++) {
        if (dense)
            r->m->layers[i].mlp = MLP_EXPERTS;
        else
            r->m->layers[i].attention = ATTENTION_WINDOW;
    }
    for (int i = 0; i < count; i++) {
        if (dense)
            r->m->layers[list[i]].mlp = MLP_DENSE;
        else
            r->m->layers[list[i]].attention = ATTENTION_FULL;
    }
}

static void read_field(Reader *r, const YamlNode *node, const char *where, const Section *section, const Field *field) {
    void *at = (char *)r->m + section->offset + field->offset;
    double number;
    int word;
    switch (field->kind) {
    case FIELD_INT:
    case FIELD_REAL:
        if (!read_number(node, &number) || number < field->lo || number > field->hi ||
            (field->kind == FIELD_INT && number != floor(number)))
            wrong_field(r, node, where, field);
        else if (field->kind == FIELD_INT)
            *(int *)at = (int)number;
        else
            *(double *)at = number;
        break;
    case FIELD_NAME:
        if (!is_name(node))
            wrong_field(r, node, where, field);
        else
            *(const char **)at = node->text;
        break;
    case FIELD_LAYERS: read_layers(r, node, where, section, field); break;
    case FIELD_NEUTRAL:
        if (is_neutral(node, field->neutral)) break;
        r->ok = false;
        diag_error(r->ctx, E0114, node->span, "%s is not supported yet but as %.*s", where,
                   (int)strcspn(field->neutral, " "), field->neutral);
        diag_help(r->ctx, "no pass computes it; leave the key out if the network does without");
        break;
    default:
        if (!read_word(node, field->kind, &word))
            wrong_field(r, node, where, field);
        else if (field->kind == FIELD_BOOL)
            *(bool *)at = word != 0;
        else if (field->kind == FIELD_DTYPE)
            *(Dtype *)at = (Dtype)word;
        else if (field->kind == FIELD_SCORE)
            *(Score *)at = (Score)word;
        else
            *(Family *)at = (Family)word;
    }
}

static void defaults(Reader *r, const Section *section) {
    for (size_t i = 0; i < section->count; i++) {
        const Field *field = &section->fields[i];
        void *at = (char *)r->m + section->offset + field->offset;
        if (field->kind == FIELD_INT) *(int *)at = (int)field->value;
        if (field->kind == FIELD_REAL) *(double *)at = field->value;
        if (field->kind == FIELD_BOOL) *(bool *)at = field->value != 0;
        if (field->kind == FIELD_DTYPE) *(Dtype *)at = (Dtype)field->value;
    }
}

// A section's own keys, and those of the sections that stand in it.
static void check_keys(Reader *r, const YamlNode *map, const Section *section, const char *shown) {
    const char *names[64];
    size_t count = 0;
    int unknown = 0;
    for (size_t f = 0; f < section->count; f++) names[count++] = section->fields[f].key;
    for (size_t s = 0; s < MODEL_SECTION_COUNT; s++) {
        const char *key;
        if (section_parent(&MODEL_SECTIONS[s], &key) == section) names[count++] = key;
    }
    for (size_t i = 0; i < map->count && unknown < MAX_UNKNOWN; i++) {
        bool known = false;
        for (size_t n = 0; n < count; n++) known |= strcmp(map->keys[i], names[n]) == 0;
        if (known) continue;
        unknown++;
        r->ok = false;
        diag_error(r->ctx, E0110, map->key_spans[i], "unknown key \"%s\" in %s", yaml_shown(r->ctx, map->keys[i]),
                   shown);
        const char *near = text_nearest(map->keys[i], names, count);
        if (near) {
            diag_help(r->ctx, "did you mean \"%s\"?", near);
            continue;
        }
        Text text = text_new(r->ctx->arena);
        for (size_t n = 0; n < count; n++) text_printf(&text, "%s%s", n ? ", " : "", names[n]);
        diag_help(r->ctx, "its keys are %s", text.at);
    }
}

static void read_section(Reader *r, const Section *section) {
    const char *key;
    const Section *parent = section_parent(section, &key);
    YamlNode *above = parent ? node_at(r->root, parent->path, NULL) : r->root;
    YamlNode *map = node_at(r->root, section->path, NULL);
    const char *shown = *section->path ? section->path : "the description";
    bool optional = above && above->kind == YAML_MAP;
    for (size_t f = 0; f < section->count; f++) optional &= !section->fields[f].required;
    if (map || optional) defaults(r, section); // what does not occur stays zero
    if (!map) {
        if (!section->required || !above || above->kind != YAML_MAP) return;
        r->ok = false;
        diag_error(r->ctx, E0111, place_in_yaml(r->ctx, r->root, parent->path), "%s has no \"%s\"",
                   *parent->path ? parent->path : "the description", key);
        diag_help(r->ctx, "it is a map; models/SCHEMA.md lists its keys");
        return;
    }
    if (section->occur) section->occur(r->m, true);
    if (map->kind != YAML_MAP) {
        wrong(r, map, shown, "a map of keys");
        diag_help(r->ctx, "write its keys on lines of their own, further indented");
        return;
    }
    check_keys(r, map, section, shown);
    for (size_t f = 0; f < section->count; f++) {
        const Field *field = &section->fields[f];
        YamlNode *node = yaml_child(map, field->key, strlen(field->key), NULL);
        const char *where =
            *section->path ? arena_printf(r->ctx->arena, "%s.%s", section->path, field->key) : field->key;
        if (node) {
            read_field(r, node, where, section, field);
        } else if (field->required) {
            r->ok = false;
            diag_error(r->ctx, E0111, place_in_yaml(r->ctx, r->root, section->path), "%s has no \"%s\"", shown,
                       field->key);
            diag_help(r->ctx, "it is %s", field_wants(r->ctx, field));
        }
    }
}

// Before any list of layers is read. Where both kinds occur a list is needed; a kind that is described alone is that of
// all layers.
static void start_layers(Reader *r) {
    bool full = node_at(r->root, "attention.full", NULL) != NULL, dense = node_at(r->root, "dense", NULL) != NULL;
    YamlNode *window = node_at(r->root, "attention.window", NULL), *experts = node_at(r->root, "experts", NULL);
    for (int i = 0; i < r->m->layer_count; i++) {
        r->m->layers[i].attention = full && !window ? ATTENTION_FULL : ATTENTION_WINDOW;
        r->m->layers[i].mlp = experts ? MLP_EXPERTS : MLP_DENSE;
    }
    YamlNode *attention = node_at(r->root, "attention", NULL);
    if (attention && attention->kind == YAML_MAP && !full && !window) {
        r->ok = false;
        diag_error(r->ctx, E0111, place_in_yaml(r->ctx, r->root, "attention"),
                   "attention has neither \"full\" nor \"window\"");
        diag_help(r->ctx, "describe the kinds that occur");
    }
    const char *const missing[2] = {full && window ? "attention.full.layers" : NULL,
                                    dense && experts ? "dense.layers" : NULL};
    for (int i = 0; i < 2; i++) {
        if (!missing[i] || node_at(r->root, missing[i], NULL)) continue;
        const char *where = i ? "dense" : "attention.full";
        r->ok = false;
        diag_error(r->ctx, E0111, place_in_yaml(r->ctx, r->root, where), "%s has no \"layers\"", where);
        diag_help(r->ctx, "list the layers that are %s, like [0, 3, 5]", i ? "dense" : "full");
    }
}

Model *model_read(Ctx *ctx, Source *source) {
    Reader r = {ctx, yaml_read(ctx, source), ARENA_NEW(ctx->arena, Model), true};
    if (!r.root) return NULL;
    r.m->source = source;
    for (size_t s = 0; s < MODEL_SECTION_COUNT; s++) {
        read_section(&r, &MODEL_SECTIONS[s]);
        if (s > 0) continue;
        if (r.root->kind != YAML_MAP || r.m->layer_count < 1) return NULL; // lists of layers have no meaning then
        start_layers(&r);
    }
    if (!r.m->tokenizer) r.m->tokenizer = MODEL_TOKENIZER;
    return r.ok && model_check(ctx, r.m, (Places){place_in_yaml, r.root}) ? r.m : NULL;
}

Places model_yaml_places(Ctx *ctx, const Model *model) {
    YamlNode *root = NULL;
    if (model->source) {
        size_t errors = diag_errors(ctx);
        Source *source = ARENA_NEW(ctx->arena, Source);
        *source = *model->source;
        root = yaml_read(ctx, source);
        diag_forget(ctx, errors);
    }
    return (Places){place_in_yaml, root};
}
