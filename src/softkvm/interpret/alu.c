/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Arithmetic and logic with two operands, and the read-modify-write family around them. All are
 * `destination = f(destination, source)` with flags, so one template serves: read the source, begin the
 * read-modify-write, compute on the host (flags.h), commit, set flags. LOCK makes the commit a
 * compare-and-swap.
 */
#include <stddef.h>

#include "softkvm/interpret/fast.h"
#include "softkvm/interpret/flags.h"
#include "softkvm/interpret/operand.h"
#include "softkvm/interpret/ops.h"

#define inline_always static inline __attribute__((always_inline))

typedef uint64_t alu_fn(uint64_t dst, uint64_t src, unsigned size, uint64_t *rflags);

HOST_BINARY(host_add, "add")
HOST_BINARY(host_sub, "sub")
HOST_BINARY(host_and, "and")
HOST_BINARY(host_or, "or")
HOST_BINARY(host_xor, "xor")
HOST_BINARY_FLAGS(host_adc, "adc")
HOST_BINARY_FLAGS(host_sbb, "sbb")
HOST_UNARY_FLAGS(host_inc, "inc")
HOST_UNARY_FLAGS(host_dec, "dec")
HOST_UNARY_FLAGS(host_neg, "neg")

static uint64_t host_not(uint64_t dst, uint64_t src, unsigned size, uint64_t *rflags)
{
	return ~dst & size_mask(size);
}

/* destination = f(destination, src) for a register or memory destination of any size, LOCKed or not. */
inline_always void modify(struct vcpu *v, const struct insn *i, alu_fn *f, uint64_t src)
{
	unsigned size = i->operand[0].size;
	uint64_t old, result, flags;
	struct rmw m;

	old = rmw_begin(v, i, 0, i->prefixes & PFX_LOCK, &m);
	do {
		flags = v->rflags;
		result = f(old, src, size, &flags);
	} while (!rmw_commit(v, &m, &old, result));
	v->rflags = flags;
}

/* The same for a register destination, with the source's kind and the size given. */
inline_always void modify_register(struct vcpu *v, const struct insn *i, alu_fn *f, unsigned kind,
				   unsigned size)
{
	uint64_t src = op_read_as(v, i, 1, kind, size);
	unsigned reg = i->operand[0].reg;

	gpr_write(v, reg, size, f(gpr_read(v, reg, size), src, size, &v->rflags));
}

inline_always void compare_as(struct vcpu *v, const struct insn *i, alu_fn *f, unsigned dst_kind,
			      unsigned kind, unsigned size)
{
	uint64_t src = op_read_as(v, i, 1, kind, size);

	f(op_read_as(v, i, 0, dst_kind, size), src, size, &v->rflags);
}

inline_always void compare(struct vcpu *v, const struct insn *i, alu_fn *f)
{
	compare_as(v, i, f, i->operand[0].kind, i->operand[1].kind, i->operand[0].size);
}

void op_add(struct vcpu *v, const struct insn *i)
{
	modify(v, i, host_add, op_read(v, i, 1));
}

void op_or(struct vcpu *v, const struct insn *i)
{
	modify(v, i, host_or, op_read(v, i, 1));
}

void op_adc(struct vcpu *v, const struct insn *i)
{
	modify(v, i, host_adc, op_read(v, i, 1));
}

void op_sbb(struct vcpu *v, const struct insn *i)
{
	modify(v, i, host_sbb, op_read(v, i, 1));
}

void op_and(struct vcpu *v, const struct insn *i)
{
	modify(v, i, host_and, op_read(v, i, 1));
}

void op_sub(struct vcpu *v, const struct insn *i)
{
	modify(v, i, host_sub, op_read(v, i, 1));
}

void op_xor(struct vcpu *v, const struct insn *i)
{
	modify(v, i, host_xor, op_read(v, i, 1));
}

void op_cmp(struct vcpu *v, const struct insn *i)
{
	compare(v, i, host_sub);
}

void op_test(struct vcpu *v, const struct insn *i)
{
	compare(v, i, host_and);
}

void op_inc(struct vcpu *v, const struct insn *i)
{
	modify(v, i, host_inc, 0);
}

void op_dec(struct vcpu *v, const struct insn *i)
{
	modify(v, i, host_dec, 0);
}

void op_neg(struct vcpu *v, const struct insn *i)
{
	modify(v, i, host_neg, 0);
}

void op_not(struct vcpu *v, const struct insn *i)
{
	modify(v, i, host_not, 0);
}

/* ADCX, ADOX: add with the carry in, and only into, one flag. */
static void add_carry(struct vcpu *v, const struct insn *i, uint64_t flag)
{
	unsigned size = i->operand[0].size;
	unsigned __int128 sum = (unsigned __int128)op_read(v, i, 1) + op_read(v, i, 0) + !!(v->rflags & flag);

	op_write(v, i, 0, (uint64_t)sum);
	v->rflags = (v->rflags & ~flag) | (sum >> (8 * size) ? flag : 0);
}

