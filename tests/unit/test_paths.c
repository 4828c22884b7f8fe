/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Random programs with branches, in every mode, on the translator against the interpreter: near branches and calls of all
 * kinds, string instructions, segment registers, stacks. Both run each program from the same state; registers, flags, memory,
 * segment registers, exceptions and device accesses are compared. RAM goes on from program to program.
 *
 *   real-address mode, 16 and 32-bit protected mode: random bases, limits and kinds of segments
 *   64-bit and compatibility mode: few pages, which may be read-only, missing, or a device's; some programs write to themselves
 *
 * A timer stops the translator somewhere in the middle, as interrupts do. Seed and count may be given as arguments.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "harness.h"
#include "softkvm/fpu.h"
#include "softkvm/translate/translate.h"
#include "../insn/row_code.h"

enum { MAX_PROGRAM = 1200, MAX_WAITING = 8, REPEATS = 2, DATA_LOW = 0x20000, COMPARED = 0x340000 };
enum { PAGE_WRITABLE, PAGE_READONLY, PAGE_MISSING, PAGE_DEVICE };
enum { PAGES = 6, PAGE_TABLE = 0x3f0000, DEVICE = 0x10000000, STOP_WITHIN_US = 60 };

static struct harness a, b; /* interpreter, translator */
static struct random rnd;
static bool self_writing; /* the program being made writes to itself */
static uint64_t seed = 1;
static unsigned programs = 1000;
static enum harness_mode how;
static enum insn_mode mode;

/* Where an offset of something further on is to be put. */
struct waiting {
	unsigned at, size; /* of the field */
	int relative_to;   /* offset in the code; -1: RIP itself */
	unsigned insns;	   /* to go */
};

struct program {
	uint8_t code[MAX_PROGRAM];
	unsigned size;
	struct waiting waiting[MAX_WAITING];
	unsigned waiting_count;
	uint32_t first_rip;
	uint64_t gpr[16], rflags;
	struct x86_seg seg[SEG_TR];
	uint8_t page[PAGES]; /* of data, in flat modes */
	bool writes_itself;
};

static unsigned random_in(unsigned low, unsigned high)
{
	return low + random_below(&rnd, high - low);
}

static bool one_in(unsigned n)
{
	return !random_below(&rnd, n);
}

/* --- programs --- */

static bool is_paged(void)
{
	return how == HARNESS_LONG64 || how == HARNESS_COMPAT32;
}

static bool is_excluded(const struct insn *i)
{
	switch (i->row->sem) {
	case SEM_RDRAND: case SEM_RDSEED: case SEM_RDTSC: case SEM_RDTSCP: case SEM_RDPMC: case SEM_CPUID: case SEM_XGETBV:
	case SEM_IN: case SEM_OUT: case SEM_INS: case SEM_OUTS: case SEM_FXSAVE: case SEM_FXRSTOR: case SEM_XSAVE:
	case SEM_XRSTOR: case SEM_XSAVEOPT: case SEM_XSAVEC: case SEM_CLFLUSH: case SEM_RDPID: case SEM_POPF: case SEM_HLT:
		return true;
	}
	/* May be long; or overwrite itself: how much of it still happens then is not defined. */
	if (i->row->attrs & INSN_STRING && i->prefixes & (PFX_REP | PFX_REPNE) && (self_writing || (!is_paged() && i->mem.addr_size == 4)))
		return true;
	return i->row->branch != BR_NONE ||
	       i->row->attrs & (INSN_PRIV | INSN_HOST | INSN_X87 | INSN_MMX | INSN_SSE | INSN_VEX | INSN_VSIB);
}

/* These mostly fault, and end the program. */
static bool ends_program(const struct insn *i)
{
	switch (i->row->sem) {
	case SEM_MOV_TO_SEG: case SEM_POP_SEG: case SEM_LOAD_FAR_PTR:
		return how != HARNESS_REAL;
	case SEM_BOUND: case SEM_DIV: case SEM_IDIV: case SEM_UD: case SEM_VMCALL: case SEM_VMMCALL:
		return true;
	default:
		return false;
	}
}

