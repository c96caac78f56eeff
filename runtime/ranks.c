#include "ranks.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 8, LARGEST = 1 << 28 };
#define SAY_PATIENCE  1.0 // seconds that a process has to take a word
#define KILL_PATIENCE 0.2 // that one has to be gone

typedef struct Peer { // of rank 0: another rank's process; of another rank, number 0: rank 0's
    pid_t pid;        // 0: none, or it has been waited for
    int socket, status;
    bool dead;    // its end of the socket is closed
    void *failed; // what it said when it failed, or NULL
    size_t failed_bytes;
} Peer;

struct Ranks {
    int count, self;
    bool closing; // they have been told
    Peer peer[MOST];
    void *room; // of the newest word
    size_t room_bytes;
};

typedef struct Head {
    uint32_t word, bytes;
} Head;

int ranks_count(const Ranks *ranks) { return ranks->count; }
int ranks_self(const Ranks *ranks) { return ranks->self; }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

// Until something comes of the socket, or `until` (0: for ever).
static bool ready(int socket, short what, double until) {
    struct pollfd p = {.fd = socket, .events = what};
    for (;;) {
        double left = until > 0 ? until - now() : 1;
        int n = poll(&p, 1, left <= 0 ? 0 : until > 0 ? (int)(left * 1e3) + 1 : -1);
        if (n > 0) return true;
        if ((n < 0 && errno != EINTR) || (until > 0 && now() >= until)) return false;
    }
}

static bool put(int socket, const void *data, size_t bytes, double until) {
    for (const char *at = data; bytes;) {
        ssize_t n = send(socket, at, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0)
            at += n, bytes -= (size_t)n;
        else if ((errno != EAGAIN && errno != EINTR) || !ready(socket, POLLOUT, until))
            return false;
    }
    return true;
}

static bool get(int socket, void *data, size_t bytes, double until) {
    for (char *at = data; bytes;) {
        ssize_t n = recv(socket, at, bytes, MSG_DONTWAIT);
        if (n > 0)
            at += n, bytes -= (size_t)n;
        else if (n == 0 || (errno != EAGAIN && errno != EINTR) || !ready(socket, POLLIN, until))
            return false;
    }
    return true;
}

static bool say(int socket, RankWord word, const void *a, size_t a_bytes, const void *b, size_t b_bytes) {
    Head head = {(uint32_t)word, (uint32_t)(a_bytes + b_bytes)};
    double until = now() + SAY_PATIENCE;
    return put(socket, &head, sizeof head, until) && put(socket, a, a_bytes, until) && put(socket, b, b_bytes, until);
}

bool ranks_say(Ranks *ranks, RankWord word, const void *data, size_t bytes) {
    bool said = true;
    ranks->closing = ranks->closing || word == RANK_CLOSE;
    for (int i = 0; i < ranks->count; i++)
        if (ranks->self == 0 ? i > 0 : i == 0) said = say(ranks->peer[i].socket, word, data, bytes, NULL, 0) && said;
    return said;
}

// ---- Rank 0 ----

