/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Device access by re-execution.
 *
 * An instruction that touches what no RAM backs asks the in-kernel devices first: interrupt controllers, then
 * ioeventfds and coalesced zones. If none claims the access it leaves KVM_RUN with KVM_EXIT_MMIO or
 * KVM_EXIT_IO and its registers unchanged. On the next KVM_RUN io_complete() files the user's answer as a
 * fragment in v->mmio[] and the instruction runs again from its start: the accesses it has done are answered
 * from the fragments in order, and it either completes or leaves for its next access. Only accesses completed
 * by the user are filed, so those of in-kernel devices may happen twice in an instruction that touches both
 * kinds; none of theirs minds.
 *
 * The vector state may be live here (the translator's helpers): it is put to rest before code outside the
 * engine runs.
 */
#include "softkvm/lockstep.h"
#include "softkvm/interpret/io.h"
#include "base/bytes.h"
#include "softkvm/api/iobus.h"
#include "softkvm/fpu.h"
#include "softkvm/interpret/debugreg.h"
#include "softkvm/interpret/operand.h"
#include "softkvm/interpret/ops.h"
#include "softkvm/irqchip/irqchip.h"



enum { PIO_DATA_OFFSET = 4096 };

/* Port and MSR accesses are filed among the fragments with such a bit in their address. */
#define FRAGMENT_PORT (1ull << 63)
#define FRAGMENT_MSR  (1ull << 62)

static void rest_vector_state(struct vcpu *v)
{
	if (v->fpu_live)
		fpu_leave(v);
}

/* Answer an access from the fragments if the user has completed it already. */
static bool take_fragment(struct vcpu *v, gpa_t gpa, void *data, unsigned size, bool is_write)
{
	const struct mmio_fragment *f = &v->mmio[v->mmio_next];

	if (likely(v->mmio_next >= v->mmio_count))
		return false;
	if (f->gpa != gpa || f->size != size || f->is_write != is_write) {
		v->mmio_count = v->mmio_next; /* the guest changed its own instruction or tables meanwhile */
		return false;
	}
	v->mmio_next++;
	if (!is_write)
		copy_bytes(data, f->data, size);
	return true;
}

static _Noreturn void leave_for_emulation_failure(struct vcpu *v)
{
	struct kvm_run *run = v->run;

	run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
	run->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
	run->internal.ndata = 0;
	io_committed(v);
	vcpu_leave(v);
}

/* Leave with v->run filled; the access is noted as the next fragment, which lacks only its data. */
static _Noreturn void leave_for_access(struct vcpu *v, gpa_t gpa, unsigned size, bool is_write)
{
	struct mmio_fragment *f = &v->mmio[v->mmio_count];

	if (v->mmio_count == sizeof(v->mmio) / sizeof(v->mmio[0]))
		leave_for_emulation_failure(v);
	f->gpa = gpa;
	f->size = (uint8_t)size;
	f->is_write = is_write;
	v->io_pending = true;
	vcpu_leave(v);
}

static _Noreturn void leave_for_mmio(struct vcpu *v, gpa_t gpa, const void *data, unsigned size,
				     bool is_write)
{
	struct kvm_run *run = v->run;

	v->counts->mmio_exits++;
	run->exit_reason = KVM_EXIT_MMIO;
	run->mmio.phys_addr = gpa;
	run->mmio.len = size;
	run->mmio.is_write = is_write;
	copy_bytes(run->mmio.data, data, is_write ? size : 0);
	v->io_string_want = 0;
	leave_for_access(v, gpa, size, is_write);
}

static void mmio_piece(struct vcpu *v, gpa_t gpa, void *data, unsigned size, bool is_write)
{
	if (take_fragment(v, gpa, data, size, is_write))
		return;
	rest_vector_state(v);
	if (irqchip_mmio(v, gpa, data, size, is_write))
		return;
	if (is_write && iobus_write(v->vm, false, gpa, size, data))
		return;
	leave_for_mmio(v, gpa, data, size, is_write);
}

void mmio_access(struct vcpu *v, gpa_t gpa, void *data, unsigned size, bool is_write)
{
	uint8_t *bytes = data;

	lockstep_device(v);
	while (size) {
		unsigned piece = size > 8 ? 8 : size;

		mmio_piece(v, gpa, bytes, piece, is_write);
		gpa += piece;
		bytes += piece;
		size -= piece;
	}
}

/* --- ports --- */

static bool pio_in_kernel(struct vcpu *v, uint16_t port, void *data, unsigned size, bool is_write)
{
	rest_vector_state(v);
	if (irqchip_pio(v, port, data, size, is_write))
		return true;
	return is_write && iobus_write(v->vm, true, port, size, data);
}

static _Noreturn void leave_for_pio(struct vcpu *v, uint16_t port, unsigned size, unsigned count,
				    bool is_write)
{
	struct kvm_run *run = v->run;

	v->counts->io_exits++;
	run->exit_reason = KVM_EXIT_IO;
	run->io.direction = is_write ? KVM_EXIT_IO_OUT : KVM_EXIT_IO_IN;
	run->io.size = (uint8_t)size;
	run->io.port = port;
	run->io.count = count;
	run->io.data_offset = PIO_DATA_OFFSET;
	leave_for_access(v, FRAGMENT_PORT | port, size, is_write);
}

void pio_access(struct vcpu *v, uint16_t port, void *data, unsigned size, bool is_write)
{
	lockstep_device(v);
	if (take_fragment(v, FRAGMENT_PORT | port, data, size, is_write))
		return;
	if (pio_in_kernel(v, port, data, size, is_write))
		return;
	if (is_write)
		copy_bytes(pio_string_buffer(v), data, size);
	v->io_string_want = 0;
	leave_for_pio(v, port, size, 1, is_write);
}

uint8_t *pio_string(struct vcpu *v, uint16_t port, unsigned size, unsigned want, bool is_write,
		    unsigned *count)
{
	uint8_t *data = pio_string_buffer(v);

	if (pio_string_done(v, count))
		return data;
	*count = 1;
	if (pio_in_kernel(v, port, data, size, is_write))
		return data;
	v->io_string_want = want;
	leave_for_pio(v, port, size, want, is_write);
}

bool pio_string_done(struct vcpu *v, unsigned *count)
{
	*count = v->io_string_count;
	return v->io_string_count;
}

void pio_string_end(struct vcpu *v, uint16_t port, unsigned size)
{
	debug_io_access(v, port, size);
	v->io_string_count = 0;
}

/* The TSS's I/O permission bitmap (SDM volume 1, 19.5.2). */
static bool bitmap_allows(struct vcpu *v, uint16_t port, unsigned size)
{
	const struct x86_seg *tr = &v->seg[SEG_TR];
	unsigned type = tr->attr & SEG_TYPE, offset;

	if (!(tr->attr & SEG_P) || (type & 13) != 9 || tr->limit < 103) /* 32- or 64-bit TSS, busy or not */
		return false;
	offset = (unsigned)mmu_read_sys(v, tr->base + 102, 2) + port / 8;
	if (offset + 1 > tr->limit)
		return false;
	return !((mmu_read_sys(v, tr->base + offset, 2) >> (port & 7)) & ((1u << size) - 1));
}

void pio_check(struct vcpu *v, uint16_t port, unsigned size)
{
	if (!(v->cr0 & CR0_PE))
		return;
	if (v->cpl <= iopl(v) && !(v->rflags & FLAG_VM))
		return;
	if (!bitmap_allows(v, port, size))
		raise_error(v, VEC_GP, 0);
}

static uint16_t port_operand(struct vcpu *v, const struct insn *i, unsigned k)
{
	return i->operand[k].kind == OPK_IMM ? (uint8_t)i->imm : (uint16_t)v->gpr[RDX];
}

void op_in(struct vcpu *v, const struct insn *i)
{
	unsigned size = i->operand[0].size;
	uint16_t port = port_operand(v, i, 1);
	uint64_t value = 0;

	pio_check(v, port, size);
	pio_access(v, port, &value, size, false);
	debug_io_access(v, port, size);
	gpr_write(v, RAX, size, value);
}

void op_out(struct vcpu *v, const struct insn *i)
{
	unsigned size = i->operand[1].size;
	uint16_t port = port_operand(v, i, 0);
	uint64_t value = gpr_read(v, RAX, size);

	pio_check(v, port, size);
	pio_access(v, port, &value, size, true);
	debug_io_access(v, port, size);
}

/* --- MSRs --- */

bool msr_answered(struct vcpu *v, uint32_t index, uint64_t *value, bool is_write)
{
	if (!take_fragment(v, FRAGMENT_MSR | index, value, sizeof(*value), is_write))
		return false;
	if (v->msr_failed)
		raise_error(v, VEC_GP, 0);
	return true;
}

_Noreturn void msr_leave(struct vcpu *v, uint32_t index, uint64_t value, bool is_write, uint32_t reason)
{
	struct kvm_run *run = v->run;

	lockstep_device(v);
	rest_vector_state(v);
	run->exit_reason = is_write ? KVM_EXIT_X86_WRMSR : KVM_EXIT_X86_RDMSR;
	run->msr.error = 0;
	for (unsigned k = 0; k < sizeof(run->msr.pad); k++)
		run->msr.pad[k] = 0;
	run->msr.reason = reason;
	run->msr.index = index;
	run->msr.data = value;
	v->io_string_want = 0;
	leave_for_access(v, FRAGMENT_MSR | index, sizeof(value), is_write);
}

/* --- the next KVM_RUN --- */

/* Where the user has put the answer. */
static const void *answer(struct vcpu *v, const struct mmio_fragment *f)
{
	if (f->gpa & FRAGMENT_PORT)
		return pio_string_buffer(v);
	return f->gpa & FRAGMENT_MSR ? (const void *)&v->run->msr.data : v->run->mmio.data;
}

void io_complete(struct vcpu *v)
{
	struct mmio_fragment *f = &v->mmio[v->mmio_count];

	v->io_pending = false;
	v->mmio_next = 0;
	if (v->io_string_want) {
		v->io_string_count = v->io_string_want;
		return;
	}
	if (f->gpa & FRAGMENT_MSR)
		v->msr_failed = v->run->msr.error;
	copy_bytes(f->data, answer(v, f), f->size);
	v->mmio_count++;
}
