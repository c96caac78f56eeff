// The keys of a model description as tables: read and printed by the same rows (documented in models/SCHEMA.md).
#ifndef TILEGEN_MODEL_SCHEMA_H
#define TILEGEN_MODEL_SCHEMA_H
#include "model.h"
#include <stddef.h>

typedef enum FieldKind {
    FIELD_INT,
    FIELD_REAL,
    FIELD_BOOL,
    FIELD_TEXT,
    FIELD_DTYPE,
    FIELD_SCORE,
    FIELD_FAMILY
} FieldKind;
typedef struct Field {
    const char *key;
    FieldKind kind;
    size_t offset; // in the struct that the table describes
    bool required;
    double lo, hi, value; // range and default of numbers; value of booleans
} Field;

typedef struct FieldTable {
    const Field *fields;
    size_t count;
} FieldTable;

extern const FieldTable MODEL_FIELDS, ATTENTION_FIELDS, ROPE_FIELDS, ACTIVATION_FIELDS, EXPERTS_FIELDS, DTYPE_FIELDS,
    DRAFTER_FIELDS;
extern const char *const FAMILY_NAMES[2], *const SCORE_NAMES[2];

// The rules that tie fields together. Spans are of the file as a whole where `spans` is NULL. False after reporting.
bool model_rules(Ctx *ctx, const Model *model, Span file);
#endif