// What comes of a peer besides the word that is waited for: its end, or that it failed. True: neither.
static bool look(Peer *p) {
    Head head;
    if (p->dead || p->failed) return false;
    ssize_t n = recv(p->socket, &head, sizeof head, MSG_PEEK | MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return p->dead = true, false;
    if (n < (ssize_t)sizeof head || head.word != RANK_FAILED) return true;
    double until = now() + SAY_PATIENCE;
    p->failed_bytes = head.bytes;
    p->failed = malloc(head.bytes + 1);
    if (!p->failed || !get(p->socket, &head, sizeof head, until) || !get(p->socket, p->failed, p->failed_bytes, until))
        p->dead = true;
    return false;
}

bool ranks_sound(Ranks *ranks) {
    bool sound = true;
    for (int i = 1; ranks->self == 0 && i < ranks->count; i++) sound = look(&ranks->peer[i]) && sound;
    return sound;
}

// Any of the others may fail first while one is waited for.
static bool hear(Ranks *ranks, Peer *p, RankWord word, void *out, size_t bytes, double until) {
    enum { NAP_MS = 20 };
    struct pollfd all[MOST];
    for (;;) {
        Head head;
        if (!ranks_sound(ranks)) return false;
        if (recv(p->socket, &head, sizeof head, MSG_PEEK | MSG_DONTWAIT) == (ssize_t)sizeof head) {
            double soon = now() + SAY_PATIENCE;
            return head.word == (uint32_t)word && head.bytes == bytes && get(p->socket, &head, sizeof head, soon) &&
                   get(p->socket, out, bytes, soon);
        }
        if (until > 0 && now() > until) return false;
        // One that has said its word already is ready all the time: it is not asked.
        all[0] = (struct pollfd){.fd = p->socket, .events = POLLIN};
        poll(all, 1, NAP_MS);
    }
}

bool ranks_hear(Ranks *ranks, RankWord word, void *out, size_t bytes, double seconds) {
    double until = seconds > 0 ? now() + seconds : 0;
    for (int i = 1; i < ranks->count; i++)
        if (!hear(ranks, &ranks->peer[i], word, bytes ? (char *)out + (size_t)i * bytes : NULL, bytes, until))
            return false;
    return true;
}

static bool ended(Peer *p) {
    if (p->pid > 0 && waitpid(p->pid, &p->status, WNOHANG) != 0) p->pid = 0; // also when nobody is there to wait for
    return p->pid == 0;
}

int ranks_gone(Ctx *ctx, Ranks *ranks, double seconds) {
    enum { NAP_US = 2000 };
    int gone = 0;
    bool settled = false;
    for (double until = now() + seconds; !settled && now() < until; usleep(NAP_US)) {
        settled = true;
        for (int i = 1; i < ranks->count; i++) {
            Peer *p = &ranks->peer[i];
            look(p);
            settled = settled && (p->failed || (p->dead && ended(p)));
        }
    }
    for (int i = 1; i < ranks->count; i++) {
        Peer *p = &ranks->peer[i];
        int pid = (int)p->pid, status = p->status;
        if (p->failed) continue;
        gone++;
        if (!p->dead) {
            diag_error(ctx, E0922, NO_SPAN, "rank %d (process %d) gives no answer: it hangs, or is being killed", i,
                       pid);
            diag_help(ctx, "all ranks are ended, the GPUs are free again; run it once more");
            continue;
        }
        if (pid == 0 && WIFSIGNALED(status))
            diag_error(ctx, E0921, NO_SPAN, "the process of rank %d was killed by signal %d (%s)", i, WTERMSIG(status),
                       strsignal(WTERMSIG(status)));
        else if (pid == 0 && WIFEXITED(status))
            diag_error(ctx, E0921, NO_SPAN, "the process of rank %d ended by itself (exit %d)", i, WEXITSTATUS(status));
        else
            diag_error(ctx, E0921, NO_SPAN, "the process of rank %d died", i);
        diag_help(ctx,
                  "all ranks are ended, the GPUs are free again; the system's log may say who killed it (memory that "
                  "ran out does so)");
    }
    return gone;
}

Exit ranks_failures(Ctx *ctx, Ranks *ranks) {
    Exit code = EXIT_OK;
    for (int i = 1; i < ranks->count; i++) {
        const Peer *p = &ranks->peer[i];
        uint32_t its;
        char who[32];
        if (!p->failed || p->dead || p->failed_bytes < sizeof its) continue;
        memcpy(&its, p->failed, sizeof its);
        if (code == EXIT_OK) code = (Exit)its;
        snprintf(who, sizeof who, "rank %d", i);
        diag_unpack(ctx, (const char *)p->failed + sizeof its, p->failed_bytes - sizeof its, who);
    }
    return code;
}

static void await_end(Ranks *ranks, double seconds) {
    enum { NAP_US = 500 };
    bool all = false;
    for (double until = now() + seconds; !all && now() < until; usleep(NAP_US)) {
        all = true;
        for (int i = 1; i < ranks->count; i++) all = ended(&ranks->peer[i]) && all;
    }
}

void ranks_kill(Ranks *ranks) {
    for (int i = 1; ranks->self == 0 && i < ranks->count; i++)
        if (!ended(&ranks->peer[i])) kill(ranks->peer[i].pid, SIGKILL);
}

void ranks_end(Ranks *ranks, double seconds) {
    if (!ranks || ranks->self != 0) return;
    if (ranks->closing) await_end(ranks, seconds);
    ranks_kill(ranks);
    await_end(ranks, KILL_PATIENCE);
}

void ranks_free(Ranks *ranks) {
    if (!ranks) return;
    ranks_end(ranks, 0);
    for (int i = 1; i < ranks->count; i++) {
        if (ranks->peer[i].socket >= 0) close(ranks->peer[i].socket);
        free(ranks->peer[i].failed);
    }
    free(ranks->room);
    free(ranks);
}

// ---- The others ----

// Rank 0 has gone: nothing of this process is of use, and the driver takes back what it had of its GPU.
static void *watch_main(void *user) {
    struct pollfd p = {.fd = (int)(intptr_t)user, .events = POLLRDHUP};
    while (poll(&p, 1, -1) < 0 && errno == EINTR) {}
    _exit(EXIT_ENVIRONMENT);
}

RankWord ranks_next(Ranks *ranks, const void **data, size_t *bytes) {
    Head head;
    int socket = ranks->peer[0].socket;
    if (!get(socket, &head, sizeof head, 0) || head.bytes > LARGEST) _exit(EXIT_ENVIRONMENT);
    if (head.bytes > ranks->room_bytes) {
        free(ranks->room);
        ranks->room_bytes = head.bytes;
        if (!(ranks->room = malloc(head.bytes))) _exit(EXIT_ENVIRONMENT);
    }
    if (!get(socket, ranks->room, head.bytes, 0)) _exit(EXIT_ENVIRONMENT);
    *data = ranks->room;
    *bytes = head.bytes;
    return (RankWord)head.word;
}

void ranks_leave(Ctx *ctx, Ranks *ranks, Exit code) {
    uint32_t its = (uint32_t)code;
    size_t bytes = 0;
    if (code != EXIT_OK) {
        const void *said = diag_pack(ctx, &bytes);
        say(ranks->peer[0].socket, RANK_FAILED, &its, sizeof its, said, bytes);
    }
    _exit((int)code);
}

bool ranks_meet(Ranks *ranks, double seconds) {
    const void *data;
    size_t bytes;
    if (ranks->self == 0) return ranks_hear(ranks, RANK_MEET, NULL, 0, seconds) && ranks_say(ranks, RANK_MEET, NULL, 0);
    if (!ranks_say(ranks, RANK_MEET, NULL, 0) || ranks_next(ranks, &data, &bytes) != RANK_MEET)
        _exit(EXIT_ENVIRONMENT); // rank 0 gives up
    return true;
}

// ---- Beginning ----

// In the new process. A group of its own: what the terminal sends is for rank 0, which passes on what concerns all.
static void become(Ranks *ranks, int rank, int socket, pid_t rank0) {
    pthread_t watcher;
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int i = 1; i < ranks->count; i++)
        if (ranks->peer[i].socket >= 0) close(ranks->peer[i].socket);
    memset(ranks->peer, 0, sizeof ranks->peer);
    ranks->self = rank;
    ranks->peer[0].socket = socket;
    setpgid(0, 0);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGPIPE, SIG_IGN);
    if (nothing >= 0) dup2(nothing, 0), dup2(nothing, 1); // results are rank 0's
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != rank0 || pthread_create(&watcher, NULL, watch_main, (void *)(intptr_t)socket) != 0)
        _exit(EXIT_ENVIRONMENT);
}

Ranks *ranks_fork(Ctx *ctx, int count) {
    Ranks *ranks = calloc(1, sizeof *ranks);
    if (!ranks || count > MOST) ctx_out_of_memory(ctx);
    ranks->count = count;
    for (int i = 1; i < count; i++) ranks->peer[i].socket = -1;
    pid_t self = getpid();
    fflush(NULL); // what is not written yet is written once
    for (int i = 1; i < count; i++) {
        int pair[2] = {-1, -1};
        pid_t pid = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0 ? fork() : -1;
        if (pid == 0) {
            close(pair[0]);
            become(ranks, i, pair[1], self);
            return ranks;
        }
        if (pid < 0) {
            diag_error(ctx, E0901, NO_SPAN, "the process of rank %d cannot be started: %s", i, strerror(errno));
            diag_help(ctx, "the system limits processes or memory (`ulimit -u`, `ulimit -v`)");
            if (pair[0] >= 0) close(pair[0]), close(pair[1]);
            ranks_free(ranks);
            return NULL;
        }
        close(pair[1]);
        ranks->peer[i].pid = pid;
        ranks->peer[i].socket = pair[0];
    }
    return ranks;
}
