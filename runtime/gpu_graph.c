// The graph arm of benches: rounds as kernels of a CUDA graph, with programmatic dependent launch from each to the next
// (templates/graph.cuh). A graph is some rounds; graphs are launched ahead, and the state goes on from round to round
// on the device, as in the engine.
#include "emit.h"
#include "gpu_graph_plan.h"
#include "gpu_parts.h"
#include <string.h>

enum {
    KERNELS = 1024,  // of a graph, about
    MOST_ROUNDS = 8, // of a graph
    ROUNDS_AHEAD = 4,
};

struct GpuGraph {
    GraphPlan *plan;
    const Section *cubin;
    void *module, *function;
    unsigned shared;
    void *made[ROUND_KINDS];
    int rounds[ROUND_KINDS];  // of a graph
    EngineNode node;          // what all launches have in common
    uint32_t launched, begun; // rounds since the arm began, and before the request at hand
};

static bool ok(Gpu *gpu, int result, const char *tried) { return cuda_ok(gpu->ctx, gpu->cuda, result, tried); }

// ---- Opening ----

Exit gpu_graph_plan(Gpu *gpu, const Bundle *bundle) {
    const Section *cubin = bundle_section(bundle, "graph");
    if (!cubin) {
        diag_error(gpu->ctx, E0919, NO_SPAN, "the bundle has no kernel for the graph arm");
        diag_help(gpu->ctx, "build it again with `tilegen build --with-graph`");
        return EXIT_INPUT;
    }
    gpu->graph = ARENA_NEW(gpu->ctx->arena, GpuGraph);
    gpu->graph->cubin = cubin;
    gpu->graph->plan = graph_plan(gpu->ctx, gpu->prog, gpu->tables);
    return EXIT_OK;
}

// Device memory: serving, claims, tables.
static uint64_t claims_bytes(const GraphPlan *plan) { return ((uint64_t)plan->claims * 4 + 255) / 256 * 256; }
uint64_t gpu_graph_bytes(const Gpu *gpu) {
    return gpu->graph ? NODE_SERVING + claims_bytes(gpu->graph->plan) + gpu->graph->plan->bytes : 0;
}

static EngineNode node_of(const Gpu *gpu, const GraphKernel *kernel, int kind, bool first) {
    EngineNode node = gpu->graph->node;
    const EngineInstance *instances =
        (const EngineInstance *)(const void *)((const uint8_t *)gpu->tables + gpu->tables->instance_at);
    node.tables.instances = node.tables.bodies = (uint32_t)kernel->count;
    node.tables.queue_at = kernel->queue_at;
    node.flags = (first ? NODE_FIRST : 0u) | (kernel->caches ? NODE_CACHES : 0u);
    node.skips = graph_skips(kind);
    node.entry = kernel->entry, node.entries = kernel->entries;
    node.step_count = kernel->step_count;
    memcpy(node.step, kernel->step, sizeof node.step);
    for (uint32_t i = 0; i < kernel->pools; i++) {
        uint32_t at = node.tables.pool_at + kernel->pool[i] * (uint32_t)sizeof(EnginePool);
        const EnginePool *pool = (const EnginePool *)(const void *)(gpu->graph->plan->tables + at);
        for (uint32_t k = 0; k < 3; k++)
            node.line[node.line_count++] = at + (k < 2 ? 32 * k : (uint32_t)sizeof(EnginePool) - 4);
        node.line[node.line_count++] = node.tables.entry_at + pool->item * (uint32_t)sizeof(EngineEntry);
    }
    for (int i = 0; i < kernel->count; i++) {
        node.instances[i] = instances[kernel->parts[i].instance];
        node.instances[i].body = (uint16_t)i;
        node.instances[i].layer = (uint16_t)kernel->parts[i].instance;
    }
    return node;
}

static bool node_launch(Gpu *gpu, EngineNode *node, unsigned blocks, bool early) {
    static const CudaLaunchAttribute attribute = {.id = CUDA_LAUNCH_EARLY, .value = 1};
    CudaLaunch launch = {.grid = {blocks, 1, 1},
                         .block = {ENGINE_THREADS, 1, 1},
                         .shared = gpu->graph->shared,
                         .stream = gpu->stream,
                         .attributes = early ? &attribute : NULL,
                         .attribute_count = early};
    void *parameters[] = {node};
    return ok(gpu, gpu->cuda->launch_with(&launch, gpu->graph->function, parameters, NULL),
              "launching a kernel of the graph arm");
}

static bool capture(Gpu *gpu, int kind) {
    const Cuda *cuda = gpu->cuda;
    GpuGraph *g = gpu->graph;
    const GraphPlan *plan = g->plan;
    void *text = NULL;
    int rounds = kind == ROUND_CONTEXT ? 1 : KERNELS / plan->count[kind]; // prompts end at any round
    g->rounds[kind] = rounds < 1 ? 1 : rounds > MOST_ROUNDS ? MOST_ROUNDS : rounds;
    if (!ok(gpu, cuda->capture_begin(gpu->stream, CUDA_CAPTURE_THREAD), "recording a graph")) return false;
    bool sound = true;
    for (int i = 0; sound && i < g->rounds[kind] * plan->count[kind]; i++) {
        int n = i % plan->count[kind];
        EngineNode node = node_of(gpu, &plan->kernels[kind][n], kind, n == 0);
        sound = node_launch(gpu, &node, gpu->tables->workers, i > 0);
    }
    int ended = cuda->capture_end(gpu->stream, &text);
    if (!sound || !ok(gpu, ended, "recording a graph")) return false;
    bool made = ok(gpu, cuda->graph_make(&g->made[kind], text, 0), "making a graph") &&
                ok(gpu, cuda->graph_upload(g->made[kind], gpu->stream), "making a graph");
    cuda->graph_text_free(text);
    return made;
}

