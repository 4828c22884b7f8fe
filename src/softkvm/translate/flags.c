// SPDX-License-Identifier: BSD-2-Clause
/*
 * Where the guest's status flags are. Guest instructions leave them in the host's flags for free; the address check
 * of a memory access destroys those. So just before a check flags that are still alive are saved by LAHF and SETO, once,
 * and loaded again only when an instruction reads them (or changes some and keeps others).
 *
 * flags_in_host and flags_saved may both hold (a copy in each place), or neither (nothing alive).
 */
#include "softkvm/translate/translate.h"

void emit_flags_store(struct emit *e)
{
	static const uint8_t lahf_seto_al[] = { 0x9f, 0x0f, 0x90, 0xc0 };

	emit_mov(e, 8, SCRATCH, H_RAX);
	emit_bytes(e, lahf_seto_al, sizeof(lahf_seto_al));
	emit_store(e, 2, mem_base(ENV, ENV_HOT(HOT_SAVED_FLAGS)), H_RAX);
	emit_mov(e, 8, H_RAX, SCRATCH);
}

void emit_flags_load(struct emit *e)
{
	static const uint8_t add_al_7f_sahf[] = { 0x04, 0x7f, 0x9e };

	emit_mov(e, 8, SCRATCH, H_RAX);
	emit_load(e, 2, H_RAX, mem_base(ENV, ENV_HOT(HOT_SAVED_FLAGS))); /* as wide as the store, or it cannot forward */
	emit_bytes(e, add_al_7f_sahf, sizeof(add_al_7f_sahf));
	emit_mov(e, 8, H_RAX, SCRATCH);
}

/* Flags that this instruction or a later one still wants. */
static uint16_t alive(const struct xlat *x)
{
	uint16_t keeps = x->insn->live & ~flags_killed(&x->insn->i);

	return (insn_flags_read(&x->insn->i) & FLAGS_STATUS) | keeps;
}

static void save(struct xlat *x)
{
	if (x->flags_in_host && !x->flags_saved) {
		emit_flags_store(&x->hot);
		x->flags_saved = true;
	}
}

void flags_clobber(struct xlat *x)
{
	if (alive(x))
		save(x);
	x->flags_in_host = false;
}

void flags_save_all(struct xlat *x)
{
	save(x);
}

void flags_need(struct xlat *x)
{
	const struct insn_row *row = x->insn->i.row;
	uint16_t changes = row->flags_written | row->flags_undefined | row->flags_may;

	if (x->flags_in_host || !x->flags_saved)
		return;
	if (!(insn_flags_read(&x->insn->i) & FLAGS_STATUS) && (!(changes & FLAGS_STATUS) || !alive(x)))
		return;
	emit_flags_load(&x->hot);
	x->flags_in_host = true;
}

void flags_written(struct xlat *x)
{
	x->flags_in_host = true;
	x->flags_saved = false;
}
