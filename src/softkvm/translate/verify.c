/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The engine "verify": translator and interpreter side by side, block by block. It stops the machine at the first
 * difference and says which instructions and which registers or bytes differ.
 *
 * One trial:
 *	1. The block at RIP is translated, or found. It tells how many guest instructions it has at most.
 *	2. The interpreter executes that many instructions, recording the registers after each and every store to RAM. It
 *	   stops early before an instruction whose effect cannot be taken back or repeated (devices, time, random
 *	   numbers, system state), and at a fault.
 *	3. Registers and memory are put back.
 *	4. The translator runs that one block: links and the jump cache are off (translator.lockstep).
 *	5. Where it came out must be one of the interpreter's recorded states (dead status flags aside), and memory must
 *	   hold what the interpreter had stored up to there. The machine goes on from there.
 * A block that makes no progress this way (its first instruction is one of those) is left to the interpreter.
 *
 * Memory that somebody else changes meanwhile (another vCPU, a device) makes the two differ honestly: a trial that differs is
 * taken back and tried again before it counts. Stores of the translator to places where the interpreter did not
 * store are found only when something reads them.
 */
#include "softkvm/lockstep.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/bytes.h"
#include "softkvm/fpu.h"
#include "softkvm/interpret/decode_cache.h"
#include "softkvm/interpret/operand.h"
#include "softkvm/translate/translate.h"
#include "softkvm/translate/verify.h"

enum { MAX_STEPS = TRANSLATE_MAX_INSNS, MAX_STORES = 1024, STORE_BYTES = 1 << 20, TRIES = 4, FPU_BYTES = 832, EMPTY_ENTRIES = 1 << 16 };
#define FLAGS_COMPARED (~(uint64_t)FLAG_RF)

/* What an instruction of a trial can change, memory aside. */
struct state {
	uint64_t gpr[16], rip, rflags, payload;
	const uint8_t *fpu; /* FPU_BYTES of XSAVE area */
	uint32_t error;
	uint8_t vector, shadow;
	bool raised, has_error, has_payload;
};

struct store {
	uint8_t *hva;
	gpa_t gpa;
	uint32_t size, at; /* at: offset of the old bytes in `bytes`; the new ones follow */
	unsigned step;
};

struct lockstep { /* one per vCPU */
	bool recording, full; /* full: an instruction stores more than the log takes */
	struct state start, step[MAX_STEPS + 1], end; /* step[k]: after k instructions */
	unsigned steps;
	struct store store[MAX_STORES];
	unsigned stores;
	uint8_t fpu[MAX_STEPS + 3][FPU_BYTES]; /* of start, steps where it changed, end */
	uint8_t *bytes;
	uint32_t used;
	struct tlb_entry *empty;
	void *leave_buf[5];
	uint64_t trials, compared, singles;
};

static const struct insn *decode_next(struct vcpu *v)
{
	return &decode_lookup_slow(v)->code[0].insn;
}

/* --- states --- */

static bool same_bytes(const uint8_t *a, const uint8_t *b, unsigned count)
{
	for (; count >= 8 && !(*(const uint64_t *)a ^ *(const uint64_t *)b); count -= 8) {
		a += 8;
		b += 8;
	}
	while (count && *a == *b) {
		a++;
		b++;
		count--;
	}
	return !count;
}

/* fpu: where to keep the vector state, or NULL: it is known to be `before`'s. */
static void state_get(struct vcpu *v, struct state *s, uint8_t *fpu, const struct state *before)
{
	if (v->fpu_live)
		fpu_leave(v);
	copy_bytes(s->gpr, v->gpr, sizeof(s->gpr));
	s->rip = v->rip;
	s->rflags = v->rflags;
	if (fpu)
		copy_bytes(fpu, v->fpu->area, FPU_BYTES);
	s->fpu = fpu ? fpu : before->fpu;
	s->raised = v->exception_pending;
	s->has_error = v->exception_has_error;
	s->has_payload = v->exception_has_payload;
	s->vector = v->exception_vector;
	s->error = v->exception_error;
	s->payload = v->exception_payload;
	s->shadow = v->shadow;
}

static void state_put(struct vcpu *v, const struct state *s)
{
	if (v->fpu_live)
		fpu_leave(v);
	copy_bytes(v->gpr, s->gpr, sizeof(s->gpr));
	v->rip = v->insn_rip = s->rip;
	v->rflags = s->rflags;
	copy_bytes(v->fpu->area, s->fpu, FPU_BYTES);
	v->exception_pending = s->raised;
	v->exception_has_error = s->has_error;
	v->exception_has_payload = s->has_payload;
	v->exception_vector = s->vector;
	v->exception_error = s->error;
	v->exception_payload = s->payload;
	v->shadow = s->shadow;
	v->halted = false;
}

