// Several ranks: the window that each rank's GPU gives the others, what rank 0 tells the other processes, and what
// those do.
#include "gpu_parts.h"
#include <string.h>

#define LEAVE_SECONDS 2.0
#define ABORT_SECONDS 0.3
#define DONE_SECONDS  0.7

static bool ok(Gpu *gpu, int result, const char *tried) { return cuda_ok(gpu->ctx, gpu->cuda, result, tried); }
static bool first(const Gpu *gpu) { return ranks_self(gpu->ranks) == 0; }

// ---- The window ----

static bool sound(void *user) {
    Gpu *gpu = user;
    return ranks_sound(gpu->ranks);
}

// All ranks call their communicator by the name that rank 0 gives it.
static bool name(Gpu *gpu, NcclId *id) {
    const void *said;
    size_t bytes;
    if (first(gpu)) {
        if (!nccl_name(gpu->ctx, gpu->nccl, id)) return false;
        ranks_say(gpu->ranks, RANK_ID, id, sizeof *id); // who does not take it is missed below
        return true;
    }
    if (ranks_next(gpu->ranks, &said, &bytes) != RANK_ID || bytes != sizeof *id)
        ranks_leave(gpu->ctx, gpu->ranks, EXIT_OK);
    memcpy(id, said, sizeof *id);
    return true;
}

// Rank 0, while opening: another one does not come.
static bool missed(Gpu *gpu) {
    if (ranks_gone(gpu->ctx, gpu->ranks, RANK_PATIENCE) == 0) ranks_failures(gpu->ctx, gpu->ranks);
    return false;
}

// Each rank writes its number into its own window and finds the others' in theirs.
static bool greet(Gpu *gpu) {
    CudaAddress own = gpu->window.at[gpu->options.rank];
    uint64_t at = gpu->tables->slab_bytes + offsetof(EngineMeeting, greeting);
    uint32_t mine = 1 + (uint32_t)gpu->options.rank;
    if (!ok(gpu, gpu->cuda->fill(own, 0, gpu->memory[MEMORY_BUFFERS].bytes, gpu->stream), "clearing the window") ||
        !ok(gpu, gpu->cuda->copy_in(own + at, &mine, sizeof mine, gpu->stream), "writing into the window") ||
        !ok(gpu, gpu->cuda->stream_wait(gpu->stream), "writing into the window"))
        return false;
    if (!gpu_meet(gpu, 0)) return missed(gpu);
    for (int rank = 0; rank < gpu->prog->ranks; rank++) {
        uint32_t theirs = 0;
        CudaAddress room = own + at + sizeof mine;
        if (!ok(gpu, gpu->cuda->copy_within(room, gpu->window.at[rank] + at, sizeof theirs, gpu->stream),
                "reading another rank's window") ||
            !ok(gpu, gpu->cuda->copy_out(&theirs, room, sizeof theirs, gpu->stream), "reading another rank's window") ||
            !ok(gpu, gpu->cuda->stream_wait(gpu->stream), "reading another rank's window"))
            return false;
        if (theirs == 1 + (uint32_t)rank) continue;
        diag_error(gpu->ctx, E0926, NO_SPAN, "the GPU of rank %d finds %u in the window of rank %d, not its greeting",
                   gpu->options.rank, theirs, rank);
        diag_help(gpu->ctx, "this version of NCCL may lay out its windows in another way: TILERUN_NCCL names another");
        return false;
    }
    return true;
}

bool gpu_window(Gpu *gpu) {
    NcclId id;
    gpu->told = arena_alloc(gpu->ctx->arena, sizeof(DecodeRequest) + (size_t)gpu->context * sizeof(int32_t));
    gpu->nccl = nccl_open(gpu->ctx, gpu->options.nccl, true);
    if (!gpu->nccl || !name(gpu, &id)) return false;
    progress_tell(&gpu->options.progress, "joining the ranks", 0);
    NcclJoined joined = nccl_join(gpu->ctx, gpu->nccl, gpu->cuda, gpu->cuda_context, &id, gpu->options.rank,
                                  gpu->prog->ranks, gpu->memory[MEMORY_BUFFERS].bytes, sound, gpu, &gpu->window);
    if (joined == NCCL_JOINED) {
        gpu->memory[MEMORY_BUFFERS].at = gpu->window.at[gpu->options.rank];
        return greet(gpu);
    }
    return joined == NCCL_LEFT ? missed(gpu) : false;
}

