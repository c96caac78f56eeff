#include "allreduce.h"
#include "nccl.h"
#include <pthread.h>
#include <stdlib.h>

enum { NCCL_BF16 = 9, NCCL_SUM = 0, HALF = 2, LAUNCHED_BEFORE = 20 };

struct NcclArm {
    const Nccl *nccl;
    PeerGroup *group;
    NcclHow how;
    const char *why; // what failed first, or NULL
    void *comms[PEERS_MOST], *graphs[PEERS_MOST], *events[PEERS_MOST][2];
    CudaAddress buffers[PEERS_MOST]; // inputs, then results
    size_t most, bytes;              // of all sizes, and of the one at hand
};

static bool ok(NcclArm *arm, int result, const char *tried) {
    Ctx *ctx = arm->group->ctx;
    if (result != CUDA_OK && !arm->why)
        arm->why = arena_printf(ctx->arena, "%s: %s", tried, cuda_words(ctx, arm->group->cuda, result));
    return result == CUDA_OK;
}
static bool nccl_ok(NcclArm *arm, int result, const char *tried) {
    if (result != 0 && !arm->why)
        arm->why = arena_printf(arm->group->ctx->arena, "%s: NCCL says %s (%d)", tried, arm->nccl->error_string(result),
                                result);
    return result == 0;
}
static bool use(NcclArm *arm, int rank) {
    return ok(arm, arm->group->cuda->context_set(arm->group->gpus[rank].context), "turning to a GPU");
}
static bool wait_all(NcclArm *arm, const char *tried) {
    for (int r = 0; r < arm->group->count; r++)
        if (!use(arm, r) || !ok(arm, arm->group->cuda->stream_wait(arm->group->gpus[r].stream), tried)) return false;
    return true;
}
// What comes of what failed.
static void go_on(NcclArm *arm, NcclHow how) {
    Ctx *ctx = arm->group->ctx;
    diag_warning(ctx, E0929, NO_SPAN, "%s (%s)",
                 how == NCCL_NOT ? "ncclAllReduce is not timed" : "ncclAllReduce is timed without a graph", arm->why);
    arm->how = how;
    arm->why = NULL;
}

// The sum of all ranks, on all of their streams.
static bool sum_all(NcclArm *arm) {
    if (!nccl_ok(arm, arm->nccl->group_start(), "beginning a sum")) return false;
    bool summed = true;
    for (int r = 0; r < arm->group->count && summed; r++) {
        CudaAddress from = arm->buffers[r], to = from + arm->most;
        summed = nccl_ok(arm,
                         arm->nccl->all_reduce((const void *)(uintptr_t)from, (void *)(uintptr_t)to, arm->bytes / HALF,
                                               NCCL_BF16, NCCL_SUM, arm->comms[r], arm->group->gpus[r].stream),
                         "summing");
    }
    return nccl_ok(arm, arm->nccl->group_end(), "summing") && summed;
}
static bool sum_often(NcclArm *arm, int times) {
    for (int i = 0; i < times; i++)
        if (!sum_all(arm)) return false;
    return true;
}

static bool arm_open(NcclArm *arm) {
    const Cuda *cuda = arm->group->cuda;
    int devices[PEERS_MOST];
    for (int r = 0; r < arm->group->count; r++) devices[r] = arm->group->gpus[r].device.ordinal;
    if (!nccl_ok(arm, arm->nccl->comms_new(arm->comms, arm->group->count, devices), "starting NCCL")) return false;
    for (int r = 0; r < arm->group->count; r++)
        if (!use(arm, r) || !ok(arm, cuda->memory_new(&arm->buffers[r], 2 * arm->most), "allocating memory") ||
            !ok(arm, cuda->fill(arm->buffers[r], 0, 2 * arm->most, arm->group->gpus[r].stream), "clearing memory") ||
            !ok(arm, cuda->event_new(&arm->events[r][0], CUDA_EVENT_TIMED), "making an event") ||
            !ok(arm, cuda->event_new(&arm->events[r][1], CUDA_EVENT_TIMED), "making an event"))
            return false;
    return true;
}

NcclArm *nccl_arm_open(PeerGroup *group, const char *library, size_t most) {
    // Sums in a graph and others are never under way at once. Where NCCL allows for that, launches from one process for
    // several ranks have been seen to hang, says its documentation.
    setenv("NCCL_GRAPH_MIXING_SUPPORT", "0", 0);
    NcclArm *arm = ARENA_NEW(group->ctx->arena, NcclArm);
    arm->group = group;
    arm->most = most;
    if (!(arm->nccl = nccl_open(group->ctx, library, false))) return NULL;
    ctx_defer(group->ctx, nccl_arm_close, arm);
    if (arm_open(arm)) return arm;
    go_on(arm, NCCL_NOT);
    ctx_done(group->ctx, arm);
    return NULL;
}

int nccl_arm_version(const NcclArm *arm) { return arm->nccl->is; }
NcclHow nccl_arm_how(const NcclArm *arm) { return arm->how; }