/* A component in its initial state is what these bytes say, whatever its own bytes say. */
static const struct xsave_area initial_state = { .fcw = FCW_INIT };

static const uint8_t *component(const struct state *s, uint64_t bit, unsigned offset)
{
	const struct xsave_area *x = (const void *)s->fpu;

	return (x->xstate_bv & bit ? s->fpu : (const uint8_t *)&initial_state) + offset;
}

/* Pointers to the last x87 instruction and unused bytes are no part of the comparison. */
static bool same_fpu(const struct state *a, const struct state *b)
{
	static const struct part {
		uint16_t offset, size;
		uint8_t bit;
	} parts[] = {
		{ offsetof(struct xsave_area, fcw), 5, XSTATE_X87 }, { offsetof(struct xsave_area, st), 128, XSTATE_X87 },
		{ offsetof(struct xsave_area, xmm), 256, XSTATE_SSE }, { offsetof(struct xsave_area, ymmh), 256, XSTATE_AVX },
	};

	if (a->fpu == b->fpu)
		return true;
	for (const struct part *p = parts; p < parts + sizeof(parts) / sizeof(parts[0]); p++)
		if (!same_bytes(component(a, p->bit, p->offset), component(b, p->bit, p->offset), p->size))
			return false;
	return ((const struct xsave_area *)a->fpu)->mxcsr == ((const struct xsave_area *)b->fpu)->mxcsr;
}

static bool same_event(const struct state *a, const struct state *b)
{
	if (a->raised != b->raised)
		return false;
	return !a->raised || (a->vector == b->vector && a->has_error == b->has_error && (!a->has_error || a->error == b->error) &&
			      a->has_payload == b->has_payload && (a->vector != VEC_PF || a->payload == b->payload));
}

/* Bytes of code at rip, without side effects; fewer than asked at the end of what is mapped. */
static unsigned peek_code(struct vcpu *v, gva_t rip, uint8_t *code, unsigned count)
{
	for (unsigned k = 0; k < count; k++) {
		bool writable, user;
		uint8_t *hva;
		gpa_t gpa;

		if (!mmu_translate_debug(v, rip + k, &gpa, &writable, &user) || !(hva = mem_at(&v->vm->mem, gpa, 1, MEM_READ)))
			return k;
		code[k] = *hva;
	}
	return count;
}

/* Status flags whose old value an instruction does not leave. A shift by a constant other than 0 leaves none. */
static uint64_t flags_replaced(const struct insn *i)
{
	const struct operand *count = &i->operand[1];
	uint16_t sem = i->row->sem;

	if (!i->row->flags_may)
		return i->row->flags_written | i->row->flags_undefined;
	if ((sem == SEM_SHL || sem == SEM_SHR || sem == SEM_SAR) && count->kind == OPK_IMM &&
	    i->imm & (i->operand[0].size == 8 ? 63 : 31))
		return FLAGS_STATUS;
	return i->row->flags_written;
}

/*
 * Status flags of `unknown` that the code from rip on may read, as far as `budget` instructions show. The translator does
 * not keep the others right where blocks end; this is worked out apart from its own liveness.
 */
static uint64_t flags_alive(struct vcpu *v, gva_t rip, uint64_t unknown, int *budget)
{
	uint8_t code[INSN_MAX_LEN];
	uint64_t read = 0;
	struct insn i;

	while (unknown && (*budget)-- > 0 &&
	       insn_decode(&i, code, peek_code(v, rip, code, sizeof(code)), v->mode) == INSN_OK) {
		read |= insn_flags_read(&i) & unknown;
		unknown &= ~flags_replaced(&i);
		rip += i.len;
		if (i.row->branch == BR_COND)
			return read | flags_alive(v, rip, unknown, budget) | flags_alive(v, rip + i.imm, unknown, budget);
		if (i.row->branch == BR_JMP)
			rip += i.imm;
		else if (i.row->branch != BR_NONE)
			break;
	}
	return read | unknown;
}

static bool same_state(struct vcpu *v, const struct state *a, const struct state *b)
{
	uint64_t flags = a->rflags ^ b->rflags;
	int budget = 64;

	if (a->rip != b->rip)
		return false;
	if (a->raised) /* flags that nobody reads before they are written again may be stale at a fault, too */
		flags &= ~(uint64_t)FLAGS_STATUS;
	else if (flags & FLAGS_STATUS)
		flags &= flags_alive(v, a->rip, FLAGS_STATUS, &budget) | ~(uint64_t)FLAGS_STATUS;
	return same_bytes((const void *)a->gpr, (const void *)b->gpr, sizeof(a->gpr)) &&
	       !(flags & FLAGS_COMPARED) && a->shadow == b->shadow && same_event(a, b) && same_fpu(a, b);
}

