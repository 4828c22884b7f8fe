/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * MOV DRn (SDM volume 3, 17.2): DR4 and DR5 are DR6 and DR7 unless CR4.DE; DR7.GD makes every access a #DB.
 * Code breakpoints are debug.c's, data breakpoints mmu/watch.c's.
 */
#include "softkvm/interpret/debugreg.h"

#include "softkvm/interpret/debug.h"
#include "softkvm/interpret/descriptor.h"
#include "softkvm/interpret/ops.h"
#include "softkvm/mmu/watch.h"

#define DR6_FIXED 0xffff0ff0u
#define DR6_WRITABLE 0xe00fu
#define DR7_FIXED 0x400u
#define DR7_WRITABLE 0xffff23ffu
#define DR6_BD (1u << 13)
#define DR7_GD (1u << 13)

/* Register number after aliasing; raises #UD or the general-detect #DB. */
static unsigned which(struct vcpu *v, unsigned reg)
{
	if (reg > 7 || ((reg == 4 || reg == 5) && (v->cr4 & CR4_DE)))
		raise_exception(v, VEC_UD);
	if (reg == 4 || reg == 5)
		reg += 2;
	if (v->guest_debug & KVM_GUESTDBG_USE_HW_BP && v->debug_dr[7] & DR7_GD) {
		v->rip = v->insn_rip; /* before the instruction, like a code breakpoint */
		debug_exit(v, VEC_DB, DR6_BD);
	}
	if (v->dr[7] & DR7_GD) {
		v->dr[7] &= ~(uint64_t)DR7_GD;
		v->dr[6] = (v->dr[6] & ~0xfull) | DR6_BD;
		raise_exception(v, VEC_DB);
	}
	return reg;
}

void op_mov_from_dr(struct vcpu *v, const struct insn *i)
{
	op_write(v, i, 0, v->dr[which(v, i->operand[1].reg)]);
}

void op_mov_to_dr(struct vcpu *v, const struct insn *i)
{
	unsigned reg = which(v, i->operand[0].reg);
	uint64_t value = op_read(v, i, 1);

	if (reg >= 6 && value >> 32)
		raise_error(v, VEC_GP, 0);
	if (reg == 6)
		value = (value & DR6_WRITABLE) | DR6_FIXED;
	else if (reg == 7)
		value = (value & DR7_WRITABLE) | DR7_FIXED;
	v->dr[reg] = value;
	if (reg != 6)
		mmu_watch_update(v);
	want_attention(v);
}

void debug_io_access(struct vcpu *v, uint16_t port, unsigned size)
{
	const uint64_t *dr = debug_registers(v);
	uint64_t hits = 0;

	if (!(v->cr4 & CR4_DE) || !(dr[7] & 0xff))
		return;
	for (int n = 0; n < 4; n++) {
		uint64_t len = dr7_len(dr[7], n), at = dr[n] & ~(len - 1);

		if (dr7_enabled(dr[7], n) && dr7_rw(dr[7], n) == DR7_RW_IO && port < at + len && at < port + size)
			hits |= 1 << n;
	}
	if (!hits)
		return;
	v->debug_pending |= hits;
	want_attention(v);
}
