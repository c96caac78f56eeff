// Progress of what takes long, told to whoever runs it: `share` from 0 to 1.
#ifndef TILERUN_PROGRESS_H
#define TILERUN_PROGRESS_H

typedef struct Progress {
    void (*tell)(void *user, const char *what, double share); // may be NULL
    void *user;
} Progress;

static inline void progress_tell(const Progress *progress, const char *what, double share) {
    if (progress && progress->tell) progress->tell(progress->user, what, share);
}
#endif
