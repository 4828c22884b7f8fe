/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The translator against the interpreter: random programs of every row of the instruction table that user mode may
 * execute, in blocks of random length with forward branches, run on both from the same state and compared: registers,
 * flags, memory, vector state, exceptions. Some are loops whose pointers move. 64-bit code, and 32-bit code in compatibility
 * mode, with noise in the upper halves of its registers. Seed and count may be given as arguments.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "harness.h"
#include "softkvm/fpu.h"
#include "softkvm/translate/translate.h"
#include "../insn/row_code.h"

static struct harness a, b; /* interpreter, translator */
static struct random rnd;
static uint64_t seed = 1;
static unsigned programs = 3000;
static enum insn_mode mode; /* of the programs */

enum { PAGE_WRITABLE, PAGE_READONLY, PAGE_MISSING };
enum { PAGE_TABLE = 0x40000, DATA_SIZE = 0x6000, VECTOR_STATE = 832, MAX_PROGRAM = 1500, REPEATS = 3 };

struct program {
	uint8_t code[MAX_PROGRAM];
	unsigned size, insns;
	uint64_t gpr[16], rflags;
	uint32_t fs_limit, gs_attr; /* of 32-bit code */
	uint8_t data[DATA_SIZE];
	uint8_t vectors[VECTOR_STATE];
	uint8_t page[DATA_SIZE / 4096];
};

/* Registers that stay pointers into the data area throughout a program. */
static bool is_pointer(unsigned reg)
{
	return reg == RSP || reg == RBP || reg == R13 || reg == R9 || reg == RBX;
}

/* The register that counts a loop's rounds, and is an index, too. */
static unsigned counter(void)
{
	return mode == MODE_64 ? R14 : RSI;
}

static bool writes_pointer(const struct insn *i)
{
	for (unsigned k = 0; k < i->operand_count; k++) {
		unsigned reg = i->operand[k].reg;

		if (i->operand[k].kind != OPK_GPR || !(i->operand[k].access & ACC_W))
			continue;
		if (is_pointer(reg >= REG_AH ? reg - REG_AH : reg) || reg == counter())
			return true;
	}
	return false;
}

static bool is_excluded(const struct insn *i)
{
	switch (i->row->sem) {
	case SEM_RDRAND: case SEM_RDSEED: case SEM_RDTSC: case SEM_RDTSCP: case SEM_RDPMC: case SEM_CPUID: case SEM_XGETBV:
	case SEM_XLAT: case SEM_ENTER: case SEM_LEAVE: case SEM_POPF: case SEM_IN: case SEM_OUT: case SEM_PUSH_SEG:
	case SEM_POP_SEG: case SEM_SWAPGS: case SEM_RDFSBASE: case SEM_RDGSBASE: case SEM_WRFSBASE: case SEM_WRGSBASE:
	case SEM_FXSAVE: case SEM_FXRSTOR: case SEM_XSAVE: case SEM_XRSTOR: case SEM_XSAVEOPT: case SEM_XSAVEC:
	case SEM_FNSAVE: case SEM_FNSTENV: case SEM_FLDENV: case SEM_FRSTOR: case SEM_LDMXCSR: /* FDP is not kept by translated code */
	case SEM_CLFLUSH: case SEM_RDPID: case SEM_MASKMOV: case SEM_STD: case SEM_LSL: case SEM_LAR: case SEM_VERR: case SEM_VERW:
	case SEM_POPA: case SEM_ARPL: case SEM_BOUND: case SEM_SLDT: case SEM_STR: case SEM_SGDT: case SEM_SIDT: case SEM_SMSW:
	case SEM_MOV_TO_SEG: case SEM_MOV_FROM_SEG:
		return true;
	default:
		return i->row->branch != BR_NONE || i->row->attrs & (INSN_PRIV | INSN_END | INSN_STRING | INSN_VSIB) ||
		       !strncmp(i->row->mnemonic, "sha", 3) || !strcmp(i->row->mnemonic, "fldcw");
	}
}

static bool has_memory(const struct insn *i)
{
	for (unsigned k = 0; k < i->operand_count; k++)
		if (i->operand[k].kind == OPK_MEM)
			return true;
	return false;
}