/* Registers that point to data, mostly. */
static bool is_pointer(unsigned reg)
{
	return reg == RSP || reg == RBP || reg == RBX || reg == RSI || reg == RDI || reg == R9 || reg == R13;
}

static bool loses_pointer(const struct insn *i)
{
	for (unsigned k = 0; k < i->operand_count; k++) {
		const struct operand *o = &i->operand[k];

		if (o->kind == OPK_GPR && o->access & ACC_W && is_pointer(o->reg >= REG_AH ? o->reg - REG_AH : o->reg))
			return true;
		if (o->kind == OPK_MEM && (i->mem.index != REG_NONE || i->mem.addr_size == 2 || i->mem.vsib ||
					   (i->mem.base < 16 && !is_pointer(i->mem.base))))
			return true;
	}
	return false;
}

/* Flat code's displacements of 4 bytes lead into the data, or a little away from a register. */
static void aim(uint8_t *code, struct insn *i, uint64_t rip)
{
	int32_t disp = (int32_t)random_below(&rnd, 0x200) - 0x100;

	if (!is_paged() || i->disp_size != 4 || i->mem.addr_size < 4)
		return;
	if (i->mem.base == REG_NONE || i->mem.base == BASE_RIP)
		disp = (int32_t)random_in(HARNESS_DATA, HARNESS_DATA + PAGES * 4096);
	if (i->mem.base == BASE_RIP)
		disp -= (int32_t)(rip + i->len);
	memcpy(code + i->disp_at, &disp, 4);
}

/* Segmented code must not change itself at random: there is no page to keep it from it. */
static bool may_write_code(const struct insn *i)
{
	for (unsigned k = 0; k < i->operand_count; k++)
		if (i->operand[k].kind == OPK_MEM && i->operand[k].access & ACC_W)
			return i->mem.seg == SEG_CS;
	return false;
}

static unsigned random_insn(uint8_t *code, uint64_t rip)
{
	static const uint8_t prefixes[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67};

	for (;;) {
		const struct insn_row *row = &insn_rows[random_below(&rnd, insn_row_count)];
		uint8_t made[INSN_MAX_LEN];
		unsigned n = 0;
		struct insn i;

		if (!row_code(row, mode, &rnd, made))
			continue;
		for (unsigned k = random_below(&rnd, 3); k > 0; k--)
			code[n++] = prefixes[random_below(&rnd, sizeof(prefixes))];
		memcpy(code + n, made, INSN_MAX_LEN - n);
		if (insn_decode(&i, code, INSN_MAX_LEN, mode) == INSN_OK && !is_excluded(&i) && (is_paged() || !may_write_code(&i))) {
			if ((ends_program(&i) || (is_paged() && loses_pointer(&i))) && !one_in(16))
				continue;
			aim(code, &i, rip);
			return i.len;
		}
	}
}

static void put(struct program *p, const void *bytes, unsigned n)
{
	memcpy(p->code + p->size, bytes, n);
	p->size += n;
}

static void put_byte(struct program *p, uint8_t byte)
{
	p->code[p->size++] = byte;
}

/* A field at the code's end that will hold the offset of some later instruction. */
static void put_waiting(struct program *p, unsigned size, bool relative)
{
	struct waiting *w = &p->waiting[p->waiting_count++];

	*w = (struct waiting){p->size, size, relative ? (int)(p->size + size) : -1, random_below(&rnd, 4)};
	p->size += size;
}

static void resolve(struct program *p)
{
	for (unsigned k = 0; k < p->waiting_count;) {
		struct waiting *w = &p->waiting[k];
		uint32_t value = w->relative_to < 0 ? p->first_rip + p->size : p->size - (unsigned)w->relative_to;

		if (w->insns-- > 0) {
			k++;
			continue;
		}
		memcpy(p->code + w->at, &value, w->size);
		*w = p->waiting[--p->waiting_count];
	}
}

/* The operand size's prefix or none; returns the size. */
static unsigned put_size(struct program *p)
{
	bool other = mode != MODE_64 && one_in(how == HARNESS_COMPAT32 ? 20 : 3);

	if (other)
		put_byte(p, 0x66);
	return (mode != MODE_16) != other ? 4 : 2;
}

