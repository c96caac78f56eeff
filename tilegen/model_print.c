#include "model_schema.h"
#include "text.h"
#include <string.h>

// Whether any row of the section would be printed: one with a required row always has one.
static bool shown(const Model *m, const Section *section) {
    if (!section->occurs(m)) return false;
    for (size_t i = 0; i < section->count; i++)
        if (section->fields[i].kind != FIELD_NEUTRAL && !field_is_default(m, section, &section->fields[i])) return true;
    return section->count == 0;
}

char *model_print(Ctx *ctx, const Model *m, const char *note) {
    Text text = text_new(ctx->arena);
    if (note) text_printf(&text, "# %s\n", note);
    for (size_t s = 0; s < MODEL_SECTION_COUNT; s++) {
        const Section *section = &MODEL_SECTIONS[s];
        if (!shown(m, section)) continue;
        const char *key = section->path;
        int indent = 0;
        for (const char *dot; (dot = strchr(key, '.')); indent += 2) key = dot + 1;
        if (*key) {
            text_printf(&text, "%*s%s:\n", indent, "", key);
            indent += 2;
        }
        for (size_t i = 0; i < section->count; i++) {
            const Field *field = &section->fields[i];
            if (field->kind == FIELD_NEUTRAL || field_is_default(m, section, field)) continue;
            text_printf(&text, "%*s%s: %s\n", indent, "", field->key, field_text(ctx, m, section, field));
        }
    }
    return text.at;
}
