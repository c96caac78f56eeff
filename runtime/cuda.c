#include "cuda.h"
#include <dlfcn.h>
#include <string.h>

static const struct {
    const char *symbol;
    size_t at;
} functions[] = {
#define CUDA(name, symbol, parameters) {#symbol, offsetof(Cuda, name)},
#include "cuda_api.def"
#undef CUDA
};
enum { FUNCTIONS = sizeof functions / sizeof *functions };

const char *cuda_words(Ctx *ctx, const Cuda *cuda, int result) {
    const char *name = NULL, *text = NULL;
    if (cuda->error_name(result, &name) != CUDA_OK || !name) name = "an unknown error";
    if (cuda->error_string(result, &text) != CUDA_OK || !text) text = "no words for it";
    return arena_printf(ctx->arena, "%s (%d): %s", name, result, text);
}

bool cuda_ok(Ctx *ctx, const Cuda *cuda, int result, const char *tried) {
    if (result == CUDA_OK) return true;
    const char *words = cuda_words(ctx, cuda, result);
    switch (result) {
    case CUDA_OUT_OF_MEMORY:
        diag_error(ctx, E0911, NO_SPAN, "%s: %s", tried, words);
        diag_help(ctx, "`nvidia-smi` shows who else uses the device's memory");
        break;
    case CUDA_DEVICE_UNAVAILABLE:
        diag_error(ctx, E0910, NO_SPAN, "%s: %s", tried, words);
        diag_help(ctx, "`nvidia-smi` shows who has the device; wait for it, or take another one with --device N");
        break;
    case CUDA_NO_DEVICE:
        diag_error(ctx, E0909, NO_SPAN, "%s: %s", tried, words);
        diag_help(ctx, "the driver sees no GPU (CUDA_VISIBLE_DEVICES hides some); --host runs the bundle on the CPU");
        break;
    case CUDA_DRIVER_MISMATCH:
        diag_error(ctx, E0908, NO_SPAN, "%s: %s", tried, words);
        diag_help(ctx, "the driver was updated under a running system: restart, or load its kernel module again");
        break;
    default:
        diag_error(ctx, E0913, NO_SPAN, "%s: %s", tried, words);
        diag_help(ctx, "the system's log (`dmesg`, lines with Xid) may say more; --host runs the bundle on the CPU");
    }
    return false;
}

Cuda *cuda_open(Ctx *ctx, const char *path) {
    const char *name = path ? path : "libcuda.so.1";
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *why = dlerror();
        diag_error(ctx, E0907, NO_SPAN, "no NVIDIA driver: %s not found", name);
        diag_note(ctx, NO_SPAN, "%s", why ? why : "the loader does not say why");
        diag_help(ctx, "install NVIDIA's driver 580 or newer; --host runs the bundle on the CPU");
        return NULL;
    }
    Cuda *cuda = ARENA_NEW(ctx->arena, Cuda);
    // A driver that lacks a function is old, but its number says so more clearly.
    void *version = dlsym(library, "cuDriverGetVersion");
    if (version) {
        memcpy(&cuda->driver_version, &version, sizeof version);
        cuda->driver_version(&cuda->version);
    }
    if (cuda->version < CUDA_VERSION_WANTED) {
        diag_error(ctx, E0908, NO_SPAN, "the driver supports CUDA %d.%d; 13.0 is needed", cuda->version / 1000,
                   cuda->version % 1000 / 10);
        diag_help(ctx, "install NVIDIA's driver 580 or newer; --host runs the bundle on the CPU");
        return NULL;
    }
    for (int i = 0; i < FUNCTIONS; i++) {
        void *found = dlsym(library, functions[i].symbol);
        if (!found) {
            diag_error(ctx, E0908, NO_SPAN, "%s has no function %s", name, functions[i].symbol);
            diag_help(ctx, "install NVIDIA's driver 580 or newer; --host runs the bundle on the CPU");
            return NULL;
        }
        memcpy((char *)cuda + functions[i].at, &found, sizeof found);
    }
    return cuda_ok(ctx, cuda, cuda->init(0), "starting the NVIDIA driver") ? cuda : NULL;
}

