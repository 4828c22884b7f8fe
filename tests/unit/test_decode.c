/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The decoder against Zydis: random byte strings, shaped so that every opcode of every map comes up often, in
 * the three modes. Both must agree on validity, length and operands. Every row of the table must be hit.
 *
 * Intended differences, all in excused(): instructions of extensions that Guise does not offer (they are #UD,
 * or NOP where the manual reserves the opcode as a hint), and encodings on which processors and Zydis
 * disagree.
 */
#include <Zydis/Zydis.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "../insn/row_code.h"
#include "x86/insn_row.h"

enum { ROUNDS = 3000000, MAX_COMPLAINTS = 40 };

static ZydisDecoder decoders[3];
static struct random rng;
static unsigned complaints;
static unsigned *row_hits;

static unsigned pick(unsigned n)
{
	return random_below(&rng, n);
}

/* Prefixes, then an opcode of any map (or VEX), then noise. */
static void random_code(uint8_t *code)
{
	static const uint8_t prefixes[] = {0x66, 0xf2, 0xf3, 0x67, 0xf0, 0x2e, 0x36, 0x64, 0x65, 0x26, 0x3e};
	unsigned n = 0, map = pick(8);

	for (unsigned k = 0; k < 15; k++)
		code[k] = random_u64(&rng) >> 40;
	for (unsigned count = pick(3); count; count--)
		code[n++] = prefixes[pick(pick(2) ? 3 : sizeof(prefixes))];
	if (pick(2))
		code[n++] = 0x40 | pick(16);
	if (map >= 6) {
		if (n && pick(8))
			n = 0;
		code[n++] = 0xc4 | (map & 1);
		if (map == 6)
			code[n] = (code[n] & 0xe0) | (1 + pick(3));
		if (pick(2))
			code[n] |= 0xc0;
		if (pick(2))
			code[n + (map == 6)] |= 0x78;
	} else if (map >= 2) {
		code[n++] = 0x0f;
		if (map >= 4)
			code[n++] = map == 4 ? 0x38 : 0x3a;
	}
}

static bool offered(const ZydisDecodedInstruction *z)
{
	static const ZydisISAExt others[] = {
		ZYDIS_ISA_EXT_AMD3DNOW, ZYDIS_ISA_EXT_AMD_INVLPGB, ZYDIS_ISA_EXT_AMX_BF16,
		ZYDIS_ISA_EXT_AMX_INT8, ZYDIS_ISA_EXT_AMX_TILE, ZYDIS_ISA_EXT_AVX512EVEX,
		ZYDIS_ISA_EXT_AVX512VEX, ZYDIS_ISA_EXT_AVX_VNNI, ZYDIS_ISA_EXT_CET, ZYDIS_ISA_EXT_CLZERO,
		ZYDIS_ISA_EXT_ENQCMD, ZYDIS_ISA_EXT_FMA4, ZYDIS_ISA_EXT_GFNI, ZYDIS_ISA_EXT_HRESET,
		ZYDIS_ISA_EXT_KNC, ZYDIS_ISA_EXT_KNCE, ZYDIS_ISA_EXT_KNCV, ZYDIS_ISA_EXT_KEYLOCKER,
		ZYDIS_ISA_EXT_KEYLOCKER_WIDE, ZYDIS_ISA_EXT_MCOMMIT, ZYDIS_ISA_EXT_MONITORX,
		ZYDIS_ISA_EXT_MOVDIR, ZYDIS_ISA_EXT_MPX, ZYDIS_ISA_EXT_PADLOCK, ZYDIS_ISA_EXT_PCONFIG,
		ZYDIS_ISA_EXT_PKU, ZYDIS_ISA_EXT_PT, ZYDIS_ISA_EXT_RDPRU, ZYDIS_ISA_EXT_RTM,
		ZYDIS_ISA_EXT_SERIALIZE, ZYDIS_ISA_EXT_SGX, ZYDIS_ISA_EXT_SGX_ENCLV, ZYDIS_ISA_EXT_SMX,
		ZYDIS_ISA_EXT_SNP, ZYDIS_ISA_EXT_SSE4A, ZYDIS_ISA_EXT_SVM, ZYDIS_ISA_EXT_TBM,
		ZYDIS_ISA_EXT_TDX, ZYDIS_ISA_EXT_TSX_LDTRK, ZYDIS_ISA_EXT_UINTR, ZYDIS_ISA_EXT_VAES,
		ZYDIS_ISA_EXT_VMFUNC, ZYDIS_ISA_EXT_VPCLMULQDQ, ZYDIS_ISA_EXT_VTX, ZYDIS_ISA_EXT_WAITPKG,
		ZYDIS_ISA_EXT_XOP
	};

	if (z->mnemonic == ZYDIS_MNEMONIC_VMCALL || z->mnemonic == ZYDIS_MNEMONIC_VMMCALL)
		return true;
	for (unsigned k = 0; k < sizeof(others) / sizeof(others[0]); k++)
		if (z->meta.isa_ext == others[k])
			return false;
	return true;
}

