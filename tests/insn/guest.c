/* SPDX-License-Identifier: BSD-2-Clause */
/* See guest.h. */
#include "guest.h"

#include <string.h>

#include "softkvm/interpret/cpuid.h"
#include "softkvm/translate/translate.h"
#include "x86/insn_row.h"

enum { PAGE_TABLES = 0x100000, CPUID_MAX = 100 };

struct harness guest;

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

/* The features that any guest would be offered here: what the processor has and engines can run. */
static int offer_features(struct vcpu *v)
{
	static struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[CPUID_MAX];
	} cpuid = {.head.nent = CPUID_MAX};
	int err = cpuid_supported(&cpuid.head);

	v->cpuid = &cpuid.head;
	return err ? err : cpuid_changed(v);
}

bool guest_has(unsigned feature)
{
	return feature == FEAT_NONE || guest.v->feature[feature / 32] >> feature % 32 & 1;
}

int guest_start(const char *name)
{
	const struct engine *engine =
		name && !strcmp(name, "translate") ? &engine_translate : &engine_interpret;
	int err = harness_new_on(&guest, HARNESS_LONG64, engine);

	if (err)
		return err;
	if (engine == &engine_translate)
		((struct vcpu_translator *)guest.v->translator)->raises_out = true;
	err = offer_features(guest.v);
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

void guest_code(uint32_t at, const uint8_t *code, unsigned size, unsigned room)
{
	memset(guest.ram + at, 0xf4, room); /* HLT: #GP in user mode */
	memcpy(guest.ram + at, code, size);
	code_written(&guest.vm, at, room);
}

void guest_mode(enum insn_mode mode)
{
	struct x86_seg *cs = &guest.v->seg[SEG_CS];

	guest.v->mode = mode;
	cs->attr &= ~(SEG_L | SEG_DB);
	cs->attr |= mode == MODE_64 ? SEG_L : mode == MODE_32 ? SEG_DB : 0;
	cs->base = mode == MODE_16 ? NATIVE_CODE : 0;
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

	return result == VEC_GP && v->rip != rip && guest.ram[v->rip + v->seg[SEG_CS].base] == 0xf4
		       ? HARNESS_OK
		       : result;
}

void guest_run(uint32_t address, bool whole, const struct cpu_state *in, struct cpu_state *out,
	       struct outcome *outcome)
{
	struct vcpu *v = guest.v;
	uint64_t base = v->seg[SEG_CS].base, rip = address - base;
	int result;

	memcpy(v->gpr, in->gpr, sizeof(v->gpr));
	v->rflags = in->rflags;
	v->rip = rip;
	memcpy(&v->fpu->x, &in->fp, 832);
	result = whole || guest.vm.engine != &engine_interpret ? run_to_hlt(rip) : step_guest(rip);
	memcpy(out->gpr, v->gpr, sizeof(v->gpr));
	out->rflags = v->rflags;
	out->rip = v->rip + base;
	memcpy(&out->fp, &v->fpu->x, 832);
	*outcome = (struct outcome){result, v->exception_has_error ? v->exception_error : 0,
				    result == VEC_PF ? v->exception_payload : 0};
}
