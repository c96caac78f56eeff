#include "model_config.h"
#include "file.h"
#include "text.h"
#include "yaml_tree.h"
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

enum { CONFIG_CAP = 16 << 20 };

static void json_release(void *root) { json_decref(root); }

bool config_open(Ctx *ctx, const char *folder, bool *ok, Config *out) {
    Source *source = file_read(ctx, file_join(ctx, folder, "config.json"), CONFIG_CAP);
    if (!source) return *ok = false;
    json_error_t error;
    json_t *root = json_loadb(source->text, source->length, JSON_REJECT_DUPLICATES, &error);
    if (!root) {
        enum json_error_code code = json_error_code(&error);
        // jansson leaves some failed allocations without a code.
        if (code == json_error_out_of_memory || code == json_error_unknown) ctx_out_of_memory(ctx);
        size_t at = error.position > 0 ? (size_t)error.position - 1 : 0;
        diag_error(ctx, E0121, source_span(source, at, 1), "not valid JSON: %s", yaml_shown(ctx, error.text));
        diag_help(ctx, "take config.json as the model's publisher wrote it");
        return *ok = false;
    }
    ctx_defer(ctx, json_release, root);
    *out = (Config){ctx, source, root, root, strspn(source->text, " \t\r\n"), "", ok};
    if (json_is_object(root)) return true;
    diag_error(ctx, E0121, source_span(source, out->offset, 1), "a JSON object is wanted here");
    diag_help(ctx, "take config.json as the model's publisher wrote it");
    config_close(out);
    return *ok = false;
}

void config_close(Config *config) {
    ctx_done(config->ctx, config->owner);
    config->root = config->owner = NULL;
}

static json_t *find(const Config *config, const char *key) {
    json_t *value = json_object_get(config->root, key);
    return json_is_null(value) ? NULL : value;
}

// The end of the JSON string that begins at `at`.
static size_t string_end(const char *text, size_t at) {
    for (at++; text[at] && text[at] != '"'; at++)
        if (text[at] == '\\' && text[at + 1]) at++;
    return text[at] ? at + 1 : at;
}

// Offset of the value of `key` in the object at `offset`, 0 when it is not there. The text is valid JSON.
static size_t value_offset(const char *text, size_t offset, const char *key) {
    size_t length = strlen(key);
    int depth = 0;
    for (size_t at = offset; text[at];) {
        if (text[at] == '"') {
            size_t end = string_end(text, at), next = end + strspn(text + end, " \t\r\n");
            if (depth == 1 && text[next] == ':' && end - at == length + 2 && memcmp(text + at + 1, key, length) == 0)
                return next + 1 + strspn(text + next + 1, " \t\r\n");
            at = end;
            continue;
        }
        if (text[at] == '{' || text[at] == '[') depth++;
        if ((text[at] == '}' || text[at] == ']') && --depth == 0) return 0;
        at++;
    }
    return 0;
}

bool config_find(const Config *config, const char *key, Span *out) {
    const char *text = config->source->text;
    size_t at = value_offset(text, config->offset, key);
    if (!at) return false;
    size_t length = text[at] == '"'                      ? string_end(text, at) - at
                    : text[at] == '{' || text[at] == '[' ? 1
                                                         : strcspn(text + at, ",}] \t\r\n");
    *out = source_span(config->source, at, length);
    return true;
}

Span config_span(const Config *config, const char *key) {
    Span span = {config->source, 0, 0, 0};
    if (!config_find(config, key, &span) && *config->path) span = source_span(config->source, config->offset, 1);
    return span;
}

void config_wrong(const Config *config, const char *key, const char *format, ...) {
    va_list args;
    va_start(args, format);
    Text text = text_new(config->ctx->arena);
    text_vprintf(&text, format, args);
    va_end(args);
    diag_error(config->ctx, E0121, config_span(config, key), "\"%s%s\" %s", config->path, key, text.at);
    diag_help(config->ctx, "take config.json as the model's publisher wrote it");
    *config->ok = false;
}

