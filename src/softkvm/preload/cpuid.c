/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * CPUID for programs that ask the processor itself whether there is hardware virtualization, and give up where it says no although
 * /dev/kvm is there (kvmtool does). Where the host's CPUID shows neither VMX nor SVM, the CPUID instructions of the main
 * executable become UD2, which is as long, and our handler of SIGILL executes them: all is the host's, but for that one bit.
 *
 * Only a program that names /dev/kvm is changed, and there only what is known to be an instruction: the function that holds it
 * is in the executable's table, and decoding from its begin arrives at it. Libraries, other text and code made at run time
 * keep the processor's answer. The program's own SIGILL handler gets every other SIGILL (actions.c).
 *
 * The kernel can have CPUID fault for a whole thread (arch_prctl's ARCH_SET_CPUID), but not on every processor, and for all
 * libraries, too, with SIGSEGV, which would then need a system call to get at the real answer.
 *
 * It is done by the library's constructor, as such programs ask before they call anything that comes by here.
 */
#include "softkvm/preload/preload.h"

#include <cpuid.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "base/log.h"
#include "softkvm/preload/program.h"
#include "x86/insn.h"

enum { PAGE = 4096, CPUID_VMX = 1 << 5 /* leaf 1, ECX */, CPUID_SVM = 1 << 2 /* leaf 80000001h, ECX */ };
enum { HYGON_EBX = 0x6f677948 /* "Hygo" */ };

static const uint8_t cpuid_code[2] = {0x0f, 0xa2}, ud2_code[2] = {0x0f, 0x0b};

static const uint8_t **sites; /* ascending; fixed once the handler is installed */
static unsigned site_count;
static bool is_amd;
static struct sigaction before;

/* --- what CPUID says --- */

static bool vendor_is_amd(void)
{
	uint32_t a, b, c, d;

	__cpuid(0, a, b, c, d);
	return b == signature_AMD_ebx || b == HYGON_EBX;
}

static bool host_shows_virtualization(void)
{
	uint32_t a, b, c, d;

	__cpuid(is_amd ? 0x80000001 : 1, a, b, c, d);
	return c & (is_amd ? CPUID_SVM : CPUID_VMX);
}

/* The instruction at a site, on the registers of the thread that met it. */
static void execute_cpuid(greg_t *r)
{
	uint32_t leaf = (uint32_t)r[REG_RAX], a, b, c, d;

	__cpuid_count(leaf, (uint32_t)r[REG_RCX], a, b, c, d);
	if (leaf == (is_amd ? 0x80000001 : 1))
		c |= is_amd ? CPUID_SVM : CPUID_VMX;
	r[REG_RAX] = a;
	r[REG_RBX] = b;
	r[REG_RCX] = c;
	r[REG_RDX] = d;
	r[REG_RIP] += (greg_t)sizeof(cpuid_code);
}

static int by_address(const void *a, const void *b)
{
	const uint8_t *x = *(const uint8_t *const *)a, *y = *(const uint8_t *const *)b;

	return (x > y) - (x < y);
}

static void on_sigill(int number, siginfo_t *info, void *context)
{
	greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
	const uint8_t *rip = (const uint8_t *)r[REG_RIP];

	if (info->si_code > 0 && bsearch(&rip, sites, site_count, sizeof(*sites), by_address))
		execute_cpuid(r);
	else
		before.sa_sigaction(number, info, context);
}

/* --- where it stands --- */

static bool is_instruction(const struct program *program, const uint8_t *at, const uint8_t *end)
{
	const uint8_t *p = program_function(program, at);
	struct insn insn;

	while (p && p < at) {
		if (insn_decode(&insn, p, end - p < INSN_MAX_LEN ? (unsigned)(end - p) : INSN_MAX_LEN, MODE_64) != INSN_OK)
			return false;
		p += insn.len;
	}
	return p == at;
}

static int note_site(const uint8_t *at)
{
	const uint8_t **more = realloc(sites, (site_count + 1) * sizeof(*sites));

	if (!more)
		return -ENOMEM;
	sites = more;
	sites[site_count++] = at;
	return 0;
}

/* The bytes of CPUID at or after `at`, or NULL. Their second is much rarer in code, and memchr() faster than memmem(). */
static const uint8_t *next_candidate(const struct program_segment *s, const uint8_t *at)
{
	const uint8_t *end = s->start + s->size;

	while (++at < end && (at = memchr(at, cpuid_code[1], (size_t)(end - at))))
		if (at[-1] == cpuid_code[0])
			return at - 1;
	return NULL;
}

static int find_sites(const struct program *program)
{
	int err = 0;

	for (unsigned k = 0; k < program->segments; k++) {
		const struct program_segment *s = &program->segment[k];
		const uint8_t *at = s->start;

		for (at = s->executable ? next_candidate(s, at) : NULL; at && !err; at = next_candidate(s, at + 1)) {
			if (is_instruction(program, at, s->start + s->size))
				err = note_site(at);
			else
				log_debug("kvm: 0f a2 at %p: not known to be CPUID", (const void *)at);
		}
	}
	if (site_count)
		qsort(sites, site_count, sizeof(*sites), by_address);
	return err;
}

/* The pages are the process's own from then on. 0/-errno: where code may not be written (SELinux's execmod). */
static int write_site(const uint8_t *at)
{
	uintptr_t first = (uintptr_t)at & ~(uintptr_t)(PAGE - 1), last = ((uintptr_t)at + 1) & ~(uintptr_t)(PAGE - 1);
	size_t size = last - first + PAGE;

	if (NEXT(mprotect)((void *)first, size, PROT_READ | PROT_WRITE | PROT_EXEC))
		return -errno;
	memcpy((void *)at, ud2_code, sizeof(ud2_code));
	return NEXT(mprotect)((void *)first, size, PROT_READ | PROT_EXEC) ? -errno : 0;
}

static void replace_sites(void)
{
	struct sigaction action = {.sa_sigaction = on_sigill, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};

	sigaction(SIGILL, NULL, &before);
	sigaction(SIGILL, &action, NULL);
	for (unsigned k = 0; k < site_count; k++) {
		int err = write_site(sites[k]);

		if (err) {
			log_warn("kvm: the program's CPUID stays the processor's: %s", strerror(-err));
			return;
		}
	}
	log_debug("kvm: %u CPUID instructions of the program show hardware virtualization", site_count);
}

__attribute__((constructor)) static void show_virtualization(void)
{
	const char *wanted = getenv("GUISE_KVM_CPUID");
	struct program program;

	is_amd = vendor_is_amd();
	if ((wanted && !strcmp(wanted, "host")) || host_shows_virtualization())
		return;
	program_look(&program);
	if (program_says(&program, "/dev/kvm") && !find_sites(&program) && site_count)
		replace_sites();
}