static const char *bytes_text(const uint8_t *code)
{
	static char text[64];

	for (unsigned k = 0; k < 15; k++)
		snprintf(text + 3 * k, 4, "%02x ", code[k]);
	return text;
}

static void complain(const uint8_t *code, int mode, const char *what, const struct insn *i,
		     const ZydisDecodedInstruction *z)
{
	char ours[100] = "-";

	if (complaints++ >= MAX_COMPLAINTS)
		return;
	if (i)
		snprintf(ours, sizeof(ours), "%s", i->row->mnemonic);
	print_error("mode %d: %s: %s; ours %s, Zydis %s\n", mode, bytes_text(code), what, ours,
		    z ? ZydisMnemonicGetString(z->mnemonic) : "-");
}

/* The number that our operand holds for a Zydis register; -1 if the classes differ. */
static int zydis_register(const struct operand *o, ZydisRegister reg)
{
	ZydisRegisterClass class = ZydisRegisterGetClass(reg);
	int id = ZydisRegisterGetId(reg);

	switch (o->kind) {
	case OPK_GPR:
		if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH)
			return REG_AH + (reg - ZYDIS_REGISTER_AH);
		if (class == ZYDIS_REGCLASS_GPR8)
			return reg < ZYDIS_REGISTER_AH ? reg - ZYDIS_REGISTER_AL
						       : reg - ZYDIS_REGISTER_SPL + 4;
		return class >= ZYDIS_REGCLASS_GPR8 && class <= ZYDIS_REGCLASS_GPR64 ? id : -1;
	case OPK_SEG: return class == ZYDIS_REGCLASS_SEGMENT ? id : -1;
	case OPK_CR: return class == ZYDIS_REGCLASS_CONTROL ? id : -1;
	case OPK_DR: return class == ZYDIS_REGCLASS_DEBUG ? id : -1;
	case OPK_ST: return class == ZYDIS_REGCLASS_X87 ? id : -1;
	case OPK_MMX: return class == ZYDIS_REGCLASS_MMX ? id : -1;
	case OPK_XMM:
		if (o->size == 32)
			return class == ZYDIS_REGCLASS_YMM ? id : -1;
		return class == ZYDIS_REGCLASS_XMM ? id : -1;
	}
	return -1;
}

static int memory_register(ZydisRegister reg)
{
	if (reg == ZYDIS_REGISTER_NONE)
		return REG_NONE;
	if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP)
		return BASE_RIP;
	return ZydisRegisterGetId(reg);
}

static bool same_memory(const struct insn *i, const struct operand *o, const ZydisDecodedOperand *z)
{
	const struct insn_mem *m = &i->mem;
	int64_t mask = m->addr_size == 8 ? -1 : (1ll << 8 * m->addr_size) - 1;
	unsigned scale = z->mem.scale ? z->mem.scale : 1;

	if (m->seg != ZydisRegisterGetId(z->mem.segment) && z->mem.type != ZYDIS_MEMOP_TYPE_AGEN)
		return false;
	if (z->mem.type == ZYDIS_MEMOP_TYPE_MIB)
		return true;
	if (m->base != memory_register(z->mem.base) || m->index != memory_register(z->mem.index))
		return false;
	if (m->index != REG_NONE && 1u << m->scale_log2 != scale)
		return false;
	if (((m->disp ^ z->mem.disp.value) & mask) != 0)
		return false;
	return o->access == ACC_ADDR || !o->size || m->vsib || o->size * 8 == z->size;
}

