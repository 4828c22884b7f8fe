// SPDX-License-Identifier: BSD-2-Clause
/*
 * The translator as an engine: set-up, the arena of everything that describes blocks, and the loop that enters
 * translated code.
 *
 * It runs what it can and gives the rest to the interpreter: single steps and code with breakpoints or alignment checks,
 * code in device memory.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>

#include "memory/backing.h"
#include "softkvm/fpu.h"
#include "softkvm/interpret/event.h"
#include "softkvm/interpret/io.h"
#include "softkvm/interpret/operand.h"
#include "softkvm/translate/fault.h"
#include "softkvm/translate/translate.h"

/* Of code, in KiB; descriptions take three quarters of that. Together the most that a VM's translations take. */
enum { CACHE_DEFAULT = 38 << 10, CACHE_LEAST = 1 << 10, CACHE_MOST = CODECACHE_MOST >> 10 };

/* --- memory --- */

/* GUISE_CODE_CACHE in the environment: how many KiB of translated code to keep. */
static uint64_t cache_size(void)
{
	const char *text = getenv("GUISE_CODE_CACHE");
	uint64_t size = text ? strtoull(text, NULL, 10) : CACHE_DEFAULT;

	size = size < CACHE_LEAST ? CACHE_LEAST : size > CACHE_MOST ? CACHE_MOST : size;
	return size << 10;
}

static uint64_t order_size(const struct translator *t)
{
	return t->arena.size / sizeof(struct block) * sizeof(*t->order);
}

/* Two thirds hot code, one third cold: the proportion in which kernels and programs fill them. */
static int memory_new(struct translator *t)
{
	uint64_t size = cache_size(), split = size / 3 * 2 & ~4095ull;
	int err = codecache_init(&t->cache, size, split);

	if (err)
		return err;
	t->arena.size = (size / 4 * 3) & ~4095ull;
	t->arena.base = backing_new(t->arena.size);
	t->order = backing_new(order_size(t));
	t->view_pool = backing_new(VIEW_POOL * sizeof(*t->view_pool));
	if (!t->arena.base || !t->order || !t->view_pool)
		return -ENOMEM;
	regions_init(t);
	return 0;
}

static void memory_free(struct translator *t)
{
	codecache_deinit(&t->cache);
	backing_free(t->arena.base, t->arena.size);
	backing_free(t->order, order_size(t));
	backing_free(t->view_pool, VIEW_POOL * sizeof(*t->view_pool));
}

/* --- the lock --- */

static void serve(struct vcpu *v)
{
	if (!v || !(atomic_load(&v->requests) & VREQ_TLB_WRITE))
		return;
	atomic_fetch_and(&v->requests, ~(uint32_t)VREQ_TLB_WRITE);
	mmu_flush_writes(v);
}

/* Whoever is waited for may itself wait for this processor. */
static void wait_a_little(unsigned spins)
{
	if (spins % 64)
		__builtin_ia32_pause();
	else
		sched_yield();
}

void translator_lock(struct translator *t, struct vcpu *v)
{
	for (unsigned spins = 1; atomic_exchange_explicit(&t->lock, 1, memory_order_acquire); spins++) {
		serve(v);
		wait_a_little(spins);
	}
}

void translator_unlock(struct translator *t)
{
	atomic_store_explicit(&t->lock, 0, memory_order_release);
}

/* --- what can be translated --- */

uint32_t flavour_of(const struct vcpu *v)
{
	uint32_t f = v->mode;

	if (v->mode != MODE_64)
		f |= v->mode == MODE_32 && is_flat(v) ? (uint32_t)FLAVOUR_FLAT : segmented_flavour(v);
	if (v->cr0 & (CR0_EM | CR0_TS))
		return f;
	f |= FLAVOUR_X87;
	if (v->cr4 & CR4_OSFXSR)
		f |= FLAVOUR_SSE;
	if (v->cr4 & CR4_OSXSAVE && (v->xcr0 & 6) == 6)
		f |= FLAVOUR_AVX;
	return f;
}

bool flavour_is_noted(const struct vcpu *v)
{
	uint32_t flavour = flavour_of(v);

	if (flavour != v->itlb[ITLB_FLAVOUR])
		return false;
	return !(flavour & FLAVOUR_SEGMENTED) ||
	       (v->itlb[ITLB_CS_BASE] == code_base(v) && v->itlb[ITLB_CS_LIMIT] == v->seg[SEG_CS].limit);
}

