/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Every handler made for one form of an instruction does what the general op_* does: random instances of
 * both, compared.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "softkvm/interpret/fast.h"
#include "x86/insn.h"

enum { ROUNDS = 200000 };

static struct harness h;

struct state {
	uint64_t gpr[16], rip, rflags;
	uint8_t data[512];
};

static uint64_t random64(void)
{
	uint64_t value = 0;

	for (int k = 0; k < 4; k++)
		value = value << 16 ^ (uint64_t)random();
	return random() % 4 ? value : (uint64_t)(int8_t)value;
}

static void save(struct state *s)
{
	memcpy(s->gpr, h.v->gpr, sizeof(s->gpr));
	s->rip = h.v->rip;
	s->rflags = h.v->rflags;
	memcpy(s->data, h.ram + HARNESS_DATA, sizeof(s->data));
}

static void restore(const struct state *s)
{
	memcpy(h.v->gpr, s->gpr, sizeof(s->gpr));
	h.v->rip = s->rip;
	h.v->rflags = s->rflags;
	memcpy(h.ram + HARNESS_DATA, s->data, sizeof(s->data));
}

/* Random state in which memory operands with small displacements hit the data. */
static void random_state(struct state *s)
{
	for (int k = 0; k < 16; k++)
		s->gpr[k] = random() % 2 ? HARNESS_DATA + 256 + (uint64_t)(random() % 64) : random64();
	s->rip = HARNESS_CODE;
	s->rflags = FLAG_FIXED | (random64() & FLAGS_STATUS);
	for (unsigned k = 0; k < sizeof(s->data); k++)
		s->data[k] = (uint8_t)random();
}

/* Returns the vector it raised, or HARNESS_OK. */
static int run_handler(insn_handler *handler, const struct insn *i)
{
	struct vcpu *v = h.v;

	if (__builtin_setjmp(v->leave_buf)) {
		if (v->leave_to_user) {
			v->leave_to_user = v->io_pending = false;
			return HARNESS_EXIT;
		}
		v->exception_pending = false;
		return v->exception_vector;
	}
	v->insn = i;
	v->insn_rip = v->rip;
	v->rip += i->len;
	handler(v, i);
	return HARNESS_OK;
}

static bool random_insn(struct insn *i)
{
	static const uint8_t prefixes[] = {0x48, 0x41, 0x4c, 0x66, 0xf0, 0x65, 0x40, 0x4f};
	uint8_t bytes[16];
	unsigned at = 0;

	for (unsigned n = (unsigned)random() % 3; n; n--)
		bytes[at++] = prefixes[random() % 8];
	while (at < sizeof(bytes))
		bytes[at++] = (uint8_t)random();
	if (random() % 3 == 0) /* small displacements are likelier to hit */
		memset(bytes + 5, 0, 4);
	return insn_decode(i, bytes, 15, MODE_64) == INSN_OK;
}

static void compare(const struct insn *i, insn_handler *fast)
{
	struct state before, general, special;
	int result;

	random_state(&before);
	restore(&before);
	result = run_handler(op_table[i->row->sem], i);
	save(&general);
	restore(&before);
	if (run_handler(fast, i) != result)
		fail_msg("%s: other outcome", i->row->mnemonic);
	save(&special);
	if (memcmp(&general, &special, sizeof(general))) {
		char text[128];

		fail_msg("%s differs", insn_format(i, HARNESS_CODE, text, sizeof(text)));
	}
}

static void test_forms(void **state)
{
	unsigned compared = 0;
	struct insn i;

	/* Only RAM is mapped: other accesses fault. */
	memset(h.ram + HARNESS_TABLES + 0x2000 + 8 * (HARNESS_RAM >> 21), 0, 4096 - 8 * (HARNESS_RAM >> 21));
	mmu_flush_all(h.v);
	srandom(1);
	for (unsigned k = 0; k < ROUNDS; k++) {
		insn_handler *fast = random_insn(&i) ? fast_handler(&i) : NULL;

		if (!fast || fast == op_table[i.row->sem])
			continue;
		compare(&i, fast);
		compared++;
	}
	assert_true(compared > ROUNDS / 20);
}

static int begin(void **state)
{
	return harness_new(&h, HARNESS_LONG64);
}

static int end(void **state)
{
	harness_free(&h);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_forms),
	};

	return cmocka_run_group_tests(tests, begin, end);
}
