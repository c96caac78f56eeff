// `tilegen diff`: the command. It drives the runtime, so it is no part of libtilegen, which knows nothing of running:
// only the program tilegen, whose main has the table of commands, links it.
#ifndef TILERUN_DIFF_COMMAND_H
#define TILERUN_DIFF_COMMAND_H
#include "cli.h"

Exit diff_command(Ctx *ctx, const Options *options);
#endif
