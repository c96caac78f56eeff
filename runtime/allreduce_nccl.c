#include "allreduce.h"
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

enum { NCCL_BF16 = 9, NCCL_SUM = 0, HALF = 2 };

typedef struct Nccl {
#define NCCL(name, symbol, parameters) int(*name) parameters;
#include "nccl_api.def"
#undef NCCL
} Nccl;

static const struct {
    const char *symbol;
    size_t at;
} functions[] = {
#define NCCL(name, symbol, parameters) {#symbol, offsetof(Nccl, name)},
#include "nccl_api.def"
#undef NCCL
};

struct NcclArm {
    Nccl nccl;
    PeerGroup *group;
    int version;
    void *comms[PEERS_MOST], *graphs[PEERS_MOST], *events[PEERS_MOST][2];
    CudaAddress buffers[PEERS_MOST]; // inputs, then results
    size_t most;
};

static bool ok(NcclArm *arm, int result, const char *tried) {
    return cuda_ok(arm->group->ctx, arm->group->cuda, result, tried);
}
static bool nccl_ok(NcclArm *arm, int result, const char *tried) {
    if (result == 0) return true;
    diag_error(arm->group->ctx, E0924, NO_SPAN, "%s: NCCL says %d", tried, result);
    diag_help(arm->group->ctx, "NCCL_DEBUG=WARN makes it say more");
    return false;
}

static bool library_open(NcclArm *arm, const char *path) {
    const char *name = path ? path : "libnccl.so.2";
    setenv("NCCL_NVLS_ENABLE", "0", 1); // read when it is opened: NVLink multicast stays off
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; library && i < sizeof functions / sizeof *functions; i++) {
        void *found = dlsym(library, functions[i].symbol);
        if (!found) library = NULL;
        memcpy((char *)&arm->nccl + functions[i].at, &found, sizeof found);
    }
    if (library) return true;
    const char *why = dlerror();
    diag_warning(arm->group->ctx, E0924, NO_SPAN, "nothing to compare with: %s cannot be opened", name);
    if (why) diag_note(arm->group->ctx, NO_SPAN, "%s", why);
    diag_help(arm->group->ctx, "TILERUN_NCCL=FILE says where it is");
    return false;
}

// The sum of all ranks, on all of their streams.
static bool sum_all(NcclArm *arm, size_t bytes) {
    if (!nccl_ok(arm, arm->nccl.group_start(), "beginning a sum")) return false;
    for (int r = 0; r < arm->group->count; r++) {
        CudaAddress from = arm->buffers[r], to = from + arm->most;
        if (!nccl_ok(arm,
                     arm->nccl.all_reduce((const void *)(uintptr_t)from, (void *)(uintptr_t)to, bytes / HALF, NCCL_BF16,
                                          NCCL_SUM, arm->comms[r], arm->group->gpus[r].stream),
                     "summing"))
            return false;
    }
    return nccl_ok(arm, arm->nccl.group_end(), "summing");
}

static bool arm_open(NcclArm *arm) {
    const Cuda *cuda = arm->group->cuda;
    int devices[PEERS_MOST];
    for (int r = 0; r < arm->group->count; r++) devices[r] = arm->group->gpus[r].device.ordinal;
    if (!nccl_ok(arm, arm->nccl.version(&arm->version), "asking for the version") ||
        !nccl_ok(arm, arm->nccl.init_all(arm->comms, arm->group->count, devices), "starting NCCL"))
        return false;
    for (int r = 0; r < arm->group->count; r++)
        if (!peers_use(arm->group, r) ||
            !ok(arm, cuda->memory_new(&arm->buffers[r], 2 * arm->most), "allocating memory for NCCL") ||
            !ok(arm, cuda->fill(arm->buffers[r], 0, 2 * arm->most, arm->group->gpus[r].stream), "clearing memory") ||
            !ok(arm, cuda->event_new(&arm->events[r][0], CUDA_EVENT_TIMED), "making an event") ||
            !ok(arm, cuda->event_new(&arm->events[r][1], CUDA_EVENT_TIMED), "making an event"))
            return false;
    return true;
}