bool cuda_device(Ctx *ctx, const Cuda *cuda, int ordinal, CudaDevice *out) {
    int count = 0;
    *out = (CudaDevice){.ordinal = ordinal};
    if (!cuda_ok(ctx, cuda, cuda->device_count(&count), "counting the GPUs")) return false;
    if (ordinal >= count) {
        diag_error(ctx, E0909, NO_SPAN, "there is no device %d: the driver sees %d", ordinal, count);
        diag_help(ctx, count ? "devices count from 0; --device N chooses one"
                             : "CUDA_VISIBLE_DEVICES hides some; --host runs the bundle on the CPU");
        return false;
    }
    const struct {
        int attribute, *value;
    } wanted[] = {{CUDA_MAJOR, &out->major},
                  {CUDA_MINOR, &out->minor},
                  {CUDA_WORKERS, &out->workers},
                  {CUDA_SHARED_OPTIN, &out->shared},
                  {CUDA_COMPUTE_MODE, &out->mode}};
    int result = cuda->device_get(&out->device, ordinal);
    if (result == CUDA_OK) result = cuda->device_name(out->name, sizeof out->name - 1, out->device);
    if (result == CUDA_OK) result = cuda->device_memory(&out->memory, out->device);
    for (int i = 0; i < 5 && result == CUDA_OK; i++)
        result = cuda->device_attribute(wanted[i].value, wanted[i].attribute, out->device);
    return cuda_ok(ctx, cuda, result, "asking the GPU what it is");
}

// The SKUs of build.lua by the names that devices have. `without`: what the name must not hold as well.
static const struct {
    const char *sku, *name, *and, *without;
} skus[] = {{"gh200", "GH200", "", NULL},
            {"h200", "H200", "", "GH200"},
            {"h100-pcie", "H100", "PCIe", NULL},
            {"h100-sxm", "H100", "HBM3", "PCIe"},
            {"h20", "H20", "", "H200"}};
enum { SKUS = sizeof skus / sizeof *skus };

static bool is_sku(const CudaDevice *device, int i) {
    return strstr(device->name, skus[i].name) && strstr(device->name, skus[i].and) &&
           !(skus[i].without && strstr(device->name, skus[i].without));
}

const char *cuda_sku(const CudaDevice *device) {
    for (int i = 0; i < SKUS; i++)
        if (is_sku(device, i)) return skus[i].sku;
    return NULL;
}

bool cuda_fits(Ctx *ctx, const CudaDevice *device, const char *sku, int workers, int shared) {
    const char *why = NULL, *is = cuda_sku(device);
    bool known = false, named = false;
    for (int i = 0; i < SKUS; i++) {
        if (strcmp(skus[i].sku, sku) != 0) continue;
        known = true;
        named = is_sku(device, i);
    }
    if (device->major != 9 || device->minor != 0)
        why =
            arena_printf(ctx->arena, "its compute capability is %d.%d, the kernel's 9.0", device->major, device->minor);
    else if (known && !named)
        why = is ? arena_printf(ctx->arena, "it is an %s", is) : "its name is none of that SKU's";
    else if (device->workers < workers)
        why = arena_printf(ctx->arena, "it has %d SMs, the kernel runs on %d", device->workers, workers);
    else if (device->shared < shared)
        why = arena_printf(ctx->arena, "a block may use %d bytes of shared memory, the kernel's use %d", device->shared,
                           shared);
    if (!why) return true;
    diag_error(ctx, E0912, NO_SPAN, "the bundle is for %s; device %d is an %s: %s", sku, device->ordinal, device->name,
               why);
    if (is && strcmp(is, sku) != 0)
        diag_help(ctx, "build it with --sku %s, or choose another device with --device N", is);
    else
        diag_help(ctx, "choose another device with --device N, or run the bundle on the CPU with --host");
    return false;
}