/*
 * Ids of views stay in the instruction TLB as long as translations do; they must not outlive their flavour. Each
 * TLB set has its own: a 64-bit kernel and its 32-bit programs do not disturb each other.
 */
void flavour_note(struct vcpu *v)
{
	if (flavour_is_noted(v))
		return;
	for (unsigned k = 0; k < ITLB_ENTRIES; k++)
		v->itlb[k] = 0;
	v->itlb[ITLB_FLAVOUR] = flavour_of(v);
	v->itlb[ITLB_CS_BASE] = code_base(v);
	v->itlb[ITLB_CS_LIMIT] = v->seg[SEG_CS].limit;
}

bool engine_can_translate(const struct vcpu *v)
{
	if (v->rflags & FLAG_TF || v->guest_debug || v->dr[7] & 0xff)
		return false;
	return !(v->rflags & FLAG_AC && v->cr0 & CR0_AM && v->cpl == 3);
}

/* --- flushing everything --- */

/* 0 but in entry 0: an address that never indexes there. */
void jump_cache_clear_entry(struct jump_cache_entry *cache, unsigned index)
{
	cache[index] = (struct jump_cache_entry){ .pc = index ? 0 : 1 << JUMP_CACHE_DROPPED_BITS };
}

static struct vcpu_translator *translator_part(struct vcpu *v)
{
	return v ? (void *)v->translator : NULL;
}

/* Pairs with stay_out(): either it sees `stopping`, or we see `inside` and wait. */
static void wait_until_outside(struct vcpu *self, struct vcpu *other)
{
	struct vcpu_translator *vt = translator_part(other);

	if (!vt || other == self)
		return;
	for (unsigned spins = 1; atomic_load(&vt->inside) && atomic_load(&other->run_state) == VCPU_RUNNING; spins++) {
		vcpu_call_out(other);
		serve(self);
		wait_a_little(spins);
	}
}

/* Before this vCPU holds addresses of translated code. */
void translator_go_inside(struct vcpu *v)
{
	struct vcpu_translator *vt = (void *)v->translator;

	for (unsigned spins = 1;; spins++) {
		atomic_store(&vt->inside, true);
		if (!atomic_load(&vt->t->stopping))
			return;
		translator_go_outside(v);
		serve(v);
		wait_a_little(spins);
	}
}

void translator_flush(struct vcpu *v)
{
	struct translator *t = translator_of(v);
	unsigned count = atomic_load(&v->vm->vcpu_count);

	translator_go_outside(v);
	if (atomic_exchange(&t->stopping, true))
		return; /* another vCPU is at it; translator_go_inside() waits for it */
	for (unsigned k = 0; k < count; k++)
		wait_until_outside(v, v->vm->vcpu[k]);
	translator_lock(t, v);
	if (t->want_flush)
		regions_make_room(t, v->vm);
	t->want_flush = false;
	translator_unlock(t);
	atomic_store(&t->stopping, false);
}

/* --- running --- */

/* Vector state goes to rest first: the address of its last x87 instruction may be one of translated code. */
void translator_go_outside(struct vcpu *v)
{
	if (v->fpu_live)
		fpu_leave(v);
	atomic_store(&translator_part(v)->inside, false);
}

void translator_enter(struct vcpu *v, const struct block *b)
{
	void (*enter)(struct vcpu *, const uint8_t *) = (void *)translator_of(v)->enter;

	if (!v->fpu_live)
		fpu_enter(v);
	flags_from_vcpu(v);
	fault_thread(v);
	v->fpu->guest_ip = fault_guest_ip;
	enter(v, translator_of(v)->cache.rx + block_straight(b));
}

static void interpret_single(struct vcpu *v)
{
	if (v->fpu_live)
		fpu_leave(v);
	engine_interpret.run(v, true);
}

/* In a state that is not translated: a block of the interpreter's. Another may follow at once that is translated. */
static void interpret_some(struct vcpu *v)
{
	struct vcpu_translator *vt = (void *)v->translator;

	if (v->fpu_live)
		fpu_leave(v);
	if (atomic_load_explicit(&vt->inside, memory_order_relaxed))
		atomic_store(&vt->inside, false);
	interpret_block(v);
}

static void copy_buffer(void **to, void *const *from)
{
	for (unsigned k = 0; k < sizeof(((struct vcpu *)0)->leave_buf) / sizeof(void *); k++)
		to[k] = from[k];
}