void op_adcx(struct vcpu *v, const struct insn *i)
{
	add_carry(v, i, FLAG_CF);
}

void op_adox(struct vcpu *v, const struct insn *i)
{
	add_carry(v, i, FLAG_OF);
}

void op_xadd(struct vcpu *v, const struct insn *i)
{
	unsigned size = i->operand[0].size;
	uint64_t src = op_read(v, i, 1), old, result, flags;
	struct rmw m;

	old = rmw_begin(v, i, 0, i->prefixes & PFX_LOCK, &m);
	if (m.reg != REG_NONE) {
		result = host_add(old, src, size, &v->rflags);
		gpr_write(v, i->operand[1].reg, size, old);
		gpr_write(v, m.reg, size, result);
		return;
	}
	do {
		flags = v->rflags;
		result = host_add(old, src, size, &flags);
	} while (!rmw_commit(v, &m, &old, result));
	gpr_write(v, i->operand[1].reg, size, old);
	v->rflags = flags;
}

/* With memory it is always locked (SDM volume 2, XCHG). */
void op_xchg(struct vcpu *v, const struct insn *i)
{
	unsigned k = i->operand[0].kind == OPK_MEM ? 0 : 1; /* the memory operand, if any */
	const struct operand *reg = &i->operand[1 - k];
	uint64_t value = op_read(v, i, 1 - k), old;
	struct rmw m;

	old = rmw_begin(v, i, k, true, &m);
	while (!rmw_commit(v, &m, &old, value))
		;
	gpr_write(v, reg->reg, reg->size, old);
}

void op_cmpxchg(struct vcpu *v, const struct insn *i)
{
	unsigned size = i->operand[0].size;
	uint64_t src = op_read(v, i, 1), accumulator = gpr_read(v, RAX, size), old, flags;
	struct rmw m;

	old = rmw_begin(v, i, 0, i->prefixes & PFX_LOCK, &m);
	do {
		flags = v->rflags;
		host_sub(accumulator, old, size, &flags);
		if (old != accumulator) {
			rmw_abandon(v, &m);
			gpr_write(v, RAX, size, old);
			break;
		}
	} while (!rmw_commit(v, &m, &old, src));
	v->rflags = flags;
}

static void set_zf(struct vcpu *v, bool zf)
{
	v->rflags = (v->rflags & ~(uint64_t)FLAG_ZF) | (zf ? FLAG_ZF : 0);
}

void op_cmpxchg8b(struct vcpu *v, const struct insn *i)
{
	uint64_t expected = (uint32_t)v->gpr[RAX] | v->gpr[RDX] << 32;
	uint64_t desired = (uint32_t)v->gpr[RBX] | v->gpr[RCX] << 32, old;
	struct rmw m;

	m.reg = REG_NONE;
	old = rmw_begin_memory(v, i->mem.seg, mem_offset(v, i), 8, i->prefixes & PFX_LOCK, &m);
	do {
		if (old != expected) {
			rmw_abandon(v, &m);
			v->gpr[RAX] = (uint32_t)old;
			v->gpr[RDX] = old >> 32;
			set_zf(v, false);
			return;
		}
	} while (!rmw_commit_memory(v, &m, &old, desired));
	set_zf(v, true);
}

/* As the instruction does: *p == old ? *p = new : old = *p. */
static bool host_cas16(void *p, uint64_t old[2], uint64_t low, uint64_t high)
{
	bool done;

	__asm__ volatile("lock cmpxchg16b %1"
			 : "=@ccz"(done), "+m"(*(uint64_t (*)[2])p), "+a"(old[0]), "+d"(old[1])
			 : "b"(low), "c"(high)
			 : "memory");
	return done;
}

void op_cmpxchg16b(struct vcpu *v, const struct insn *i)
{
	uint64_t offset = mem_offset(v, i), old[2] = {v->gpr[RAX], v->gpr[RDX]};
	gva_t gva = seg_linear(v, i->mem.seg, offset);
	bool notify = false, equal;
	void *host;

	if (gva & 15)
		raise_error(v, VEC_GP, 0);
	gva = seg_address(v, i->mem.seg, offset, 16, true);
	host = mmu_host_ptr(v, gva, 16, true, &notify);
	if (host) {
		equal = host_cas16(host, old, v->gpr[RBX], v->gpr[RCX]);
		if (notify)
			mmu_host_written(v, gva, 16);
	} else {
		uint64_t value[2] = {mmu_read(v, gva, 8), mmu_read(v, gva + 8, 8)};

		equal = value[0] == old[0] && value[1] == old[1];
		old[0] = value[0];
		old[1] = value[1];
		mmu_write(v, gva, 8, equal ? v->gpr[RBX] : old[0]);
		mmu_write(v, gva + 8, 8, equal ? v->gpr[RCX] : old[1]);
	}
	if (!equal) {
		v->gpr[RAX] = old[0];
		v->gpr[RDX] = old[1];
	}
	set_zf(v, equal);
}