static void put_branch(struct program *p)
{
	unsigned size, reg = random_below(&rnd, 4);

	switch (random_below(&rnd, 7)) {
	case 0: /* jcc rel8 */
		put_byte(p, (uint8_t)(0x70 | random_below(&rnd, 16)));
		put_waiting(p, 1, true);
		break;
	case 1: /* loopne, loope, loop, jcxz */
		if (one_in(3))
			put_byte(p, 0x67);
		put_byte(p, (uint8_t)(0xe0 | random_below(&rnd, 4)));
		put_waiting(p, 1, true);
		break;
	case 2: /* jcc */
		size = put_size(p);
		put_byte(p, 0x0f);
		put_byte(p, (uint8_t)(0x80 | random_below(&rnd, 16)));
		put_waiting(p, size, true);
		break;
	case 3: /* call, jmp */
		size = put_size(p);
		put_byte(p, one_in(4) ? 0xe9 : 0xe8);
		put_waiting(p, size, true);
		break;
	case 4: /* mov reg, target; call reg, jmp reg */
		size = put_size(p);
		put_byte(p, (uint8_t)(0xb8 | reg));
		put_waiting(p, size, false);
		if ((size == 4) != (mode != MODE_16))
			put_byte(p, 0x66);
		put_byte(p, 0xff);
		put_byte(p, (uint8_t)((one_in(2) ? 0xe0 : 0xd0) | reg));
		break;
	case 5: /* push target; ret */
		size = put_size(p);
		put_byte(p, 0x68);
		put_waiting(p, size, false);
		if ((size == 4) != (mode != MODE_16))
			put_byte(p, 0x66);
		if (one_in(2)) {
			put_byte(p, 0xc3);
		} else {
			put(p, CODE(0xc2, 6, 0));
		}
		break;
	default: /* push and pop, short forms */
		put_size(p);
		put_byte(p, (uint8_t)(0x50 | random_below(&rnd, 16)));
	}
}

/* --- states --- */

static void make_segment(struct x86_seg *s, unsigned seg)
{
	static const uint32_t limits[] = {0xffff, 0xffff, 0xffff, 0xffff, 0xffffffff, 0xffffffff, 0x1ffff, 0x1ffff, 0x7fff, 0x123};

	*s = (struct x86_seg){.sel = 0x10, .limit = 0xffff,
			      .attr = SEG_P | SEG_S | SEG_TYPE_RW | SEG_TYPE_ACCESSED};
	s->base = random_in(DATA_LOW, DATA_LOW + 0x2f0000);
	if (how == HARNESS_REAL) {
		s->base = random_in(DATA_LOW >> 4, 0xf000) << 4;
		s->sel = (uint16_t)(s->base >> 4);
		if (one_in(16)) /* left from protected mode */
			s->limit = 0xfffff;
		return;
	}
	s->limit = limits[random_below(&rnd, sizeof(limits) / sizeof(limits[0]))];
	if (one_in(2))
		s->attr |= SEG_DB;
	if (one_in(20))
		s->attr |= SEG_TYPE_DC;
	if (one_in(20) && seg != SEG_SS)
		s->attr ^= one_in(2) ? SEG_TYPE_RW : SEG_UNUSABLE;
	if (one_in(24) && seg != SEG_SS)
		s->attr |= SEG_TYPE_CODE;
}

static void make_code_segment(struct program *p)
{
	struct x86_seg *cs = &p->seg[SEG_CS];

	p->first_rip = one_in(8) ? 0x10000 - random_below(&rnd, 400) : random_below(&rnd, 0xf00) << 4;
	p->first_rip &= how == HARNESS_REAL ? ~15u : ~0u;
	*cs = (struct x86_seg){.base = HARNESS_CODE - p->first_rip, .limit = 0xffff, .sel = 8,
			       .attr = SEG_P | SEG_S | SEG_TYPE_CODE | SEG_TYPE_RW | SEG_TYPE_ACCESSED};
	cs->base &= 0xffffffff;
	if (how == HARNESS_REAL) {
		cs->sel = (uint16_t)(cs->base >> 4);
		return;
	}
	if (mode == MODE_32) {
		cs->attr |= SEG_DB;
		cs->limit = one_in(2) ? 0xffffffff : 0xfffff;
	}
	if (one_in(10))
		cs->attr &= ~SEG_TYPE_RW;
	if (one_in(10))
		cs->limit = p->first_rip + random_below(&rnd, 300);
}

