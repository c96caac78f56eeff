// A test program: `int main(void) { RUN(name); ... return check_done(); }`, where name is
// `static void name(void)`. Prints one TAP line a test; a failed CHECK ends its test.
#ifndef CHECK_H
#define CHECK_H
#include <math.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static jmp_buf check_landing;
static int check_failures;

#define CHECK(condition, ...)                                                                                          \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            printf("not ok %s: %s:%d: %s", check_name, __FILE__, __LINE__, #condition);                                \
            printf(" " __VA_ARGS__);                                                                                   \
            printf("\n");                                                                                              \
            longjmp(check_landing, 1);                                                                                 \
        }                                                                                                              \
    } while (0)
#define CHECK_TEXT(got, want)                                                                                          \
    do {                                                                                                               \
        const char *got_ = (got), *want_ = (want);                                                                     \
        if (!got_ || strcmp(got_, want_) != 0) {                                                                       \
            printf("not ok %s: %s:%d: got\n# %s\n# want\n# %s\n", check_name, __FILE__, __LINE__,                      \
                   got_ ? got_ : "(null)", want_);                                                                     \
            longjmp(check_landing, 1);                                                                                 \
        }                                                                                                              \
    } while (0)
#define SKIP(why)                                                                                                      \
    do {                                                                                                               \
        printf("skip %s: %s\n", check_name, why);                                                                      \
        longjmp(check_landing, 2);                                                                                     \
    } while (0)

static const char *check_name;
#define RUN(test)                                                                                                      \
    do {                                                                                                               \
        check_name = #test;                                                                                            \
        int landed_ = setjmp(check_landing);                                                                           \
        if (landed_ == 0) {                                                                                            \
            test();                                                                                                    \
            printf("ok %s\n", check_name);                                                                             \
        } else if (landed_ == 1)                                                                                       \
            check_failures++;                                                                                          \
        fflush(stdout);                                                                                                \
    } while (0)

static inline int check_done(void) { return check_failures ? 1 : 0; }

// A counter-based generator for property tests: print the seed when a test fails.
static inline uint64_t check_random(uint64_t *state) {
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}
#endif
