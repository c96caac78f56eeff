// Ranks: the processes of an engine on several GPUs, one a GPU. The process that opens it is rank 0. Before anything of
// CUDA is touched it forks a process for each other rank, and talks with it through a socket.
//
// Nobody is left behind: a process whose rank 0 has gone ends at once, whatever it is doing, and rank 0 ends those that
// it no longer needs. All waits are bounded or end when the other side does.
//
// What rank 0 and the others do between them they do in the same order, function by function; so a word that comes is
// the one that is waited for, or the news that a process has failed.
#ifndef TILERUN_RANKS_H
#define TILERUN_RANKS_H
#include "diag.h"

typedef enum RankWord {
    RANK_MEET = 1, // another rank: I am here; rank 0: all are
    RANK_ID,       // rank 0: NCCL's name of the communicator
    RANK_BEGIN,    // a request
    RANK_STEP,     // the round that is held may go on
    RANK_REST,     // the idle kernel is to end
    RANK_CLOSE,    // the process is
    RANK_DONE,     // another rank: the request is over; with a digest of its tokens
    RANK_FAILED,   // so has the process: its exit code, then its diagnostics; it ends
} RankWord;

typedef struct Ranks Ranks;

// `count` ranks: returns in each of their processes. NULL in rank 0 after reporting E0901; none are left then.
Ranks *ranks_fork(Ctx *ctx, int count);
int ranks_count(const Ranks *ranks);
int ranks_self(const Ranks *ranks);

// From rank 0 to all others, or from another to rank 0. False when a process does not take it; who, ranks_gone says.
bool ranks_say(Ranks *ranks, RankWord word, const void *data, size_t bytes);
// Rank 0: whether all processes are there and none has failed. Looks, and does not wait. Another rank: it is, for it
// ends with rank 0.
bool ranks_sound(Ranks *ranks);
// Rank 0: `word` of each other rank, into out[rank], `bytes` each (0: it has no more to say); `seconds` 0: for ever.
// False when a process has failed or does not say it in time.
bool ranks_hear(Ranks *ranks, RankWord word, void *out, size_t bytes, double seconds);
// All ranks come here before any goes on. Of rank 0 false as ranks_hear is.
bool ranks_meet(Ranks *ranks, double seconds);

// Another rank: the next word of rank 0, with what it says, which lives until the next call. Waits for ever.
RankWord ranks_next(Ranks *ranks, const void **data, size_t *bytes);
// Another rank: the process ends; with a code other than EXIT_OK it tells rank 0 what it has reported.
_Noreturn void ranks_leave(Ctx *ctx, Ranks *ranks, Exit code);

// Rank 0, after one of the above was false: how many processes have died (E0921), or neither go on nor say why within
// `seconds` (E0922). Reports them.
int ranks_gone(Ctx *ctx, Ranks *ranks, double seconds);
// Rank 0: reports what processes that failed have said. The exit code of the first, EXIT_OK: there is none.
Exit ranks_failures(Ctx *ctx, Ranks *ranks);
// Rank 0: ends the processes, and does not wait until they have.
void ranks_kill(Ranks *ranks);
// Rank 0: waits for the processes to end, where they have been told to (RANK_CLOSE), `seconds` at most; then ends them.
// May be called twice, and with NULL, as ranks_free.
void ranks_end(Ranks *ranks, double seconds);
void ranks_free(Ranks *ranks);
#endif
