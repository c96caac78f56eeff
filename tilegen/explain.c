#include "cli.h"
#include "cubin.h"
#include "emit.h"
#include "traffic.h"
#include <string.h>

void explain_target(Ctx *ctx, const Compiled *c) {
    (void)ctx;
    static const char *const origins[] = {"default", "arch", "sku", "tuning record", "-D"};
    const Sku *sku = c->job.sku;
    const Prog *prog = c->prog;
    printf("%s: %s on %s (%s), %d rank%s of %d workers\n", c->job.name ? c->job.name : c->model->name, c->model->name,
           sku->name, sku->arch, prog->ranks, prog->ranks > 1 ? "s" : "", prog->workers);
    if (c->sched->tunable_count) printf("\ntunables\n");
    for (size_t i = 0; i < c->sched->tunable_count; i++)
        printf("  %-20s %8lld   %s\n", c->sched->tunables[i].name, (long long)c->sched->tunables[i].value,
               origins[c->sched->tunables[i].origin]);
    printf("\nbudgets\n");
    if (prog->page_count)
        printf("  shared memory        %8d of %d bytes: %d pages of %d\n", prog->page_count * prog->page_bytes,
               sku->shared_memory, prog->page_count, prog->page_bytes);
    for (int role = 0; role < ROLE_COUNT; role++)
        if (prog->roles[role].used)
            printf("  role %-15s %8d warps, %d registers a thread\n", role_name((Role)role), prog->roles[role].warps,
                   prog->roles[role].registers);
    int groups = 0;
    for (int i = 0; i < prog->counter_count; i++) groups += prog->counters[i].groups;
    printf("  counters             %8d, %d groups in all\n", prog->counter_count, groups);
    printf("  bodies               %8d, %d instances a round\n", prog->body_count, prog_instances(prog));
    double experts = c->model->experts.count ? traffic_experts(c->model, prog->rows) : 0, total = 0;
    Traffic traffic = traffic_of(c->model, prog, experts, 0);
    printf("\nweights read in a round of %d rows by one rank", prog->rows);
    if (c->model->experts.count) printf(" (routing independent and uniform: %.1f experts a layer)", experts);
    bool timed = sku->bandwidth > 0;
    printf("\n  %-16s %6s %8s %6s %14s %8s%s\n", "op", "times", "tile", "tiles", "bytes", "share",
           timed ? "   floor us" : "");
    for (int op = 0; op < OP_COUNT; op++) total += traffic_op(&traffic, (OpId)op).weights;
    for (int op = 0; op < OP_COUNT; op++) {
        OpTraffic of = traffic_op(&traffic, (OpId)op);
        if (of.times == 0) continue;
        LayerAttention kind = c->plan->shape.heads[ATTENTION_FULL] ? ATTENTION_FULL : ATTENTION_WINDOW;
        printf("  %-16s %6d %8d %6d %14.0f %7.1f%%", op_name((OpId)op), of.times, plan_tile(c->plan, (OpId)op, kind),
               plan_outputs(c->plan, (OpId)op, kind) / plan_tile(c->plan, (OpId)op, kind), of.weights,
               total > 0 ? 100 * of.weights / total : 0);
        if (timed) printf(" %10.2f", of.weights / sku->bandwidth * 1e6);
        printf("\n");
    }
    printf("  %-16s %6s %8s %6s %14.0f %7.1f%%", "round", "", "", "", total, 100.0);
    if (timed) printf(" %10.2f", total / sku->bandwidth * 1e6);
    printf("\n");
}

static void explain_cubin(const Compiled *c, const Cubin *cubin, const char *title) {
    const Resources *r = &cubin->resources;
    int dynamic = cubin_dynamic_shared(c);
    printf("\n%s\n", title);
    printf("  registers            %8d a thread, %d threads: %d of %d\n", r->registers, KERNEL_THREADS,
           (r->registers + 7) / 8 * 8 * KERNEL_THREADS, c->job.sku->registers);
    printf("  spills               %8d bytes stored, %d loaded; %d bytes of stack\n", r->spill_stores, r->spill_loads,
           r->stack);
    printf("  shared memory        %8d of %d bytes: %d static, %d pages, %d beside them\n", r->shared + dynamic,
           c->job.sku->shared_memory, r->shared, c->prog->page_count * c->prog->page_bytes,
           dynamic - c->prog->page_count * c->prog->page_bytes);
    printf("  cubin                %8zu bytes, NVRTC %s", cubin->size, cubin->nvrtc);
    if (cubin->seconds > 0)
        printf(", compiled in %.2f s\n", cubin->seconds);
    else
        printf(", from the cache\n");
}

Exit explain_kernel(Ctx *ctx, Compiled *c) {
    size_t errors = diag_errors(ctx);
    if (!c->cuda && !(c->cuda = emit_cuda(ctx, c))) return EXIT_INPUT;
    if (!(c->cubin = cubin_make(ctx, c, c->cuda, 0))) {
        DiagCode code = diag_code_at(ctx, errors);
        if (code != E0451 && code != E0452) return cli_failed(ctx);
        diag_forget(ctx, errors);
        printf("\nkernel\n  not compiled: no CUDA compiler here (tilegen explain %s)\n", diag_code_name(code));
        return EXIT_OK;
    }
    explain_cubin(c, c->cubin, "kernel");
    if (!c->job.graph) return EXIT_OK;
    if (!(c->graph_cuda = emit_graph(ctx, c)) || !(c->graph = cubin_make(ctx, c, c->graph_cuda, GRAPH_LOCAL)))
        return cli_failed(ctx);
    explain_cubin(c, c->graph, "kernel of the graph arm");
    return EXIT_OK;
}