// A value as text for a message.
static const char *shown(const Config *config, const json_t *value) {
    Ctx *ctx = config->ctx;
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "a list";
    case JSON_STRING: return arena_printf(ctx->arena, "\"%s\"", yaml_shown(ctx, json_string_value(value)));
    case JSON_INTEGER: return arena_printf(ctx->arena, "%lld", (long long)json_integer_value(value));
    case JSON_REAL: return arena_printf(ctx->arena, "%g", json_real_value(value));
    case JSON_TRUE: return "true";
    case JSON_FALSE: return "false";
    case JSON_NULL:
    default: return "null";
    }
}

bool config_has(const Config *config, const char *key) { return find(config, key) != NULL; }

bool config_null(const Config *config, const char *key) {
    json_t *value = json_object_get(config->root, key);
    return value && json_is_null(value);
}

const char *config_entry(const Config *config, const char *key, size_t index) {
    const char *text = json_string_value(json_array_get(find(config, key), index));
    return text ? arena_text(config->ctx->arena, text) : NULL;
}

bool config_inside(const Config *config, const char *key, Config *out) {
    json_t *value = find(config, key);
    if (!value) return false;
    if (!json_is_object(value)) {
        config_wrong(config, key, "must be an object, not %s", shown(config, value));
        return false;
    }
    *out = *config;
    out->root = value;
    out->offset = value_offset(config->source->text, config->offset, key);
    out->path = arena_printf(config->ctx->arena, "%s%s.", config->path, key);
    return true;
}

double config_real(const Config *config, const char *key, double otherwise) {
    json_t *value = find(config, key);
    if (!value) return otherwise;
    if (json_is_number(value)) return json_number_value(value);
    config_wrong(config, key, "must be a number, not %s", shown(config, value));
    return otherwise;
}

int config_int(const Config *config, const char *key, int otherwise) {
    json_t *value = find(config, key);
    if (!value) return otherwise;
    double number = json_number_value(value);
    if (json_is_number(value) && number == floor(number) && fabs(number) < 2e9) return (int)number;
    config_wrong(config, key, "must be a whole number, not %s", shown(config, value));
    return otherwise;
}

int config_need(const Config *config, const char *key) {
    if (find(config, key)) return config_int(config, key, 1);
    diag_error(config->ctx, E0121, config_span(config, key), "no \"%s%s\", which this family needs", config->path, key);
    diag_help(config->ctx, "take config.json as the model's publisher wrote it");
    *config->ok = false;
    return 1;
}

bool config_flag(const Config *config, const char *key, bool otherwise) {
    json_t *value = find(config, key);
    if (!value) return otherwise;
    if (json_is_boolean(value)) return json_is_true(value);
    if (json_is_integer(value) && (json_integer_value(value) | 1) == 1) return json_integer_value(value) != 0;
    config_wrong(config, key, "must be true or false, not %s", shown(config, value));
    return otherwise;
}

const char *config_text(const Config *config, const char *key, const char *otherwise) {
    json_t *value = find(config, key);
    if (!value) return otherwise;
    if (json_is_string(value)) return arena_text(config->ctx->arena, json_string_value(value));
    config_wrong(config, key, "must be a text, not %s", shown(config, value));
    return otherwise;
}

int config_list(const Config *config, const char *key, int *out, int room) {
    json_t *list = find(config, key);
    if (!list) return -1;
    if (!json_is_array(list)) {
        config_wrong(config, key, "must be a list, not %s", shown(config, list));
        return 0;
    }
    size_t count = json_array_size(list);
    if (count > (size_t)room) {
        config_wrong(config, key, "has %zu entries; at most %d are supported", count, room);
        return 0;
    }
    for (size_t i = 0; i < count; i++) {
        json_t *item = json_array_get(list, i);
        if (json_is_boolean(item))
            out[i] = json_is_true(item);
        else if (json_is_integer(item) && json_integer_value(item) > -1000000 && json_integer_value(item) < 1000000)
            out[i] = (int)json_integer_value(item);
        else {
            config_wrong(config, key, "must list whole numbers; entry %zu is %s", i, shown(config, item));
            return 0;
        }
    }
    return (int)count;
}

void config_only(const Config *config, const char *key, bool fine, const char *neutral) {
    if (fine) return;
    json_t *value = find(config, key);
    diag_error(config->ctx, E0114, config_span(config, key), "\"%s%s\" is %s, which is not supported yet", config->path,
               key, value ? shown(config, value) : "absent");
    diag_help(config->ctx, "supported is %s", neutral);
    *config->ok = false;
}