NcclArm *nccl_arm_open(PeerGroup *group, const char *library, size_t most) {
    NcclArm *arm = ARENA_NEW(group->ctx->arena, NcclArm);
    arm->group = group;
    arm->most = most;
    if (!library_open(arm, library)) return NULL;
    ctx_defer(group->ctx, nccl_arm_close, arm);
    if (arm_open(arm)) return arm;
    ctx_done(group->ctx, arm);
    return NULL;
}

int nccl_arm_version(const NcclArm *arm) { return arm->version; }

static void graphs_free(NcclArm *arm) {
    for (int r = 0; r < arm->group->count; r++) {
        if (arm->graphs[r]) arm->group->cuda->graph_free(arm->graphs[r]);
        arm->graphs[r] = NULL;
    }
}

bool nccl_arm_prepare(NcclArm *arm, size_t bytes) {
    PeerGroup *group = arm->group;
    const Cuda *cuda = group->cuda;
    graphs_free(arm);
    // Once outside of a graph: connections are made then.
    if (!sum_all(arm, bytes) || !peers_wait(group, "summing with NCCL")) return false;
    for (int r = 0; r < group->count; r++)
        if (!peers_use(group, r) ||
            !ok(arm, cuda->capture_begin(group->gpus[r].stream, CUDA_CAPTURE_THREAD), "recording a graph of NCCL's"))
            return false;
    bool summed = true;
    for (int i = 0; i < NCCL_CALLS && summed; i++) summed = sum_all(arm, bytes);
    for (int r = 0; r < group->count; r++) {
        void *text = NULL;
        if (!peers_use(group, r) || // also where it failed: the streams are used on
            !ok(arm, cuda->capture_end(group->gpus[r].stream, &text), "recording a graph of NCCL's"))
            return false;
        if (summed && !ok(arm, cuda->graph_make(&arm->graphs[r], text, 0), "making a graph of NCCL's")) summed = false;
        cuda->graph_text_free(text);
    }
    return summed;
}

static bool launch_all(NcclArm *arm) {
    for (int r = 0; r < arm->group->count; r++)
        if (!peers_use(arm->group, r) ||
            !ok(arm, arm->group->cuda->graph_launch(arm->graphs[r], arm->group->gpus[r].stream), "launching NCCL"))
            return false;
    return true;
}
static bool record_all(NcclArm *arm, int which) {
    for (int r = 0; r < arm->group->count; r++)
        if (!peers_use(arm->group, r) ||
            !ok(arm, arm->group->cuda->event_record(arm->events[r][which], arm->group->gpus[r].stream), "timing NCCL"))
            return false;
    return true;
}

// A graph before the one that is timed hides what launching takes.
bool nccl_arm_time(NcclArm *arm, double *us) {
    *us = 0;
    if (!launch_all(arm) || !record_all(arm, 0) || !launch_all(arm) || !record_all(arm, 1) ||
        !peers_wait(arm->group, "timing NCCL"))
        return false;
    for (int r = 0; r < arm->group->count; r++) {
        float ms = 0;
        if (!peers_use(arm->group, r) ||
            !ok(arm, arm->group->cuda->event_time(&ms, arm->events[r][0], arm->events[r][1]), "timing NCCL"))
            return false;
        double each = (double)ms * 1e3 / NCCL_CALLS;
        if (each > *us) *us = each;
    }
    return true;
}

void nccl_arm_close(void *user) {
    NcclArm *arm = user;
    const Cuda *cuda = arm->group->cuda;
    graphs_free(arm);
    for (int r = 0; r < arm->group->count; r++) {
        cuda->context_set(arm->group->gpus[r].context);
        for (int i = 0; i < 2; i++)
            if (arm->events[r][i]) cuda->event_free(arm->events[r][i]);
        if (arm->buffers[r]) cuda->memory_free(arm->buffers[r]);
    }
    for (int r = 0; r < arm->group->count; r++)
        if (arm->comms[r]) arm->nccl.destroy(arm->comms[r]);
}
