// SPDX-License-Identifier: BSD-2-Clause
/*
 * Where guest registers live. R8-R11, the least used, stay in the vCPU; RCX and RSP moved to make room for the
 * scratch register that shifts and JRCXZ need and for the translator's own stack.
 *
 * What has just been stored into the vCPU from the scratch register is not loaded from there again: `held`. Who comes back
 * there from C finds it in the scratch register, too (`site.held`).
 *
 * Guest RSP is lazy: pushes and pops only count `rsp_adj`; it is added to r11 once, where someone else looks.
 */
#include "softkvm/translate/translate.h"

const uint8_t host_register[16] = {
	H_RAX, GUEST_RCX, H_RDX, H_RBX, GUEST_RSP, H_RBP, H_RSI, H_RDI, H_NONE, H_NONE, H_NONE, H_NONE,
	H_R12, H_R13, H_R14, H_R15
};

void slot_load(struct xlat *x, unsigned host, unsigned guest)
{
	if (host == SCRATCH && slot_held(x) == guest)
		return;
	emit_load(&x->hot, 8, host, mem_base(ENV, ENV_GPR(guest)));
}

void slot_store(struct xlat *x, unsigned guest, unsigned host)
{
	emit_store(&x->hot, 8, mem_base(ENV, ENV_GPR(guest)), host);
	x->held_at = host == SCRATCH ? x->hot.p : NULL;
	x->held = (uint8_t)guest;
}

unsigned slot_held(const struct xlat *x)
{
	return x->held_at == x->hot.p ? x->held : 0;
}

unsigned reg_read(struct xlat *x, unsigned guest, unsigned scratch)
{
	if (guest == RSP)
		rsp_commit(x);
	if (host_register[guest] != H_NONE)
		return host_register[guest];
	slot_load(x, scratch, guest);
	if (scratch == ADDR)
		x->addr_group = NO_GROUP;
	return scratch;
}

void reg_load(struct xlat *x, unsigned size, unsigned host, unsigned guest)
{
	if (host == ADDR)
		x->addr_group = NO_GROUP;
	if (guest == RSP && x->rsp_adj)
		emit_lea(&x->hot, size, host, mem_base(GUEST_RSP, x->rsp_adj));
	else if (host_register[guest] == H_NONE)
		slot_load(x, host, guest);
	else if (host_register[guest] != host || size == 4)
		emit_mov(&x->hot, size, host, host_register[guest]);
}

void reg_store(struct xlat *x, unsigned guest, unsigned host)
{
	if (guest == RSP)
		x->rsp_adj = 0;
	if (host_register[guest] == H_NONE)
		slot_store(x, guest, host);
	else if (host_register[guest] != host)
		emit_mov(&x->hot, 8, host_register[guest], host);
}

void rsp_commit(struct xlat *x)
{
	if (x->rsp_adj)
		emit_lea(&x->hot, x->word, GUEST_RSP, mem_base(GUEST_RSP, x->rsp_adj));
	x->rsp_before = (int16_t)(x->rsp_before - x->rsp_adj);
	x->rsp_adj = 0;
}
