/* SPDX-License-Identifier: BSD-2-Clause */
#include "harness.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "softkvm/api/iobus.h"
#include "softkvm/fpu.h"
#include "softkvm/interpret/io.h"
#include "softkvm/mmu/mmu.h"
#include "x86/insn.h"

#pragma weak fpu_init
#pragma weak fpu_reset
#pragma weak fpu_deinit

static void put64(struct harness *h, unsigned at, uint64_t value)
{
	memcpy(h->ram + at, &value, 8);
}

/* Identity map of the first GiB by 2 MiB pages, open to user mode. */
static void make_tables(struct harness *h)
{
	put64(h, HARNESS_TABLES, (HARNESS_TABLES + 0x1000) | PTE_P | PTE_W | PTE_U);
	put64(h, HARNESS_TABLES + 0x1000, (HARNESS_TABLES + 0x2000) | PTE_P | PTE_W | PTE_U);
	for (unsigned k = 0; k < 512; k++)
		put64(h, HARNESS_TABLES + 0x2000 + 8 * k, (uint64_t)k << 21 | PTE_P | PTE_W | PTE_U | PTE_PS);
}

static void set_segment(struct x86_seg *s, uint16_t sel, uint64_t base, uint32_t limit, unsigned attr)
{
	*s = (struct x86_seg){.base = base, .limit = limit, .sel = sel, .attr = (uint16_t)attr};
}

static void set_segments(struct vcpu *v, unsigned dpl, unsigned code_attr, unsigned data_attr, uint32_t limit)
{
	unsigned common = SEG_S | SEG_P | dpl << SEG_DPL_SHIFT;

	for (unsigned k = SEG_ES; k <= SEG_GS; k++)
		set_segment(&v->seg[k], (uint16_t)(0x10 | dpl), 0, limit,
			    common | SEG_TYPE_RW | SEG_TYPE_ACCESSED | data_attr);
	set_segment(&v->seg[SEG_CS], (uint16_t)(8 | dpl), 0, limit,
		    common | SEG_TYPE_CODE | SEG_TYPE_RW | SEG_TYPE_ACCESSED | code_attr);
}

static void set_mode(struct vcpu *v, enum harness_mode mode)
{
	bool is_long = mode == HARNESS_LONG64 || mode == HARNESS_COMPAT32;

	v->cr0 = CR0_ET | CR0_NE | CR0_MP | (mode == HARNESS_REAL ? 0 : CR0_PE) | (is_long ? CR0_PG | CR0_WP : 0);
	v->cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | (is_long ? CR4_PAE : 0);
	v->cr3 = HARNESS_TABLES;
	v->efer = is_long ? EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE : 0;
	v->xcr0 = 7;
	v->mode = mode == HARNESS_LONG64 ? MODE_64 : MODE_32;
	if (mode == HARNESS_REAL || mode == HARNESS_PROTECTED16)
		v->mode = MODE_16;
	if (mode == HARNESS_LONG64)
		set_segments(v, 0, SEG_L | SEG_G, SEG_DB | SEG_G, 0xffffffff);
	else if (v->mode == MODE_32)
		set_segments(v, 0, SEG_DB | SEG_G, SEG_DB | SEG_G, 0xffffffff);
	else
		set_segments(v, 0, 0, 0, mode == HARNESS_REAL ? 0xffff : 0xfffff);
}

void harness_reset(struct harness *h, enum harness_mode mode)
{
	struct vcpu *v = h->v;

	memset(v->gpr, 0, sizeof(v->gpr));
	memset(v->dr, 0, sizeof(v->dr));
	v->cpl = 0;
	v->rflags = FLAG_FIXED;
	set_mode(v, mode);
	if (mode == HARNESS_REAL)
		set_segment(&v->seg[SEG_CS], HARNESS_CODE >> 4, HARNESS_CODE, 0xffff, v->seg[SEG_CS].attr);
	set_segment(&v->seg[SEG_TR], 0x28, HARNESS_DATA + 0x8000, 0xfff, SEG_P | 11);
	set_segment(&v->seg[SEG_LDTR], 0, 0, 0, SEG_UNUSABLE);
	v->gdt = (struct x86_dtable){HARNESS_GDT, 0xff};
	v->idt = (struct x86_dtable){HARNESS_IDT, 0xfff};
	v->gpr[RSP] = HARNESS_STACK;
	v->rip = mode == HARNESS_REAL ? 0 : HARNESS_CODE;
	v->exception_pending = v->exception_injected = v->irq_injected = v->halted = v->in_event_delivery = false;
	v->shadow = 0;
	vcpu_go_on(v);
	io_committed(v);
	make_tables(h);
	mmu_mode_changed(v);
	mmu_flush_all(v);
	if (fpu_reset)
		fpu_reset(v);
}

void harness_user(struct harness *h)
{
	struct vcpu *v = h->v;
	bool is_long = v->mode == MODE_64;
	unsigned data = v->mode == MODE_16 ? 0 : SEG_DB | SEG_G;

	v->cpl = 3;
	set_segments(v, 3, is_long ? SEG_L | SEG_G : data, data, v->mode == MODE_16 ? 0xfffff : 0xffffffff);
	mmu_cpl_changed(v);
}