/* --- forms (fast.h): a register with a register, an immediate or memory; compares also of memory --- */

#define REGISTER_FORM(name, f, kind, size)								\
	static void name(struct vcpu *v, const struct insn *i)						\
	{												\
		modify_register(v, i, f, kind, size);							\
	}

#define COMPARE_FORM(name, f, dst_kind, kind, size)							\
	static void name(struct vcpu *v, const struct insn *i)						\
	{												\
		compare_as(v, i, f, dst_kind, kind, size);						\
	}

#define REGISTER_FORMS(op)										\
	REGISTER_FORM(op##_rr1, host_##op, OPK_GPR, 1)							\
	REGISTER_FORM(op##_rr4, host_##op, OPK_GPR, 4)							\
	REGISTER_FORM(op##_rr8, host_##op, OPK_GPR, 8)							\
	REGISTER_FORM(op##_ri1, host_##op, OPK_IMM, 1)							\
	REGISTER_FORM(op##_ri4, host_##op, OPK_IMM, 4)							\
	REGISTER_FORM(op##_ri8, host_##op, OPK_IMM, 8)							\
	REGISTER_FORM(op##_rm1, host_##op, OPK_MEM, 1)							\
	REGISTER_FORM(op##_rm4, host_##op, OPK_MEM, 4)							\
	REGISTER_FORM(op##_rm8, host_##op, OPK_MEM, 8)							\
	static const struct forms op##_forms = {.rr = {op##_rr1, op##_rr4, op##_rr8},			\
						.ri = {op##_ri1, op##_ri4, op##_ri8},			\
						.rm = {op##_rm1, op##_rm4, op##_rm8}};

#define COMPARE_FORMS(op, f)										\
	COMPARE_FORM(op##_rr1, f, OPK_GPR, OPK_GPR, 1)							\
	COMPARE_FORM(op##_rr4, f, OPK_GPR, OPK_GPR, 4)							\
	COMPARE_FORM(op##_rr8, f, OPK_GPR, OPK_GPR, 8)							\
	COMPARE_FORM(op##_ri1, f, OPK_GPR, OPK_IMM, 1)							\
	COMPARE_FORM(op##_ri4, f, OPK_GPR, OPK_IMM, 4)							\
	COMPARE_FORM(op##_ri8, f, OPK_GPR, OPK_IMM, 8)							\
	COMPARE_FORM(op##_rm1, f, OPK_GPR, OPK_MEM, 1)							\
	COMPARE_FORM(op##_rm4, f, OPK_GPR, OPK_MEM, 4)							\
	COMPARE_FORM(op##_rm8, f, OPK_GPR, OPK_MEM, 8)							\
	COMPARE_FORM(op##_mr1, f, OPK_MEM, OPK_GPR, 1)							\
	COMPARE_FORM(op##_mr4, f, OPK_MEM, OPK_GPR, 4)							\
	COMPARE_FORM(op##_mr8, f, OPK_MEM, OPK_GPR, 8)							\
	COMPARE_FORM(op##_mi1, f, OPK_MEM, OPK_IMM, 1)							\
	COMPARE_FORM(op##_mi4, f, OPK_MEM, OPK_IMM, 4)							\
	COMPARE_FORM(op##_mi8, f, OPK_MEM, OPK_IMM, 8)							\
	static const struct forms op##_forms = {							\
		.rr = {op##_rr1, op##_rr4, op##_rr8}, .ri = {op##_ri1, op##_ri4, op##_ri8},		\
		.rm = {op##_rm1, op##_rm4, op##_rm8}, .mr = {op##_mr1, op##_mr4, op##_mr8},		\
		.mi = {op##_mi1, op##_mi4, op##_mi8}};

REGISTER_FORMS(add)
REGISTER_FORMS(sub)
REGISTER_FORMS(and)
REGISTER_FORMS(or)
REGISTER_FORMS(xor)
COMPARE_FORMS(cmp, host_sub)
COMPARE_FORMS(test, host_and)

const struct forms *alu_forms(unsigned sem)
{
	switch (sem) {
	case SEM_ADD:
		return &add_forms;
	case SEM_SUB:
		return &sub_forms;
	case SEM_AND:
		return &and_forms;
	case SEM_OR:
		return &or_forms;
	case SEM_XOR:
		return &xor_forms;
	case SEM_CMP:
		return &cmp_forms;
	case SEM_TEST:
		return &test_forms;
	default:
		return NULL;
	}
}