/* Code may begin near the end of a page. */
static void make_pages(struct program *p)
{
	static const uint8_t kinds[] = {PAGE_READONLY, PAGE_MISSING, PAGE_DEVICE};

	p->first_rip = HARNESS_CODE + (one_in(3) ? 4096 - random_below(&rnd, 200) : random_below(&rnd, 2000));
	for (unsigned k = 0; k < PAGES; k++)
		p->page[k] = one_in(10) ? kinds[random_below(&rnd, 3)] : PAGE_WRITABLE;
	p->writes_itself = self_writing = one_in(8);
}

static uint64_t random_pointer(const struct program *p)
{
	if (p->writes_itself && one_in(3))
		return p->first_rip + random_below(&rnd, 300);
	return HARNESS_DATA + (one_in(4) ? random_below(&rnd, PAGES) * 4096 - 8 + random_below(&rnd, 16)
					 : random_below(&rnd, PAGES * 4096));
}

static void make_program(struct program *p)
{
	unsigned n = random_in(1, 50);

	memset(p, 0, sizeof(*p));
	if (is_paged()) {
		make_pages(p);
	} else {
		make_code_segment(p);
		for (unsigned k = SEG_ES; k <= SEG_GS; k++)
			if (k != SEG_CS)
				make_segment(&p->seg[k], k);
	}
	while ((n-- && p->size < MAX_PROGRAM - 120) || p->waiting_count) {
		resolve(p);
		if (one_in(4) && p->waiting_count < MAX_WAITING && n < 100)
			put_branch(p);
		else
			p->size += random_insn(p->code + p->size, p->first_rip + p->size);
		if (p->size > MAX_PROGRAM - 40)
			break;
	}
	for (unsigned k = 0; k < p->waiting_count; k++)
		p->waiting[k].insns = 0;
	resolve(p);
	put_byte(p, 0xf4);
	for (unsigned k = 0; k < 16; k++) {
		p->gpr[k] = random_u64(&rnd);
		if (is_paged()) {
			p->gpr[k] = one_in(4) ? random_below(&rnd, 64) : random_pointer(p);
			continue;
		}
		if (how == HARNESS_REAL || !one_in(4))
			p->gpr[k] &= one_in(2) ? 0xffff : 0xff;
		if (one_in(8))
			p->gpr[k] |= random_u64(&rnd) << 32;
	}
	p->gpr[RSP] = one_in(6) ? random_below(&rnd, 64) : random_below(&rnd, 0x10000);
	if (one_in(3))
		p->gpr[RSP] |= random_u64(&rnd) << 16;
	if (is_paged())
		p->gpr[RSP] = random_in(HARNESS_DATA + 0x800, HARNESS_DATA + (PAGES - 1) * 4096) & (one_in(8) ? ~0u : ~7u);
	p->rflags = (random_u64(&rnd) & (FLAGS_STATUS | FLAG_DF)) | FLAG_FIXED;
}

/* The first 2 MiB by pages: code (three pages) and data, nothing else. */
static void map_pages(struct harness *h, const struct program *p)
{
	uint64_t pde = PAGE_TABLE | PTE_P | PTE_W | PTE_U;
	uint64_t *pte = (uint64_t *)(h->ram + PAGE_TABLE);

	memset(pte, 0, 4096);
	for (unsigned k = 0; k < 3; k++)
		pte[HARNESS_CODE / 4096 + k] = (HARNESS_CODE + k * 4096) | PTE_P | (p->writes_itself ? PTE_W : 0);
	for (unsigned k = 0; k < PAGES; k++) {
		uint64_t gpa = p->page[k] == PAGE_DEVICE ? DEVICE : HARNESS_DATA;

		pte[HARNESS_DATA / 4096 + k] = (gpa + k * 4096) | (p->page[k] == PAGE_MISSING ? 0 : PTE_P) |
					       (p->page[k] == PAGE_READONLY ? 0 : PTE_W);
	}
	memset(h->ram + HARNESS_TABLES + 0x2000, 0, 4096);
	memcpy(h->ram + HARNESS_TABLES + 0x2000, &pde, 8);
	mmu_flush_all(h->v);
}

