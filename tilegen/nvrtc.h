// NVRTC, the CUDA compiler as a library. It is opened when first needed; nothing links it, and no header of CUDA is
// included. Looked for, the first that opens counts:
//
//   TILEGEN_NVRTC (the file itself, and nothing else)   CUDA_HOME/lib64, CUDA_HOME/lib
//   HOME/build/cuda (what `make cuda` makes)            /usr/local/cuda/lib64, lib       the loader's own path
#ifndef TILEGEN_NVRTC_H
#define TILEGEN_NVRTC_H
#include "diag.h"

typedef struct Nvrtc Nvrtc;

// `home`: the folder with templates/ and perhaps build/cuda. NULL after reporting E0451 or E0452. It stays open until
// the process ends, since the library keeps threads and thread-local data.
Nvrtc *nvrtc_open(Ctx *ctx, const char *home);
const char *nvrtc_version(const Nvrtc *nvrtc); // "13.0"
// Bytes of the library's file, or 0: tells releases of one version apart.
int64_t nvrtc_bytes(const Nvrtc *nvrtc);

typedef struct NvrtcJob {
    const Source *text;           // with its name
    const Source *const *headers; // found by their names without folders
    size_t header_count;
    const char *const *options;
    size_t option_count;
    bool ptx; // PTX instead of a cubin
} NvrtcJob;

typedef struct NvrtcResult {
    bool ok;
    const char *log;  // what NVRTC and ptxas said, also when all is well
    const void *data; // cubin, or PTX text; NULL unless ok
    size_t size;
    double seconds;
} NvrtcResult;

// Compiles. The result depends on the texts, the options and the library alone: every text is given a name of its own
// in the root folder, "/NAME", so that line information does not name the folder that tilegen runs in. False after
// reporting what is no fault of the texts (E0452).
bool nvrtc_compile(Ctx *ctx, const Nvrtc *nvrtc, const NvrtcJob *job, NvrtcResult *out);
#endif