/* Make the memory operand point somewhere near the data area; false: hopeless. */
static bool fix_memory(struct insn *i, uint8_t *code, uint64_t at)
{
	const struct insn_mem *m = &i->mem;
	int32_t disp;

	if (!has_memory(i))
		return true;
	if (m->addr_size != (mode == MODE_64 ? 8 : 4) || (mode == MODE_64 && m->seg >= SEG_FS) ||
	    (m->index != REG_NONE && m->index != counter()) || m->vsib)
		return false;
	if (m->base == BASE_RIP)
		disp = (int32_t)(HARNESS_DATA + 0x1000 + random_below(&rnd, 0x2000) - (at + i->len));
	else if (mode == MODE_32 && m->base == REG_NONE && m->index == REG_NONE)
		disp = (int32_t)(HARNESS_DATA + 0x1000 + random_below(&rnd, 0x2000));
	else if (m->base != REG_NONE && is_pointer(m->base))
		disp = (int32_t)random_below(&rnd, 0x800) - 0x400;
	else
		return false;
	if (i->disp_size == 4)
		memcpy(code + i->disp_at, &disp, 4);
	return i->disp_size == 1 || i->disp_size == 4 || !i->disp_size;
}

static void override_segment(uint8_t *code)
{
	static const uint8_t prefixes[] = {0x2e, 0x64, 0x65}; /* CS, FS, GS */

	memmove(code + 1, code, INSN_MAX_LEN - 1);
	code[0] = prefixes[random_below(&rnd, 3)];
}

static unsigned random_insn(uint8_t *code, uint64_t at)
{
	for (;;) {
		const struct insn_row *row = &insn_rows[random_below(&rnd, insn_row_count)];
		struct insn i;

		if (!row_code(row, mode, &rnd, code))
			continue;
		if (mode == MODE_32 && !random_below(&rnd, 6))
			override_segment(code);
		if (insn_decode(&i, code, INSN_MAX_LEN, mode) != INSN_OK)
			continue;
		if (is_excluded(&i) || writes_pointer(&i) || !fix_memory(&i, code, at))
			continue;
		if (i.row->sem >= SEM_BT && i.row->sem <= SEM_BTC && has_memory(&i) && i.operand[1].reg != counter() && i.operand[1].kind == OPK_GPR)
			continue;
		if (i.row->sem == SEM_PUSH && i.op_size == 2)
			continue;
		return i.len;
	}
}

/* XSAVE image: some of the registers numbers, some noise; exceptions masked mostly. */
static void make_vectors(struct program *p)
{
	uint64_t xstate = 7;
	uint32_t mxcsr = 0x1f80 | (random_u64(&rnd) & 0x603f);

	memset(p->vectors, 0, sizeof(p->vectors));
	for (unsigned k = 160; k < 416; k++)
		p->vectors[k] = (uint8_t)random_u64(&rnd);
	for (unsigned k = 576; k < VECTOR_STATE; k++)
		p->vectors[k] = (uint8_t)random_u64(&rnd);
	for (unsigned k = 160; k < 416; k += 16)
		if (random_below(&rnd, 2)) {
			double d = (double)random_below(&rnd, 1000) / 7;

			memcpy(p->vectors + k, &d, 8);
		}
	p->vectors[0] = 0x7f;
	p->vectors[1] = 3;
	memcpy(p->vectors + 24, &mxcsr, 4);
	memcpy(p->vectors + 512, &xstate, 8);
}

static void put_code(struct program *p, const void *bytes, unsigned n)
{
	memcpy(p->code + p->size, bytes, n);
	p->size += n;
}

/* Pointers that move, then back to the start until R14, which is an index too, is zero. */
static void make_loop(struct program *p)
{
	static const uint8_t moves[2][4][4] = {
		{{0x48, 0x83, 0xc3, 8}, {0x49, 0x83, 0xc1, 0xf8}, {0x4d, 0x8d, 0x6d, 4}, {0x48, 0x83, 0xed, 16}},
		{{0x90, 0x83, 0xc3, 8}, {0x4d, 0x4d, 0x4d, 0x45}, {0x90, 0x8d, 0x6d, 4}, {0x90, 0x83, 0xed, 16}}
	}; /* add rbx, 8; add r9, -8; lea r13, [r13+4]; sub rbp, 16; the same in 32 bits, on ebx and ebp */
	static const uint8_t again[] = {0x41, 0x83, 0xee, 0x01, 0x0f, 0x85}; /* sub r14d, 1; in 32 bits sub esi, 1; jnz start */
	int32_t back;

	for (unsigned k = 0; k < 4; k++)
		if (random_below(&rnd, 2))
			put_code(p, moves[mode == MODE_32][k], 4);
	put_code(p, again + (mode == MODE_32), sizeof(again) - (mode == MODE_32));
	back = -(int32_t)(p->size + 4);
	put_code(p, &back, 4);
}

