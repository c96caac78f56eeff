#include "traffic.h"
#include "shape.h"
#include "../templates/abi.h"

double traffic_experts(const Model *model, int rows) {
    double miss = 1;
    for (int i = 0; i < rows; i++) miss *= 1 - (double)model->experts.top_k / model->experts.count;
    return model->experts.count * (1 - miss);
}

// Bytes of the keys and values at positions before `start` that some row of a round sees.
static double cache_bytes(const Prog *prog, const Attention *a, const char *buffer, double start) {
    int kept = prog_buffer(prog, buffer);
    if (kept < 0) return 0;
    double positions = a->window && start > a->window - 1 ? a->window - 1 : start;
    return positions * (a->kv_heads / prog->ranks) * (KEY_DIM(a->qk_dim) + a->v_dim) *
           dtype_bits(prog->buffers[kept].dtype) / 8;
}

static void step_add(const Model *m, const Prog *prog, const Shape *shape, OpId op, LayerAttention kind, double experts,
                     double start, OpTraffic *out) {
    double weights = (double)shape_weights(m, shape, op, kind, shape_outputs(m, shape, op, kind));
    out->times++;
    out->weights += op == OP_EXPERTS_UP || op == OP_EXPERTS_DOWN || op == OP_EXPERTS_SUM ? weights * experts : weights;
    if (op == OP_ATTENTION) out->caches += cache_bytes(prog, &m->attention[kind], "kv", start);
    if (op == OP_DRAFT_ATTENTION) out->caches += cache_bytes(prog, &m->drafter.attention, "dkv", start);
}

Traffic traffic_of(const Model *model, const Prog *prog, double experts, double start) {
    Traffic traffic = {0};
    const Shape shape = shape_of(model, prog->ranks, prog->rows);
    for (int i = 0; i < prog_instances(prog); i++) {
        int layer;
        const RoundItem *item = prog_instance(prog, i, &layer);
        const Body *body = &prog->bodies[item->body];
        LayerAttention kind = item->segment == SEGMENT_TARGET ? model->layers[layer].attention : ATTENTION_FULL;
        for (int s = 0; s < body->step_count; s++)
            step_add(model, prog, &shape, body->steps[s].op, kind, experts, start,
                     &traffic.of[item->segment][body->steps[s].op]);
    }
    return traffic;
}

OpTraffic traffic_op(const Traffic *traffic, OpId op) {
    OpTraffic sum = {0};
    for (int s = 0; s < SEGMENTS; s++) {
        const OpTraffic *of = &traffic->of[s][op];
        sum.times += of->times, sum.weights += of->weights, sum.caches += of->caches;
    }
    return sum;
}
