/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Random instructions, on the real processor and in an engine, from the same state: general registers, flags,
 * vector and x87 state, memory and faults must come out the same. Every comparable row of the table must have
 * completed at least once.
 *
 *	insn_native [COUNT [SEED [ENGINE]]]	COUNT 0: for ever; SEED 0: by the clock; ENGINE interpret or translate
 *
 * One in four is 16 or 32-bit code in the guest (narrow.c). The guest is a user program with the test's own few pages at the same addresses; everything else is not
 * mapped in the guest, and instructions are aimed so that the process has nothing there either. Not comparable are
 * answers of the machine (CPUID, time), segment loads, far transfers and system calls; x87 instruction pointers
 * (random_state.c, is_comparable() and forget_pointers()).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../unit/harness.h"
#include "narrow.h"
#include "native_signal.h"
#include "random_state.h"

enum { MAX_COMPLAINTS = 20, DATA_BYTES = NATIVE_DATA_SIZE + NATIVE_CONST_SIZE, PAGE_TABLES = 0x100000 };

static struct random rng;
static struct harness guest;
static uint64_t complaints, *completed, faults, tried;

/* --- the guest --- */

static void put_entry(uint32_t table, unsigned index, uint64_t entry)
{
	memcpy(guest.ram + table + 8 * index, &entry, 8);
}

/* User pages at the native addresses, with the native rights. */
static void map_guest(void)
{
	const uint64_t all = PTE_P | PTE_W | PTE_U;

	for (unsigned level = 0; level < 3; level++)
		put_entry(PAGE_TABLES + 4096 * level, 0, (PAGE_TABLES + 4096 * (level + 1)) | all);
	for (uint32_t a = NATIVE_CODE; a < NATIVE_CODE + NATIVE_CODE_SIZE; a += 4096)
		put_entry(PAGE_TABLES + 4096 * 3, a >> 12, a | PTE_P | PTE_U);
	for (uint32_t a = NATIVE_DATA; a < NATIVE_DATA + NATIVE_DATA_SIZE; a += 4096)
		put_entry(PAGE_TABLES + 4096 * 3, a >> 12, a | all | PTE_NX);
	put_entry(PAGE_TABLES + 4096 * 3, NATIVE_CONST >> 12, NATIVE_CONST | PTE_P | PTE_U | PTE_NX);
}

static int start_guest(const char *name)
{
	const struct engine *engine = name && !strcmp(name, "translate") ? &engine_translate : &engine_interpret;
	int err = harness_new_on(&guest, HARNESS_LONG64, engine);

	if (err)
		return err;
	harness_user(&guest);
	map_guest();
	guest.v->cr0 |= CR0_AM;
	guest.v->seg[SEG_TR].limit = 0x5f; /* no I/O permission bitmap */
	guest.v->cr3 = PAGE_TABLES;
	mmu_cr3_loaded(guest.v, 0, false);
	mmu_mode_changed(guest.v);
	mmu_flush_all(guest.v);
	return 0;
}

static void guest_code(uint32_t slot, const uint8_t *code, unsigned size)
{
	memset(guest.ram + slot, 0xf4, NATIVE_SLOT); /* HLT: #GP in user mode */
	memcpy(guest.ram + slot, code, size);
	code_written(&guest.vm, slot, NATIVE_SLOT);
}

/* One instruction; a repeated one may take several calls. */
static int step_guest(uint64_t rip)
{
	int result;

	do
		result = harness_run(&guest, 1);
	while (result == HARNESS_OK && guest.v->rip == rip);
	return result;
}

/* On engines that do not work by instructions: up to the HLT behind it. */
static int run_to_hlt(uint64_t rip)
{
	struct vcpu *v = guest.v;
	int result = harness_run_to_halt(&guest);

	return result == VEC_GP && v->rip != rip ? HARNESS_OK : result;
}

static void run_guest(uint64_t rip, const struct cpu_state *in, struct cpu_state *out, struct outcome *outcome)
{
	struct vcpu *v = guest.v;
	int result;

	memcpy(v->gpr, in->gpr, sizeof(v->gpr));
	v->rflags = in->rflags;
	v->rip = rip;
	memcpy(&v->fpu->x, &in->fp, 832);
	result = guest.vm.engine == &engine_interpret ? step_guest(rip) : run_to_hlt(rip);
	memcpy(out->gpr, v->gpr, sizeof(v->gpr));
	out->rflags = v->rflags;
	out->rip = v->rip;
	memcpy(&out->fp, &v->fpu->x, 832);
	*outcome = (struct outcome){result, v->exception_has_error ? v->exception_error : 0,
				    result == VEC_PF ? v->exception_payload : 0};
}

