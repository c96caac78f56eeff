#include "emit.h"
#include "geometry.h"
#include "steps.h"
#include "text.h"
#include <string.h>

static void number(Text *t, const char *name, long long value) {
    text_printf(t, "    static constexpr int %s = %lld;\n", name, value);
}
static void flag(Text *t, const char *name, bool value) {
    text_printf(t, "    static constexpr bool %s = %s;\n", name, value ? "true" : "false");
}

// A float that reads back as it is; hexadecimal.
static const char *real(Ctx *ctx, float value) { return arena_printf(ctx->arena, "%af", (double)value); }

// Whether every worker that combines experts' outputs has taken part in the layer's experts before: it knows the
// routing then, whatever it still waits for.
static bool routed_before(const Prog *prog) {
    for (int b = 0; b < prog->body_count; b++) {
        const Body *body = &prog->bodies[b];
        for (int w = 0; w < prog->workers; w++) {
            const Queue *queue = &body->queues[w * ROLE_COUNT + ROLE_COMPUTE];
            bool took_part = false;
            for (int i = 0; i < queue->count; i++) {
                const Entry *entry = &queue->entries[i];
                took_part |= entry->kind == ENTRY_POOL;
                OpId op = entry->kind == ENTRY_TASK ? body->steps[entry->task.step].op : OP_COUNT;
                if ((op == OP_COMBINE || op == OP_EXPERTS_SUM) && !took_part) return false;
            }
        }
    }
    return true;
}

static void emit_model(Ctx *ctx, Text *t, const Compiled *c, const KernelSteps *steps, bool resident) {
    const Model *m = c->model;
    const Prog *prog = c->prog;
    const Experts *e = &m->experts;
    const Attention *target = &m->attention[m->attention[ATTENTION_FULL].heads ? ATTENTION_FULL : ATTENTION_WINDOW];
    const Attention *drafter = m->has_drafter ? &m->drafter.attention : target;
    bool uses[4] = {false};
    // What a warp holds of its inputs: those of the ops with a norm, as far as registers go. Others load them strip by
    // strip where they are more: the less code, the faster it is fetched.
    bool wide = c->sched->activations == DTYPE_F32, direct = false, ragged = false;
    uint32_t run = (uint32_t)geometry_run(c->plan), held = run, stream = 0,
             most = wide ? MOST_HELD_QUARTERS : MOST_HELD_BLOCKS, irregular = 0;
    for (int i = 0; i < steps->count; i++) {
        const EngineStep *s = &steps->at[i];
        if (s->op > RUN_LINEAR_F32) continue;
        uses[s->op] = true;
        direct |= s->direct;
        ragged |= s->k % BLOCK_K != 0;
        irregular |= (uint32_t)!s->regular << s->op;
        if (s->stream) stream = s->warp_runs;
        if ((s->norm_slot != SLOT_COUNT || s->direct) && s->warp_runs * run > held) held = s->warp_runs * run;
    }
    // experts_sum: its strips a task, blocks a strip, experts a page.
    const EngineStep *sum = NULL;
    for (int i = 0; i < steps->count; i++)
        if (steps->at[i].op == RUN_SUM_EXPERTS) sum = &steps->at[i];
    text_printf(t, "struct Model {\n");
    flag(t, "RESIDENT", resident); // the engine; else a node of a graph
    number(t, "HIDDEN", m->hidden);
    number(t, "PADDED", (m->hidden + BLOCK_K - 1) / BLOCK_K * BLOCK_K); // a row of the residual stream
    number(t, "VOCAB", c->plan->shape.vocab);
    number(t, "RANKS", prog->ranks);
    number(t, "SLICE", plan_slice(c->plan)); // of the residual stream, summed by one rank; 0: all ranks sum all
    number(t, "BLOCK", m->has_drafter ? m->drafter.block : 1);
    number(t, "SPLIT", plan_split(c->plan, ATTENTION_FULL));
    flag(t, "PAGED_KEYS", plan_pages_keys(c->plan, ATTENTION_FULL));
    number(t, "EXPERTS", e->count);
    number(t, "TOP_K", e->count ? e->top_k : 1);
    number(t, "KEYS", e->count ? c->plan->shape.keys : 1);
    number(t, "ROUTER_PARTS", e->count ? c->plan->ops[OP_ROUTER].split : 1);
    flag(t, "WIDE", wide);
    number(t, "UNIT", wide ? 1 : 4);
    flag(t, "DIRECT", direct);
    flag(t, "RAGGED", ragged);
    number(t, "IRREGULAR", irregular); // a bit an op of which a step is not regular
    flag(t, "ROUTED", resident && e->count > 0 && routed_before(prog));
    static const char *const weights[DTYPE_COUNT] = {[DTYPE_BF16] = "WeightBf16",
                                                     [DTYPE_FP8] = "WeightFp8",
                                                     [DTYPE_MXFP4] = "WeightMxfp4",
                                                     [DTYPE_F32] = "WeightF32"};
    number(t, "SUM_STRIPS", sum ? sum->chunk_bytes / sum->strip_bytes : 0);
    number(t, "SUM_BLOCKS", sum ? sum->blocks : 0);
    number(t, "SUM_KEYS", sum ? sum->strips_of_chunk : 0);
    text_printf(t, "    using SumWeight = %s;\n", weights[m->experts_dtype]);
    flag(t, "SIGMOID", e->score == SCORE_SIGMOID);
    flag(t, "RENORMALISE", e->renormalise);
    text_printf(t, "    static constexpr float EXPERT_SCALE = %s;\n", real(ctx, (float)e->scale));
    number(t, "TAPS", kernel_place(steps, prog, "taps").offset);
    number(t, "ROUTES", kernel_place(steps, prog, "routes").offset);
    number(t, "CHOICE", kernel_place(steps, prog, "choice").offset);
    number(t, "DRAFTS", kernel_place(steps, prog, "drafts").offset);
    number(t, "PAGES", prog->page_count);
    number(t, "PAGE_BYTES", prog->page_bytes);
    static const char *const names[] = {"USES_BF16", "USES_FP8", "USES_MXFP4", "USES_F32"};
    for (int i = 0; i < 4; i++) flag(t, names[i], uses[i]);
    number(t, "HELD_UNITS", held < most ? held : most);
    number(t, "RUN", run);
    number(t, "STREAM_RUNS", stream); // a warp's runs of a strip that streams; 0: none does
    number(t, "LOAD_REGISTERS", prog->roles[ROLE_LOAD].registers);
    number(t, "COMPUTE_REGISTERS", prog->roles[ROLE_COMPUTE].registers);
    number(t, "CONTROL_REGISTERS", prog->roles[ROLE_CONTROL].registers);
    int heads = c->plan->ops[OP_ATTENTION].tile,
        draft_heads = m->has_drafter ? c->plan->ops[OP_DRAFT_ATTENTION].tile : heads;
    text_printf(t, "    using Target = HeadDims<%d, %d, %d, %d, WIDE>;\n", target->qk_dim, target->v_dim,
                target->rope.rotary, heads);
    text_printf(t, "    using Drafter = HeadDims<%d, %d, %d, %d, WIDE>;\n", drafter->qk_dim, drafter->v_dim,
                drafter->rope.rotary, draft_heads);
    text_printf(t, "    static DEVICE const EngineStep &step(uint32_t i) { return engine_steps[i]; }\n};\n");
}