/* jcc over the next instruction, now and then. */
static void make_program(struct program *p)
{
	unsigned n = 1 + random_below(&rnd, 40), jump_at = 0;

	p->size = p->insns = 0;
	while (n-- && p->size < MAX_PROGRAM - 64) {
		if (!random_below(&rnd, 8) && !jump_at) {
			p->code[p->size++] = (uint8_t)(0x70 | random_below(&rnd, 16));
			jump_at = ++p->size;
			p->insns++;
		}
		p->size += random_insn(p->code + p->size, HARNESS_CODE + p->size);
		p->insns++;
		if (jump_at && random_below(&rnd, 2)) {
			p->code[jump_at - 1] = (uint8_t)(p->size - jump_at);
			jump_at = 0;
			if (p->code[p->size - 1] > 127)
				continue;
		}
	}
	if (jump_at)
		p->code[jump_at - 1] = (uint8_t)(p->size - jump_at);
	if (!random_below(&rnd, 3))
		make_loop(p);
	p->code[p->size++] = 0x0f; /* UD2 ends it */
	p->code[p->size++] = 0x0b;
	for (unsigned k = 0; k < 16; k++)
		p->gpr[k] = random_below(&rnd, 3) ? random_u64(&rnd) : random_below(&rnd, 64);
	p->gpr[RSP] = HARNESS_DATA + 0x2000 + (random_u64(&rnd) & 0x1ff8);
	p->gpr[RBP] = HARNESS_DATA + 0x1000 + random_below(&rnd, 0x3000);
	p->gpr[R13] = HARNESS_DATA + 0x1000 + random_below(&rnd, 0x3000);
	p->gpr[R9] = HARNESS_DATA + 0x2000 - 16 + random_below(&rnd, 32);
	p->gpr[RBX] = HARNESS_DATA + 0x1000 + (random_u64(&rnd) & 0x1fc0);
	p->gpr[counter()] = 1 + random_below(&rnd, 64);
	for (unsigned k = 0; mode == MODE_32 && k < 8; k++)
		p->gpr[k] = (uint32_t)p->gpr[k] | random_u64(&rnd) << 32;
	p->rflags = (random_u64(&rnd) & FLAGS_STATUS) | FLAG_FIXED;
	for (unsigned k = 0; k < DATA_SIZE; k += 8) {
		uint64_t x = random_u64(&rnd);

		memcpy(p->data + k, &x, 8);
	}
	p->fs_limit = random_below(&rnd, 2) ? 0xffffffff : HARNESS_DATA + 0x2000 + random_below(&rnd, 0x1000);
	p->gs_attr = SEG_P | SEG_S | SEG_G | SEG_DB | SEG_TYPE_RW | SEG_TYPE_ACCESSED; /* or read-only, or null */
	if (!random_below(&rnd, 4))
		p->gs_attr ^= random_below(&rnd, 2) ? SEG_TYPE_RW : SEG_UNUSABLE;
	make_vectors(p);
	for (unsigned k = 0; k < sizeof(p->page); k++)
		p->page[k] = (uint8_t)(random_below(&rnd, 12) ? PAGE_WRITABLE : 1 + random_below(&rnd, 2));
}

/* The first 2 MiB by 4 KiB pages, those of the data area as the program says: writable, read-only or missing. */
static void map_data(struct harness *h, const struct program *p)
{
	uint64_t pde = PAGE_TABLE | PTE_P | PTE_W | PTE_U;

	for (unsigned k = 0; k < 512; k++) {
		uint64_t pte = (uint64_t)k << PAGE_SHIFT | PTE_P | PTE_W | PTE_U;
		unsigned page = k - HARNESS_DATA / PAGE_SIZE;

		if (page < DATA_SIZE / PAGE_SIZE && p->page[page] == PAGE_READONLY)
			pte &= ~PTE_W;
		if (page < DATA_SIZE / PAGE_SIZE && p->page[page] == PAGE_MISSING)
			pte = 0;
		memcpy(h->ram + PAGE_TABLE + 8 * k, &pte, 8);
	}
	memcpy(h->ram + HARNESS_TABLES + 0x2000, &pde, 8);
	mmu_flush_all(h->v);
}

