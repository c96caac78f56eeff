// Whole files in and out.
#ifndef TILEGEN_FILE_H
#define TILEGEN_FILE_H
#include "diag.h"

// Reads a regular file of at most `cap` bytes into the arena as a Source; "-" reads standard input.
// NULL after reporting E0002 or E0003.
Source *file_read(Ctx *ctx, const char *path, size_t cap);

// Writes `length` bytes to `path` by a staged file beside it and a rename. False after reporting E0004;
// what stood at `path` before is then untouched and no staged file is left.
bool file_write(Ctx *ctx, const char *path, const void *data, size_t length);

// Makes a folder and its parents. False after reporting E0004.
bool file_mkdirs(Ctx *ctx, const char *path);
// The same without a report: the reason why not, or NULL when done.
const char *file_try_write(Ctx *ctx, const char *path, const void *data, size_t length);
const char *file_try_mkdirs(Ctx *ctx, const char *path);
bool file_exists(const char *path);
bool file_is_folder(const char *path);
// "a/b" from "a" and "b"; an absolute `name` stands alone.
char *file_join(Ctx *ctx, const char *folder, const char *name);
#endif