/* --- stores --- */

void lockstep_log(struct vcpu *v, uint8_t *hva, gpa_t gpa, unsigned size)
{
	struct lockstep *l = v->lockstep;
	struct store *s = &l->store[l->stores];

	if (!l->recording)
		return;
	if (l->stores == MAX_STORES || l->used + 2 * size > STORE_BYTES) {
		l->full = true;
		vcpu_leave(v);
	}
	*s = (struct store){ hva, gpa, size, l->used, l->steps + 1 };
	copy_bytes(l->bytes + l->used, hva, size);
	l->used += 2 * size;
	l->stores++;
}

/* The instruction is over: remember what it stored. */
static void keep_new_bytes(struct lockstep *l)
{
	for (unsigned k = l->stores; k-- > 0 && l->store[k].step == l->steps;)
		copy_bytes(l->bytes + l->store[k].at + l->store[k].size, l->store[k].hva, l->store[k].size);
}

static void take_back_stores(struct vcpu *v, struct lockstep *l)
{
	for (unsigned k = l->stores; k-- > 0;) {
		const struct store *s = &l->store[k];

		copy_bytes(s->hva, l->bytes + s->at, s->size);
		code_written(v->vm, s->gpa, s->size);
	}
}

static bool overlaps(const struct store *a, const struct store *b)
{
	return a->hva < b->hva + b->size && b->hva < a->hva + a->size;
}

/* The first store, of those made in `steps` instructions, that memory does not show; NULL: all are there. */
static const struct store *missing_store(const struct lockstep *l, unsigned steps)
{
	for (unsigned k = 0; k < l->stores && l->store[k].step <= steps; k++) {
		const struct store *s = &l->store[k];
		bool covered = false;

		for (unsigned later = k + 1; later < l->stores && l->store[later].step <= steps; later++)
			covered |= overlaps(s, &l->store[later]);
		if (!covered && !same_bytes(s->hva, l->bytes + s->at + s->size, s->size))
			return s;
	}
	return NULL;
}

/* --- the two halves --- */

bool verify_is_apart(const struct insn *i)
{
	if (i->row->attrs & (INSN_PRIV | INSN_END) || i->row->branch == BR_FAR)
		return true;
	switch (i->row->sem) {
	case SEM_RDTSC:
	case SEM_RDTSCP:
	case SEM_RDPMC:
	case SEM_RDRAND:
	case SEM_RDSEED:
	case SEM_CPUID:
	case SEM_IN:
	case SEM_OUT:
	case SEM_INS:
	case SEM_OUTS:
	case SEM_POPF:
	case SEM_CLI:
	case SEM_STI:
	case SEM_MOV_TO_SEG:
	case SEM_POP_SEG:
	case SEM_LOAD_FAR_PTR:
	case SEM_WRFSBASE:
	case SEM_WRGSBASE:
	case SEM_VMCALL:
	case SEM_VMMCALL:
	case SEM_FNSTENV: /* these store the pointers to the last x87 instruction */
	case SEM_FNSAVE:
	case SEM_FXSAVE:
	case SEM_XSAVE:
	case SEM_XSAVEOPT:
	case SEM_XSAVEC:
	case SEM_XSAVES:
		return true;
	default:
		return false;
	}
}

/* After a leave: was it a fault of the guest's (part of the trial), or only the trial's end? */
static bool has_raised(struct vcpu *v)
{
	v->shadow_before = 0;
	if (v->leave_to_user) {
		v->leave_to_user = false;
		return false;
	}
	return v->exception_pending;
}

static bool changes_vectors(const struct insn *i)
{
	unsigned sem = i->row->sem;

	return i->row->attrs & (INSN_HOST | INSN_X87 | INSN_MMX | INSN_SSE | INSN_VEX) || sem == SEM_FXRSTOR || sem == SEM_XRSTOR;
}

/* The instruction that the interpreter has executed is step number steps + 1. */
static void record_step(struct vcpu *v, struct lockstep *l, bool vector)
{
	const struct state *before = l->steps ? &l->step[l->steps] : &l->start;

	l->steps++;
	keep_new_bytes(l);
	state_get(v, &l->step[l->steps], vector ? l->fpu[l->steps] : NULL, before);
}

