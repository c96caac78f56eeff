// The report of a diff, for readers and for programs.
#include "diff.h"
#include "text.h"
#include <math.h>
#include <string.h>

typedef struct Where {
    const char *round, *body, *op;
    int layer;
} Where;

static Where where_of(const Prog *prog, bool prompt, int instance, int step) {
    Where w = {.round = prompt ? "prompt" : "decoding"};
    const Body *body = &prog->bodies[prog_instance(prog, instance, &w.layer)->body];
    w.body = body->name;
    w.op = op_name(body->steps[step].op);
    return w;
}

// JSON has no NaN and no infinity.
static const char *real(Ctx *ctx, double value) {
    return isfinite(value) ? arena_printf(ctx->arena, "%.9g", value)
                           : arena_printf(ctx->arena, "\"%s\"",
                                          isnan(value) ? "nan"
                                          : value > 0  ? "inf"
                                                       : "-inf");
}

static void json_text(Text *t, const char *name, const char *value) {
    text_printf(t, "\"%s\": \"", name);
    text_json(t, value, strlen(value));
    text_printf(t, "\"");
}

static void json_where(Text *t, const Where *w, int instance, int step) {
    text_printf(t, "\"round\": \"%s\", \"instance\": %d, \"body\": \"%s\", \"layer\": %d, \"step\": %d, \"op\": \"%s\"",
                w->round, instance, w->body, w->layer, step, w->op);
}

static void json_digest(Ctx *ctx, Text *t, const char *name, const DiffDigest *d) {
    text_printf(t, "\"%s\": {\"rms\": %s, \"min\": %s, \"max\": %s}", name, real(ctx, d->rms), real(ctx, d->min),
                real(ctx, d->max));
}

static void json_fault(Ctx *ctx, Text *t, const Prog *prog, const DiffFault *f) {
    Where w = where_of(prog, f->prompt, f->instance, f->step);
    text_printf(t, "{");
    json_where(t, &w, f->instance, f->step);
    text_printf(
        t, ", \"lo\": %d, \"hi\": %d, \"part\": %d, \"key\": %d, \"worker\": %d, \"differing\": %d, \"tasks\": %d, ",
        f->lo, f->hi, f->part, f->key, f->worker, f->differing, f->tasks);
    json_text(t, "worst", f->place);
    text_printf(t, ", \"gpu\": %s, \"host\": %s, \"tolerance\": %s, \"error\": %s, \"inputs\": [", real(ctx, f->device),
                real(ctx, f->host), real(ctx, f->tolerance), real(ctx, f->error));
    for (int i = 0; i < f->input_count; i++) {
        const DiffInput *in = &f->inputs[i];
        text_printf(t, "%s{", i ? ", " : "");
        json_text(t, "region", in->text);
        text_printf(t, ", ");
        json_digest(ctx, t, "gpu", &in->device);
        text_printf(t, ", ");
        json_digest(ctx, t, "host", &in->host);
        text_printf(t, ", \"agree\": %s}", in->device.hash == in->host.hash ? "true" : "false");
    }
    text_printf(t, "]}");
}

static void print_json(Ctx *ctx, Text *t, const Prog *prog, const DiffReport *r) {
    text_printf(t, "{\"agree\": %s, \"steps\": [", r->fault ? "false" : "true");
    for (int i = 0; i < r->step_count; i++) {
        const DiffStep *s = &r->steps[i];
        Where w = where_of(prog, s->prompt, s->instance, s->step);
        text_printf(t, "%s\n  {", i ? "," : "");
        json_where(t, &w, s->instance, s->step);
        text_printf(t, ", \"tasks\": %d, \"error\": %s, \"worst\": %s}", s->tasks, real(ctx, s->error),
                    real(ctx, s->worst));
    }
    text_printf(t, "],\n \"near_ties\": %d, \"first_near_ties\": [", r->tie_count);
    for (int i = 0; i < r->tie_count && i < DIFF_TIES; i++) {
        text_printf(t, "%s\"", i ? ", " : "");
        text_json(t, r->ties[i], strlen(r->ties[i]));
        text_printf(t, "\"");
    }
    text_printf(t, "],\n \"difference\": ");
    if (r->fault)
        json_fault(ctx, t, prog, r->fault);
    else
        text_printf(t, "null");
    text_printf(t, "}\n");
}

static void print_fault(Text *t, const Prog *prog, const DiffFault *f) {
    Where w = where_of(prog, f->prompt, f->instance, f->step);
    text_printf(t, "\ndiffers: %s of body %s, layer %d, in the %s round; instance %d, step %d\n", w.op, w.body, w.layer,
                w.round, f->instance, f->step);
    text_printf(t, "  task [%d, %d)", f->lo, f->hi);
    if (f->part) text_printf(t, ", part %d", f->part);
    if (f->key >= 0) text_printf(t, ", key %d", f->key);
    if (f->worker >= 0)
        text_printf(t, ", worker %d", f->worker);
    else if (f->key >= 0)
        text_printf(t, ", claimed by any worker");
    text_printf(t, "; the first of %d that differ, of %d\n", f->differing, f->tasks);
    text_printf(t, "  worst  %s: GPU %.9g, host %.9g, tolerance %.3g\n", f->place, f->device, f->host, f->tolerance);
    text_printf(t, "  relative error of the task %.3g\n", f->error);
    if (f->input_count) text_printf(t, "  %-28s %5s %12s %12s %12s\n", "inputs", "", "rms", "min", "max");
    for (int i = 0; i < f->input_count; i++) {
        const DiffInput *in = &f->inputs[i];
        const DiffDigest *a = &in->device, *b = &in->host;
        text_printf(t, "  %-28s %5s %12.6g %12.6g %12.6g\n", in->text, "GPU", a->rms, a->min, a->max);
        text_printf(t, "  %-28s %5s %12.6g %12.6g %12.6g   %s\n", "", "host", b->rms, b->min, b->max,
                    a->hash == b->hash ? "the same numbers" : "OTHER NUMBERS: written over since their own step");
    }
}

static void print_text(Text *t, const Prog *prog, const DiffReport *r) {
    text_printf(t, "%-9s %-22s %5s  %-15s %5s %14s %10s\n", "round", "body", "layer", "op", "tasks", "relative error",
                "worst");
    for (int i = 0; i < r->step_count; i++) {
        const DiffStep *s = &r->steps[i];
        Where w = where_of(prog, s->prompt, s->instance, s->step);
        text_printf(t, "%-9s %-22s %5d  %-15s %5d %14.2e %10.3f\n", w.round, w.body, w.layer, w.op, s->tasks, s->error,
                    s->worst);
    }
    text_printf(t, "worst: the largest difference of two numbers, in tolerances\n");
    if (r->tie_count)
        text_printf(t, "\n%d near tie%s, which may fall either way:\n", r->tie_count, r->tie_count > 1 ? "s" : "");
    for (int i = 0; i < r->tie_count && i < DIFF_TIES; i++) text_printf(t, "  %s\n", r->ties[i]);
    if (r->fault)
        print_fault(t, prog, r->fault);
    else
        text_printf(t, "\nall %d steps agree\n", r->step_count);
}

void diff_print(Ctx *ctx, const Prog *prog, const DiffReport *report, bool json, FILE *out) {
    Text text = text_new(ctx->arena);
    if (json)
        print_json(ctx, &text, prog, report);
    else
        print_text(&text, prog, report);
    fwrite(text.at, 1, text.length, out);
}
