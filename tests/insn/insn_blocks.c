/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Blocks of random instructions with forward branches and faults: instruction by instruction on the real
 *processor, in one go on an engine. What a translator does across instructions shows here: flags that it
 *thinks dead, registers that it holds back, faults in the middle.
 *
 *	insn_blocks [COUNT [SEED [ENGINE [LENGTH]]]]	COUNT instructions, 0: for ever; blocks of 1..LENGTH,
 *16 if not given
 *
 * A block grows with the processor's state: an instruction is chosen, aimed at mapped memory from where the
 *state is, and executed; the registers that aiming changed become MOVs in the engine's code. After a fault
 *the block goes on with instructions that are never reached. One block in four is 16 or 32-bit code
 *(narrow.c).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "compare.h"
#include "narrow.h"
#include "native_signal.h"
#include "random_state.h"

enum { MAX_COMPLAINTS = 10, ROOM = 1024, MAX_CODE = 880, ELEMENT_MAX = 4 * 10 + INSN_MAX_LEN };
enum { DATA_BYTES = NATIVE_DATA_SIZE + NATIVE_CONST_SIZE };

struct block {
	uint32_t address;
	enum insn_mode mode;
	uint8_t code[ROOM];
	unsigned size, executed;
	struct cpu_state start, now;
	struct outcome outcome; /* vector -1 while it runs */
	struct insn last;	/* executed */
	unsigned skip_at;	/* where the distance of a conditional branch goes; 0: none waits */
	bool skipping;		/* that branch was taken */
};

/* One instruction for both sides. */
struct element {
	uint8_t native[INSN_MAX_LEN], guest[INSN_MAX_LEN];
	struct insn insn; /* native */
	struct narrow narrow;
	unsigned guest_len;
};

static struct random rng;
static uint64_t tried, blocks, faults, complaints;

/* Things that aim() can do only by changing memory or flags, and images whose pointers are the host's. */
static bool fits_in_block(const struct insn *i)
{
	switch (i->row->sem) {
	case SEM_POPF: case SEM_LDMXCSR: case SEM_FXSAVE: case SEM_FXRSTOR: case SEM_XSAVE: case SEM_XSAVEOPT:
	case SEM_XSAVEC: case SEM_XRSTOR: case SEM_FNSTENV: case SEM_FNSAVE: case SEM_FLDENV: case SEM_FRSTOR:
	case SEM_VGATHER: case SEM_UD: case SEM_HLT:
		return false;
	}
	return i->row->branch == BR_NONE || i->row->branch == BR_COND;
}

static bool choose(const struct block *b, struct element *e)
{
	const struct insn_row *row = &insn_rows[random_below(&rng, insn_row_count)];

	if (!random_below(&rng, 12))
		while (row->branch != BR_COND)
			row = &insn_rows[random_below(&rng, insn_row_count)];
	if (!guest_has(row->feature))
		return false;
	if (b->mode == MODE_64 ? !row_code(row, MODE_64, &rng, e->native)
			       : !narrow_code(row, b->mode, &rng, &e->narrow, e->native))
		return false;
	if (insn_decode(&e->insn, e->native, INSN_MAX_LEN, MODE_64) != INSN_OK)
		return false;
	return is_comparable(&e->insn) && fits_in_block(&e->insn) &&
	       (e->insn.row->branch == BR_NONE || !b->skip_at);
}

/* mov reg, value */
static void put_mov(struct block *b, unsigned reg, uint64_t value)
{
	uint8_t *p = b->code + b->size;
	unsigned n = 0, bytes = b->mode == MODE_64 && value >> 32 ? 8 : 4;

	if (b->mode == MODE_16)
		p[n++] = 0x66;
	if (bytes == 8 || reg >= 8)
		p[n++] = 0x40 | (bytes == 8) << 3 | reg >> 3;
	p[n++] = 0xb8 | (reg & 7);
	memcpy(p + n, &value, bytes);
	b->size += n + bytes;
}

static void put_registers(struct block *b, const struct cpu_state *want)
{
	for (unsigned k = 0; k < 16; k++)
		if (b->now.gpr[k] != want->gpr[k])
			put_mov(b, k, want->gpr[k]);
}

/* RIP-relative operands were aimed before it was known how many MOVs come first. */
static void correct_rip_relative(struct element *e, unsigned moved)
{
	int32_t disp;

	if (e->insn.mem.base != BASE_RIP || !e->insn.has_modrm || e->insn.modrm >= 0xc0)
		return;
	memcpy(&disp, e->native + e->insn.disp_at, 4);
	disp -= moved;
	memcpy(e->native + e->insn.disp_at, &disp, 4);
}

/* Into the engine's code. Returns the instruction's address. */
static uint32_t put_element(struct block *b, struct element *e, const struct cpu_state *want)
{
	unsigned before = b->size;
	uint32_t at;

	put_registers(b, want);
	correct_rip_relative(e, b->size - before);
	insn_decode(&e->insn, e->native, INSN_MAX_LEN, MODE_64);
	memcpy(e->guest, e->native, INSN_MAX_LEN);
	e->guest_len = e->insn.len;
	if (b->mode != MODE_64) {
		narrow_from_native(&e->narrow, e->native, e->guest);
		e->guest_len += e->narrow.prefix_count - e->narrow.native_prefix_count;
	}
	at = b->address + b->size;
	memcpy(b->code + b->size, e->guest, e->guest_len);
	b->size += e->guest_len;
	return at;
}

/* A waiting branch goes over what has just been put. */
static void resolve_branch(struct block *b)
{
	if (!b->skip_at)
		return;
	b->code[b->skip_at - 1] = (uint8_t)(b->size - b->skip_at);
	b->skip_at = 0;
	b->skipping = false;
}

