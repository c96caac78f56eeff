#include "compile.h"
#include "cubin.h"
#include "emit.h"
#include "file.h"
#include <string.h>

// Takes the Prog of a file: its steps must be those of the one that was lowered.
static bool prog_given(Ctx *ctx, Compiled *c) {
    Source *source = file_read(ctx, c->job.prog, PROG_FILE_CAP);
    Prog *given = source ? prog_parse(ctx, source) : NULL, *own = c->prog;
    if (!given) return false;
    bool same = given->body_count == own->body_count && given->buffer_count == own->buffer_count &&
                given->workers == own->workers && given->ranks == own->ranks && given->bodies[0].queues;
    for (int b = 0; same && b < own->body_count; b++) {
        same = given->bodies[b].step_count == own->bodies[b].step_count;
        for (int s = 0; same && s < own->bodies[b].step_count; s++)
            same = given->bodies[b].steps[s].op == own->bodies[b].steps[s].op;
    }
    if (!same) {
        diag_error(ctx, E0414, file_span(ctx, c->job.prog), "not a placed Prog of this target");
        diag_help(ctx, "`tilegen dump TARGET --after=prog` prints one; change waits, signals, queues and pages alone");
        return false;
    }
    c->prog = given;
    return true;
}

Compiled *compile(Ctx *ctx, const Job *job, Pass last) {
    Compiled *c = ARENA_NEW(ctx->arena, Compiled);
    c->job = *job;
    Source *yaml = file_read(ctx, job->model, MODEL_FILE_CAP);
    Source *lua = yaml ? file_read(ctx, job->schedule, SCHED_FILE_CAP) : NULL;
    if (!lua) return NULL;
    if (!(c->model = model_read(ctx, yaml))) return NULL;
    c->sched = sched_read(ctx, lua, c->model, job->sku, job->tp, job->settings, job->setting_count, false);
    if (!c->sched) return NULL;
    if (last == PASS_SCHED) return c;
    if (!(c->plan = plan_bind(ctx, c->model, c->sched, job->sku, job->tp))) return NULL;
    if (!plan_check(ctx, c->plan)) return NULL;
    if (last == PASS_PLAN) return c;
    if (!(c->prog = plan_lower(ctx, c->plan))) return NULL;
    if (!prog_verify(ctx, c->prog)) return NULL;
    if (last == PASS_LOWER) return c;
    if (job->prog ? !prog_given(ctx, c) : !prog_place(ctx, c->plan, c->prog)) return NULL;
    if (!prog_verify(ctx, c->prog)) return NULL;
    if (job->prove && !prog_prove(ctx, c->prog, job->sku)) return NULL;
    if (last == PASS_PROG) return c;
    if (!(c->cuda = emit_cuda(ctx, c))) return NULL;
    if (job->graph && !(c->graph_cuda = emit_graph(ctx, c))) return NULL;
    if (last == PASS_CUDA) return c;
    if (!(c->cubin = cubin_make(ctx, c, c->cuda, 0))) return NULL;
    if (job->graph && !(c->graph = cubin_make(ctx, c, c->graph_cuda, GRAPH_LOCAL))) return NULL;
    return c;
}

bool job_has_kernel(const Job *job) { return strcmp(job->sku->arch, "host") != 0; }