/* --- comparing --- */

static void report(const struct insn *i, const uint8_t *code, const char *what)
{
	char text[100] = "(invalid)";

	if (i)
		insn_format(i, NATIVE_CODE, text, sizeof(text));
	printf("%llu: %s:", (unsigned long long)tried, text);
	for (unsigned k = 0; k < (i ? i->len : 15); k++)
		printf(" %02x", code[k]);
	printf(" (mode %u): %s\n", guest.v->mode, what);
	complaints++;
}

/* Spell out initial components, so that bytes compare. */
static void spell_out(struct xsave_area *x)
{
	if (!(x->xstate_bv & XSTATE_X87)) {
		x->fcw = FCW_INIT;
		x->fsw = 0;
		x->ftw = 0;
		memset(x->st, 0, sizeof(x->st));
	}
	if (!(x->xstate_bv & XSTATE_SSE))
		memset(x->xmm, 0, sizeof(x->xmm));
	if (!(x->xstate_bv & XSTATE_AVX))
		memset(x->ymmh, 0, sizeof(x->ymmh));
}

static bool compare_fp(const struct insn *i, const uint8_t *code, struct xsave_area *n, struct xsave_area *g,
		       bool faulted)
{
	char what[100];

	if (i && i->op == OP_MASKMOVQ && faulted)
		return true; /* whether the x87 unit has changed to MMX by then is up to the processor */
	spell_out(n);
	spell_out(g);
	if (n->fcw != g->fcw || n->fsw != g->fsw || n->ftw != g->ftw || n->mxcsr != g->mxcsr) {
		snprintf(what, sizeof(what), "fcw %x %x fsw %x %x ftw %x %x mxcsr %x %x", n->fcw, g->fcw, n->fsw, g->fsw,
			 n->ftw, g->ftw, n->mxcsr, g->mxcsr);
		report(i, code, what);
		return false;
	}
	for (unsigned k = 0; k < 16; k++) {
		if (memcmp(n->xmm[k], g->xmm[k], 16) || memcmp(n->ymmh[k], g->ymmh[k], 16) ||
		    (k < 8 && memcmp(n->st[k], g->st[k], 10))) {
			snprintf(what, sizeof(what), "vector or x87 register %u", k);
			report(i, code, what);
			return false;
		}
	}
	return true;
}

static bool compare_registers(const struct insn *i, const uint8_t *code, const struct cpu_state *n, const struct cpu_state *g)
{
	const uint64_t flags = FLAGS_STATUS | FLAG_DF | FLAG_AC;
	char what[200];

	for (unsigned k = 0; k < 16; k++) {
		if (n->gpr[k] == g->gpr[k])
			continue;
		snprintf(what, sizeof(what), "register %u native %#llx guest %#llx", k, (unsigned long long)n->gpr[k],
			 (unsigned long long)g->gpr[k]);
		report(i, code, what);
		return false;
	}
	if ((n->rflags ^ g->rflags) & flags) {
		snprintf(what, sizeof(what), "flags native %llx guest %llx", (unsigned long long)(n->rflags & flags),
			 (unsigned long long)(g->rflags & flags));
		report(i, code, what);
		return false;
	}
	return true;
}

/* Microcode touches large images and masked operands in an order of its own: the fault's details differ. */
static bool has_loose_faults(const struct insn *i)
{
	switch (i->row->sem) {
	case SEM_FRSTOR: case SEM_FNSAVE: case SEM_FLDENV: case SEM_FNSTENV: case SEM_FXSAVE: case SEM_FXRSTOR: case SEM_XSAVE:
	case SEM_XSAVEOPT: case SEM_XSAVEC: case SEM_XRSTOR: case SEM_MASKMOV:
		return true;
	}
	return false;
}

static bool same_fault(const struct insn *i, const struct outcome *n, const struct outcome *g)
{
	if (i && n->vector == VEC_PF && has_loose_faults(i))
		return true;
	return n->error == g->error && (n->vector != VEC_PF || n->cr2 == g->cr2);
}

static bool compare_outcome(const struct insn *i, const uint8_t *code, const struct outcome *n, const struct outcome *g)
{
	char what[200];

	if (n->vector == g->vector && (n->vector < 0 || same_fault(i, n, g)))
		return true;
	snprintf(what, sizeof(what), "fault native %d error %llx cr2 %llx, guest %d error %llx cr2 %llx", n->vector,
		 (unsigned long long)n->error, (unsigned long long)n->cr2, g->vector, (unsigned long long)g->error,
		 (unsigned long long)g->cr2);
	report(i, code, what);
	return false;
}

