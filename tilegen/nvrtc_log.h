// What NVRTC and ptxas say, read: messages become diagnostics at their place in a template, and the verbose lines of
// ptxas (-v) become figures.
#ifndef TILEGEN_NVRTC_LOG_H
#define TILEGEN_NVRTC_LOG_H
#include "diag.h"

typedef struct Resources {
    int functions;                 // for which ptxas gave figures
    int registers;                 // a thread, the most of any kernel
    int shared;                    // bytes of static shared memory, the most of any kernel
    int barriers;                  // named barriers, the most of any kernel
    int stack;                     // bytes of local memory, the most of any function
    int spill_stores, spill_loads; // bytes, summed over functions
} Resources;

// Messages of `log` as diagnostics: errors E0453 (the first ten; the others are counted), dropped requests E0456,
// warnings E0457 (the first ten). `sources` are found by their names without folders. Returns the number of errors.
size_t nvrtc_log_report(Ctx *ctx, const char *log, const Source *const *sources, size_t count);
Resources nvrtc_log_resources(const char *log);
#endif