void gpu_window_close(Gpu *gpu) {
    gpu->memory[MEMORY_BUFFERS].at = 0; // NCCL's
    if (gpu->nccl)
        nccl_leave(gpu->nccl, gpu->cuda, gpu->cuda_context, &gpu->window, gpu->dead,
                   gpu->dead ? ABORT_SECONDS : LEAVE_SECONDS);
}

// ---- What rank 0 tells ----

bool gpu_meet(Gpu *gpu, double seconds) { return !gpu->ranks || ranks_meet(gpu->ranks, seconds); }

bool gpu_tell(Gpu *gpu, RankWord word) { return !gpu->ranks || !first(gpu) || ranks_say(gpu->ranks, word, NULL, 0); }

// A request as it travels: the processes are of one program, so it is as it lies; its prompt follows it.
bool gpu_tell_request(Gpu *gpu) {
    const DecodeRequest *r = &gpu->request;
    size_t prompt = (size_t)r->prompt_count * sizeof(int32_t);
    if (!gpu->ranks || !first(gpu)) return true;
    char *bytes = (char *)gpu->told;
    memcpy(bytes, r, sizeof *r);
    memcpy(bytes + sizeof *r, r->prompt, prompt);
    return ranks_say(gpu->ranks, RANK_BEGIN, bytes, sizeof *r + prompt);
}

void gpu_digest(Gpu *gpu, const DecodedRound *round) {
    uint64_t digest = gpu->digest ^ (uint64_t)round->start << 8 ^ (uint64_t)round->accepted;
    for (int i = 0; i < round->count; i++) digest = (digest ^ (uint64_t)round->tokens[i]) * 0x100000001B3u + 1;
    gpu->digest = digest;
}

// Each round's tokens are compared by the kernels; those of the last round here.
Exit gpu_ranks_done(Gpu *gpu) {
    uint64_t digests[NCCL_RANKS] = {0};
    if (!gpu->ranks || !first(gpu)) return EXIT_OK;
    if (!ranks_hear(gpu->ranks, RANK_DONE, digests, sizeof *digests, DONE_SECONDS)) return gpu_give_up(gpu, NULL);
    for (int rank = 1; rank < gpu->prog->ranks; rank++) {
        if (digests[rank] == gpu->digest) continue;
        diag_error(gpu->ctx, E0904, NO_SPAN,
                   "the ranks do not agree: the request's tokens have the digest %016llx on rank 0, %016llx on rank %d",
                   (unsigned long long)gpu->digest, (unsigned long long)digests[rank], rank);
        diag_help(gpu->ctx, "--host runs the same Prog on the host executor");
        gpu->dead = true;
        ranks_kill(gpu->ranks);
        gpu_release(gpu);
        return EXIT_VERIFY;
    }
    return EXIT_OK;
}

// ---- The other processes ----

// A request like rank 0's, whose text is nobody's business here. Held rounds go on when rank 0's do.
static Exit follow(Gpu *gpu, const Decoder *decoder, const void *data) {
    DecodeRequest request;
    DecodedRound round = {0};
    const void *nothing;
    size_t none;
    memcpy(&request, data, sizeof request);
    request.prompt = (const int *)(const void *)((const char *)data + sizeof request);
    Exit code = decoder->begin(decoder->self, &request);
    while (code == EXIT_OK && !round.last) {
        if (request.logits && gpu->end_count > 0 && ranks_next(gpu->ranks, &nothing, &none) != RANK_STEP)
            return EXIT_OK; // rank 0 gives up
        code = decoder->next(decoder->self, &round);
    }
    if (code == EXIT_OK) ranks_say(gpu->ranks, RANK_DONE, &gpu->digest, sizeof gpu->digest);
    return code;
}

void gpu_follow(const Decoder *decoder) {
    Gpu *gpu = decoder->self;
    for (Exit code = EXIT_OK;;) {
        const void *data;
        size_t bytes;
        switch (ranks_next(gpu->ranks, &data, &bytes)) {
        case RANK_BEGIN: code = follow(gpu, decoder, data); break;
        case RANK_REST: code = gpu_rest(gpu); break;
        case RANK_CLOSE: decoder->close(decoder->self); ranks_leave(gpu->ctx, gpu->ranks, EXIT_OK);
        default: ranks_leave(gpu->ctx, gpu->ranks, EXIT_BUG);
        }
        if (code != EXIT_OK) ranks_leave(gpu->ctx, gpu->ranks, code);
    }
}