/* Not for us: to the run loop's own buffer, which must not be one set in the calling function. */
__attribute__((noinline)) static _Noreturn void leave_to_outer(struct vcpu *v)
{
	translator_go_outside(v);
	copy_buffer(v->leave_buf, ((struct vcpu_translator *)v->translator)->outer);
	__builtin_longjmp(v->leave_buf, 1);
}

/* An instruction raised: deliver that here, vector state live, rather than by way of the run loop. */
static void deliver_here(struct vcpu *v)
{
	struct vcpu_translator *vt = (void *)v->translator;

	if (vt->raises_out || v->leave_to_user || !v->exception_pending || v->debug_pending || v->guest_debug)
		leave_to_outer(v);
	v->shadow_before = 0;
	io_committed(v);
	v->io_string_count = 0;
	event_deliver_raised(v);
}

static void run_translated(struct vcpu *v)
{
	struct vcpu_translator *vt = (void *)v->translator;
	struct block *b;

	do {
		if (!engine_can_translate(v)) {
			interpret_some(v);
			continue;
		}
		if (vt->t->want_flush)
			translator_flush(v);
		translator_go_inside(v);
		vt->single = false;
		b = block_get(v, v->rip);
		if (b)
			translator_enter(v, b);
		if (!b || vt->single)
			interpret_single(v);
	} while (atomic_load_explicit(&v->cont, memory_order_relaxed) && !v->shadow);
}

static void translate_run(struct vcpu *v, bool single)
{
	struct vcpu_translator *vt = (void *)v->translator;

	if (single) {
		interpret_single(v);
		return;
	}
	copy_buffer(vt->outer, v->leave_buf);
	if (__builtin_setjmp(v->leave_buf))
		deliver_here(v);
	if (atomic_load_explicit(&v->cont, memory_order_relaxed))
		run_translated(v);
	copy_buffer(v->leave_buf, ((struct vcpu_translator *)v->translator)->outer);
	translator_go_outside(v);
}

/* --- set-up --- */

static void translate_vm_deinit(struct vm *vm)
{
	struct translator *t = vm->engine_data;

	if (!t)
		return;
	stats_log(t);
	memory_free(t);
	free(t);
	vm->engine_data = NULL;
}

static int translate_vm_init(struct vm *vm)
{
	struct translator *t = calloc(1, sizeof(*t));
	int err;

	if (!t)
		return -ENOMEM;
	vm->engine_data = t;
	err = memory_new(t);
	if (!err)
		err = signals_init();
	if (!err && trampolines_emit(t))
		err = -ENOMEM;
	if (err)
		translate_vm_deinit(vm);
	return err;
}

static void translate_vcpu_deinit(struct vcpu *v)
{
	struct vcpu_translator *vt = (void *)v->translator;

	if (vt)
		stats_add(v->vm->engine_data, &vt->counts);
	free(vt);
	v->translator = NULL;
	engine_interpret.vcpu_deinit(v);
}

static int translate_vcpu_init(struct vcpu *v)
{
	struct vcpu_translator *vt = calloc(1, sizeof(*vt));
	int err = engine_interpret.vcpu_init(v);

	v->translator = (void *)vt;
	if (err || !vt) {
		translate_vcpu_deinit(v);
		return err ? err : -ENOMEM;
	}
	vt->t = v->vm->engine_data;
	jump_cache_clear_entry(jump_cache(v), 0); /* all others are clear as zeroes */
	return 0;
}

/* In the modes that the interpreter runs it may be inside a block of the bytes. */
static void translate_code_changed(struct vm *vm, gpa_t gpa, uint64_t len, struct code_change *change)
{
	unsigned count = atomic_load(&vm->vcpu_count);

	blocks_invalidate(vm, fault_thread_vcpu(), gpa, len, change);
	for (unsigned k = 0; k < count; k++)
		if (vm->vcpu[k] && __atomic_load_n(&vm->vcpu[k]->mode, __ATOMIC_RELAXED) != MODE_64)
			vcpu_call_out(vm->vcpu[k]);
}

const struct engine engine_translate = {
	.name = "translate",
	.vm_init = translate_vm_init,
	.vm_deinit = translate_vm_deinit,
	.vcpu_init = translate_vcpu_init,
	.vcpu_deinit = translate_vcpu_deinit,
	.run = translate_run,
	.code_changed = translate_code_changed,
};