/* Where a 64-bit program's code runs: where it lies, or at addresses that lead there, too. At the second a block is copied. */
#define ALIAS (1ull << 45)
static uint64_t base_of_run(unsigned run)
{
	return mode == MODE_64 ? run % 3 * ALIAS : 0;
}

static void map_aliases(struct harness *h)
{
	uint64_t pml4e;

	memcpy(&pml4e, h->ram + HARNESS_TABLES, 8);
	for (unsigned k = 1; k < 256; k++)
		memcpy(h->ram + HARNESS_TABLES + 8 * k, &pml4e, 8);
}

static void load(struct harness *h, const struct program *p, uint64_t base)
{
	map_aliases(h);
	map_data(h, p);
	memcpy(h->v->gpr, p->gpr, sizeof(p->gpr));
	h->v->rflags = p->rflags;
	if (mode == MODE_32) {
		h->v->seg[SEG_FS].base = 0x40;
		h->v->seg[SEG_FS].limit = p->fs_limit;
		h->v->seg[SEG_GS].attr = (uint16_t)p->gs_attr;
		h->v->seg[SEG_GS].base = 0xffffff80;
	}
	h->v->rip = base + HARNESS_CODE;
	memcpy(h->ram + HARNESS_DATA, p->data, DATA_SIZE);
	fpu_reset(h->v);
	memcpy(h->v->fpu->area, p->vectors, VECTOR_STATE);
}

static void describe(const struct program *p)
{
	unsigned at = 0;

	while (at < p->size) {
		char text[128] = "?";
		struct insn i;

		if (insn_decode(&i, p->code + at, INSN_MAX_LEN, mode) != INSN_OK)
			break;
		insn_format(&i, HARNESS_CODE + at, text, sizeof(text));
		printf("  %04x  ", HARNESS_CODE + at);
		for (unsigned k = 0; k < i.len; k++)
			printf("%02x", p->code[at + k]);
		printf("  %s %s\n", i.row->mnemonic, text);
		at += i.len;
	}
}

static bool differ(const struct program *p, int ra, int rb)
{
	bool bad = ra != rb || a.v->rip != b.v->rip ||
		   (ra == VEC_PF && (a.v->exception_payload != b.v->exception_payload ||
				     a.v->exception_error != b.v->exception_error));

	if (bad)
		printf("result %d, %d; rip %lx, %lx; address %lx, %lx; error %x, %x\n", ra, rb, a.v->rip, b.v->rip,
		       a.v->exception_payload, b.v->exception_payload, a.v->exception_error, b.v->exception_error);
	for (unsigned k = 0; k < (mode == MODE_64 ? 16 : 8); k++)
		if ((a.v->gpr[k] ^ b.v->gpr[k]) & (mode == MODE_64 ? ~0ull : 0xffffffff)) {
			printf("gpr %u: %lx, %lx (was %lx)\n", k, a.v->gpr[k], b.v->gpr[k], p->gpr[k]);
			bad = true;
		}
	if (a.v->rip % ALIAS == HARNESS_CODE + p->size - 2 && a.v->rflags != b.v->rflags) {
		printf("rflags %lx, %lx (was %lx)\n", a.v->rflags, b.v->rflags, p->rflags);
		bad = true;
	}
	harness_normalize(&a.v->fpu->x);
	harness_normalize(&b.v->fpu->x);
	for (unsigned k = 0; k < VECTOR_STATE; k++)
		if (a.v->fpu->area[k] != b.v->fpu->area[k]) {
			printf("xsave area %u: %x, %x\n", k, a.v->fpu->area[k], b.v->fpu->area[k]);
			bad = true;
			break;
		}
	for (unsigned k = 0; k < DATA_SIZE; k++)
		if (a.ram[HARNESS_DATA + k] != b.ram[HARNESS_DATA + k]) {
			printf("data %x: %x, %x\n", HARNESS_DATA + k, a.ram[HARNESS_DATA + k], b.ram[HARNESS_DATA + k]);
			bad = true;
			break;
		}
	return bad;
}

