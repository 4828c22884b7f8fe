/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * See native.h. native_enter (assembly) loads XSAVE state, flags and all general registers, jumps to the
 * slot, and comes back through an absolute jump behind the instruction that changes no register; a fault
 * comes back through a signal handler on its own stack, which takes the registers from the signal frame.
 *
 * Registers' names of <ucontext.h> collide with x86/arch.h's, so the frame is read by native_signal.c.
 */
#include "native.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "native_signal.h"

struct cpu_state native_in, native_out;
uint64_t native_host_rsp, native_target, native_taken;
uint32_t native_host_mxcsr;
uint16_t native_host_fcw;

void native_enter(void);
void native_exit_next(void);
void native_exit_taken(void);

static uint8_t *code_view, *data_view;

_Static_assert(offsetof(struct cpu_state, rflags) == 128 && offsetof(struct cpu_state, rip) == 136 &&
	       offsetof(struct cpu_state, fp) == 192, "offsets in native_enter");

#define EACH(X) X(rax, 0) X(rcx, 8) X(rdx, 16) X(rbx, 24) X(rbp, 40) X(rsi, 48) X(rdi, 56) \
	X(r8, 64) X(r9, 72) X(r10, 80) X(r11, 88) X(r12, 96) X(r13, 104) X(r14, 112) X(r15, 120) \
	X(rsp, 32)
#define LOAD(reg, at)  "mov native_in+" #at "(%rip), %" #reg "\n"
#define STORE(reg, at) "mov %" #reg ", native_out+" #at "(%rip)\n"

__asm__(".pushsection .text\n"
	".globl native_enter, native_exit_next, native_exit_taken, native_exit_fault\n"
	"native_enter:\n"
	"push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
	"mov %rsp, native_host_rsp(%rip)\n"
	"stmxcsr native_host_mxcsr(%rip)\n"
	"fnstcw native_host_fcw(%rip)\n"
	"mov $7, %eax\n xor %edx, %edx\n"
	"xrstor64 native_in+192(%rip)\n"
	"pushq native_in+128(%rip)\n"
	"popfq\n"
	EACH(LOAD)
	"jmp *native_target(%rip)\n"
	"native_exit_taken:\n"
	"movq $1, native_taken(%rip)\n"
	"jmp 1f\n"
	"native_exit_next:\n"
	"movq $0, native_taken(%rip)\n"
	"1:\n"
	EACH(STORE)
	"mov native_host_rsp(%rip), %rsp\n"
	"pushfq\n"
	"popq native_out+128(%rip)\n"
	"pushq $0x202\n"
	"popfq\n"
	"mov $7, %eax\n xor %edx, %edx\n"
	"xsave64 native_out+192(%rip)\n"
	"native_exit_fault:\n"
	"mov native_host_rsp(%rip), %rsp\n"
	"fninit\n"
	"fldcw native_host_fcw(%rip)\n"
	"ldmxcsr native_host_mxcsr(%rip)\n"
	"vzeroupper\n"
	"pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n"
	"ret\n"
	".popsection\n");

/* One memory object mapped twice: at its fixed address with the final rights, and writable anywhere. */
static int map_pair(uint32_t address, unsigned size, int prot, uint8_t **view)
{
	int fd = memfd_create("native", MFD_CLOEXEC);
	void *fixed;

	if (fd < 0 || ftruncate(fd, size))
		return -errno;
	fixed = mmap((void *)(uintptr_t)address, size, prot, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
	*view = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return fixed == MAP_FAILED || *view == MAP_FAILED ? -errno : 0;
}

int native_init(void)
{
	int err = __builtin_cpu_supports("avx") ? 0 : -ENOTSUP;

	if (!err)
		err = map_pair(NATIVE_CODE, NATIVE_CODE_SIZE, PROT_READ | PROT_EXEC, &code_view);

	if (!err)
		err = map_pair(NATIVE_DATA, NATIVE_DATA_SIZE + NATIVE_CONST_SIZE, PROT_READ | PROT_WRITE,
			       &data_view);
	if (!err && mprotect((void *)NATIVE_CONST, NATIVE_CONST_SIZE, PROT_READ))
		err = -errno;
	for (uint32_t at = NATIVE_DATA; !err && at < NATIVE_CONST + NATIVE_CONST_SIZE; at += 4096)
		(void)*(volatile uint8_t *)(uintptr_t)at; /* present: error codes are those of rights */
	return err;
}

uint8_t *native_data(void)
{
	return data_view;
}

/* jmp *pointer(%rip). The pointers are aligned: the guest's AC flag may be set. */
static void put_exit(uint8_t *slot, unsigned at, unsigned pointer, void (*target)(void))
{
	const uint8_t jump[6] = {0xff, 0x25, pointer - at - 6};

	memcpy(slot + at, jump, 6);
	memcpy(slot + pointer, &target, 8);
}

void native_code(uint32_t slot, const uint8_t *code, unsigned size)
{
	uint8_t *p = code_view + (slot - NATIVE_CODE);

	memcpy(p, code, size);
	put_exit(p, size, 48, native_exit_next);
	put_exit(p, NATIVE_TAKEN, 56, native_exit_taken);
}

void native_run(uint32_t slot, const struct cpu_state *in, struct cpu_state *out, struct outcome *outcome)
{
	struct native_fault fault = {.vector = -1};

	native_in = *in;
	native_target = slot;
	memset(&native_out.fp, 0, 832);
	native_signal_expect(&fault, native_out.gpr, &native_out.rflags, &native_out.rip, &native_out.fp);
	native_enter();
	native_signal_expect(NULL, NULL, NULL, NULL, NULL);
	*out = native_out;
	if (fault.vector < 0)
		out->rip = native_taken ? slot + NATIVE_TAKEN : 0; /* 0: the next instruction */
	*outcome = (struct outcome){fault.vector, fault.error, fault.cr2};
}
