/* SPDX-License-Identifier: BSD-2-Clause */
/* guise: one program, one file per subcommand. */
#include <stdio.h>
#include <string.h>

#include "cmd/commands.h"

static const struct command {
	const char *name;
	command_fn *fn;
	const char *help;
} commands[] = {
	{"run", cmd_run, "run a virtual machine"},
	{"vhost-blk", cmd_vhost_blk, "serve a disk to another VMM over vhost-user"},
	{"vhost-net", cmd_vhost_net, "serve a network to another VMM over vhost-user"},
	{"kvm", cmd_kvm, "run another VMM with softkvm as its /dev/kvm"},
	{"port", cmd_port, "move packets through a network port: generate, count, reflect, forward"},
	{"probe", cmd_probe, "test a vhost-user back end or front end: conformance, hostile input"},
	{"check", cmd_check, "say what this host offers and what is missing"},
	{"version", cmd_version, "print the version"},
	{"help", cmd_help, "print this"},
};

static const struct command *find(const char *name)
{
	for (unsigned k = 0; k < sizeof(commands) / sizeof(commands[0]); k++)
		if (!strcmp(commands[k].name, name))
			return &commands[k];
	return NULL;
}

static void print_help(FILE *out)
{
	fputs("Usage: guise COMMAND [OPTION...]\n\n", out);
	for (unsigned k = 0; k < sizeof(commands) / sizeof(commands[0]); k++)
		fprintf(out, "  %-10s %s\n", commands[k].name, commands[k].help);
	fputs("\n'guise COMMAND --help' tells more about one.\n", out);
}

int usage_error(const char *command, const char *what)
{
	fprintf(stderr, "guise %s: %s\nTry 'guise %s --help'.\n", command, what, command);
	return STATUS_USAGE;
}

int cmd_help(int argc, char **argv)
{
	const struct command *command = argc > 1 ? find(argv[1]) : NULL;
	char *words[] = {argc > 1 ? argv[1] : argv[0], (char[]){"--help"}, NULL};

	if (command && command->fn != cmd_help)
		return command->fn(2, words);
	print_help(stdout);
	return STATUS_OK;
}

int cmd_version(int argc, char **argv)
{
	printf("guise %s\n", GUISE_VERSION);
	return STATUS_OK;
}

/*
 * Programs that find back ends by their descriptions (share/qemu/vhost-user) start a binary with the options that the
 * specification has for back-end programs, and no subcommand: so there are names for this program that stand for one.
 */
static const struct command *by_own_name(const char *path)
{
	static const struct {
		const char *name, *command;
	} names[] = {{"vhost-user-blk", "vhost-blk"}, {"vhost-user-net", "vhost-net"}};
	const char *slash = strrchr(path, '/'), *own = slash ? slash + 1 : path;

	for (unsigned k = 0; k < sizeof(names) / sizeof(names[0]); k++)
		if (!strcmp(own, names[k].name))
			return find(names[k].command);
	return NULL;
}

int main(int argc, char **argv)
{
	const struct command *command = argc ? by_own_name(argv[0]) : NULL;
	const char *name = argc > 1 ? argv[1] : "";

	if (command)
		return command->fn(argc, argv);

	if (!strcmp(name, "--help") || !strcmp(name, "-h"))
		name = "help";
	else if (!strcmp(name, "--version"))
		name = "version";
	if (!*name) {
		print_help(stderr);
		return STATUS_USAGE;
	}
	command = find(name);
	if (!command) {
		fprintf(stderr, "guise: no command '%s'; 'guise help' lists them\n", name);
		return STATUS_USAGE;
	}
	return command->fn(argc - 1, argv + 1);
}
