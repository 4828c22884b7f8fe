/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Decoded code. The unit is a block: the instructions from an entry point up to the first one that branches,
 * changes state that decoding depends on, or would leave the page. Blocks are keyed by the host address of
 * their first byte and the mode, so address spaces that map the same page share them; which page that is, and
 * whether it may be executed, the fetch TLB answers anew for every block.
 *
 * A block is good while its page's generation stands (mmu/code.c counts it up before a changed byte can be
 * seen as old). A full arena, changed memory slots or CPUID empty the whole cache. Blocks are decoded from
 * bytes read before the page is watched and compared with memory after: a change in between is seen.
 *
 * Instructions that cross a page, stand at the code segment's limit or are invalid are decoded each time,
 * into `cross`: their bytes come from two translations, or end early.
 */
#include "softkvm/interpret/decode_cache.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "softkvm/interpret/fast.h"
#include "softkvm/interpret/io.h"
#include "softkvm/interpret/operand.h"

enum { ARENA_SIZE = 32 << 20 };
#define BLOCK_BYTES(count) (sizeof(struct code_block) + (count) * sizeof(struct code_insn))

static struct code_block no_block; /* matches no address */

void decode_cache_flush(struct vcpu *v)
{
	struct decode_cache *cache = v->decode;

	if (!cache)
		return;
	for (unsigned mode = 0; mode <= MODE_64; mode++)
		for (unsigned k = 0; k < BLOCK_SLOTS; k++)
			cache->slot[mode][k] = &no_block;
	cache->used = 0;
}