static void emit_step(Ctx *ctx, Text *t, const EngineStep *s) {
    // In the order of the struct: op to site are whole numbers, then attention's, then floats.
    const uint32_t *words = (const uint32_t *)s;
    size_t reals = offsetof(EngineStep, value_scale) / 4, count = sizeof *s / 4;
    text_printf(t, "    {");
    for (size_t i = 0; i < reals; i++) text_printf(t, "%u, ", words[i]);
    for (size_t i = reals; i < count; i++) {
        float value;
        memcpy(&value, &words[i], sizeof value);
        text_printf(t, "%s%s", real(ctx, value), i + 1 < count ? ", " : "");
    }
    text_printf(t, "}");
}

// A translation unit: steps, model, kernels.
static char *emit_unit(Ctx *ctx, const Compiled *c, const char *headers, bool resident, const char *kernels) {
    const KernelSteps *steps = kernel_steps(ctx, c);
    if (!steps) return NULL;
    Text t = text_new(ctx->arena);
    const Prog *prog = c->prog;
    // Nothing of the SKU that makes no difference: equal texts are one kernel in the cache.
    text_printf(&t, "// %s, %d rank%s of %d workers: written by tilegen.\n%s%s\n", c->model->name, prog->ranks,
                prog->ranks > 1 ? "s" : "", prog->workers,
                c->sched->activations == DTYPE_F32 ? "" : "#define ENGINE_ARRIVALS 1\n", headers);
    text_printf(&t, "__device__ const EngineStep engine_steps[] = {\n");
    for (int b = 0; b < prog->body_count; b++) {
        text_printf(&t, "    // %s\n", prog->bodies[b].name);
        for (int s = 0; s < prog->bodies[b].step_count; s++) {
            emit_step(ctx, &t, &steps->at[steps->first[b] + s]);
            text_printf(&t, ", // %s\n", op_name(prog->bodies[b].steps[s].op));
        }
    }
    text_printf(&t, "};\n\n");
    emit_model(ctx, &t, c, steps, resident);
    text_printf(&t, "%s", kernels);
    return t.at;
}

char *emit_cuda(Ctx *ctx, const Compiled *c) {
    // Of one rank there is nothing to sum; the kernels of sums take NVRTC seconds.
    const char *headers = "#include \"engine.cuh\"\n#include \"bench.cuh\"\n";
    if (c->prog->ranks > 1) headers = arena_printf(ctx->arena, "%s#include \"allreduce.cuh\"\n", headers);
    const char *sums = c->prog->ranks > 1 ? "\nALLREDUCE_KERNELS(ALLREDUCE_KERNEL)\n" : "";
    return emit_unit(ctx, c, headers, true,
                     arena_printf(ctx->arena,
                                  "\nextern \"C\" __global__ void __launch_bounds__(ENGINE_THREADS, 1) " ENGINE_KERNEL
                                  "(const __grid_constant__ EngineParams params) {\n    engine<Model>(params);\n}\n"
                                  "\nextern \"C\" __global__ void __launch_bounds__(FILL_THREADS) " FILL_KERNEL
                                  "(const __grid_constant__ EngineFill fill) {\n    fill_segment(fill);\n}\n"
                                  "\nextern \"C\" __global__ void __launch_bounds__(STREAM_THREADS) " STREAM_KERNEL
                                  "(const __grid_constant__ EngineStream stream) {\n    stream_read(stream);\n}\n%s",
                                  sums));
}

char *emit_graph(Ctx *ctx, const Compiled *c) {
    return emit_unit(ctx, c, "#include \"graph.cuh\"\n", false,
                     "\nextern \"C\" __global__ void __launch_bounds__(ENGINE_THREADS, 1) " GRAPH_KERNEL
                     "(const __grid_constant__ EngineNode node) {\n    graph_node<Model>(node);\n}\n");
}
