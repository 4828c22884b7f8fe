/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A program that asks the processor whether there is hardware virtualization before it opens /dev/kvm, as kvmtool does, and what
 * must not change for it under `guise kvm`: every other bit of CPUID, text that only looks like the instruction, its
 * own SIGILL handler and masks.
 *
 *	guise kvm -- cpuid_check		the bit is set
 *	guise kvm --cpuid host -- cpuid_check host	it is not
 */
#include <cpuid.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum { SKIPPED = 77, LEAF_AMD = 0x80000001, VMX = 1 << 5, SVM = 1 << 2 };

static int failures;

static void check(bool right, const char *what)
{
	if (right)
		return;
	printf("wrong: %s\n", what);
	failures++;
}

/* --- the instruction in the program, and outside of it --- */

struct answer {
	uint32_t a, b, c, d;
};

typedef void asking(uint32_t leaf, uint32_t index, struct answer *answer);

__attribute__((noinline)) static void ask(uint32_t leaf, uint32_t index, struct answer *n)
{
	__cpuid_count(leaf, index, n->a, n->b, n->c, n->d);
}

/* The same made at run time: the processor's answer. */
static asking *make_asking(void)
{
	static const uint8_t code[] = {0x53,		   /* push rbx */
				       0x89, 0xf8,	   /* mov eax, edi */
				       0x89, 0xf1,	   /* mov ecx, esi */
				       0x49, 0x89, 0xd0,   /* mov r8, rdx */
				       0x0f, 0xa2,	   /* cpuid */
				       0x41, 0x89, 0x00,   /* mov [r8], eax */
				       0x41, 0x89, 0x58, 4, /* mov [r8 + 4], ebx */
				       0x41, 0x89, 0x48, 8, 0x41, 0x89, 0x50, 12, 0x5b, 0xc3};
	uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (page == MAP_FAILED)
		return NULL;
	memcpy(page, code, sizeof(code));
	return (asking *)page;
}

/* No instruction: between functions, and within one. */
__asm__(".text\n.globl looks_like_it\nlooks_like_it: .byte 0x0f, 0xa2, 0x0f, 0xa2\n");
extern const uint8_t looks_like_it[4];

__attribute__((noinline)) static uint32_t immediate(void)
{
	uint32_t value;

	__asm__("mov $0x11a20f22, %0" : "=r"(value));
	return value;
}

/* --- what it says --- */

static bool is_amd;

static uint32_t bit_of(uint32_t leaf)
{
	return leaf == (is_amd ? (uint32_t)LEAF_AMD : 1) ? is_amd ? SVM : VMX : 0;
}

static bool shows_virtualization(asking *how)
{
	uint32_t leaf = is_amd ? (uint32_t)LEAF_AMD : 1;
	struct answer n;

	how(leaf, 0, &n);
	return n.c & bit_of(leaf);
}

/* Every leaf of both ranges, as the processor says, the bit apart. */
static void compare_leaves(asking *processor, bool shown)
{
	for (uint32_t range = 0; range != 1; range = range ? 1 : 0x80000000) {
		struct answer top, theirs, ours;

		processor(range, 0, &top);
		for (uint32_t leaf = range; leaf <= top.a && leaf < range + 64; leaf++)
			for (uint32_t index = 0; index < 4; index++) {
				processor(leaf, index, &theirs);
				ask(leaf, index, &ours);
				if (shown)
					theirs.c |= bit_of(leaf);
				check(!memcmp(&theirs, &ours, sizeof(ours)), "a leaf differs");
			}
	}
}

static void stay_on_one_cpu(void)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	sched_setaffinity(0, sizeof(one), &one);
}

/* --- SIGILL --- */

static volatile int caught;
static volatile bool asked_within;
static bool expected;

static void on_sigill(int number, siginfo_t *info, void *context)
{
	ucontext_t *u = context;
	const uint8_t *rip = (const uint8_t *)u->uc_mcontext.gregs[REG_RIP];

	caught += info->si_addr == rip && rip[0] == 0x0f && rip[1] == 0x0b;
	asked_within = shows_virtualization(ask) == expected;
	u->uc_mcontext.gregs[REG_RIP] += 2;
}

static void own_handler(void)
{
	struct sigaction action = {.sa_sigaction = on_sigill, .sa_flags = SA_SIGINFO}, old;

	check(!sigaction(SIGILL, &action, &old) && old.sa_handler == SIG_DFL, "SIGILL had an action before");
	__asm__ volatile("ud2; ud2");
	check(caught == 2, "the program's handler got its two UD2");
	check(asked_within, "CPUID within the handler");
	check(shows_virtualization(ask) == expected, "CPUID with a handler");
	check(!sigaction(SIGILL, NULL, &old) && old.sa_sigaction == on_sigill, "the handler is another");
	signal(SIGILL, SIG_IGN);
	check(shows_virtualization(ask) == expected, "CPUID with SIGILL ignored");
	signal(SIGILL, SIG_DFL);
	check(shows_virtualization(ask) == expected, "CPUID without a handler");
}

static void *ask_blocked(void *arg)
{
	sigset_t all, now;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	check(shows_virtualization(ask) == expected, "CPUID with all signals blocked");
	sigprocmask(SIG_BLOCK, NULL, &now);
	check(sigismember(&now, SIGILL) == 1 && sigismember(&now, SIGSEGV) == 1, "the mask");
	return NULL;
}

static void blocked(void)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, ask_blocked, NULL))
		exit(1);
	pthread_join(thread, NULL);
}

static int child_status(bool dies)
{
	int status = 0;
	pid_t child = fork();

	if (!child) {
		if (dies)
			__asm__ volatile("ud2");
		_exit(shows_virtualization(ask) == expected ? 5 : 6);
	}
	waitpid(child, &status, 0);
	return status;
}

int main(int argc, char **argv)
{
	asking *processor = make_asking();
	struct answer vendor;

	ask(0, 0, &vendor);
	is_amd = vendor.b == signature_AMD_ebx;
	expected = argc < 2;
	if (access("/dev/kvm", R_OK | W_OK) || !processor)
		return 1;
	if (shows_virtualization(processor)) {
		puts("SKIP: the processor shows hardware virtualization");
		return SKIPPED;
	}
	stay_on_one_cpu();
	check(shows_virtualization(ask) == expected, "the bit");
	compare_leaves(processor, expected);
	check(!memcmp(looks_like_it, (uint8_t[]){0x0f, 0xa2, 0x0f, 0xa2}, 4), "text that is no function has changed");
	check(immediate() == 0x11a20f22, "an immediate has changed");
	own_handler();
	blocked();
	check(WIFEXITED(child_status(false)) && WEXITSTATUS(child_status(false)) == 5, "CPUID in a child");
	check(WTERMSIG(child_status(true)) == SIGILL, "a child's UD2 kills it");
	puts(failures ? "failed" : "passed");
	return failures != 0;
}