static void graphs_free(NcclArm *arm) {
    for (int r = 0; r < arm->group->count; r++) {
        if (arm->graphs[r]) arm->group->cuda->graph_free(arm->graphs[r]);
        arm->graphs[r] = NULL;
    }
}

// Relaxed, so that the calls that NCCL makes beside are none of the graph's business. Nothing is made of a text before
// all streams have theirs: while one still records, making a graph is refused, and spoils its text.
static bool graphs_make(NcclArm *arm) {
    const PeerGroup *group = arm->group;
    const Cuda *cuda = group->cuda;
    void *texts[PEERS_MOST] = {NULL};
    int begun = 0;
    bool made = true;
    while (begun < group->count && made) {
        made = use(arm, begun) &&
               ok(arm, cuda->capture_begin(group->gpus[begun].stream, CUDA_CAPTURE_RELAXED), "recording a graph");
        if (made) begun++;
    }
    made = made && sum_often(arm, NCCL_CALLS);
    for (int r = 0; r < begun; r++) // also where it failed: the streams are used on
        made = use(arm, r) && ok(arm, cuda->capture_end(group->gpus[r].stream, &texts[r]), "recording a graph") && made;
    for (int r = 0; r < begun; r++) {
        made = made && use(arm, r) && ok(arm, cuda->graph_make(&arm->graphs[r], texts[r], 0), "making a graph") &&
               ok(arm, cuda->graph_upload(arm->graphs[r], group->gpus[r].stream), "making a graph");
        if (texts[r]) cuda->graph_text_free(texts[r]);
    }
    return made && wait_all(arm, "making a graph");
}

void nccl_arm_prepare(NcclArm *arm, size_t bytes) {
    arm->bytes = bytes;
    graphs_free(arm);
    if (arm->how == NCCL_NOT) return;
    // Once outside of a graph: connections are made then.
    if (!sum_all(arm) || !wait_all(arm, "summing"))
        go_on(arm, NCCL_NOT);
    else if (arm->how == NCCL_GRAPHED && !graphs_make(arm))
        go_on(arm, NCCL_LAUNCHED);
}

// ---- Times ----

typedef struct Launch {
    const Cuda *cuda;
    void *context, *stream, *graph, **events;
    int result;
} Launch;

// Twice: the first hides what launching the second takes.
static void *launch_rank(void *user) {
    Launch *l = user;
    l->result = l->cuda->context_set(l->context);
    for (int i = 0; i < 2 && l->result == CUDA_OK; i++) {
        l->result = l->cuda->graph_launch(l->graph, l->stream);
        if (l->result == CUDA_OK) l->result = l->cuda->event_record(l->events[i], l->stream);
    }
    return NULL;
}

// A rank a thread, since a launch may block until the other ranks' sums have begun.
static bool launch_graphs(NcclArm *arm) {
    Launch launches[PEERS_MOST];
    pthread_t threads[PEERS_MOST];
    bool apart[PEERS_MOST], launched = true;
    for (int r = 0; r < arm->group->count; r++) {
        const PeerGpu *gpu = &arm->group->gpus[r];
        launches[r] = (Launch){arm->group->cuda, gpu->context, gpu->stream, arm->graphs[r], arm->events[r], CUDA_OK};
        apart[r] = pthread_create(&threads[r], NULL, launch_rank, &launches[r]) == 0;
        if (!apart[r]) launch_rank(&launches[r]);
    }
    for (int r = 0; r < arm->group->count; r++) {
        if (apart[r]) pthread_join(threads[r], NULL);
        launched = ok(arm, launches[r].result, "launching a graph") && launched;
    }
    return launched;
}

static bool record_all(NcclArm *arm, int which) {
    for (int r = 0; r < arm->group->count; r++)
        if (!use(arm, r) ||
            !ok(arm, arm->group->cuda->event_record(arm->events[r][which], arm->group->gpus[r].stream), "timing"))
            return false;
    return true;
}

static bool time_all(NcclArm *arm, double *us) {
    if (arm->how == NCCL_GRAPHED ? !launch_graphs(arm)
                                 : !sum_often(arm, LAUNCHED_BEFORE) || !record_all(arm, 0) ||
                                       !sum_often(arm, NCCL_CALLS) || !record_all(arm, 1))
        return false;
    if (!wait_all(arm, "timing")) return false;
    for (int r = 0; r < arm->group->count; r++) {
        float ms = 0;
        if (!use(arm, r) || !ok(arm, arm->group->cuda->event_time(&ms, arm->events[r][0], arm->events[r][1]), "timing"))
            return false;
        double each = (double)ms * 1e3 / NCCL_CALLS;
        if (each > *us) *us = each;
    }
    return true;
}

double nccl_arm_time(NcclArm *arm) {
    double us = 0;
    if (arm->how != NCCL_NOT && !time_all(arm, &us)) go_on(arm, NCCL_NOT);
    return us;
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
        if (arm->comms[r]) (arm->how == NCCL_NOT ? arm->nccl->comm_abort : arm->nccl->comm_free)(arm->comms[r]);
}
