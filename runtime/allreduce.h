// AllReduce: `tilerun bench --allreduce`. Times the sum over ranks inside a kernel (templates/allreduce.cuh) by itself,
// between GPUs of this process, in turns with ncclAllReduce in a CUDA graph, for messages of 4 to 768 KB of bf16. Every
// way's sums are first compared with the host's, bit for bit.
#ifndef TILERUN_ALLREDUCE_H
#define TILERUN_ALLREDUCE_H
#include "bundle.h"
#include "peers.h"
#include "../templates/allreduce.h"
#include <stdio.h>

typedef struct AllReduceJob {
    int gpus, device;  // how many, from which number on
    int iterations;    // that are timed, of one launch
    int blocks;        // of a GPU; 0: as many as it has SMs
    double timeout;    // seconds that a rank waits for another
    const char *cuda;  // the driver's library, or NULL
    const char *nccl;  // NCCL's, or NULL
    FILE *text, *json; // where the result goes, or NULL
} AllReduceJob;

enum { ALLREDUCE_SIZES = 10, ALLREDUCE_TURNS = 7 };
extern const int allreduce_sizes[ALLREDUCE_SIZES]; // KB

// One of the kernels in one form.
typedef struct AllReduceWay {
    const char *kernel;
    const char *word, *ready; // as in their names
    int floats, flags, quads, two_steps, meets;
} AllReduceWay;
enum { ALLREDUCE_WAYS = 16 };
int allreduce_ways(AllReduceWay *out); // their number

typedef enum NcclHow { NCCL_GRAPHED, NCCL_LAUNCHED, NCCL_NOT } NcclHow; // ncclAllReduce is timed

typedef struct AllReduceTimes {
    int ranks, way_count, blocks;
    const char *device;
    AllReduceWay ways[ALLREDUCE_WAYS];
    double us[ALLREDUCE_SIZES][ALLREDUCE_WAYS]; // medians of turns; 0: the message is too large for its threads
    double nccl[NCCL_NOT][ALLREDUCE_SIZES];     // the same of ncclAllReduce; 0: not timed so
    int nccl_version;                           // 0: there is none
} AllReduceTimes;

Exit allreduce_run(Ctx *ctx, const Bundle *bundle, const AllReduceJob *job);

// allreduce_report.c. False when memory runs out.
bool allreduce_report(const AllReduceTimes *times, const AllReduceJob *job);

// allreduce_sums.c: what all ranks must have after so many iterations.
void allreduce_sums(bool floats, int ranks, int iterations, uint32_t *words, uint32_t count);

// allreduce_nccl.c. NCCL_CALLS sums of `bytes` of bf16 on every rank in a graph, or, where none can be made, launched
// in a row. What fails is a warning (E0929): the bench goes on with what is left.
typedef struct NcclArm NcclArm;
enum { NCCL_CALLS = 100 };
// NULL after a warning (E0923, E0924, E0929).
NcclArm *nccl_arm_open(PeerGroup *group, const char *library, size_t most);
int nccl_arm_version(const NcclArm *arm);
NcclHow nccl_arm_how(const NcclArm *arm); // NCCL_NOT: times are worth nothing, those of this size neither
void nccl_arm_prepare(NcclArm *arm, size_t bytes);
double nccl_arm_time(NcclArm *arm); // of one sum, us
void nccl_arm_close(void *arm);
#endif
