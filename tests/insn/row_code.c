/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From a row of the table back to bytes. The row holds masks, not its opcode, so the opcode is looked up in
 * the decoder's own tables: the slots that list the row.
 */
#include "row_code.h"

struct place {
	uint8_t space, opcode; /* index of insn_slots: maps 0..3 legacy, 4..7 VEX */
};

uint64_t random_u64(struct random *r)
{
	r->state ^= r->state << 13;
	r->state ^= r->state >> 7;
	r->state ^= r->state << 17;
	return r->state * 0x2545f4914f6cdd1dull;
}

unsigned random_below(struct random *r, unsigned n)
{
	return (random_u64(r) >> 33) % n;
}

static bool slot_lists(const struct insn_slot *slot, unsigned row)
{
	for (unsigned k = 0; k < slot->count; k++)
		if (insn_candidates[slot->first + k] == row)
			return true;
	return false;
}

static bool opcode_lists(const struct insn_slot *slot, unsigned row)
{
	if (!slot->count || !(slot->flags & SLOT_BY_REG))
		return slot_lists(slot, row);
	for (unsigned reg = 0; reg < 8; reg++)
		if (slot_lists(&insn_reg_slots[slot->first][reg], row))
			return true;
	return false;
}

/* One of the row's opcodes (+r and +cc rows have several). */
static struct place random_place(unsigned row, struct random *r)
{
	static struct place first[4096];
	static uint8_t count[4096];

	if (!count[row]) {
		for (unsigned k = 8 * 256; k-- > 0;) {
			if (!opcode_lists(&insn_slots[k >> 8][k & 255], row))
				continue;
			first[row] = (struct place){k >> 8, k & 255};
			count[row]++;
		}
	}
	return (struct place){first[row].space, first[row].opcode + random_below(r, count[row])};
}

static unsigned random_bit(unsigned mask, struct random *r)
{
	unsigned bit;

	do
		bit = random_below(r, 8);
	while (!(mask >> bit & 1));
	return bit;
}

static unsigned legacy_prefixes(const struct insn_row *row, enum insn_mode mode, struct random *r,
				uint8_t *code)
{
	static const uint8_t mandatory[4] = {0, 0x66, 0xf3, 0xf2};
	unsigned n = 0, pfx = mandatory[random_bit(row->prefixes & 15, r)];

	if (row->prefixes == 15 && pfx != 0x66 && random_below(r, 8))
		pfx = 0;
	if ((pfx == 0xf2 || pfx == 0xf3) && !random_below(r, 4))
		code[n++] = 0x66;
	if (pfx)
		code[n++] = pfx;
	if (row->attrs & INSN_LOCK && !random_below(r, 4))
		code[n++] = 0xf0;
	if (mode != MODE_64)
		return n;
	if ((row->wl & 3) == 2)
		code[n++] = 0x48 | random_below(r, 8);
	else if (random_below(r, 2))
		code[n++] = 0x40 | random_below(r, (row->wl & 3) == 1 ? 8 : 16);
	return n;
}

static unsigned vex_prefix(const struct insn_row *row, struct place place, enum insn_mode mode,
			   struct random *r, uint8_t *code)
{
	unsigned w = random_bit(row->wl & 3, r), l = random_bit(row->wl >> 2, r),
		 pp = random_bit(row->prefixes, r);
	unsigned rxb = mode == MODE_64 ? random_below(r, 8) : 7;
	unsigned vvvv = row->encoding & ENC_VVVV ? random_below(r, mode == MODE_64 ? 16 : 8) ^ 15 : 15;
	uint8_t last = vvvv << 3 | l << 2 | pp;

	if (place.space == 5 && !w && (rxb & 3) == 3 && random_below(r, 2)) {
		code[0] = 0xc5;
		code[1] = (rxb & 4) << 5 | last;
		return 2;
	}
	code[0] = 0xc4;
	code[1] = rxb << 5 | (place.space - 4);
	code[2] = w << 7 | last;
	return 3;
}

static unsigned opcode_bytes(struct place place, uint8_t *code)
{
	static const uint8_t third[4] = {0, 0, 0x38, 0x3a};
	unsigned n = 0;

	if (place.space >= 1 && place.space <= 3)
		code[n++] = 0x0f;
	if (place.space == 2 || place.space == 3)
		code[n++] = third[place.space];
	code[n++] = place.opcode;
	return n;
}

static uint8_t random_modrm(const struct insn_row *row, struct random *r)
{
	unsigned reg = random_bit(row->regs, r);
	bool memory = random_bit(row->mods, r) == 0;

	if (!memory)
		return 0xc0 | reg << 3 | random_bit(row->rms, r);
	return random_below(r, 3) << 6 | reg << 3 | (row->attrs & INSN_VSIB ? 4 : random_below(r, 8));
}

bool row_code(const struct insn_row *row, enum insn_mode mode, struct random *r, uint8_t code[INSN_MAX_LEN])
{
	struct place place = random_place(row - insn_rows, r);
	uint8_t head[INSN_MAX_LEN];
	unsigned n;

	if (!(row->modes >> mode & 1))
		return false;
	if (place.space >= 4)
		n = vex_prefix(row, place, mode, r, head);
	else
		n = legacy_prefixes(row, mode, r, head);
	n += opcode_bytes(place, head + n);
	if (insn_slots[place.space][place.opcode].flags & SLOT_MODRM)
		head[n++] = random_modrm(row, r);
	for (unsigned k = 0; k < INSN_MAX_LEN; k++)
		code[k] = k < n ? head[k] : random_u64(r) >> 40;
	return true;
}