static int add_vcpu(struct harness *h)
{
	struct vcpu *v = vcpu_memory_new();
	int err;

	if (!v)
		return -ENOMEM;
	v->vm = &h->vm;
	v->counts = &v->own_counts;
	v->run = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	v->feature = h->features;
	v->mp_state = KVM_MP_STATE_RUNNABLE;
	v->phys_bits = 40;
	h->v = v;
	err = mmu_init(v);
	if (!err && fpu_init)
		err = fpu_init(v);
	if (!err)
		err = h->vm.engine->vcpu_init(v);
	h->vm.vcpu[0] = v;
	h->vm.vcpu_count = 1;
	return err;
}

int harness_new(struct harness *h, enum harness_mode mode)
{
	return harness_new_on(h, mode, &engine_interpret);
}

int harness_new_on(struct harness *h, enum harness_mode mode, const struct engine *engine)
{
	struct mem_slot slot = {.size = HARNESS_RAM, .fd = -1};
	int err;

	memset(h, 0, sizeof(*h));
	memset(h->features, 0xff, sizeof(h->features));
	h->vm.counts = &h->vm.own_counts;
	pthread_mutex_init(&h->vm.lock, NULL);
	pthread_mutex_init(&h->vm.split_lock, NULL);
	memory_init(&h->vm.mem);
	h->ram = mmap(NULL, HARNESS_RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (h->ram == MAP_FAILED)
		return -ENOMEM;
	slot.hva = h->ram;
	slot.user = code_table_new(slot.size);
	err = memory_set_slot(&h->vm.mem, &slot);
	h->vm.engine = engine;
	if (!err)
		err = iobus_new(&h->vm);
	if (!err)
		err = h->vm.engine->vm_init(&h->vm);
	if (!err)
		err = add_vcpu(h);
	if (!err)
		harness_reset(h, mode);
	return err;
}

void harness_free(struct harness *h)
{
	struct vcpu *v = h->v;
	struct mem_slot *slot = memory_find(&h->vm.mem, 0);

	h->vm.engine->vcpu_deinit(v);
	if (fpu_deinit)
		fpu_deinit(v);
	mmu_deinit(v);
	munmap(v->run, 3 * 4096);
	vcpu_memory_free(v);
	h->vm.engine->vm_deinit(&h->vm);
	iobus_free(&h->vm);
	code_table_free(slot->user, HARNESS_RAM);
	memory_deinit(&h->vm.mem);
	munmap(h->ram, HARNESS_RAM);
}

void harness_code(struct harness *h, const void *code, unsigned size)
{
	memcpy(h->ram + HARNESS_CODE, code, size);
	code_written(&h->vm, HARNESS_CODE, size);
}

int harness_run(struct harness *h, unsigned n)
{
	struct vcpu *v = h->v;

	if (__builtin_setjmp(v->leave_buf)) {
		if (v->leave_to_user) {
			v->leave_to_user = false;
			return HARNESS_EXIT;
		}
		v->exception_pending = false;
		return v->exception_vector;
	}
	while (n--) {
		vcpu_go_on(v);
		v->shadow = 0;
		v->vm->engine->run(v, true);
	}
	return HARNESS_OK;
}

int harness_run_to_halt(struct harness *h)
{
	struct vcpu *v = h->v;

	if (__builtin_setjmp(v->leave_buf)) {
		if (v->fpu_live)
			fpu_leave(v);
		if (v->leave_to_user) {
			v->leave_to_user = false;
			return HARNESS_EXIT;
		}
		v->exception_pending = false;
		return v->exception_vector;
	}
	for (v->halted = false; !v->halted && !h->stop;) {
		vcpu_go_on(v);
		v->shadow = 0;
		v->vm->engine->run(v, false);
	}
	v->halted = false;
	return h->stop ? HARNESS_EXIT : HARNESS_OK;
}

int harness_do(struct harness *h, const void *code, unsigned size, unsigned n)
{
	harness_code(h, code, size);
	return harness_run(h, n);
}

void harness_normalize(struct xsave_area *x)
{
	if (!(x->xstate_bv & XSTATE_X87)) {
		x->fcw = FCW_INIT;
		x->fsw = x->ftw = 0;
		memset(x->st, 0, sizeof(x->st));
	}
	if (!(x->xstate_bv & XSTATE_SSE))
		memset(x->xmm, 0, sizeof(x->xmm));
	if (!(x->xstate_bv & XSTATE_AVX))
		memset(x->ymmh, 0, sizeof(x->ymmh));
	for (unsigned k = 0; k < 8; k++)
		memset(x->st[k] + 10, 0, 6);
	x->fop = 0;
	x->fip = x->fdp = 0;
	x->mxcsr_mask = 0;
	x->xstate_bv = 7;
	memset(x->unused, 0, sizeof(x->unused));
}
