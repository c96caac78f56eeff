// Marks: for each group, its group steps in the order of the sequential program, with running sums.
#include "prove_parts.h"

enum { SUM_BITS = 53 }; // far from overflow however sums are added

static void mark_add(Prove *p, int instance, int step) {
    const GroupStep *made = &p->bodies[p->instances[instance].body].steps[step];
    Group *group = &p->groups[made->group];
    int64_t before = group->count ? group->marks[group->count - 1].sum : 0;
    group->marks[group->count++] = (Mark){.sum = before + made->amount, .instance = instance, .step = step};
}

static bool marks_lay(Prove *p) {
    int *counts = ARENA_ARRAY(p->arena, int, p->group_count + 1);
    for (int i = 0; i < p->instance_count; i++) {
        const BodyForm *form = &p->bodies[p->instances[i].body];
        for (int s = 0; s < form->step_count; s++) {
            Group *group = &p->groups[form->steps[s].group];
            counts[form->steps[s].group]++;
            if (i < p->round_instances) group->total += form->steps[s].amount;
            if (form->steps[s].amount >> (SUM_BITS - 14) || group->total >> SUM_BITS) return false;
        }
    }
    for (int g = 0; g < p->group_count; g++) {
        p->groups[g].marks = ARENA_ARRAY(p->arena, Mark, counts[g] + 1);
        p->groups[g].upto = ARENA_ARRAY(p->arena, int, p->instance_count + 1);
    }
    for (int i = 0; i < p->instance_count; i++) {
        const BodyForm *form = &p->bodies[p->instances[i].body];
        for (int s = 0; s < form->step_count; s++) mark_add(p, i, s);
        for (int g = 0; g < p->group_count; g++) p->groups[g].upto[i + 1] = p->groups[g].count;
    }
    return true;
}

static int64_t sum_upto(const Group *group, int marks) { return marks ? group->marks[marks - 1].sum : 0; }

// Rounds repeat in both directions: before the first, bases are negative, and what was signalled there is long over.
Bound prove_bound(const Prove *p, int instance, const WaitForm *wait) {
    Bound bound = {.last = -1, .before = instance < wait->lag};
    if (wait->group < 0) {
        bound.never = wait->need > 0; // a group that nobody signals
        return bound;
    }
    const Group *group = &p->groups[wait->group];
    int64_t from = (int64_t)instance - wait->lag, length = p->round_instances;
    int64_t rounds = from >= 0 ? from / length : -((-from + length - 1) / length);
    int64_t sum;
    if (__builtin_mul_overflow(rounds, group->total, &sum)) sum = rounds < 0 ? INT64_MIN / 2 : INT64_MAX / 2;
    sum += sum_upto(group, group->upto[from - rounds * length]) + wait->need;
    if (sum <= 0) return bound;
    // The first mark that reaches the sum, among those of this and earlier instances.
    int lo = 0, hi = group->upto[instance + 1];
    if (sum > sum_upto(group, hi)) {
        bound.never = true;
        return bound;
    }
    while (lo < hi) {
        int middle = lo + (hi - lo) / 2;
        if (group->marks[middle].sum < sum)
            lo = middle + 1;
        else
            hi = middle;
    }
    bound.last = lo;
    bound.sure = group->marks[lo].sum == sum ? lo + 1 : lo;
    return bound;
}

bool prove_marks(Prove *p) {
    if (!marks_lay(p)) {
        if (prove_fails(p, E0610, 0, 0, 0, 0))
            diag_error(p->ctx, E0610, NO_SPAN, "too large to be proved: sums of signals");
        return false;
    }
    bool met = true;
    for (int i = 0; i < p->instance_count; i++) {
        int body = p->instances[i].body;
        const BodyForm *form = &p->bodies[body];
        for (int n = 0; n < form->node_count; n++)
            for (int w = 0; w < form->nodes[n].wait_count + form->nodes[n].load_count; w++) {
                const WaitForm *wait = &form->nodes[n].waits[w];
                Bound bound = prove_bound(p, i, wait);
                if (bound.sure && wait->mode != WAIT_WEAK) p->groups[wait->group].marks[bound.sure - 1].uses++;
                if (!bound.never) continue;
                met = false;
                if (!prove_fails(p, E0603, body, form->nodes[n].task->step, wait->group, (int)form->nodes[n].kind))
                    continue;
                diag_error(p->ctx, E0603, prove_span(p, body, &form->nodes[n]),
                           "%s waits for more of %s than is signalled up to its own layer",
                           prove_task(p, body, &form->nodes[n], i), prove_group(p, wait->group));
                diag_help(p->ctx, "lower the threshold, or give the counter the signals that are missing");
            }
    }
    return met;
}
