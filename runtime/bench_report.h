// What a bench has measured, and its ways out: a text for people, JSON for programs.
#ifndef TILERUN_BENCH_REPORT_H
#define TILERUN_BENCH_REPORT_H
#include "bench.h"

enum { BENCH_ACCEPTANCES = 3 };
extern const double bench_acceptances[BENCH_ACCEPTANCES]; // coding, mathematics, agent: as DFlash publishes them

typedef struct BenchTimes { // of a round, milliseconds
    double median, low, high, mean;
    int rounds;
} BenchTimes;

typedef struct BenchReport {
    const BenchJob *job;
    bool gpu, drafts, traced;
    BenchTimes times;
    double acceptance, first_token; // tokens a round; seconds
    double start;                   // positions before a round that was timed, on average
    tr_figures figures;
    double streaming[2]; // bytes a second, before and after; 0: not measured
    tr_phases phases;    // where `traced`
} BenchReport;

// Writes it where the job says. False for lack of memory; errors of a stream stay in it.
bool bench_report(const BenchReport *report);
#endif
