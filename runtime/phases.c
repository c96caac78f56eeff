#include "phases.h"

typedef struct Summing {
    const TraceSums *sums;
    Traffic traffic;
} Summing;

// Adds an op of a segment to a phase; nothing where it did not run, as the drafter's in rounds without drafts. Waits
// and times of tasks are totals until phase_end.
static void phase_add(const Summing *s, Segment segment, OpId op, tr_phase *to) {
    const TraceOp *of = &s->sums->of[segment][op];
    const OpTraffic *traffic = &s->traffic.of[segment][op];
    double rounds = s->sums->rounds;
    if (of->steps == 0) return;
    to->times += (double)of->steps / rounds;
    to->tasks += (double)of->tasks / rounds;
    to->us += of->time / rounds * 1e-3;
    to->bytes += traffic->weights + traffic->caches;
    to->wait_us += of->waits / rounds * 1e-3;
    to->task_us += of->work / rounds * 1e-3;
}

static void phase_end(tr_phase *phase) {
    if (phase->tasks > 0) phase->wait_us /= phase->tasks, phase->task_us /= phase->tasks;
}

static tr_phase phase_of_op(const Summing *s, OpId op) {
    tr_phase phase = {.name = op_name(op)};
    for (int segment = 0; segment < SEGMENTS; segment++) phase_add(s, (Segment)segment, op, &phase);
    phase_end(&phase);
    return phase;
}

// Ops of the target, some of which overlap others or are what others wait for.
static tr_phase phase_of_ops(const Summing *s, const char *name, OpId a, OpId b, OpId c) {
    tr_phase phase = {.name = name};
    const OpId ops[] = {a, b, c};
    for (int i = 0; i < 3 && ops[i] < OP_COUNT; i++) phase_add(s, SEGMENT_TARGET, ops[i], &phase);
    phase_end(&phase);
    return phase;
}

static tr_phase phase_of_drafter(const Summing *s, const char *name) {
    tr_phase phase = {.name = name};
    for (int op = 0; op < OP_COUNT; op++) {
        phase_add(s, SEGMENT_DRAFT, (OpId)op, &phase);
        phase_add(s, SEGMENT_CONTEXT, (OpId)op, &phase);
    }
    phase_end(&phase);
    return phase;
}

tr_phases phases_of(Ctx *ctx, const Model *model, const Prog *prog, const TraceSums *sums, double start) {
    enum { SUMS = 3 };
    Summing s = {sums, traffic_of(model, prog, sums->experts, start)};
    tr_phase *ops = ARENA_ARRAY(ctx->arena, tr_phase, OP_COUNT), *of = ARENA_ARRAY(ctx->arena, tr_phase, SUMS);
    tr_phases out = {.rounds = sums->rounds,
                     .us = sums->total / sums->rounds * 1e-3,
                     .experts = sums->experts,
                     .ops = ops,
                     .sums = of};
    out.other_us = out.us;
    for (int op = 0; op < OP_COUNT; op++) {
        tr_phase phase = phase_of_op(&s, (OpId)op);
        if (phase.tasks <= 0) continue;
        ops[out.op_count++] = phase;
        out.other_us -= phase.us;
        for (int segment = 0; segment < SEGMENTS; segment++) {
            if (sums->of[segment][op].steps == 0) continue;
            out.weights += s.traffic.of[segment][op].weights;
            out.cache += s.traffic.of[segment][op].caches;
        }
    }
    tr_phase all[SUMS] = {
        phase_of_ops(&s, "experts (up, SwiGLU, down)", OP_EXPERTS_UP, OP_EXPERTS_DOWN, OP_EXPERTS_SUM),
        phase_of_ops(&s, "attention projections (qkv, o_proj)", OP_QKV, OP_O_PROJ, OP_COUNT),
        phase_of_drafter(&s, "drafter and its head")};
    for (int i = 0; i < SUMS; i++)
        if (all[i].tasks > 0) of[out.sum_count++] = all[i];
    return out;
}
