// A published config.json: typed look-ups whose errors point at the value (file:line:col). A key that holds null counts
// as absent. Look-ups go on after an error, so that all of them are told; `ok` says whether there was one.
#ifndef TILEGEN_MODEL_CONFIG_H
#define TILEGEN_MODEL_CONFIG_H
#include "diag.h"

typedef struct Config {
    Ctx *ctx;
    const Source *source;
    void *root;       // json_t, an object
    void *owner;      // json_t of the whole file, released by config_close
    size_t offset;    // of the object in the text
    const char *path; // in messages: "rope_scaling."
    bool *ok;         // shared with the objects inside
} Config;

// Reads FOLDER/config.json. False after reporting.
bool config_open(Ctx *ctx, const char *folder, bool *ok, Config *out);
void config_close(Config *config);

bool config_has(const Config *config, const char *key);
// The key is there and holds null.
bool config_null(const Config *config, const char *key);
// The object at `key`; false when there is none. A value of another type is reported.
bool config_inside(const Config *config, const char *key, Config *out);

// The value, or `otherwise` where the key is absent.
double config_real(const Config *config, const char *key, double otherwise);
int config_int(const Config *config, const char *key, int otherwise);
bool config_flag(const Config *config, const char *key, bool otherwise);
const char *config_text(const Config *config, const char *key, const char *otherwise);
// A whole number that has no default.
int config_need(const Config *config, const char *key);
// Entries of a list of whole numbers (true and false count as 1 and 0), at most `room`; -1 where the key is absent.
int config_list(const Config *config, const char *key, int *out, int room);

// Text number `index` of a list of texts; NULL past the end, and where the entry or the key is something else.
const char *config_entry(const Config *config, const char *key, size_t index);

// Where a key's value stands. False when the key is absent.
bool config_find(const Config *config, const char *key, Span *out);
// The same; the object, or the file as a whole, where the key is absent.
Span config_span(const Config *config, const char *key);
// Reports E0114 at the key unless `fine`; `neutral` says what is supported.
void config_only(const Config *config, const char *key, bool fine, const char *neutral);
// Reports E0121 at the key.
__attribute__((format(printf, 3, 4))) void config_wrong(const Config *config, const char *key, const char *format, ...);
#endif
