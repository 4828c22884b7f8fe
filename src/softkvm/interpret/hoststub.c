/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Stubs: guest vector instructions re-encoded for the host and kept as callable code.
 *
 * An instruction is re-encoded with its memory operand as [rdi] and its general register operand as rax;
 * vector registers stay what they are, so nothing else changes. Guest code of any mode gives 64-bit host
 * code: legacy prefixes that mean nothing here go, the mandatory one and the needed REX bits stay, VEX
 * becomes the three-byte form. No guest byte gets into a stub unchecked: opcode and fields come from a row
 * that the decoder has accepted.
 *
 * The cache is one per vCPU and needs no lock: a direct-mapped table from code bytes to a fixed slot. Slots
 * are written through one mapping and executed through another (W^X). A slot that held something else has
 * been executed before, so reusing it takes a serializing instruction (SDM volume 3, 8.1.3).
 *
 * Calls restore the components that the instruction touches, set flags and registers, call, and save. With an
 * unmasked SIMD exception the host raises SIGFPE inside the stub; the handler continues behind the
 * instruction, which leaves exactly what the guest must see: MXCSR's flags set, no destination changed.
 */
#include <cpuid.h>
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "softkvm/interpret/hostsignal.h"
#include "softkvm/interpret/hoststub.h"

enum { SLOT_COUNT = 4096, SLOT_SIZE = 32, REGION_SIZE = SLOT_COUNT * SLOT_SIZE, MAX_CODE = 16 };

struct stub_code {
	union {
		uint8_t bytes[MAX_CODE];
		uint64_t words[2];
	};
	uint8_t size;
};

struct stub_cache {
	uint8_t *writable;
	const uint8_t *executable;
	struct stub_code keys[SLOT_COUNT];
};

static __thread struct stub_call *guarded; /* the call in progress that may raise SIGFPE */

/* --- faults --- */

uint64_t stub_resume(uint64_t rip)
{
	struct stub_call *c = guarded;

	if (!c || rip != (uint64_t)c->code)
		return 0;
	c->faulted = true;
	return rip + c->code_size;
}

/* --- cache --- */