bool gpu_graph_open(Gpu *gpu) {
    const Cuda *cuda = gpu->cuda;
    GpuGraph *g = gpu->graph;
    const GraphPlan *plan = g->plan;
    CudaAddress serving = gpu->memory[MEMORY_GRAPH].at, claims = serving + NODE_SERVING,
                tables = claims + claims_bytes(plan);
    int declared = 0;
    g->node = (EngineNode){.params = gpu->params, .tables = *gpu->tables, .serving = serving};
    g->node.params.tables = tables;
    g->node.params.claims = claims;
    g->node.params.trace = g->node.params.trace_room = 0;
    g->node.tables.entry_at = plan->entry_at;
    g->node.tables.pool_at = plan->pool_at;
    if (!ok(gpu, cuda->copy_in(tables, plan->tables, plan->bytes, gpu->stream), "copying to the device") ||
        !ok(gpu, cuda->module_load(&g->module, g->cubin->data, 0, NULL, NULL), "loading the graph arm's kernel") ||
        !ok(gpu, cuda->module_function(&g->function, g->module, GRAPH_KERNEL), "finding the graph arm's kernel") ||
        !ok(gpu, cuda->function_get(&declared, CUDA_FUNCTION_STATIC, g->function), "asking for the kernel's memory"))
        return false;
    g->shared = (unsigned)gpu_shared_beside(gpu, declared);
    if (!ok(gpu, cuda->function_set(g->function, CUDA_FUNCTION_SHARED, (int)g->shared), "giving the kernel its pages"))
        return false;
    for (int kind = 0; kind < ROUND_KINDS; kind++)
        if ((kind == ROUND_PLAIN || gpu->model->has_drafter) && !capture(gpu, kind)) return false;
    gpu->figures.kernels[0] = plan->count[ROUND_PLAIN];
    gpu->figures.kernels[1] = gpu->model->has_drafter ? plan->count[ROUND_DRAFT] : 0;
    gpu->arm = GPU_GRAPH;
    return ok(gpu, cuda->stream_wait(gpu->stream), "making a graph");
}

bool gpu_graph_clear(Gpu *gpu) {
    return ok(
        gpu,
        gpu->cuda->fill(gpu->memory[MEMORY_GRAPH].at, 0, NODE_SERVING + claims_bytes(gpu->graph->plan), gpu->stream),
        "clearing the device's memory");
}

void gpu_graph_close(Gpu *gpu) {
    GpuGraph *g = gpu->graph;
    for (int kind = 0; kind < ROUND_KINDS; kind++)
        if (g->made[kind]) gpu->cuda->graph_free(g->made[kind]), g->made[kind] = NULL;
    if (g->module) gpu->cuda->module_unload(g->module);
    g->module = NULL;
}

// ---- Requests ----

Exit gpu_graph_begin(Gpu *gpu) {
    EngineNode node = gpu->graph->node;
    node.tables.instances = node.tables.bodies = 0;
    node.flags = NODE_TAKE;
    gpu->launched = true;
    gpu->graph->begun = gpu->graph->launched = gpu->read;
    return node_launch(gpu, &node, 1, false) && gpu_graph_feed(gpu) ? EXIT_OK : EXIT_ENVIRONMENT;
}

bool gpu_graph_feed(Gpu *gpu) {
    GpuGraph *g = gpu->graph;
    uint32_t blocks = ((uint32_t)gpu->request.prompt_count + ENGINE_ROWS - 1) / ENGINE_ROWS;
    for (;;) {
        bool prompt = g->launched - g->begun < blocks;
        int kind = !gpu->request.draft ? ROUND_PLAIN : prompt ? ROUND_CONTEXT : ROUND_DRAFT;
        if ((int)(g->launched - gpu->read) >= ROUNDS_AHEAD + g->rounds[kind]) return true;
        if (!ok(gpu, gpu->cuda->graph_launch(g->made[kind], gpu->stream), "launching a graph")) return false;
        g->launched += (uint32_t)g->rounds[kind];
    }
}

// ---- Arms ----

Exit gpu_arm(const Decoder *decoder, GpuArm arm) {
    Gpu *gpu = decoder->self;
    if (!gpu->graph || gpu->dead) {
        diag_error(gpu->ctx, E0919, NO_SPAN,
                   gpu->dead ? "an arm has failed before: open the session again"
                             : "the session was opened without the graph arm");
        return EXIT_INPUT;
    }
    Exit code = gpu_rest(gpu);
    if (code != EXIT_OK) return code;
    gpu->arm = arm;
    return (!gpu->options.made || gpu_fill_caches(gpu)) &&
                   ok(gpu, gpu->cuda->stream_wait(gpu->stream), "clearing the device's memory") &&
                   (arm == GPU_GRAPH || gpu_launch(gpu))
               ? EXIT_OK
               : EXIT_ENVIRONMENT;
}