static void interpreter_half(struct vcpu *v, struct lockstep *l, unsigned limit)
{
	struct tlb_entry *stores = v->tlb[TLB_WRITE];
	const struct insn *next;
	bool vector;

	l->recording = true;
	l->full = false;
	l->steps = l->stores = l->used = 0;
	if (__builtin_setjmp(v->leave_buf)) {
		if (has_raised(v)) {
			record_step(v, l, true);
		} else {
			while (l->stores && l->store[l->stores - 1].step > l->steps) { /* of an instruction that did not end */
				const struct store *s = &l->store[--l->stores];

				copy_bytes(s->hva, l->bytes + s->at, s->size);
			}
		}
		limit = 0;
	}
	while (l->steps < limit) {
		v->tlb[TLB_WRITE] = l->empty; /* every store takes the slow way, which records it */
		next = decode_next(v);
		if (verify_is_apart(next))
			break;
		vector = changes_vectors(next);
		engine_interpret.run(v, true);
		record_step(v, l, vector);
	}
	v->tlb[TLB_WRITE] = stores;
	l->recording = false;
}

static void translator_half(struct vcpu *v, struct lockstep *l, const struct block *b)
{
	if (!__builtin_setjmp(v->leave_buf))
		translator_enter(v, b);
	else
		has_raised(v);
	state_get(v, &l->end, l->fpu[MAX_STEPS + 1], NULL);
}

/* --- differences --- */

static unsigned matching_step(struct vcpu *v, const struct lockstep *l)
{
	for (unsigned k = 1; k <= l->steps; k++)
		if (same_state(v, &l->step[k], &l->end) && !missing_store(l, k))
			return k;
	return 0;
}

static void report_registers(const struct state *want, const struct state *got)
{
	static const char *const name[] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					    "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };

	for (unsigned k = 0; k < 16; k++)
		if (want->gpr[k] != got->gpr[k])
			log_error("verify: %s is %#llx, should be %#llx", name[k], (unsigned long long)got->gpr[k],
				  (unsigned long long)want->gpr[k]);
	if ((want->rflags ^ got->rflags) & FLAGS_COMPARED)
		log_error("verify: rflags is %#llx, should be %#llx", (unsigned long long)got->rflags, (unsigned long long)want->rflags);
	if (want->rip != got->rip)
		log_error("verify: rip is %#llx, should be %#llx", (unsigned long long)got->rip, (unsigned long long)want->rip);
	if (!same_event(want, got))
		log_error("verify: exception %d (%u, error %#x), should be %d (%u, error %#x)", got->raised, got->vector, got->error,
			  want->raised, want->vector, want->error);
	if (!same_fpu(want, got))
		log_error("verify: vector or x87 state differs");
}

/* The interpreter's state with the same RIP, or its last. */
static unsigned closest_step(const struct lockstep *l)
{
	for (unsigned k = 1; k <= l->steps; k++)
		if (l->step[k].rip == l->end.rip)
			return k;
	return l->steps;
}

static void report(struct vcpu *v, struct lockstep *l)
{
	unsigned steps = closest_step(l);
	const struct store *lost = missing_store(l, steps);
	char text[128];

	log_error("verify: the translator differs from the interpreter after %u of %u instructions at %#llx:", steps, l->steps,
		  (unsigned long long)l->start.rip);
	state_put(v, &l->start);
	for (unsigned k = 0; k < steps; k++) {
		v->rip = k ? l->step[k].rip : l->start.rip;
		log_error("verify:   %#llx  %s", (unsigned long long)v->rip, insn_format(decode_next(v), v->rip, text, sizeof(text)));
	}
	report_registers(&l->step[steps], &l->end);
	if (lost)
		log_error("verify: %u bytes at guest-physical %#llx differ (instruction %u)", lost->size, (unsigned long long)lost->gpa,
			  lost->step);
	v->run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
	v->run->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
	v->run->internal.ndata = 0;
}

/* --- a trial --- */

enum outcome { SAME, DIFFERENT, NO_PROGRESS };

static enum outcome try_once(struct vcpu *v, struct lockstep *l, const struct block *b)
{
	unsigned steps;

	l->trials++;
	state_get(v, &l->start, l->fpu[MAX_STEPS + 2], NULL);
	interpreter_half(v, l, b->insns < MAX_STEPS ? b->insns : MAX_STEPS);
	take_back_stores(v, l);
	state_put(v, &l->start);
	if (!l->steps || l->full || b->dead)
		return NO_PROGRESS;
	translator_half(v, l, b);
	steps = matching_step(v, l);
	if (steps) { /* flags that the translator let die are the interpreter's, so that they cannot mislead the next trial */
		v->rflags = l->step[steps].rflags;
		l->compared++;
		return SAME;
	}
	if (same_state(v, &l->start, &l->end))
		return NO_PROGRESS;
	if (!atomic_load(&v->cont)) /* a repeated instruction may have been interrupted anywhere */
		return SAME;
	return DIFFERENT;
}