static void execute(struct block *b, const struct element *e, uint32_t at, const struct cpu_state *in)
{
	static struct cpu_state out;

	native_code(at, e->native, e->insn.len);
	native_run(at, in, &out, &b->outcome);
	b->last = e->insn;
	b->executed++;
	if (e->insn.row->branch == BR_COND)
		b->skipping = b->outcome.vector < 0 && out.rip == at + NATIVE_TAKEN;
	b->now = out;
}

/* Rel8 branches only: there is no more than one element to go over. */
static bool start_branch(struct block *b, const struct element *e)
{
	if (e->insn.row->branch != BR_COND)
		return false;
	memset(b->code + b->size - e->insn.imm_size, 0, e->insn.imm_size);
	b->skip_at = e->insn.imm_size == 1 ? b->size : 0;
	return true;
}

static void grow(struct block *b)
{
	static struct cpu_state want;
	bool running = b->outcome.vector < 0 && !b->skipping, was_skip = b->skip_at != 0;
	struct element e;
	uint32_t at;

	while (!choose(b, &e))
		;
	want = b->now;
	if (want.gpr[RSP] - (NATIVE_DATA + 0x800) > 0x3000) /* the stack stays on mapped pages */
		want.gpr[RSP] = b->start.gpr[RSP];
	aim(&rng, &e.insn, b->address + b->size, &want, e.native);
	if (b->mode != MODE_64)
		for (unsigned k = 0; k < 16; k++)
			want.gpr[k] = (uint32_t)want.gpr[k];
	at = put_element(b, &e, &want);
	if (running)
		execute(b, &e, at, &want);
	if (was_skip)
		resolve_branch(b);
	else if (start_branch(b, &e) && e.insn.imm_size != 1)
		b->skipping = false; /* rel32 of 0: both ways lead to the next */
}

static void make_block(struct block *b, unsigned length)
{
	unsigned after = 3;

	b->mode = random_below(&rng, 4) ? MODE_64 : random_below(&rng, 2) ? MODE_16 : MODE_32;
	b->size = b->executed = b->skip_at = 0;
	b->skipping = false;
	b->outcome.vector = -1;
	random_state(&rng, &b->start);
	b->start.rflags &= ~(uint64_t)FLAG_AC;
	for (unsigned k = 0; b->mode != MODE_64 && k < 16; k++)
		b->start.gpr[k] = (uint32_t)b->start.gpr[k];
	random_bytes(&rng, native_data() + random_below(&rng, DATA_BYTES - 512), 512);
	memcpy(guest.ram + NATIVE_DATA, native_data(), DATA_BYTES);
	b->now = b->start;
	while (length-- && b->size < MAX_CODE - ELEMENT_MAX && (b->outcome.vector < 0 || after--))
		grow(b);
	if (b->skip_at)
		resolve_branch(b);
}

static void report(const struct block *b, const char *what)
{
	char text[100];
	struct insn i;

	printf("block %llu at %x, mode %u: %s\n", (unsigned long long)blocks, b->address, b->mode, what);
	for (unsigned at = 0; at < b->size; at += i.len) {
		if (insn_decode(&i, b->code + at, INSN_MAX_LEN, b->mode) != INSN_OK)
			break;
		printf("  %x:", b->address + at);
		for (unsigned k = 0; k < i.len; k++)
			printf(" %02x", i.bytes[k]);
		printf("  %s\n", insn_format(&i, b->address + at, text, sizeof(text)));
	}
	complaints++;
}

static void round_of(struct block *b, unsigned length)
{
	static struct cpu_state emulated;
	struct outcome g;
	bool translated = guest.vm.engine != &engine_interpret;
	struct results r = {&b->last, &b->now, &emulated, &b->outcome, &g, translated};
	char what[200];

	blocks++;
	make_block(b, length);
	tried += b->executed;
	faults += b->outcome.vector >= 0;
	if (b->outcome.vector < 0)
		b->now.rip = b->address + b->size;
	guest_code(b->address, b->code, b->size, ROOM);
	guest_mode(b->mode);
	guest_run(b->address, true, &b->start, &emulated, &g);
	if (!compare_results(&r, what, sizeof(what)))
		report(b, what);
}

int main(int argc, char **argv)
{
	uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 0) : 1000000;
	unsigned length = argc > 4 ? strtoul(argv[4], NULL, 0) : 16;
	static struct block b;
	int err;

	if (getenv("GUISE_TEST_LONG"))
		count *= 10;
	rng.state = argc > 2 ? strtoull(argv[2], NULL, 0) : 0;
	if (!rng.state)
		rng.state = 0x9e3779b97f4a7c15ull ^ (uint64_t)time(NULL) << 20;
	printf("seed %#llx\n", (unsigned long long)rng.state);
	err = native_init();
	if (!err)
		err = guest_start(argc > 3 ? argv[3] : NULL);
	if (!err)
		err = native_signal_init(); /* before the engine's handlers */
	if (err) {
		printf("cannot start: %s\n", strerror(-err));
		return 77;
	}
	random_bytes(&rng, native_data(), DATA_BYTES);
	for (uint64_t n = 0; (!count || tried < count) && complaints < MAX_COMPLAINTS; n++) {
		b.address = NATIVE_CODE + n * ROOM % NATIVE_CODE_SIZE;
		round_of(&b, 1 + random_below(&rng, length));
	}
	printf("%llu instructions in %llu blocks, %llu of them faulted, %llu differ\n",
	       (unsigned long long)tried, (unsigned long long)blocks, (unsigned long long)faults,
	       (unsigned long long)complaints);
	return complaints ? 1 : 0;
}