static bool same_immediate(const struct insn *i, const struct operand *o, const ZydisDecodedOperand *z)
{
	uint64_t mine = o->kind == OPK_IMM2 ? i->imm2 : i->imm;
	uint64_t mask = o->size >= 8 ? ~0ull : (1ull << 8 * o->size) - 1;

	if (o->kind == OPK_REL)
		return mine == z->imm.value.u;
	return (mine & mask) == (z->imm.value.u & mask);
}

static bool same_operand(const struct insn *i, const struct operand *o, const ZydisDecodedOperand *z)
{
	switch (z->type) {
	case ZYDIS_OPERAND_TYPE_REGISTER: return zydis_register(o, z->reg.value) == o->reg;
	case ZYDIS_OPERAND_TYPE_MEMORY:
		if (o->kind == OPK_STR_SRC)
			return i->mem.seg == ZydisRegisterGetId(z->mem.segment);
		return o->kind == OPK_STR_DST || (o->kind == OPK_MEM && same_memory(i, o, z));
	case ZYDIS_OPERAND_TYPE_IMMEDIATE:
		return (o->kind == OPK_IMM || o->kind == OPK_IMM2 || o->kind == OPK_REL) &&
		       same_immediate(i, o, z);
	case ZYDIS_OPERAND_TYPE_POINTER:
		return o->kind == OPK_FAR && z->ptr.offset == (uint32_t)i->imm && z->ptr.segment == i->imm2;
	default: return false;
	}
}

/* We also mark destinations read that keep a part of their old value, or may keep all of it (CMOVcc, BSF,
 * MOVSS). */
static bool same_access(const struct operand *o, const ZydisDecodedOperand *z)
{
	bool reads = z->actions & ZYDIS_OPERAND_ACTION_MASK_READ,
	     writes = z->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;

	if (o->access == ACC_ADDR)
		return true;
	return (!reads || o->access & ACC_R) && writes == !!(o->access & ACC_W);
}

/* Instructions whose operand lists are written differently on purpose. */
static bool operands_differ_by_design(const struct insn *i)
{
	if (i->mode == MODE_64 && i->prefixes & PFX_67 && i->has_modrm && (i->modrm & 0xc7) == 4 &&
	    (i->bytes[i->modrm_at + 1] & 7) == 5 && i->rex & 1)
		return true; /* Zydis takes r13d for a base where there is none */
	switch (i->row->sem) {
	case SEM_XLAT: case SEM_NOP: case SEM_SALC: case SEM_LAHF: case SEM_SAHF: case SEM_UD:
		return true;
	}
	return i->op == OP_FFREE || i->op == OP_FFREEP;
}

static void compare_operands(const uint8_t *code, int mode, const struct insn *i,
			     const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	char what[80];

	if (operands_differ_by_design(i))
		return;
	for (unsigned k = 0; k < z->operand_count_visible; k++) {
		const char *part = NULL;

		if (k >= i->operand_count)
			part = "missing";
		else if (!same_operand(i, &i->operand[k], &ops[k]))
			part = "different";
		else if (!same_access(&i->operand[k], &ops[k]))
			part = "accessed differently";
		if (part) {
			snprintf(what, sizeof(what), "operand %u %s", k, part);
			complain(code, mode, what, i, z);
			return;
		}
	}
}

/* Zydis's flags that are not the manual's: VPTEST and VTESTPx clear OF, AF, PF and SF; VMCALL changes none
 * here. */
static bool flags_differ_by_design(const struct insn *i)
{
	switch (i->op) {
	case OP_VPTEST: case OP_VTESTPS: case OP_VTESTPD: case OP_VMCALL:
		return true;
	}
	return i->row->branch == BR_FAR;
}

/*
 * Flags: what Zydis says is read or changed must be so in our row. (The manual defines some that Zydis calls
 * undefined: OF of shifts by one, BEXTR's; a repeated CMPS or SCAS reads only its own ZF.)
 */
