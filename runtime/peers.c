#include "peers.h"

static bool ok(PeerGroup *group, int result, const char *tried) {
    return cuda_ok(group->ctx, group->cuda, result, tried);
}

bool peers_use(PeerGroup *group, int rank) {
    return ok(group, group->cuda->context_set(group->gpus[rank].context), "turning to a GPU");
}

bool peers_wait(PeerGroup *group, const char *tried) {
    for (int r = 0; r < group->count; r++)
        if (!peers_use(group, r) || !ok(group, group->cuda->stream_wait(group->gpus[r].stream), tried)) return false;
    return true;
}

static bool gpu_open_for_peers(PeerGroup *group, int rank, int ordinal, size_t bytes) {
    PeerGpu *gpu = &group->gpus[rank];
    void *context;
    if (!cuda_device(group->ctx, group->cuda, ordinal, &gpu->device) ||
        !ok(group, group->cuda->context_retain(&context, gpu->device.device), "opening the device"))
        return false;
    gpu->context = context;
    return peers_use(group, rank) &&
           ok(group, group->cuda->stream_new(&gpu->stream, CUDA_STREAM_APART, 0), "making a stream") &&
           ok(group, group->cuda->memory_new(&gpu->peers.windows[rank], bytes), "allocating a window");
}

// The other's memory, by its own address.
static bool reach(PeerGroup *group, int from, int to) {
    PeerGpu *a = &group->gpus[from], *b = &group->gpus[to];
    int can = 0;
    if (!ok(group, group->cuda->peer_can(&can, a->device.device, b->device.device), "asking for links between GPUs"))
        return false;
    if (!can) {
        diag_error(group->ctx, E0926, NO_SPAN, "device %d (%s) cannot reach the memory of device %d", a->device.ordinal,
                   a->device.name, b->device.ordinal);
        diag_help(group->ctx, "`nvidia-smi topo -p2p w` shows which can; --device N begins with another one");
        return false;
    }
    int result = group->cuda->peer_enable(b->context, 0);
    if (result != CUDA_PEER_ALREADY && !ok(group, result, "opening a link between GPUs")) return false;
    a->peers.windows[to] = b->peers.windows[to];
    return true;
}

bool peers_open(PeerGroup *group, Ctx *ctx, const Cuda *cuda, int first, int count, size_t bytes) {
    *group = (PeerGroup){.ctx = ctx, .cuda = cuda, .count = count};
    for (int r = 0; r < count; r++) {
        group->gpus[r].peers.rank = r;
        group->gpus[r].peers.ranks = count;
        if (!gpu_open_for_peers(group, r, first + r, bytes)) return false;
    }
    for (int r = 0; r < count; r++) {
        if (!peers_use(group, r)) return false;
        for (int other = 0; other < count; other++)
            if (other != r && !reach(group, r, other)) return false;
    }
    return true;
}

void peers_close(void *user) {
    PeerGroup *group = user;
    const Cuda *cuda = group->cuda;
    for (int r = 0; r < group->count; r++) {
        PeerGpu *gpu = &group->gpus[r];
        if (!gpu->context) continue;
        cuda->context_set(gpu->context);
        if (gpu->stream) cuda->stream_wait(gpu->stream), cuda->stream_free(gpu->stream);
        if (gpu->peers.windows[r]) cuda->memory_free(gpu->peers.windows[r]);
    }
    cuda->context_set(NULL);
    for (int r = 0; r < group->count; r++)
        if (group->gpus[r].context) cuda->context_release(group->gpus[r].device.device);
    group->count = 0;
}
