/* SPDX-License-Identifier: BSD-2-Clause */
/* guise kvm: run another VMM with softkvm in the place of /dev/kvm, by preloading libguise-kvm.so. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/log.h"
#include "cmd/commands.h"

static const char *const engines[] = {"auto", "interpret", "translate", "verify", NULL};
static const char *const cpuids[] = {"auto", "host", NULL};
static struct {
	unsigned engine, cpuid;
	bool help;
} options;

static const struct option_def table[] = {
	{.name = "engine", .kind = OPTION_CHOICE, .value = &options.engine, .arg = "ENGINE", .choices = engines,
	 .help = "interpret, translate or verify (auto: the fastest)"},
	{.name = "cpuid", .kind = OPTION_CHOICE, .value = &options.cpuid, .arg = "WHAT", .choices = cpuids,
	 .help = "host: the program's CPUID instructions are left alone (auto: they show VMX or SVM)"},
	{.name = "help", .kind = OPTION_FLAG, .value = &options.help, .help = "this text"},
	{0},
};

static void print_help(void)
{
	puts("Usage: guise kvm [OPTION...] -- PROGRAM [ARGUMENT...]\n\n"
	     "Runs a program that wants /dev/kvm, such as qemu-system-x86_64 -accel kvm, on\n"
	     "Guise's software CPU. The same as LD_PRELOAD=libguise-kvm.so PROGRAM.\n");
	options_help(stdout, table);
}

/* The library lies beside the program (build tree) or in one of the places where `make install` puts it. */
static int find_library(char path[PATH_MAX])
{
	static const char *const places[] = {"libguise-kvm.so", "src/libguise-kvm.so", "../lib/x86_64-linux-gnu/libguise-kvm.so",
					     "../lib64/libguise-kvm.so", "../lib/libguise-kvm.so"};
	char self[PATH_MAX], candidate[2 * PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (n < 0)
		return -errno;
	self[n] = 0;
	*strrchr(self, '/') = 0;
	for (unsigned k = 0; k < sizeof(places) / sizeof(places[0]); k++) {
		snprintf(candidate, sizeof(candidate), "%s/%s", self, places[k]);
		if (!access(candidate, R_OK) && realpath(candidate, path))
			return 0;
	}
	return -ENOENT;
}

/* The file that execvp() would run. */
static int find_program(const char *name, char path[PATH_MAX])
{
	const char *dirs = getenv("PATH");

	if (strchr(name, '/') || !dirs) {
		snprintf(path, PATH_MAX, "%s", name);
		return access(path, X_OK) ? -errno : 0;
	}
	while (*dirs) {
		size_t n = strcspn(dirs, ":");

		snprintf(path, PATH_MAX, "%.*s/%s", n ? (int)n : 1, n ? dirs : ".", name);
		if (!access(path, X_OK))
			return 0;
		dirs += n + (dirs[n] == ':');
	}
	return -ENOENT;
}

/* Why the loader would not preload into this program, or NULL. What is no ELF file (a script) is left to the kernel. */
static const char *not_preloadable(const char *path)
{
	const char *why = "is a static program: it asks no loader, so nothing can stand in for /dev/kvm";
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	Elf64_Ehdr header;

	if (fd < 0 || pread(fd, &header, sizeof(header), 0) != sizeof(header) || memcmp(header.e_ident, ELFMAG, SELFMAG))
		why = NULL;
	else if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != EM_X86_64)
		why = "is not an x86-64 program";
	for (unsigned k = 0; why && k < header.e_phnum && header.e_ident[EI_CLASS] == ELFCLASS64; k++) {
		Elf64_Phdr segment;

		if (pread(fd, &segment, sizeof(segment), (off_t)(header.e_phoff + k * sizeof(segment))) != sizeof(segment))
			break;
		if (segment.p_type == PT_INTERP && header.e_machine == EM_X86_64)
			why = NULL;
	}
	if (fd >= 0)
		close(fd);
	return why;
}

/* Programs that get other rights than their caller's: their loader ignores LD_PRELOAD (ld.so(8), secure-execution mode). */
static bool gets_rights(const char *path)
{
	struct stat st;

	if (stat(path, &st))
		return false;
	if ((st.st_mode & S_ISUID && st.st_uid != getuid()) || (st.st_mode & S_ISGID && st.st_gid != getgid()))
		return true;
	return getuid() && getxattr(path, "security.capability", NULL, 0) > 0;
}

/* LD_PRELOAD with the library in front of what is there. */
static int set_preload(const char *library)
{
	const char *old = getenv("LD_PRELOAD");
	char value[2 * PATH_MAX];

	snprintf(value, sizeof(value), "%s%s%s", library, old && *old ? ":" : "", old ? old : "");
	return setenv("LD_PRELOAD", value, 1) ? -errno : 0;
}

int cmd_kvm(int argc, char **argv)
{
	char library[PATH_MAX], program[PATH_MAX], error[256];
	const char *why;
	int split = 1;

	while (split < argc && strcmp(argv[split], "--"))
		split++;
	if (options_parse(table, split, argv, error, sizeof(error)))
		return usage_error("kvm", split < argc ? "only options may stand before --" : "-- and a program are needed");
	if (options.help) {
		print_help();
		return STATUS_OK;
	}
	if (split + 1 >= argc)
		return usage_error("kvm", "-- and a program are needed");
	if (find_library(library)) {
		log_error("kvm: libguise-kvm.so is not beside this program nor in its lib directory: build or install it");
		return STATUS_FAILED;
	}
	if (find_program(argv[split + 1], program)) {
		log_error("kvm: %s: not found, or not executable", argv[split + 1]);
		return STATUS_FAILED;
	}
	why = gets_rights(program) ? "is set-user-ID, set-group-ID or has capabilities: its loader takes no library from its caller"
				   : not_preloadable(program);
	if (why) {
		log_error("kvm: %s %s", program, why);
		return STATUS_FAILED;
	}
	if (set_preload(library) || (options.engine && setenv("GUISE_KVM_ENGINE", engines[options.engine], 1)) ||
	    (options.cpuid && setenv("GUISE_KVM_CPUID", cpuids[options.cpuid], 1))) {
		log_error("kvm: %s", strerror(errno));
		return STATUS_FAILED;
	}
	log_info("kvm: %s sees %s instead of /dev/kvm", argv[split + 1], library);
	execv(program, argv + split + 1);
	log_error("kvm: %s: %s", program, strerror(errno));
	return STATUS_FAILED;
}
