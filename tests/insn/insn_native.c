/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Random instructions, on the real processor and in an engine, from the same state: general registers, flags,
 * vector and x87 state, memory and faults must come out the same. Every comparable row of the table must have
 * completed at least once.
 *
 *	insn_native [COUNT [SEED [ENGINE]]]	COUNT 0: for ever; SEED 0: by the clock; ENGINE interpret or
 *translate
 *
 * One in four is 16 or 32-bit code in the guest (narrow.c). The guest has nothing mapped but the test's own
 *few pages (guest.h), and instructions are aimed so that the process has nothing elsewhere either. Not
 *comparable are answers of the machine (CPUID, time), segment loads, far transfers and system calls
 *(random_state.c, is_comparable()); x87 instruction pointers (forget_pointers()).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "compare.h"
#include "narrow.h"
#include "native_signal.h"
#include "random_state.h"

enum { MAX_COMPLAINTS = 20, DATA_BYTES = NATIVE_DATA_SIZE + NATIVE_CONST_SIZE };

static struct random rng;
static uint64_t complaints, *completed, faults, tried;

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

/* Stored x87 pointers and MXCSR_MASK are the host's own: take bytes [from, to) of the image as the guest has
 * them. */
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

	if (!guest_has(row->feature))
		return false;
	s->is_narrow = !random_below(&rng, 4);
	if (s->is_narrow) {
		if (!narrow_code(row, random_below(&rng, 2) ? MODE_16 : MODE_32, &rng, &s->narrow, s->native))
			return false;
	} else if (!row_code(row, MODE_64, &rng, s->native)) {
		return false;
	}
	status = insn_decode(&s->insn, s->native, INSN_MAX_LEN, MODE_64);
	s->valid = status == INSN_OK;
	return s->valid ? is_comparable(&s->insn)
			: status == INSN_INVALID && row->attrs & (INSN_LOCK | INSN_VSIB);
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

static void compare(struct subject *s, const struct cpu_state *in, const struct results *r)
{
	char what[200];

	if (s->valid && r->native_outcome->vector < 0)
		forget_pointers(&s->insn, in);
	if (!compare_results(r, what, sizeof(what)))
		report(r->insn, s->guest, what);
}

static void round_of(uint32_t slot)
{
	static struct cpu_state in, native, emulated;
	struct outcome n, g;
	struct subject s;

	if (!choose(&s))
		return;
	prepare(&s, slot, &in);
	native_code(slot, s.native, s.valid ? s.insn.len : INSN_MAX_LEN);
	guest_code(slot, s.guest, s.guest_len, NATIVE_SLOT);
	memcpy(guest.ram + NATIVE_DATA, native_data(), DATA_BYTES);
	native_run(slot, &in, &native, &n);
	guest_mode(s.is_narrow ? s.narrow.mode : MODE_64);
	guest_run(slot, false, &in, &emulated, &g);
	tried++;
	if (n.vector < 0) /* the guest's instruction may be longer or shorter */
		native.rip = native.rip ? native.rip + s.guest_len - s.insn.len : slot + s.guest_len;
	if (n.vector < 0 && s.valid)
		completed[s.insn.row - insn_rows]++;
	else
		faults++;
	compare(&s, &in, &(struct results){s.valid ? &s.insn : NULL, &native, &emulated, &n, &g, false});
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
				 insn_decode(&i, code, INSN_MAX_LEN, MODE_64) == INSN_OK &&
				 i.row == &insn_rows[k] && is_comparable(&i);
		if (!usable || !guest_has(insn_rows[k].feature) || completed[k] ||
		    insn_rows[k].attrs & INSN_PRIV)
			continue;
		switch (insn_rows[k].sem) {
		case SEM_UD: case SEM_IN: case SEM_OUT: case SEM_INS: case SEM_OUTS: case SEM_CLI:
		case SEM_STI: case SEM_CLAC: case SEM_STAC:
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

	if (getenv("GUISE_TEST_LONG"))
		count *= 10;
	rng.state = argc > 2 ? strtoull(argv[2], NULL, 0) : 0;
	if (!rng.state)
		rng.state = 0x9e3779b97f4a7c15ull ^ (uint64_t)time(NULL) << 20;
	printf("seed %#llx\n", (unsigned long long)rng.state);
	completed = calloc(insn_row_count, sizeof(*completed));
	err = native_init();
	if (!err)
		err = guest_start(argc > 3 ? argv[3] : NULL);
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
