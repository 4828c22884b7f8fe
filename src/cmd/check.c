/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * guise check: what this host offers to virtual machines, what is missing, and how to get it. Nothing is changed and
 * nothing that is missing keeps Guise from running: its own engine needs none of it.
 */
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "cmd/commands.h"
#include "kvm/kvm.h"

enum { COLUMN = 20 };

static void say(const char *what, const char *state, const char *advice)
{
	printf("%-*s %s\n", COLUMN, what, state);
	if (advice && *advice)
		printf("%-*s   %s\n", COLUMN, "", advice);
}

/* "yes", or why a device node cannot be used. */
static bool check_node(const char *what, const char *path, const char *if_missing)
{
	char state[128];
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd >= 0) {
		close(fd);
		snprintf(state, sizeof(state), "yes (%s)", path);
		say(what, state, NULL);
		return true;
	}
	snprintf(state, sizeof(state), "no (%s: %s)", path, strerror(errno));
	say(what, state, errno == EACCES || errno == EPERM ? "the device is there: ask for access to it" : if_missing);
	return false;
}

static void check_kvm(void)
{
	bool there = check_node("KVM", "/dev/kvm", kvm_has_hardware() ? "modprobe kvm-intel or kvm-amd" : NULL);

	if (!kvm_has_hardware())
		say("Virtualization", "the processor shows neither VMX nor SVM",
		    there ? "this /dev/kvm is for special guests only; --engine kvm insists"
			  : "switch it on in the firmware, or nested virtualization in the hypervisor below");
	if (!there || !kvm_has_hardware())
		say("", "Guise runs on its own engine", NULL);
}

static void check_engine(void)
{
	struct kvm *kvm;
	const char *why;

	if (kvm_open(KVM_ENGINE_AUTO, &kvm, &why)) {
		say("Engine", "none", why);
		return;
	}
	say("Engine", why, NULL);
	kvm_close(kvm);
}

/* The x86-64 levels of the System V ABI, from CPUID. */
static int cpu_level(void)
{
	unsigned a, b, c, d, b7 = 0, c81 = 0, ignored;
	const unsigned v2 = bit_SSE3 | bit_SSSE3 | bit_SSE4_1 | bit_SSE4_2 | bit_POPCNT | bit_CMPXCHG16B;
	const unsigned v3 = bit_AVX | bit_FMA | bit_F16C | bit_MOVBE | bit_OSXSAVE;
	const unsigned v3_7 = bit_AVX2 | bit_BMI | bit_BMI2;
	const unsigned v4_7 = bit_AVX512F | bit_AVX512BW | bit_AVX512CD | bit_AVX512DQ | bit_AVX512VL;

	if (!__get_cpuid(1, &a, &b, &c, &d) || (c & v2) != v2)
		return 1;
	__get_cpuid_count(7, 0, &ignored, &b7, &ignored, &ignored);
	__get_cpuid(0x80000001, &ignored, &ignored, &c81, &ignored);
	if ((c & v3) != v3 || (b7 & v3_7) != v3_7 || !(c81 & bit_LZCNT))
		return 2;
	return (b7 & v4_7) == v4_7 ? 4 : 3;
}

static void check_cpu(void)
{
	char model[64] = "", state[96];
	unsigned *words = (unsigned *)model;

	for (unsigned k = 0; k < 3; k++)
		__get_cpuid(0x80000002 + k, &words[4 * k], &words[4 * k + 1], &words[4 * k + 2], &words[4 * k + 3]);
	say("Processor", model[0] ? model : "unknown", NULL);
	snprintf(state, sizeof(state), "x86-64-v%d; guests get up to v3", cpu_level());
	say("CPU level", state, NULL);
}

/* A number from a line "name: value kB" of /proc/meminfo, or -1. */
static long meminfo(const char *name)
{
	FILE *f = fopen("/proc/meminfo", "re");
	char line[128];
	long value = -1;

	while (f && fgets(line, sizeof(line), f)) {
		size_t len = strlen(name);

		if (!strncmp(line, name, len) && line[len] == ':')
			sscanf(line + len + 1, "%ld", &value);
	}
	if (f)
		fclose(f);
	return value;
}

static void check_memory(void)
{
	long pages = meminfo("HugePages_Total"), page_kb = meminfo("Hugepagesize");
	char state[96];

	snprintf(state, sizeof(state), "%ld MiB available of %ld MiB", meminfo("MemAvailable") / 1024,
		 meminfo("MemTotal") / 1024);
	say("Memory", state, NULL);
	snprintf(state, sizeof(state), "%ld of %ld kB, %ld free", pages, page_kb, meminfo("HugePages_Free"));
	say("Huge pages", pages > 0 ? state : "none reserved",
	    pages > 0 ? "guest memory takes them when enough are free" : "optional: sysctl vm.nr_hugepages=N");
}

static void check_kernel(void)
{
	struct utsname u;
	char state[300];

	uname(&u);
	snprintf(state, sizeof(state), "%s %s, %ld processors online", u.sysname, u.release, sysconf(_SC_NPROCESSORS_ONLN));
	say("Kernel", state, NULL);
}

int cmd_check(int argc, char **argv)
{
	bool help = false;
	const struct option_def table[] = {{.name = "help", .kind = OPTION_FLAG, .value = &help, .help = "this text"}, {0}};
	char error[128];

	if (options_parse(table, argc, argv, error, sizeof(error)) < 0)
		return usage_error("check", error);
	if (help) {
		puts("Usage: guise check\n\nSays what this host offers to virtual machines and how to get what is missing.");
		return STATUS_OK;
	}
	check_kernel();
	check_cpu();
	check_memory();
	check_engine();
	check_kvm();
	check_node("vhost-net", "/dev/vhost-net", "optional: modprobe vhost_net");
	check_node("vhost-vsock", "/dev/vhost-vsock", "optional: modprobe vhost_vsock");
	check_node("TAP", "/dev/net/tun", "optional: modprobe tun");
	return STATUS_OK;
}