int stub_cache_new(struct stub_cache **cache)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct stub_cache *c = calloc(1, sizeof(*c));
	int fd = memfd_create("guise-stubs", MFD_CLOEXEC);
	int err = 0;

	pthread_once(&once, hostsignal_install);
	if (!c || fd < 0 || ftruncate(fd, REGION_SIZE)) {
		err = c ? -errno : -ENOMEM;
		goto out;
	}
	c->writable = mmap(NULL, REGION_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	c->executable = mmap(NULL, REGION_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (c->writable == MAP_FAILED || c->executable == MAP_FAILED)
		err = -errno;
out:
	if (fd >= 0)
		close(fd);
	if (err && c) {
		stub_cache_free(c);
		c = NULL;
	}
	*cache = c;
	return err;
}

void stub_cache_free(struct stub_cache *cache)
{
	if (cache->writable && cache->writable != MAP_FAILED)
		munmap(cache->writable, REGION_SIZE);
	if (cache->executable && cache->executable != MAP_FAILED)
		munmap((void *)cache->executable, REGION_SIZE);
	free(cache);
}

/* --- re-encoding --- */

/* Which ModRM fields name general registers, and whether REX.W/VEX.W sizes one of them. */
struct fields {
	bool general_reg, general_rm, sized, is4;
};

static struct fields fields_of(const struct insn_row *row)
{
	struct fields f = {0};

	for (unsigned k = 0; k < row->operand_count; k++) {
		const struct operand_spec *s = &row->operand[k];

		f.general_reg |= s->how == HOW_G;
		f.general_rm |= s->how == HOW_E || s->how == HOW_R;
		f.sized |= s->size == SIZE_Y;
		f.is4 |= s->how == HOW_L;
	}
	return f;
}

static uint8_t encode_modrm(const struct insn *i, struct fields f)
{
	uint8_t reg = f.general_reg ? 0 : i->modrm & 0x38;

	if (i->modrm < 0xc0)
		return reg | RDI;
	return 0xc0 | reg | (f.general_rm ? 0 : i->modrm & 7);
}

static uint8_t encode_rex(const struct insn *i, struct fields f)
{
	uint8_t rex = i->rex & 0xf;

	if (f.general_reg)
		rex &= ~4;
	if (i->has_modrm && i->modrm < 0xc0)
		rex &= ~3;
	else if (f.general_rm)
		rex &= ~1;
	if (i->mode != MODE_64)
		rex &= f.sized ? 0 : 8;
	return rex;
}

static unsigned encode_vex(const struct insn *i, uint8_t rex, uint8_t *out)
{
	static const uint8_t pp[9] = {[2] = 1, [4] = 2, [8] = 3};

	out[0] = 0xc4;
	out[1] = (~rex & 7) << 5 | i->opcode_map;
	out[2] = (rex & 8) << 4 | (~i->vex_vvvv & 15) << 3 | i->vex_l << 2 | pp[i->row->prefixes];
	out[3] = i->opcode;
	return 4;
}

static unsigned encode_legacy(const struct insn *i, uint8_t rex, uint8_t *out)
{
	static const uint8_t prefixes[9] = {[2] = 0x66, [4] = 0xf3, [8] = 0xf2};
	unsigned n = 0, prefix = i->row->prefixes <= 8 ? prefixes[i->row->prefixes] : 0;

	if (prefix)
		out[n++] = prefix;
	if (rex)
		out[n++] = 0x40 | rex;
	if (i->opcode_map)
		out[n++] = 0x0f;
	if (i->opcode_map >= 2)
		out[n++] = i->opcode_map == 2 ? 0x38 : 0x3a;
	out[n++] = i->opcode;
	return n;
}

static void encode(const struct insn *i, struct stub_code *code)
{
	struct fields f = fields_of(i->row);
	uint8_t rex = encode_rex(i, f);
	unsigned n;

	code->words[0] = code->words[1] = 0;
	if (i->prefixes & PFX_VEX)
		n = encode_vex(i, rex, code->bytes);
	else
		n = encode_legacy(i, rex, code->bytes);
	if (i->has_modrm)
		code->bytes[n++] = encode_modrm(i, f);
	if (i->imm_size) /* never more than one byte in vector rows */
		code->bytes[n++] = f.is4 && i->mode != MODE_64 ? i->imm & 0x7f : i->imm;
	code->size = n;
}

static void serialize(void)
{
	uint32_t a, b, c, d;

	__cpuid(0, a, b, c, d);
	(void)(a + b + c + d);
}

static void fill_slot(struct stub_cache *cache, unsigned slot, const struct stub_code *code)
{
	uint8_t *p = cache->writable + slot * SLOT_SIZE;
	bool reused = cache->keys[slot].size != 0;

	for (unsigned k = 0; k < code->size; k++)
		p[k] = code->bytes[k];
	p[code->size] = 0xc3;
	cache->keys[slot] = *code;
	if (reused)
		serialize();
}

const void *stub_get(struct stub_cache *cache, const struct insn *i, uint8_t *size)
{
	struct stub_code code;
	unsigned slot;

	encode(i, &code);
	slot = ((code.words[0] ^ code.words[1]) * 0x9e3779b97f4a7c15ull) >> 52;
	if (cache->keys[slot].words[0] != code.words[0] || cache->keys[slot].words[1] != code.words[1] ||
	    cache->keys[slot].size != code.size)
		fill_slot(cache, slot, &code);
	*size = code.size;
	return cache->executable + slot * SLOT_SIZE;
}

/* --- calls --- */

_Static_assert(offsetof(struct stub_call, area) == 8 && offsetof(struct stub_call, components) == 16 &&
	       offsetof(struct stub_call, mem) == 24 && offsetof(struct stub_call, rax) == 32 &&
	       offsetof(struct stub_call, rflags) == 56 && offsetof(struct stub_call, save) == 64 &&
	       offsetof(struct stub_call, host_mxcsr) == 72 && offsetof(struct stub_call, host_fcw) == 76,
	       "offsets in stub_enter");

void stub_enter(struct stub_call *c);
__asm__(".pushsection .text\n"
	".globl stub_enter\n"
	".type stub_enter, @function\n"
	"stub_enter:\n"
	"	push	%rbx\n"
	"	mov	%rdi, %rbx\n"
	"	stmxcsr	72(%rbx)\n"
	"	fnstcw	76(%rbx)\n"
	"	mov	8(%rbx), %rcx\n"
	"	mov	16(%rbx), %eax\n"
	"	xor	%edx, %edx\n"
	"	xrstor64 (%rcx)\n"
	"	mov	24(%rbx), %rdi\n"
	"	mov	32(%rbx), %rax\n"
	"	mov	40(%rbx), %rcx\n"
	"	mov	48(%rbx), %rdx\n"
	"	push	56(%rbx)\n"
	"	popf\n"
	"	call	*(%rbx)\n"
	"	pushf\n"
	"	pop	56(%rbx)\n"
	"	mov	%rax, 32(%rbx)\n"
	"	mov	%rcx, 40(%rbx)\n"
	"	mov	%rdx, 48(%rbx)\n"
	"	cmpq	$0, 64(%rbx)\n"
	"	je	1f\n"
	"	mov	8(%rbx), %rcx\n"
	"	mov	16(%rbx), %eax\n"
	"	xor	%edx, %edx\n"
	"	xsave64	(%rcx)\n"
	"1:	testb	$1, 16(%rbx)\n" /* XSTATE_X87 */
	"	je	2f\n"
	"	fninit\n"
	"	fldcw	76(%rbx)\n"
	"2:	testb	$4, 16(%rbx)\n" /* XSTATE_AVX */
	"	je	3f\n"
	"	vzeroupper\n"
	"3:	ldmxcsr	72(%rbx)\n"
	"	pop	%rbx\n"
	"	ret\n"
	".size stub_enter, . - stub_enter\n"
	".popsection\n");

void stub_run(struct stub_call *c, bool may_fault)
{
	c->faulted = false;
	if (may_fault)
		guarded = c;
	__asm__ volatile("" : : : "memory");
	stub_enter(c);
	__asm__ volatile("" : : : "memory");
	if (may_fault)
		guarded = NULL;
}