/* Stored x87 pointers and MXCSR_MASK are the host's own: take bytes [from, to) of the image as the guest has them. */
static void forget(uint64_t image, unsigned from, unsigned to)
{
	for (uint64_t at = image + from; at < image + to; at++)
		if (at >= NATIVE_DATA && at < NATIVE_DATA + NATIVE_DATA_SIZE)
			native_data()[at - NATIVE_DATA] = guest.ram[at];
}

static void forget_pointers(const struct insn *i, const struct cpu_state *in)
{
	uint64_t image = effective_address(i, guest.v->rip, in);

	switch (i->row->sem) {
	case SEM_FXSAVE: case SEM_XSAVE: case SEM_XSAVEOPT: case SEM_XSAVEC:
		forget(image, 6, 24);
		forget(image, 28, 32);
		break;
	case SEM_FNSTENV: case SEM_FNSAVE:
		forget(image, i->op_size == 2 ? 6 : 12, i->op_size == 2 ? 14 : 28);
	}
}

static void compare_memory(const struct insn *i, const uint8_t *code)
{
	char what[100];
	const uint8_t *n = native_data(), *g = guest.ram + NATIVE_DATA;
	unsigned k = 0;

	if (!memcmp(n, g, DATA_BYTES))
		return;
	while (n[k] == g[k])
		k++;
	snprintf(what, sizeof(what), "memory at %x: native %02x guest %02x", NATIVE_DATA + k, n[k], g[k]);
	report(i, code, what);
}

static void report_rip(const struct insn *i, const uint8_t *code, uint64_t native, uint64_t emulated)
{
	char what[100];

	snprintf(what, sizeof(what), "RIP native %llx guest %llx", (unsigned long long)native, (unsigned long long)emulated);
	report(i, code, what);
}

/* --- one round --- */

static void refresh_memory(uint32_t target)
{
	uint32_t at = target & ~7u;

	if (at < NATIVE_DATA + 8)
		at = NATIVE_DATA + 8;
	if (at > NATIVE_DATA + DATA_BYTES - 136)
		at = NATIVE_DATA + DATA_BYTES - 136;
	random_bytes(&rng, native_data() + at - 8 - NATIVE_DATA, 144);
}

/* One instruction for both sides. */
struct subject {
	uint8_t native[INSN_MAX_LEN], guest[INSN_MAX_LEN];
	struct insn insn; /* native */
	bool valid, is_narrow;
	struct narrow narrow;
	unsigned guest_len;
};

/* Random row → code. False: not comparable. */
static bool choose(struct subject *s)
{
	const struct insn_row *row = &insn_rows[random_below(&rng, insn_row_count)];
	enum insn_status status;

	s->is_narrow = !random_below(&rng, 4);
	if (s->is_narrow) {
		if (!narrow_code(row, random_below(&rng, 2) ? MODE_16 : MODE_32, &rng, &s->narrow, s->native))
			return false;
	} else if (!row_code(row, MODE_64, &rng, s->native)) {
		return false;
	}
	status = insn_decode(&s->insn, s->native, INSN_MAX_LEN, MODE_64);
	s->valid = status == INSN_OK;
	return s->valid ? is_comparable(&s->insn) : status == INSN_INVALID && row->attrs & (INSN_LOCK | INSN_VSIB);
}

/* State and fields of the instruction; then the guest's form of it. */
static void prepare(struct subject *s, uint32_t slot, struct cpu_state *in)
{
	random_state(&rng, in);
	if (s->valid) {
		if (random_below(&rng, 2))
			refresh_memory(NATIVE_DATA + random_below(&rng, DATA_BYTES));
		aim(&rng, &s->insn, slot, in, s->native);
		insn_decode(&s->insn, s->native, INSN_MAX_LEN, MODE_64);
	}
	s->guest_len = s->valid ? s->insn.len : INSN_MAX_LEN;
	memcpy(s->guest, s->native, INSN_MAX_LEN);
	if (!s->is_narrow)
		return;
	for (unsigned k = 0; k < 16; k++)
		in->gpr[k] = (uint32_t)in->gpr[k];
	narrow_from_native(&s->narrow, s->native, s->guest);
	s->guest_len += s->narrow.prefix_count - s->narrow.native_prefix_count;
}

