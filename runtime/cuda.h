// Cuda: NVIDIA's driver, opened when first needed, so that nothing links it. The few functions of cuda_api.def with
// types of our own; values as in the driver's interface, which never change.
#ifndef TILERUN_CUDA_H
#define TILERUN_CUDA_H
#include "diag.h"

typedef uint64_t CudaAddress;

typedef enum CudaResult {
    CUDA_OK = 0,
    CUDA_OUT_OF_MEMORY = 2,
    CUDA_DEVICE_UNAVAILABLE = 46,
    CUDA_NO_DEVICE = 100,
    CUDA_NOT_READY = 600,
    CUDA_PEER_ALREADY = 704,
    CUDA_LAUNCH_FAILED = 719,
    CUDA_DRIVER_MISMATCH = 803,
} CudaResult;

enum {
    CUDA_WORKERS = 16,      // attributes of a device: multiprocessors
    CUDA_COMPUTE_MODE = 20, //
    CUDA_MAJOR = 75,
    CUDA_MINOR = 76,
    CUDA_SHARED_OPTIN = 97,
    CUDA_FUNCTION_STATIC = 1, // of a function: shared memory that it declares
    CUDA_FUNCTION_SHARED = 8, // what it may be given beside that
    CUDA_HOST_PORTABLE = 1,
    CUDA_HOST_MAPPED = 2,
    CUDA_STREAM_APART = 1, // does not wait for the legacy stream
    CUDA_EVENT_TIMED = 0,
    CUDA_EVENT_UNTIMED = 2,
    CUDA_MODE_EXCLUSIVE = 3,
    CUDA_MODE_PROHIBITED = 2,
};

// How a kernel is launched: the driver's CUlaunchConfig and CUlaunchAttribute.
enum {
    CUDA_LAUNCH_EARLY = 6, // programmatic stream serialization: before the kernel before it in the stream has ended
    CUDA_CAPTURE_THREAD = 1,
    CUDA_CAPTURE_RELAXED = 2,
};
typedef struct CudaLaunchAttribute {
    int id, padding;
    union {
        int value;
        char room[64];
    };
} CudaLaunchAttribute;
typedef struct CudaLaunch {
    unsigned grid[3], block[3], shared;
    void *stream;
    const CudaLaunchAttribute *attributes;
    unsigned attribute_count;
} CudaLaunch;

enum { CUDA_VERSION_WANTED = 13000 }; // the driver's, as it tells it: 1000 major + 10 minor

typedef struct Cuda {
#define CUDA(name, symbol, parameters) int(*name) parameters;
#include "cuda_api.def"
#undef CUDA
    int version;
} Cuda;

typedef struct CudaDevice {
    int device, ordinal;
    char name[128];
    int major, minor, workers, shared, mode;
    size_t memory;
} CudaDevice;

// Opens the driver: `library`, or libcuda.so.1 when NULL. NULL after reporting E0907, E0908 or E0909. The library stays
// loaded: the driver has threads of its own.
Cuda *cuda_open(Ctx *ctx, const char *library);
// Device number `ordinal`. False after reporting E0909.
bool cuda_device(Ctx *ctx, const Cuda *cuda, int ordinal, CudaDevice *out);
// True for CUDA_OK; else reports what was tried (E0910, E0911 or E0913) in the driver's words and what to do.
bool cuda_ok(Ctx *ctx, const Cuda *cuda, int result, const char *tried);
// "CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected"
const char *cuda_words(Ctx *ctx, const Cuda *cuda, int result);
// Whether the device is one that a bundle for `sku` runs on: capability 9.0, enough SMs, shared memory of a block, and
// the name that the SKU stands for. False after reporting E0912.
bool cuda_fits(Ctx *ctx, const CudaDevice *device, const char *sku, int workers, int shared);
// The SKU of build.lua that the device is, or NULL.
const char *cuda_sku(const CudaDevice *device);
#endif