static void load(struct harness *h, const struct program *p)
{
	harness_reset(h, how);
	if (is_paged()) {
		map_pages(h, p);
	} else {
		memcpy(h->v->seg, p->seg, sizeof(p->seg));
		h->v->seg[SEG_LDTR].attr = SEG_UNUSABLE;
	}
	memcpy(h->v->gpr, p->gpr, sizeof(p->gpr));
	h->v->rflags = p->rflags;
	h->v->rip = p->first_rip;
}

/* --- comparing --- */

static void describe(const struct program *p)
{
	static const char *const name[] = {"es", "cs", "ss", "ds", "fs", "gs"};
	struct insn i;

	for (unsigned k = SEG_ES; k <= SEG_GS && !is_paged(); k++)
		printf("%s %04x base %lx limit %x attr %x\n", name[k], p->seg[k].sel, p->seg[k].base, p->seg[k].limit,
		       p->seg[k].attr);
	for (unsigned at = 0; at < p->size; at += i.len) {
		char text[128] = "?";

		if (insn_decode(&i, p->code + at, INSN_MAX_LEN, mode) != INSN_OK)
			break;
		insn_format(&i, p->first_rip + at, text, sizeof(text));
		printf("  %04x  ", p->first_rip + at);
		for (unsigned k = 0; k < i.len; k++)
			printf("%02x", p->code[at + k]);
		printf("  %s\n", text);
	}
}

static bool same_registers(const struct program *p)
{
	bool same = true;

	for (unsigned k = 0; k < (mode == MODE_64 ? 16 : 8); k++)
		if ((a.v->gpr[k] ^ b.v->gpr[k]) & (mode == MODE_64 ? ~0ull : 0xffffffff)) {
			printf("gpr %u: %lx, %lx (was %lx)\n", k, a.v->gpr[k], b.v->gpr[k], p->gpr[k]);
			same = false;
		}
	for (unsigned k = SEG_ES; k <= SEG_GS; k++)
		if (memcmp(&a.v->seg[k], &b.v->seg[k], sizeof(a.v->seg[k]))) {
			printf("segment register %u\n", k);
			same = false;
		}
	return same;
}

static bool same_exit(void)
{
	const struct kvm_run *ra = a.v->run, *rb = b.v->run;

	if (ra->exit_reason != rb->exit_reason)
		return false;
	return ra->exit_reason != KVM_EXIT_MMIO ||
	       (ra->mmio.phys_addr == rb->mmio.phys_addr && ra->mmio.len == rb->mmio.len && ra->mmio.is_write == rb->mmio.is_write &&
		(!ra->mmio.is_write || !memcmp(ra->mmio.data, rb->mmio.data, ra->mmio.len)));
}

static bool same_outcome(const struct program *p, int ra, int rb)
{
	bool same = ra == rb && a.v->rip == b.v->rip && same_registers(p);

	if (ra == HARNESS_OK && a.v->rflags != b.v->rflags)
		same = false;
	if (ra >= 0 && (a.v->exception_has_error != b.v->exception_has_error || a.v->exception_error != b.v->exception_error))
		same = false;
	if (ra == VEC_PF && a.v->exception_payload != b.v->exception_payload)
		same = false;
	if (ra == HARNESS_EXIT && !same_exit())
		same = false;
	if (!same)
		printf("result %d, %d; rip %lx, %lx; rflags %lx, %lx (was %lx); error %x, %x\n", ra, rb, a.v->rip, b.v->rip,
		       a.v->rflags, b.v->rflags, p->rflags, a.v->exception_error, b.v->exception_error);
	for (unsigned k = 0; same && k < COMPARED; k += 4096)
		for (unsigned byte = k; memcmp(a.ram + k, b.ram + k, 4096) && byte < k + 4096; byte++)
			if (a.ram[byte] != b.ram[byte]) {
				printf("memory %x: %x, %x\n", byte, a.ram[byte], b.ram[byte]);
				return false;
			}
	return same;
}

