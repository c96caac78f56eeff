// Reading the device's memory back, for `tilegen diff`.
#include "gpu_parts.h"
#include <string.h>

// Through the pinned memory of logits: a copy to other memory could wait for the kernel, which never ends.
static Exit read_back(Gpu *gpu, CudaAddress from, void *out, size_t bytes) {
    size_t room = (size_t)gpu->prog->rows * (size_t)gpu->model->vocab * sizeof(float);
    gpu->logits_of = gpu->read - 1; // they are read again when they are wanted
    for (size_t at = 0; at < bytes; at += room) {
        size_t part = bytes - at < room ? bytes - at : room;
        if (!cuda_ok(gpu->ctx, gpu->cuda, gpu->cuda->copy_out(gpu->logits, from + at, part, gpu->copies),
                     "reading the device's memory") ||
            !cuda_ok(gpu->ctx, gpu->cuda, gpu->cuda->stream_wait(gpu->copies), "reading the device's memory"))
            return EXIT_ENVIRONMENT;
        memcpy((char *)out + at, gpu->logits, part);
    }
    return EXIT_OK;
}

static Exit is_dead(Gpu *gpu) {
    diag_error(gpu->ctx, E0916, NO_SPAN, "the kernel has ended: its memory cannot be read");
    return EXIT_VERIFY;
}

Exit gpu_read_slab(const Decoder *decoder, void *out, size_t bytes) {
    Gpu *gpu = decoder->self;
    return gpu->dead ? is_dead(gpu) : read_back(gpu, gpu->params.slab, out, bytes);
}

Exit gpu_read_cache(const Decoder *decoder, int layer, void *k, size_t k_bytes, void *v, size_t v_bytes) {
    Gpu *gpu = decoder->self;
    if (gpu->dead) return is_dead(gpu);
    Exit code = read_back(gpu, gpu->layers[layer].k, k, k_bytes);
    return code == EXIT_OK ? read_back(gpu, gpu->layers[layer].v, v, v_bytes) : code;
}

void gpu_cache_shape(const Decoder *decoder, int layer, uint32_t *capacity, uint32_t *mask) {
    const Gpu *gpu = decoder->self;
    *capacity = gpu->layers[layer].capacity;
    *mask = gpu->layers[layer].mask;
}
