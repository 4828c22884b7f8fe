/* SPDX-License-Identifier: BSD-2-Clause */
/* The subcommands of guise: one file each, listed in main.c. */
#ifndef GUISE_CMD_COMMANDS_H
#define GUISE_CMD_COMMANDS_H

#include "base/options.h"

/* argv[0] is the subcommand's name. The result is the program's exit status. */
typedef int command_fn(int argc, char **argv);

command_fn cmd_run, cmd_vhost_blk, cmd_vhost_net, cmd_kvm, cmd_port, cmd_probe, cmd_check, cmd_version, cmd_help;

enum { STATUS_OK = 0, STATUS_FAILED = 1, STATUS_USAGE = 2 };

/* Complain about the command line: one line and where to find help. Returns STATUS_USAGE. */
int usage_error(const char *command, const char *what);

#endif