/* Whoever goes astray below the data comes upon a HLT. */
static void fill_with_hlt(struct harness *h)
{
	memset(h->ram, 0xf4, HARNESS_TABLES);
	memset(h->ram + HARNESS_STACK, 0xf4, DATA_LOW - HARNESS_STACK);
}

static void put_program(struct harness *h, const struct program *p)
{
	static uint8_t code[3 * 4096];

	memset(code, 0xf4, sizeof(code));
	memcpy(code + (is_paged() ? p->first_rip - HARNESS_CODE : 0), p->code, p->size);
	harness_code(h, code, sizeof(code));
}

static void stop(int signal)
{
	a.stop = true;
	vcpu_call_out(a.v);
}

static void disturb(int signal)
{
	vcpu_call_out(b.v);
}

static int run_translator(const struct program *p)
{
	struct itimerval soon = {.it_value = {.tv_usec = random_in(1, STOP_WITHIN_US)}}, never = {0};
	int result;

	load(&b, p);
	if (one_in(2))
		setitimer(ITIMER_REAL, &soon, NULL);
	result = harness_run_to_halt(&b);
	setitimer(ITIMER_REAL, &never, NULL);
	return result;
}

/* A program may have made itself a loop without end. False: the interpreter did not come to its end. */
static bool run_interpreter(const struct program *p, int *result)
{
	struct itimerval soon = {.it_value = {.tv_usec = 300000}}, never = {0};

	load(&a, p);
	setitimer(ITIMER_VIRTUAL, &soon, NULL);
	*result = harness_run_to_halt(&a);
	setitimer(ITIMER_VIRTUAL, &never, NULL);
	if (!a.stop)
		return true;
	a.stop = false;
	memcpy(b.ram, a.ram, HARNESS_RAM);
	fill_with_hlt(&a);
	fill_with_hlt(&b);
	code_written(&a.vm, 0, HARNESS_RAM);
	code_written(&b.vm, 0, HARNESS_RAM);
	return false;
}

static void run_programs(enum harness_mode which)
{
	static struct program p;

	how = which;
	mode = which == HARNESS_LONG64 ? MODE_64 : which == HARNESS_REAL || which == HARNESS_PROTECTED16 ? MODE_16 : MODE_32;
	rnd.state = seed * 0x9e3779b97f4a7c15ull | 1;
	assert_int_equal(harness_new_on(&a, how, &engine_interpret), 0);
	assert_int_equal(harness_new_on(&b, how, &engine_translate), 0);
	((struct vcpu_translator *)b.v->translator)->raises_out = true;
	fill_with_hlt(&a);
	fill_with_hlt(&b);
	for (unsigned n = 0; n < programs; n++) {
		make_program(&p);
		put_program(&a, &p);
		put_program(&b, &p);
		for (unsigned k = 0; k < REPEATS; k++) {
			int ra, rb;

			if (!run_interpreter(&p, &ra))
				break;
			rb = run_translator(&p);
			if (!same_outcome(&p, ra, rb)) {
				printf("seed %lu, program %u, run %u:\n", seed, n, k);
				describe(&p);
				fail();
			}
		}
	}
	assert_true(translator_of(b.v)->blocks > programs);
}

static void test_real(void **state)
{
	run_programs(HARNESS_REAL);
}

static void test_protected_16(void **state)
{
	run_programs(HARNESS_PROTECTED16);
}

static void test_protected_32(void **state)
{
	run_programs(HARNESS_PROTECTED32);
}

static void test_compatibility(void **state)
{
	run_programs(HARNESS_COMPAT32);
}

static void test_long(void **state)
{
	run_programs(HARNESS_LONG64);
}

static int tear_down(void **state)
{
	harness_free(&a);
	harness_free(&b);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_real, tear_down),
		cmocka_unit_test_teardown(test_protected_16, tear_down),
		cmocka_unit_test_teardown(test_protected_32, tear_down),
		cmocka_unit_test_teardown(test_compatibility, tear_down),
		cmocka_unit_test_teardown(test_long, tear_down),
	};

	signal(SIGVTALRM, stop);
	signal(SIGALRM, disturb);
	if (argc > 1)
		seed = strtoull(argv[1], NULL, 0);
	if (argc > 2)
		programs = (unsigned)strtoul(argv[2], NULL, 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