static void guest_mode(enum insn_mode mode)
{
	struct x86_seg *cs = &guest.v->seg[SEG_CS];

	guest.v->mode = mode;
	cs->attr &= ~(SEG_L | SEG_DB);
	cs->attr |= mode == MODE_64 ? SEG_L : mode == MODE_32 ? SEG_DB : 0;
	cs->base = mode == MODE_16 ? NATIVE_CODE : 0;
}

static void compare(struct subject *s, const struct cpu_state *in, struct cpu_state *native, struct cpu_state *emulated,
		    const struct outcome *n, const struct outcome *g)
{
	const struct insn *i = s->valid ? &s->insn : NULL;

	if (i && n->vector < 0)
		forget_pointers(i, in);
	if (!compare_outcome(i, s->guest, n, g) || !compare_registers(i, s->guest, native, emulated) ||
	    !compare_fp(i, s->guest, &native->fp, &emulated->fp, n->vector >= 0))
		return;
	if (native->rip != emulated->rip)
		report_rip(i, s->guest, native->rip, emulated->rip);
	compare_memory(i, s->guest);
}

static void round_of(uint32_t slot)
{
	static struct cpu_state in, native, emulated;
	struct outcome n, g;
	struct subject s;
	uint32_t base;

	if (!choose(&s))
		return;
	prepare(&s, slot, &in);
	native_code(slot, s.native, s.valid ? s.insn.len : INSN_MAX_LEN);
	guest_code(slot, s.guest, s.guest_len);
	memcpy(guest.ram + NATIVE_DATA, native_data(), DATA_BYTES);
	native_run(slot, &in, &native, &n);
	guest_mode(s.is_narrow ? s.narrow.mode : MODE_64);
	base = (uint32_t)guest.v->seg[SEG_CS].base;
	run_guest(slot - base, &in, &emulated, &g);
	emulated.rip += base;
	tried++;
	if (n.vector < 0) /* the guest's instruction may be longer or shorter */
		native.rip = native.rip ? native.rip + s.guest_len - s.insn.len : slot + s.guest_len;
	if (n.vector < 0 && s.valid)
		completed[s.insn.row - insn_rows]++;
	else
		faults++;
	compare(&s, &in, &native, &emulated, &n, &g);
}

/* Privileged rows never complete in user mode, rows that always fault neither. */
static unsigned report_missing(void)
{
	unsigned missing = 0;
	struct random r = {1};
	uint8_t code[INSN_MAX_LEN];
	struct insn i;

	for (unsigned k = 0; k < insn_row_count; k++) {
		bool usable = false;

		for (unsigned n = 0; n < 50 && !usable; n++)
			usable = row_code(&insn_rows[k], MODE_64, &r, code) &&
				 insn_decode(&i, code, INSN_MAX_LEN, MODE_64) == INSN_OK && i.row == &insn_rows[k] &&
				 is_comparable(&i);
		if (!usable || completed[k] || insn_rows[k].attrs & INSN_PRIV)
			continue;
		switch (insn_rows[k].sem) {
		case SEM_UD: case SEM_IN: case SEM_OUT: case SEM_INS: case SEM_OUTS: case SEM_CLI: case SEM_STI:
		case SEM_CLAC: case SEM_STAC:
			continue;
		}
		printf("never completed: row %u, %s\n", k, insn_rows[k].mnemonic);
		missing++;
	}
	return missing;
}

int main(int argc, char **argv)
{
	uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 0) : 1000000;
	int err;

	rng.state = argc > 2 ? strtoull(argv[2], NULL, 0) : 0;
	if (!rng.state)
		rng.state = 0x9e3779b97f4a7c15ull ^ (uint64_t)time(NULL) << 20;
	printf("seed %#llx\n", (unsigned long long)rng.state);
	completed = calloc(insn_row_count, sizeof(*completed));
	err = native_init();
	if (!err)
		err = start_guest(argc > 3 ? argv[3] : NULL);
	if (!err)
		err = native_signal_init(); /* before the engine's handlers */
	if (err || !completed) {
		printf("cannot start: %s\n", strerror(-err));
		return 77;
	}
	random_bytes(&rng, native_data(), DATA_BYTES);
	for (uint64_t n = 0; (!count || tried < count) && complaints < MAX_COMPLAINTS; n++)
		round_of(NATIVE_CODE + n * NATIVE_SLOT % NATIVE_CODE_SIZE);
	printf("%llu instructions, %llu of them faulted, %llu differ\n", (unsigned long long)tried,
	       (unsigned long long)faults, (unsigned long long)complaints);
	if (!complaints && tried >= 1000000)
		complaints += report_missing();
	return complaints ? 1 : 0;
}
