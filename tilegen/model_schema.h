// The keys of a model description as tables. Reading, printing, checking and comparing walk the same rows, and
// models/SCHEMA.md documents them.
#ifndef TILEGEN_MODEL_SCHEMA_H
#define TILEGEN_MODEL_SCHEMA_H
#include "model.h"
#include <stddef.h>

// The tokenizer's file where a description names none.
#define MODEL_TOKENIZER "tokenizer.json"

typedef enum FieldKind {
    FIELD_INT,
    FIELD_REAL,
    FIELD_BOOL,
    FIELD_NAME,
    FIELD_DTYPE,
    FIELD_SCORE,
    FIELD_FAMILY,
    FIELD_LAYERS,  // an ascending list of layers, kept by model_list_get and model_list_set
    FIELD_NEUTRAL, // what no pass computes: only the words of `neutral` may stand
    FIELD_KINDS
} FieldKind;

typedef struct Field {
    const char *key;
    FieldKind kind;
    size_t offset; // in the struct that the section describes
    bool required;
    double lo, hi, value; // range and default of numbers; default of booleans and dtypes
    const char *neutral;  // words with a space between them
} Field;

// One map of the description: "attention.full.rope" is the map `rope` in the map `full` in the map `attention`.
typedef struct Section {
    const char *path; // "" the description itself
    const Field *fields;
    size_t count;
    size_t offset;                        // of its struct in Model
    bool required;                        // where the map that it stands in is given
    bool (*occurs)(const Model *model);   // whether a model has it
    void (*occur)(Model *model, bool it); // notes that it does, where no field says so
} Section;

// In the order of printing; a section follows the one that it stands in.
extern const Section MODEL_SECTIONS[];
extern const size_t MODEL_SECTION_COUNT;

// The section that `section` stands in, NULL for the description itself; `key` gets the last part of the path.
const Section *section_parent(const Section *section, const char **key);

// Words of a kind of field, NULL for numbers, names and lists.
const char *const *field_words(FieldKind kind, int *count);
// What a field wants, for messages: "a whole number from 1 to 256".
const char *field_wants(Ctx *ctx, const Field *field);
// The value as the description writes it. NULL for FIELD_NEUTRAL.
const char *field_text(Ctx *ctx, const Model *model, const Section *section, const Field *field);
// Whether the value is the default of a field that may be left out.
bool field_is_default(const Model *model, const Section *section, const Field *field);

// Layers that a FIELD_LAYERS row names: attention.full.layers, dense.layers, drafter.taps. `out` has MAX_LAYERS.
int model_list_get(const Model *model, const Section *section, int *out);

// Where a value stands that the user can change: in the YAML, or in a config.json. `path` is a dotted key.
typedef struct Places {
    Span (*find)(Ctx *ctx, const void *user, const char *path);
    const void *user;
} Places;

// The places of a model that came from YAML; none for one that did not.
Places model_yaml_places(Ctx *ctx, const Model *model);

// Every range, and the rules that tie fields together. False after reporting.
bool model_check(Ctx *ctx, const Model *model, Places places);
#endif
