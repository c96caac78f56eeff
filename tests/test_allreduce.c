// `tilerun bench --allreduce` without a GPU: what is launched, compared, said and given back, on the driver of
// fake_cuda.c, where an iteration takes 1.5 us and every sum is the host's.
#include "fake_bundle.h"
#include "allreduce.h"
#include "fake_session.h"
#include <jansson.h>

static char bundle_path[1000], single_path[1000], host_path[1000], nccl_path[1000], *text, *json;
static const char *nccl = "/nonexistent/libnccl.so.2";

static int timed(const char *behaviour, const char *bundle) {
    size_t lengths[2];
    tr_session *s;
    free(text), free(json);
    tr_allreduce job = {.iterations = 500};
    job.text = open_memstream(&text, &lengths[0]), job.json = open_memstream(&json, &lengths[1]);
    setenv("FAKE_CUDA", behaviour, 1);
    int code = tr_time_allreduce(&(tr_options){.bundle = bundle, .cuda = library, .nccl = nccl}, &job, &s);
    fclose(job.text), fclose(job.json);
    keep(s);
    tr_close(s);
    const FakeCuda *f = fake();
    CHECK(f->allocations == 0 && f->contexts == 0 && f->modules == 0 && f->streams == 0 && f->events == 0);
    return code;
}

static void all_sizes_are_timed(void) {
    CHECK(timed("devices=2", bundle_path) == 0, "%s", said);
    SAID("warning[E0923]");
    CHECK(strstr(text, "between 2 GPUs (NVIDIA H200), 132 blocks") && strstr(text, "one shot, bf16, flag, 1 a thread"));
    CHECK(strstr(text, "two steps, f32, sentinel") && strstr(text, "1.50") && !strstr(text, "NCCL") &&
          !strstr(text, "times as"));
    json_t *root = json_loads(json, 0, NULL), *sizes = json_object_get(root, "sizes");
    CHECK(root && json_array_size(sizes) == ALLREDUCE_SIZES);
    for (size_t i = 0; i < ALLREDUCE_SIZES; i++) {
        json_t *size = json_array_get(sizes, i), *ways = json_object_get(size, "ways");
        CHECK(json_integer_value(json_object_get(size, "bytes")) == allreduce_sizes[i] * 1024);
        CHECK(fabs(json_number_value(json_object_get(size, "us")) - 1.5) < 1e-9);
        CHECK(json_array_size(ways) > 5 && !json_object_get(size, "ratio"));
    }
    json_decref(root);
}

// 100 sums of NCCL's take 2 ms here. Whatever NCCL does, our own times are said.
static void nccl_is_compared_with(void) {
    nccl = nccl_path;
    setenv("FAKE_NCCL", "", 1);
    CHECK(timed("devices=2", bundle_path) == 0 && !*said, "%s", said);
    CHECK(strstr(text, "NCCL, in a graph") && strstr(text, "20.00") && strstr(text, "13.33"), "%s", text);
    CHECK(strstr(text, "of NCCL 2.28.9") && !strstr(text, "NCCL, launched"), "%s", text);
    CHECK(strstr(json, "\"nccl_graph\": true") && strstr(json, "\"ratio\": 13.3"), "%s", json);
    CHECK(timed("devices=2,unrecorded", bundle_path) == 0, "%s", said);
    SAID("warning[E0929]: ncclAllReduce is timed without a graph (recording a graph: ");
    CHECK(!strstr(strstr(said, "E0929") + 1, "E0929"), "%s", said);
    CHECK(!strstr(text, "NCCL, in a graph") && strstr(text, "NCCL, launched") && strstr(text, "13.33"), "%s", text);
    CHECK(strstr(json, "\"nccl_graph\": false"), "%s", json);
    setenv("FAKE_NCCL", "failing", 1);
    CHECK(timed("devices=2", bundle_path) == 0 && strstr(text, "1.50") && !strstr(text, "times as"), "%s", said);
    SAID("warning[E0929]: ncclAllReduce is not timed (summing: NCCL says ");
    setenv("FAKE_NCCL", "broken", 1);
    CHECK(timed("devices=2", bundle_path) == 0 && strstr(text, "1.50") && !strstr(text, "NCCL"), "%s", said);
    SAID("warning[E0929]: ncclAllReduce is not timed (starting NCCL: ");
    setenv("FAKE_NCCL", "", 1);
    nccl = "/nonexistent/libnccl.so.2";
}

static void what_goes_wrong(void) {
    CHECK(timed("devices=2,wrong", bundle_path) == EXIT_VERIFY && !*text && !*json);
    SAID("error[E0928]: tilegen_allreduce_");
    CHECK(timed("devices=2,lost", bundle_path) == EXIT_VERIFY);
    SAID("error[E0927]: rank 0 waited in vain for quad 7 of rank 1 in iteration 3");
    CHECK(timed("devices=2,apart", bundle_path) == EXIT_ENVIRONMENT);
    SAID("error[E0926]");
    CHECK(timed("devices=1", bundle_path) == EXIT_ENVIRONMENT);
    SAID("error[E0909]");
    CHECK(timed("devices=2,busy", bundle_path) == EXIT_ENVIRONMENT);
    SAID("error[E0910]");
    CHECK(timed("devices=2", host_path) == EXIT_INPUT);
    SAID("error[E0914]");
    CHECK(timed("devices=2", single_path) == EXIT_INPUT);
    SAID("error[E0905]: the bundle is for one GPU");
}

// Sums by hand: two ranks' signs and fractions at sizes in [1, 2), rounded to nearest even.
static void sums_are_what_they_should_be(void) {
    uint32_t one[2][8], more[2][8];
    for (int floats = 0; floats < 2; floats++) {
        allreduce_sums(floats, 2, 1, one[floats], 8), allreduce_sums(floats, 2, 2, more[floats], 8);
        for (uint32_t at = 0; at < 8; at++) {
            uint32_t a = allreduce_summand(floats, allreduce_key(0, at), 0),
                     b = allreduce_summand(floats, allreduce_key(1, at), 0), high[3] = {a, b, one[floats][at]};
            float v[3];
            for (int i = 0; i < 3; i++) {
                if (!floats) high[i] &= 0xFFFF0000u;
                memcpy(&v[i], &high[i], 4);
            }
            CHECK(floats ? v[0] + v[1] == v[2] : fabsf(v[0] + v[1] - v[2]) <= 0x1p-7f, "%g + %g, %g", (double)v[0],
                  (double)v[1], (double)v[2]);
            CHECK(a != ALLREDUCE_EMPTY && more[floats][at] != one[floats][at]);
        }
    }
}

int main(void) {
    library_find();
    snprintf(bundle_path, sizeof bundle_path, "%s/fake.bundle", demo_tmp());
    snprintf(single_path, sizeof single_path, "%s/single.bundle", demo_tmp());
    snprintf(host_path, sizeof host_path, "%s/host.bundle", demo_tmp());
    snprintf(nccl_path, sizeof nccl_path, "%s/tests/libfakenccl.so", getenv("BUILD") ? getenv("BUILD") : "build");
    check_name = "set-up";
    if (setjmp(check_landing)) return 1;
    fake_wide = false;
    fake_bundle(single_path);
    fake_ranks = 2;
    fake_bundle(bundle_path);
    fake_without_kernel = true;
    fake_bundle(host_path);
    if (!fake_open()) return 1;
    RUN(sums_are_what_they_should_be);
    RUN(all_sizes_are_timed);
    RUN(nccl_is_compared_with);
    RUN(what_goes_wrong);
    return check_done();
}