static void compare_flags(const uint8_t *code, int mode, const struct insn *i,
			  const ZydisDecodedInstruction *z)
{
	const unsigned status = FLAGS_STATUS | FLAG_DF;
	const ZydisAccessedFlags *f = z->cpu_flags;
	unsigned changed = (f->modified | f->set_0 | f->set_1 | f->undefined) & status,
		 tested = f->tested & status;
	const struct insn_row *row = i->row;
	char what[100];

	if (flags_differ_by_design(i))
		return;
	if (row->attrs & INSN_STRING)
		tested &= ~FLAG_ZF;
	if (tested & ~insn_flags_read(i) ||
	    changed != ((row->flags_written | row->flags_undefined | row->flags_may) & status)) {
		snprintf(what, sizeof(what), "flags: Zydis reads %x changes %x, ours %x %x %x %x", tested,
			 changed, insn_flags_read(i), row->flags_written, row->flags_undefined,
			 row->flags_may);
		complain(code, mode, what, i, z);
	}
}

/* Validity on which we differ on purpose. */
static bool excused(const struct insn *i, bool ours, const ZydisDecodedInstruction *z, bool theirs)
{
	(void)i;
	if (theirs && !ours)
		return !offered(z);
	return false;
}

static void compare(const uint8_t *code, int mode)
{
	struct insn i;
	ZydisDecodedInstruction z;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	enum insn_status status = insn_decode(&i, code, 15, mode);
	ZyanStatus zs = ZydisDecoderDecodeFull(&decoders[mode], code, 15, &z, ops);
	bool ours = status == INSN_OK, theirs = ZYAN_SUCCESS(zs);

	if (ours)
		row_hits[i.row - insn_rows]++;
	if (ours != theirs) {
		if (!excused(&i, ours, &z, theirs))
			complain(code, mode, ours ? "only ours valid" : "only Zydis valid", ours ? &i : NULL,
				 theirs ? &z : NULL);
	} else if (ours && i.len != z.length) {
		complain(code, mode, "length", &i, &z);
	} else if (ours) {
		compare_operands(code, mode, &i, &z, ops);
		compare_flags(code, mode, &i, &z);
	}
}

static void random_strings_agree(void **state)
{
	uint8_t code[16];

	for (unsigned n = 0; n < ROUNDS; n++) {
		random_code(code);
		compare(code, pick(3));
	}
	assert_int_equal(complaints, 0);
}

static void instances_of_rows_agree(void **state)
{
	uint8_t code[INSN_MAX_LEN];

	for (unsigned n = 0; n < ROUNDS; n++) {
		enum insn_mode mode = pick(3);

		if (row_code(&insn_rows[pick(insn_row_count)], mode, &rng, code))
			compare(code, mode);
	}
	assert_int_equal(complaints, 0);
}

static void every_row_is_hit(void **state)
{
	unsigned missing = 0;

	for (unsigned k = 0; k < insn_row_count; k++)
		if (!row_hits[k] && missing++ < 20)
			print_error("row %u never hit: %s\n", k, insn_rows[k].mnemonic);
	assert_int_equal(missing, 0);
}

static int setup(void **state)
{
	const char *seed = getenv("GUISE_TEST_SEED");

	rng.state = seed ? strtoull(seed, NULL, 0) : 0x9e3779b97f4a7c15ull ^ (uint64_t)time(NULL);
	print_message("seed %#llx\n", (unsigned long long)rng.state);
	row_hits = calloc(insn_row_count, sizeof(*row_hits));
	ZydisDecoderInit(&decoders[MODE_16], ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
	ZydisDecoderInit(&decoders[MODE_32], ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
	ZydisDecoderInit(&decoders[MODE_64], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (unsigned k = 0; k < 3; k++) {
		ZydisDecoderEnableMode(&decoders[k], ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
		ZydisDecoderEnableMode(&decoders[k], ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
		ZydisDecoderEnableMode(&decoders[k], ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_FALSE);
		ZydisDecoderEnableMode(&decoders[k], ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
	}
	return row_hits ? 0 : -1;
}

static int teardown(void **state)
{
	free(row_hits);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_strings_agree),
		cmocka_unit_test(instances_of_rows_agree),
		cmocka_unit_test(every_row_is_hit),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