/* DIFFERENT: reported. */
static enum outcome try_block(struct vcpu *v, struct lockstep *l)
{
	enum outcome outcome = NO_PROGRESS;

	for (unsigned k = 0; k < TRIES; k++) {
		const struct block *b = engine_can_translate(v) ? block_get(v, v->rip) : NULL;

		if (!b || translator_of(v)->want_flush)
			return NO_PROGRESS;
		outcome = try_once(v, l, b);
		if (outcome != DIFFERENT)
			return outcome;
		if (k == TRIES - 1)
			report(v, l);
		take_back_stores(v, l);
		state_put(v, &l->start);
	}
	return outcome;
}

static enum outcome trial(struct vcpu *v)
{
	struct lockstep *l = (void *)((struct vcpu_translator *)v->translator)->lockstep;
	enum outcome outcome;

	if (!__builtin_setjmp(v->leave_buf)) { /* a fetch that faults is the interpreter's to raise */
		v->lockstep = l;
		outcome = try_block(v, l);
	} else {
		has_raised(v);
		state_put(v, &l->start);
		outcome = NO_PROGRESS;
	}
	v->lockstep = NULL;
	return outcome;
}

static void verify_run(struct vcpu *v, bool single)
{
	struct lockstep *l = ((struct vcpu_translator *)v->translator)->lockstep;
	enum outcome outcome;

	if (single) {
		engine_translate.run(v, true);
		return;
	}
	do {
		if (translator_of(v)->want_flush)
			translator_flush(v);
		translator_go_inside(v);
		state_get(v, &l->start, l->fpu[MAX_STEPS + 2], NULL);
		copy_bytes(l->leave_buf, v->leave_buf, sizeof(l->leave_buf));
		outcome = trial(v);
		copy_bytes(v->leave_buf, l->leave_buf, sizeof(l->leave_buf));
		if (outcome == DIFFERENT)
			vcpu_leave(v);
		if (v->exception_pending)
			break;
		if (outcome == NO_PROGRESS) {
			l->singles++;
			engine_translate.run(v, true);
		}
	} while (atomic_load_explicit(&v->cont, memory_order_relaxed) && !v->shadow);
	translator_go_outside(v);
	if (v->fpu_live)
		fpu_leave(v);
}

/* --- set-up --- */

static int verify_vm_init(struct vm *vm)
{
	int err = engine_translate.vm_init(vm);

	if (!err)
		((struct translator *)vm->engine_data)->lockstep = true;
	return err;
}

static void verify_vcpu_deinit(struct vcpu *v)
{
	struct lockstep *l = v->translator ? ((struct vcpu_translator *)v->translator)->lockstep : NULL;

	if (l) {
		log_debug("verify: vcpu %u: %llu trials, %llu compared, %llu instructions by the interpreter alone", v->index,
			  (unsigned long long)l->trials, (unsigned long long)l->compared, (unsigned long long)l->singles);
		free(l->bytes);
		free(l->empty);
		free(l);
	}
	engine_translate.vcpu_deinit(v);
}

static int verify_vcpu_init(struct vcpu *v)
{
	int err = engine_translate.vcpu_init(v);
	struct lockstep *l;

	if (err)
		return err;
	l = calloc(1, sizeof(*l));
	((struct vcpu_translator *)v->translator)->lockstep = l;
	if (l) {
		l->bytes = malloc(STORE_BYTES);
		l->empty = calloc(EMPTY_ENTRIES, sizeof(*l->empty));
	}
	if (!l || !l->bytes || !l->empty) {
		verify_vcpu_deinit(v);
		return -ENOMEM;
	}
	l->empty[0].tag = PAGE_SIZE;
	return 0;
}

static void verify_vm_deinit(struct vm *vm)
{
	engine_translate.vm_deinit(vm);
}

static void verify_code_changed(struct vm *vm, gpa_t gpa, uint64_t len, struct code_change *change)
{
	engine_translate.code_changed(vm, gpa, len, change);
}

const struct engine engine_verify = {
	.name = "verify",
	.vm_init = verify_vm_init,
	.vm_deinit = verify_vm_deinit,
	.vcpu_init = verify_vcpu_init,
	.vcpu_deinit = verify_vcpu_deinit,
	.run = verify_run,
	.code_changed = verify_code_changed,
};