/* Not a fixture: cmocka takes the fault signals for itself at each. */
static int set_up(void)
{
	rnd.state = seed * 0x9e3779b97f4a7c15ull | 1;
	enum harness_mode how = mode == MODE_64 ? HARNESS_LONG64 : HARNESS_COMPAT32;
	int err = harness_new_on(&a, how, &engine_interpret) || harness_new_on(&b, how, &engine_translate);

	if (!err)
		((struct vcpu_translator *)b.v->translator)->raises_out = true;
	return err;
}

static void run_programs(enum insn_mode which)
{
	static struct program p;

	mode = which;
	assert_int_equal(set_up(), 0);
	for (unsigned n = 0; n < programs; n++) {
		int ra, rb;

		make_program(&p);
		harness_code(&a, p.code, p.size);
		harness_code(&b, p.code, p.size);
		for (unsigned k = 0; k < REPEATS; k++) {
			load(&a, &p, base_of_run(k));
			load(&b, &p, base_of_run(k));
			ra = harness_run_to_halt(&a);
			rb = harness_run_to_halt(&b);
			if (differ(&p, ra, rb)) {
				printf("seed %lu, program %u, run %u:\n", seed, n, k);
				describe(&p);
				fail();
			}
		}
	}
}

static void test_random_programs(void **state)
{
	run_programs(MODE_64);
	assert_true(translator_of(b.v)->copies > programs / 2);
}

/* call to the next instruction; pop rax; lea rbx,[rip]; mov rcx,[rip to the data]; call to another page, which returns; hlt */
static const uint8_t relative_code[] = { 0xe8, 0, 0, 0, 0, 0x58, 0x48, 0x8d, 0x1d, 0, 0, 0, 0, 0x48, 0x8b, 0x0d, 0xec, 0xff, 0, 0,
					 0xe8, 0xe7, 0x0f, 0, 0, 0xf4 };

static void run_relative_code(uint64_t base, uint64_t data)
{
	const uint64_t code = base + HARNESS_CODE;

	b.v->gpr[RSP] = HARNESS_STACK;
	b.v->rip = code;
	assert_int_equal(harness_run_to_halt(&b), HARNESS_OK);
	assert_int_equal(b.v->gpr[RAX], code + 5);
	assert_int_equal(b.v->gpr[RBX], code + 13);
	assert_int_equal(b.v->gpr[RCX], data);
	assert_int_equal(b.v->gpr[RDX], 1);
	assert_int_equal(b.v->rip, code + sizeof(relative_code));
	b.v->gpr[RDX] = 0;
}

/* Blocks with addresses in them, copied to many places, linked there, and gone when their bytes change. */
static void test_copies(void **state)
{
	const uint8_t function[] = { 0xff, 0xc2, 0xc3 }, change[] = { 0x33, 0xdb }; /* inc edx; ret. xor ebx,ebx for lea's first bytes */
	uint64_t copies;

	mode = MODE_64;
	assert_int_equal(set_up(), 0);
	map_aliases(&b);
	put_le64(b.ram + HARNESS_DATA, 0x1234567890);
	memcpy(b.ram + HARNESS_CODE + 0x1000, function, sizeof(function));
	harness_code(&b, relative_code, sizeof(relative_code));
	for (unsigned round = 0; round < 2; round++)
		for (unsigned k = 1; k < 256; k++)
			run_relative_code(k * (ALIAS >> 6), 0x1234567890);
	copies = translator_of(b.v)->copies;
	assert_true(copies > 250);
	memcpy(b.ram + HARNESS_CODE + 6, change, sizeof(change));
	memset(b.ram + HARNESS_CODE + 8, 0x90, 5);
	code_written(&b.vm, HARNESS_CODE + 6, 7);
	b.v->gpr[RSP] = HARNESS_STACK;
	b.v->rip = 2 * ALIAS + HARNESS_CODE;
	assert_int_equal(harness_run_to_halt(&b), HARNESS_OK);
	assert_int_equal(b.v->gpr[RBX], 0);
}

static void test_random_programs_32(void **state)
{
	run_programs(MODE_32);
	/* They were translated, not interpreted. */
	assert_true(translator_of(b.v)->blocks > programs);
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
		cmocka_unit_test_teardown(test_random_programs, tear_down),
		cmocka_unit_test_teardown(test_random_programs_32, tear_down),
		cmocka_unit_test_teardown(test_copies, tear_down),
	};

	if (argc > 1)
		seed = strtoull(argv[1], NULL, 0);
	if (argc > 2)
		programs = (unsigned)strtoul(argv[2], NULL, 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