int decode_cache_new(struct vcpu *v)
{
	struct decode_cache *cache = calloc(1, sizeof(*cache));

	if (!cache)
		return -ENOMEM;
	cache->size = ARENA_SIZE;
	cache->arena = mmap(NULL, cache->size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	cache->cross = calloc(1, BLOCK_BYTES(1));
	if (cache->arena == MAP_FAILED || !cache->cross) {
		if (cache->arena != MAP_FAILED)
			munmap(cache->arena, cache->size);
		free(cache->cross);
		free(cache);
		return -ENOMEM;
	}
	madvise(cache->arena, cache->size, MADV_HUGEPAGE); /* first touches are dear */
	v->decode = cache;
	decode_cache_flush(v);
	return 0;
}

void decode_cache_free(struct vcpu *v)
{
	if (!v->decode)
		return;
	munmap(v->decode->arena, v->decode->size);
	free(v->decode->cross);
	free(v->decode);
	v->decode = NULL;
}

/* --- handlers --- */

static void run_undefined(struct vcpu *v, const struct insn *i)
{
	raise_exception(v, VEC_UD);
}

static void run_too_long(struct vcpu *v, const struct insn *i)
{
	raise_error(v, VEC_GP, 0);
}

static void run_checked(struct vcpu *v, const struct insn *i)
{
	if ((i->row->attrs & INSN_PROT) && !is_protected(v))
		raise_exception(v, VEC_UD);
	if ((i->row->attrs & INSN_PRIV) && v->cpl)
		raise_error(v, VEC_GP, 0);
	op_table[i->row->sem](v, i);
}

static bool has_feature(const struct vcpu *v, unsigned feature)
{
	return feature == FEAT_NONE || !v->feature || (v->feature[feature / 32] >> (feature % 32) & 1);
}

insn_handler *choose_handler(const struct vcpu *v, const struct insn *i)
{
	insn_handler *fast;

	if (!has_feature(v, i->row->feature))
		return run_undefined;
	if (i->row->attrs & (INSN_PROT | INSN_PRIV))
		return run_checked;
	fast = fast_handler(i);
	return fast ? fast : op_table[i->row->sem];
}

/* --- decoding --- */

static bool ends_block(const struct insn *i)
{
	return i->row->branch != BR_NONE || (i->row->attrs & INSN_END);
}

/*
 * Decodes from `code` at most `avail` bytes into block; false if not even the first instruction is whole and
 * valid.
 */
static bool decode_run(const struct vcpu *v, struct code_block *block, const uint8_t *code, unsigned avail)
{
	unsigned at = 0;

	block->count = 0;
	while (block->count < BLOCK_MAX_INSNS) {
		struct code_insn *c = &block->code[block->count];

		if (insn_decode(&c->insn, code + at, avail - at, (enum insn_mode)v->mode) != INSN_OK)
			break;
		c->run = choose_handler(v, &c->insn);
		block->count++;
		at += c->insn.len;
		if (ends_block(&c->insn))
			break;
	}
	block->bytes = at;
	return block->count;
}

/* Is memory still what the block was decoded from? */
static bool is_unchanged(const struct code_block *block)
{
	const uint8_t *code = block->hva;

	for (unsigned k = 0; k < block->count; k++) {
		const struct insn *i = &block->code[k].insn;

		for (unsigned n = 0; n < i->len; n++)
			if (__atomic_load_n(code++, __ATOMIC_RELAXED) != i->bytes[n])
				return false;
	}
	return true;
}

static struct code_block *new_block(struct vcpu *v)
{
	struct decode_cache *cache = v->decode;

	if (cache->used + BLOCK_BYTES(BLOCK_MAX_INSNS) > cache->size)
		decode_cache_flush(v);
	return (struct code_block *)(cache->arena + cache->used);
}

static const struct code_block *decode_block(struct vcpu *v, const uint8_t *hva, gpa_t gpa, unsigned avail)
{
	struct decode_cache *cache = v->decode;
	struct code_block *block = new_block(v);

	block->hva = hva;
	do {
		if (!decode_run(v, block, hva, avail))
			return NULL;
		block->page = code_page_watch(v, gpa, block->bytes, &block->generation);
		if (!block->page)
			return NULL;
	} while (!is_unchanged(block));
	cache->used += (BLOCK_BYTES(block->count) + 63) & ~63ull;
	cache->slot[v->mode][block_slot(hva)] = block;
	return block;
}

/* Code outside RAM: nothing sensible runs there. Tell the user, as KVM does when it cannot emulate. */
static _Noreturn void leave_for_code_outside_ram(struct vcpu *v)
{
	v->run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
	v->run->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
	v->run->internal.ndata = 0;
	vcpu_leave(v);
}

static const uint8_t *fetch_page(struct vcpu *v, gva_t gva, gpa_t *gpa)
{
	const uint8_t *page = mmu_fetch_page(v, gva, gpa);

	if (!page)
		leave_for_code_outside_ram(v);
	return page;
}

/*
 * Bytes of code from rip on that the code segment's limit leaves, at most INSN_MAX_LEN; at least 1 or #GP(0).
 */
static unsigned within_code_limit(struct vcpu *v, uint64_t rip)
{
	uint64_t limit = v->seg[SEG_CS].limit;

	if (v->mode == MODE_64)
		return INSN_MAX_LEN;
	if (rip > limit)
		raise_error(v, VEC_GP, 0);
	return limit - rip >= INSN_MAX_LEN ? INSN_MAX_LEN : (unsigned)(limit - rip) + 1;
}

static gva_t code_address(const struct vcpu *v)
{
	return v->mode == MODE_64 ? v->rip : (uint32_t)(v->seg[SEG_CS].base + v->rip);
}

/* One instruction, byte by byte from wherever it lies, into cache->cross. */
static const struct code_block *decode_singly(struct vcpu *v)
{
	unsigned allowed = within_code_limit(v, v->rip), have = 0;
	struct code_block *block = v->decode->cross;
	struct code_insn *c = &block->code[0];
	enum insn_status status = INSN_TRUNCATED;
	gva_t gva = code_address(v);
	uint8_t bytes[INSN_MAX_LEN];
	gpa_t gpa;

	while (status == INSN_TRUNCATED && have < allowed) {
		const uint8_t *page = fetch_page(v, gva + have, &gpa);
		unsigned offset = (gva + have) & 4095, end = have + (4096 - offset);

		for (; have < end && have < allowed; have++)
			bytes[have] = __atomic_load_n(&page[offset++], __ATOMIC_RELAXED);
		status = insn_decode(&c->insn, bytes, have, (enum insn_mode)v->mode);
	}
	if (status == INSN_TRUNCATED)
		raise_error(v, VEC_GP, 0); /* beyond the limit */
	block->count = 1;
	if (status == INSN_OK)
		c->run = choose_handler(v, &c->insn);
	else
		c->run = status == INSN_INVALID ? run_undefined : run_too_long;
	return block;
}

const struct code_block *decode_lookup_slow(struct vcpu *v)
{
	const struct code_block *block = NULL;
	gva_t gva = code_address(v);
	unsigned offset = gva & 4095, avail = 4096 - offset;
	const uint8_t *page;
	gpa_t gpa;

	v->insn_rip = v->rip;
	if (v->mode == MODE_64 && unlikely(!is_canonical(v, v->rip)))
		raise_error(v, VEC_GP, 0);
	within_code_limit(v, v->rip);
	if (v->mode != MODE_64 && v->seg[SEG_CS].limit - v->rip < avail)
		avail = (unsigned)(v->seg[SEG_CS].limit - v->rip) + 1;
	page = fetch_page(v, gva, &gpa);
	gpa = (gpa & PAGE_MASK) | offset;
	block = v->decode->slot[v->mode][block_slot(page + offset)];
	if (block->hva == page + offset &&
	    block->generation == atomic_load_explicit(&block->page->generation, memory_order_acquire) &&
	    block->bytes <= avail)
		return block;
	block = decode_block(v, page + offset, gpa, avail);
	return block ? block : decode_singly(v);
}
