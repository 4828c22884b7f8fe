/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Any bytes as guest code, on the translator against the interpreter: from the same state both must come to the same
 * registers, flags, vector state, memory, and fault or exit.
 *
 *	byte 0		mode: real, 16 and 32-bit protected, 64-bit, compatibility
 *	byte 1		seeds registers and vectors
 *	byte 2, 3	RFLAGS; where the data pages are missing, read-only or a device's (two bits for each of four)
 *	the rest	code
 *
 * The interpreter goes first, instruction by instruction, and stops the input where it would not mean the same twice: time,
 * random numbers, state of the machine that the harness does not follow (single steps, paging), a string instruction that
 * overwrites itself, a program that goes on for long.
 *
 * Clang's ASan makes calls of its run-time library out of copies of structs, which use the vector registers that the guest's
 * state lives in. So under libFuzzer there are no vectors; `make test` has them, with GCC's ASan, too.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../unit/harness.h"
#include "softkvm/fpu.h"
#include "softkvm/interpret/operand.h"
#include "softkvm/translate/translate.h"

enum { HEADER = 4, MAX_CODE = 512, MAX_STEPS = 1000, PAGES = 4, PAGE_TABLE = 0x3f0000, DEVICE = 0x10000000, VECTOR_STATE = 832 };
enum { PAGE_WRITABLE, PAGE_READONLY, PAGE_MISSING, PAGE_DEVICE };

#ifdef __clang__
enum { HAS_VECTORS = 0 };
#else
enum { HAS_VECTORS = 1 };
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct harness a, b; /* interpreter, translator */
static uint64_t random_state;

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static bool is_paged(enum harness_mode how)
{
	return how == HARNESS_LONG64 || how == HARNESS_COMPAT32;
}

/* --- from the input to a state --- */

/* The first 2 MiB by pages: two of code and the data, nothing else. */
static void map_pages(struct harness *h, unsigned kinds)
{
	uint64_t pde = PAGE_TABLE | PTE_P | PTE_W | PTE_U, *pte = (uint64_t *)(h->ram + PAGE_TABLE);

	memset(pte, 0, 4096);
	for (unsigned k = 0; k < 2; k++)
		pte[HARNESS_CODE / 4096 + k] = (HARNESS_CODE + k * 4096) | PTE_P | PTE_W;
	for (unsigned k = 0; k < PAGES; k++) {
		unsigned kind = kinds >> 2 * k & 3;
		uint64_t gpa = kind == PAGE_DEVICE ? DEVICE : HARNESS_DATA;

		pte[HARNESS_DATA / 4096 + k] = (gpa + k * 4096) | (kind == PAGE_MISSING ? 0 : PTE_P) |
					       (kind == PAGE_READONLY ? 0 : PTE_W);
	}
	memset(h->ram + HARNESS_TABLES + 0x2000, 0, 4096);
	memcpy(h->ram + HARNESS_TABLES + 0x2000, &pde, 8);
	mmu_flush_all(h->v);
}

static void fill_registers(struct vcpu *v, uint8_t seed, uint8_t flags)
{
	random_state = (seed + 1) * 0x9e3779b97f4a7c15ull;
	for (unsigned k = 0; k < 16; k++)
		v->gpr[k] = k % 3 ? HARNESS_DATA + next_random() % (PAGES * 4096) : next_random() >> next_random() % 64;
	if (v->mode == MODE_16)
		for (unsigned k = 0; k < 16; k++)
			v->gpr[k] &= 0xffff;
	v->gpr[RSP] = (v->mode == MODE_16 ? HARNESS_STACK : HARNESS_DATA + 0x2000) - (seed & 7);
	v->rflags = ((flags | flags << 4) & (FLAGS_STATUS | FLAG_DF)) | FLAG_FIXED;
	for (unsigned k = 0; k < 16 * 16; k++) {
		((uint8_t *)v->fpu->x.xmm)[k] = (uint8_t)next_random();
		((uint8_t *)v->fpu->x.ymmh)[k] = (uint8_t)next_random();
	}
	v->fpu->x.mxcsr = 0x1f80;
	v->fpu->x.xstate_bv = XSTATE_X87 | XSTATE_SSE | XSTATE_AVX;
}

static void load(struct harness *h, enum harness_mode how, const uint8_t *data, size_t size)
{
	static const uint64_t flat_data = 0x00cf93000000ffff;

	memset(h->ram, 0, HARNESS_RAM);
	memset(h->ram + HARNESS_CODE, 0xf4, 2 * 4096); /* HLT */
	memcpy(h->ram + HARNESS_GDT + 0x10, &flat_data, 8);
	memcpy(h->ram + HARNESS_CODE, data + HEADER, size - HEADER);
	code_written(&h->vm, 0, HARNESS_RAM);
	harness_reset(h, how);
	if (is_paged(how))
		map_pages(h, data[3]);
	for (unsigned k = SEG_ES; how == HARNESS_REAL && k <= SEG_GS; k++)
		if (k != SEG_CS)
			h->v->seg[k] = (struct x86_seg){HARNESS_DATA, 0xffff, HARNESS_DATA >> 4, h->v->seg[k].attr};
	fill_registers(h->v, data[1], data[2]);
}

/* --- the interpreter's run --- */

