// libtilerun: decode with a bundle and a checkpoint.
//
//   tr_session *s;
//   int code = tr_open(&(tr_options){.bundle = "demo.bundle", .weights = "models/demo"}, &s);
//   if (code == 0) code = tr_generate(s, &request, &result);
//   if (code != 0) tr_print_errors(s, stderr, false);
//   tr_close(s);
//
// Rules
//   1. Functions return an exit code: 0 ok, 1 the input has errors, 3 environment, 4 a result failed verification, 130
//      cancelled. What is wrong is kept in the session until printed. Nothing here exits or prints by itself.
//   2. A session serves one request at a time, from one thread; its own threads are its business. tr_cancel may be
//   called
//      from anywhere, also from a signal handler.
//   3. Pointers in a result belong to the session and live until its next call or its end.
//   4. All memory of decoding is allocated by tr_open.
//   5. A bundle for several GPUs runs in a process each, which tr_open forks. So it is called before the process has
//   used CUDA itself, and from a thread that lives as long as the session.
#ifndef TILERUN_H
#define TILERUN_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef struct tr_session tr_session;

typedef struct tr_options {
    const char *bundle; // file that `tilegen build` wrote
    // Folder of the checkpoint, a file of `tilerun pack` ("{rank}" in its name: a rank's number), or "synthetic:SEED".
    const char *weights;
    int threads;      // 0: as many as there are processors
    int context;      // positions to keep; 0: the model's
    bool host;        // run a GPU SKU's bundle on the host executor
    int device;       // number of the GPU, or of the first of several
    int gpus;         // on how many GPUs it is meant to run, which is an error where it does not; 0: as the bundle says
    double timeout;   // seconds after which a wait of the kernel is a hang; 0: 1 second
    bool trace;       // room for tr_trace
    bool graph;       // on a GPU: prepare the graph arm, which then runs first (tr_use)
    bool alone;       // on a GPU: one rank of several by itself, with weights and caches made there; synthetic:SEED
    int rank;         // whose, from 0
    const char *cuda; // library of the NVIDIA driver; NULL: libcuda.so.1
    const char *nccl; // of NCCL, where there are several GPUs; NULL: libnccl.so.2
    // What takes long while opening; `share` goes from 0 to 1. May be NULL.
    void (*progress)(void *user, const char *what, double share);
    void *progress_user;
} tr_options;

enum { TR_MAX_BLOCK = 8 };

typedef struct tr_request {
    const char *prompt; // bytes, or NULL with `tokens`
    size_t prompt_length;
    const int *tokens; // ids
    size_t token_count;
    int start;          // on a GPU: position of the first token; the caches before it are as they are
    int max_tokens;     // 0: to the end of the context
    double temperature; // 0: greedy
    int top_k;          // 0: all
    double top_p;       // 0 or 1: all
    uint64_t seed;
    bool no_draft;
    bool ignore_end; // do not stop at end tokens
    // For timing on a GPU: accepted lengths are drawn with this mean, whatever the tokens; 0: they are verified.
    double accept;
    void (*on_text)(void *user, const char *bytes, size_t length); // as it comes; may be NULL
    void *user;
} tr_request;

typedef struct tr_result {
    const int *tokens; // generated
    size_t count;
    size_t prompt_tokens;
    int rounds;                       // after the prompt
    double acceptance;                // tokens a round, in [1, 8]
    long histogram[TR_MAX_BLOCK + 1]; // [n]: rounds that emitted n tokens
    double first_token_seconds;       // from the request to its first token
    double prompt_seconds, decode_seconds;
    bool ended;                  // by an end token
    bool gpu;                    // round_seconds are by the GPU's clock
    const double *round_seconds; // [rounds]
} tr_result;

typedef struct tr_figures { // of a session on a GPU; zeros elsewhere
    double weights_seconds; // from opening until the weights were there
    uint64_t weights;       // bytes
    int kernels[2];         // with the graph arm: of a round of one token, of a drafted round
} tr_figures;

typedef struct tr_phase { // an op of the round, or several
    const char *name;
    double times;            // steps of a round
    double us;               // of a round: from the latest end of the steps before it to its own end
    double bytes;            // that it reads in a round
    double tasks;            // of a round, on all workers
    double wait_us, task_us; // of a task, on average: from posted until its inputs are ready; from begin to end
} tr_phase;

typedef struct tr_phases { // of the rounds of decoding that were traced last
    int rounds;
    double us;             // a round
    double other_us;       // of it: in no op
    double experts;        // active in a layer, on average; 0: the model has none
    double weights, cache; // bytes that a round reads: weights; keys and values
    const tr_phase *ops;   // in the round's order
    int op_count;
    const tr_phase *sums; // of what belongs together
    int sum_count;
} tr_phases;

// *out is set also on failure (for tr_print_errors), but for lack of memory, when it is NULL and 3 is returned.
int tr_open(const tr_options *options, tr_session **out);
void tr_close(tr_session *session);
int tr_generate(tr_session *session, const tr_request *request, tr_result *result);
// float32 logits [count, vocab] of every position of `tokens`, into `out` (caller's, tr_vocab(s) * count floats).
int tr_logits(tr_session *session, const int *tokens, size_t count, float *out);
// Writes them as a safetensors file with the tensor `logits`.
int tr_logits_file(tr_session *session, const int *tokens, size_t count, const char *path);
// For timing on a GPU. Whether requests are traced from now on, of a session opened with `trace`: the kernel is ended,
// and the next request launches it anew.
int tr_trace(tr_session *session, bool on);
// What the trace of the last request says, with the bytes of rounds behind `start` positions. Lives until the next
// request.
int tr_traced(tr_session *session, double start, tr_phases *out);
// Bytes a second that the memory gives to a kernel that only reads weights, with ours ended as by tr_trace; 0: there
// are so few that they stay in L2.
int tr_stream(tr_session *session, double *bytes_per_second);
// Of a session opened with `graph`: what runs requests from now on, from a state as if just opened.
typedef enum tr_arm { TR_ENGINE, TR_GRAPH } tr_arm;
int tr_use(tr_session *session, tr_arm arm);
// Packs the weights of one rank ahead of time into a file, which tr_open takes as `weights` from then on. An
// interrupted file goes on where it was. *out is as of tr_open, for tr_print_errors and tr_close alone.
int tr_pack(const tr_options *options, int rank, const char *path, tr_session **out);
// Times the sum over GPUs inside a kernel by itself, in turns with ncclAllReduce: as many as the bundle's ranks, from
// options->device on, without weights. *out is as of tr_pack.
typedef struct tr_allreduce {
    int blocks;        // of each; 0: as many as it has SMs
    int iterations;    // that are timed, of one launch
    FILE *text, *json; // where the result goes, or NULL
} tr_allreduce;
int tr_time_allreduce(const tr_options *options, const tr_allreduce *job, tr_session **out);
// Whitespace-separated ids of a file ("-": standard input).
int tr_read_tokens(tr_session *session, const char *path, const int **tokens, size_t *count);
tr_figures tr_session_figures(const tr_session *session);
int tr_vocab(const tr_session *session);
bool tr_on_gpu(const tr_session *session);
int tr_gpus(const tr_session *session); // 0: the host executor
bool tr_has_drafter(const tr_session *session);
bool tr_has_tokenizer(const tr_session *session);
void tr_cancel(tr_session *session);
void tr_print_errors(tr_session *session, FILE *out, bool json);
#endif
