// A model in the shape of MiMo-V2.5-Pro, filled by hand, and the SKUs that the tests of schedules run on.
#ifndef TEST_MODEL_H
#define TEST_MODEL_H
#include "schedule.h"

static inline void test_model(Model *m) {
    *m = (Model){.name = "test",
                 .hidden = 6144,
                 .vocab = 152576,
                 .context = 1048576,
                 .layer_count = 70,
                 .dense_inner = 16384,
                 .has_drafter = true};
    m->attention[ATTENTION_FULL] = (Attention){.heads = 128, .kv_heads = 8, .qk_dim = 192, .v_dim = 128};
    m->attention[ATTENTION_WINDOW] = m->attention[ATTENTION_FULL];
    m->attention[ATTENTION_WINDOW].window = 128;
    m->experts = (Experts){.count = 384, .top_k = 8, .inner = 2048};
    m->drafter = (Drafter){.layers = 5, .block = 8, .inner = 16384};
    m->drafter.attention = (Attention){.heads = 128, .kv_heads = 8, .qk_dim = 128, .v_dim = 128, .window = 1024};
}

static const Sku test_h200 = {.name = "h200",
                              .arch = "sm_90a",
                              .workers = 132,
                              .shared_memory = 232448,
                              .registers = 65536,
                              .memory = 150754820096,
                              .l2 = 62914560,
                              .bandwidth = 4.71e12,
                              .clock = 1.98e9};
static const Sku test_host = {.name = "host", .arch = "host", .workers = 8};
#endif