static bool is_excluded(const struct insn *i)
{
	if (!HAS_VECTORS && i->row->attrs & (INSN_HOST | INSN_X87 | INSN_MMX | INSN_SSE | INSN_VEX))
		return true;
	switch (i->row->sem) {
	case SEM_RDRAND: case SEM_RDSEED: case SEM_RDTSC: case SEM_RDTSCP: case SEM_RDPMC: case SEM_RDPID: case SEM_CPUID:
	case SEM_RDMSR: case SEM_WRMSR: case SEM_XSETBV: case SEM_XGETBV: case SEM_VMCALL: case SEM_VMMCALL: case SEM_MOV_TO_CR:
	case SEM_LMSW: case SEM_MOV_TO_DR: case SEM_MONITOR: case SEM_MWAIT:
	/* pointers to the last x87 instruction */
	case SEM_FXSAVE: case SEM_FXRSTOR: case SEM_XSAVE: case SEM_XSAVEOPT: case SEM_XSAVEC: case SEM_XSAVES: case SEM_XRSTOR:
	case SEM_XRSTORS: case SEM_FNSAVE: case SEM_FNSTENV: case SEM_FLDENV: case SEM_FRSTOR:
		return true;
	default:
		return i->row->branch == BR_FAR;
	}
}

static const uint8_t *code_at_rip(const struct harness *h)
{
	uint64_t at = linear_rip(h->v, h->v->rip);

	return at < HARNESS_RAM - INSN_MAX_LEN ? h->ram + at : NULL;
}

/* One instruction of `a`. False: the input ends here, as its result says nothing. */
static bool step(int *result)
{
	const uint8_t *code = code_at_rip(&a);
	uint8_t before[INSN_MAX_LEN];
	uint64_t rip = a.v->rip;
	unsigned rounds = 0;
	struct insn i;

	if (!code || (insn_decode(&i, code, INSN_MAX_LEN, a.v->mode) == INSN_OK && is_excluded(&i)))
		return false;
	memcpy(before, code, INSN_MAX_LEN);
	do
		*result = harness_run(&a, 1);
	while (*result == HARNESS_OK && a.v->rip == rip && !a.v->halted && ++rounds < 16);
	if (rounds && memcmp(before, code, INSN_MAX_LEN))
		return false;
	return rounds < 16 && !(a.v->rflags & (FLAG_TF | FLAG_RF | FLAG_VM | FLAG_AC));
}

/* False: not comparable. */
static bool run_interpreter(int *result)
{
	for (unsigned n = 0; n < MAX_STEPS; n++) {
		if (!step(result))
			return false;
		if (*result != HARNESS_OK)
			return true;
		if (a.v->halted) {
			a.v->halted = false;
			return true;
		}
	}
	return false;
}

/* --- comparing --- */

static const char *difference(int ra, int rb)
{
	const struct vcpu *x = a.v, *y = b.v;
	unsigned wide = x->mode == MODE_64 ? 16 : 8;

	if (ra != rb || x->rip != y->rip)
		return "result or RIP";
	for (unsigned k = 0; k < wide; k++)
		if (wide == 16 ? x->gpr[k] != y->gpr[k] : (uint32_t)x->gpr[k] != (uint32_t)y->gpr[k])
			return "register";
	if (memcmp(x->seg, y->seg, sizeof(x->seg)))
		return "segment register";
	if (ra == HARNESS_OK && x->rflags != y->rflags)
		return "RFLAGS";
	if (ra >= 0 && (x->exception_has_error != y->exception_has_error || x->exception_error != y->exception_error))
		return "error code";
	if (ra == VEC_PF && x->exception_payload != y->exception_payload)
		return "CR2";
	if (ra == HARNESS_EXIT && x->run->exit_reason != y->run->exit_reason)
		return "exit";
	harness_normalize(&x->fpu->x);
	harness_normalize(&y->fpu->x);
	if (HAS_VECTORS && memcmp(x->fpu->area, y->fpu->area, VECTOR_STATE))
		return "vector state";
	return memcmp(a.ram, b.ram, HARNESS_RAM) ? "memory" : NULL;
}

static void set_up(void)
{
	if (harness_new_on(&a, HARNESS_LONG64, &engine_interpret) || harness_new_on(&b, HARNESS_LONG64, &engine_translate))
		abort();
	((struct vcpu_translator *)b.v->translator)->raises_out = true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *what;
	int ra = 0, rb;

	if (size <= HEADER)
		return 0;
	if (!a.v)
		set_up();
	if (size > HEADER + MAX_CODE)
		size = HEADER + MAX_CODE;
	load(&a, data[0] % 5, data, size);
	if (!run_interpreter(&ra))
		return 0;
	load(&b, data[0] % 5, data, size);
	rb = harness_run_to_halt(&b);
	what = difference(ra, rb);
	if (!what)
		return 0;
	fprintf(stderr, "%s differs: result %d, %d; rip %lx, %lx; rflags %lx, %lx\n", what, ra, rb, a.v->rip, b.v->rip, a.v->rflags,
		b.v->rflags);
	for (unsigned k = 0; k < 16; k++)
		if (a.v->gpr[k] != b.v->gpr[k])
			fprintf(stderr, "register %u: %lx, %lx\n", k, a.v->gpr[k], b.v->gpr[k]);
	abort();
}
