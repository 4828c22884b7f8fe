/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Memory slots (KVM_SET_USER_MEMORY_REGION) and their dirty logs.
 *
 * A slot changes while all vCPUs are stopped: the new table is published, soft TLBs and decoded code that refer to
 * the old one are dropped before any vCPU goes on, and the old one is freed at once. When the call returns, the
 * caller may unmap what the slot pointed to.
 *
 * Dirty logs. A page's bit is set when a vCPU enters a write entry for it into its soft TLB, and by every write
 * that goes the slow way. Clearing bits therefore comes with dropping the write entries, with the vCPUs stopped.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "memory/touch.h"
#include "softkvm/api/handle.h"
#include "softkvm/api/kick.h"
#include "softkvm/api/mapping.h"
#include "softkvm/api/softkvm.h"
#include "softkvm/api/usercopy.h"
#include "softkvm/engine.h"
#include "softkvm/mmu/mmu.h"

enum { REGION_FLAGS = KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY, BITS = 64 };
#define REGION_MAX_SIZE (((1ull << 31) - 1) << PAGE_SHIFT) /* KVM_MEM_MAX_NR_PAGES */

static struct mem_slot *slot_by_id(struct vm *vm, uint32_t id)
{
	struct mem_table *table = vm->mem.table;

	for (unsigned i = 0; table && i < table->count; i++)
		if (table->slot[i]->id == id)
			return table->slot[i];
	return NULL;
}

static bool is_page_multiple(uint64_t value)
{
	return !(value & (PAGE_SIZE - 1));
}

static int region_check(const struct kvm_userspace_memory_region *r)
{
	if (r->flags & ~(uint32_t)REGION_FLAGS)
		return -EINVAL;
	if (!is_page_multiple(r->memory_size) || !is_page_multiple(r->guest_phys_addr) ||
	    !is_page_multiple(r->userspace_addr))
		return -EINVAL;
	if (r->userspace_addr >> 47 || r->userspace_addr + r->memory_size > 1ull << 47)
		return -EINVAL;
	if (r->slot >= VM_MAX_SLOTS) /* bits 16-31: address spaces, of which there is one */
		return -EINVAL;
	if (r->guest_phys_addr + r->memory_size < r->guest_phys_addr || r->memory_size > REGION_MAX_SIZE)
		return -EINVAL;
	return 0;
}

static uint32_t slot_flags(uint32_t region_flags)
{
	return (region_flags & KVM_MEM_READONLY ? SLOT_READONLY : 0) |
	       (region_flags & KVM_MEM_LOG_DIRTY_PAGES ? SLOT_LOG_DIRTY : 0);
}

/* Changes that the kernel refuses: of size, of backing, of being read-only. */
static int change_check(const struct mem_slot *old, const struct kvm_userspace_memory_region *r)
{
	if (!r->memory_size)
		return old ? 0 : -EINVAL;
	if (!old)
		return 0;
	if (r->userspace_addr != (uintptr_t)old->hva || r->memory_size != old->size ||
	    (old->flags ^ slot_flags(r->flags)) & SLOT_READONLY)
		return -EINVAL;
	return 0;
}

static void log_all_pages(struct vm *vm, uint32_t id)
{
	struct mem_slot *slot = slot_by_id(vm, id);

	if (slot)
		mem_mark_dirty(slot, 0, slot->size);
}

static void new_slot(struct vm *vm, struct mem_slot *slot)
{
	mapping_check_slot(slot);
	if (vm->huge_pages && !(slot->flags & SLOT_READONLY))
		mem_watch_touches(slot); /* without memory for that, pages come as they are touched */
}

void softkvm_use_huge_pages(struct softkvm *vm)
{
	pthread_mutex_lock(&vm->vm->lock);
	vm->vm->huge_pages = true;
	pthread_mutex_unlock(&vm->vm->lock);
}

long memory_region_set(struct vm *vm, const struct kvm_userspace_memory_region *r)
{
	int err = region_check(r);
	struct mem_slot *old, slot = {0};
	gpa_t old_gpa = 0;
	uint64_t old_size = 0;
	void *code_table = NULL;
	bool begins_log;

	if (err)
		return err;
	old = slot_by_id(vm, r->slot);
	err = change_check(old, r);
	if (err)
		return err;
	slot = (struct mem_slot){.gpa = r->guest_phys_addr, .size = r->memory_size, .id = r->slot, .fd = -1,
				 .hva = (uint8_t *)(uintptr_t)r->userspace_addr, .flags = slot_flags(r->flags)};
	if (old && r->memory_size && old->gpa == slot.gpa && old->flags == slot.flags)
		return 0;
	begins_log = slot.flags & SLOT_LOG_DIRTY && !(old && old->flags & SLOT_LOG_DIRTY);
	if (old) {
		old_gpa = old->gpa;
		old_size = old->size;
	}
	vm_stop(vm, VREQ_MEMORY);
	if (old && !slot.size)
		code_table = old->user;
	err = memory_set_slot(&vm->mem, &slot);
	if (!err) {
		if (old_size && vm->engine->code_changed)
			vm->engine->code_changed(vm, old_gpa, old_size, NULL);
		if (slot.size && vm->engine->code_changed)
			vm->engine->code_changed(vm, slot.gpa, slot.size, NULL);
		if (begins_log && vm->dirty_log_manual & KVM_DIRTY_LOG_INITIALLY_SET)
			log_all_pages(vm, slot.id);
		if (!old && slot.size)
			new_slot(vm, slot_by_id(vm, slot.id));
		memory_quiesce(&vm->mem);
		if (code_table)
			code_table_free(code_table, old_size);
	}
	vm_resume(vm);
	return err;
}

void memory_regions_free(struct vm *vm)
{
	struct mem_table *table = vm->mem.table;

	for (unsigned i = 0; table && i < table->count; i++)
		if (table->slot[i]->user)
			code_table_free(table->slot[i]->user, table->slot[i]->size);
	memory_deinit(&vm->mem);
}

/* The slot with a log, or NULL and *err. */
static struct mem_slot *logged_slot(struct vm *vm, uint32_t id, int *err)
{
	struct mem_slot *slot;

	*err = -EINVAL;
	if (id >= VM_MAX_SLOTS)
		return NULL;
	*err = -ENOENT;
	slot = slot_by_id(vm, id);
	return slot && slot->dirty ? slot : NULL;
}

long dirty_log_get(struct vm *vm, const struct kvm_dirty_log *log)
{
	int err;
	struct mem_slot *slot = logged_slot(vm, log->slot, &err);
	uint64_t *copy;
	size_t words;
	bool clear = !vm->dirty_log_manual;

	if (!slot)
		return err;
	words = ((slot->size >> PAGE_SHIFT) + BITS - 1) / BITS;
	copy = calloc(words, sizeof(*copy));
	if (!copy)
		return -ENOMEM;
	if (clear)
		vm_stop(vm, VREQ_TLB_WRITE);
	for (size_t i = 0; i < words; i++)
		copy[i] = clear ? __atomic_exchange_n(&slot->dirty[i], 0, __ATOMIC_ACQ_REL)
				: __atomic_load_n(&slot->dirty[i], __ATOMIC_ACQUIRE);
	if (clear)
		vm_resume(vm);
	err = copy_out((uintptr_t)log->dirty_bitmap, copy, words * sizeof(*copy));
	free(copy);
	return err;
}

/* KVM_CLEAR_DIRTY_LOG: pages [first_page, first_page + num_pages) whose bit is set in the caller's bitmap. */
long dirty_log_clear(struct vm *vm, const struct kvm_clear_dirty_log *log)
{
	int err;
	struct mem_slot *slot = logged_slot(vm, log->slot, &err);
	uint64_t pages, *mask;
	size_t words;

	if (log->first_page & (BITS - 1))
		return -EINVAL;
	if (!slot)
		return err;
	pages = slot->size >> PAGE_SHIFT;
	if (log->first_page > pages || log->num_pages > pages - log->first_page ||
	    (log->num_pages < pages - log->first_page && log->num_pages & (BITS - 1)))
		return -EINVAL;
	words = (log->num_pages + BITS - 1) / BITS;
	mask = calloc(words + 1, sizeof(*mask));
	if (!mask)
		return -ENOMEM;
	err = copy_in(mask, (uintptr_t)log->dirty_bitmap, words * sizeof(*mask));
	if (!err) {
		if (log->num_pages & (BITS - 1))
			mask[words - 1] &= (1ull << (log->num_pages & (BITS - 1))) - 1;
		vm_stop(vm, VREQ_TLB_WRITE);
		for (size_t i = 0; i < words; i++)
			__atomic_fetch_and(&slot->dirty[log->first_page / BITS + i], ~mask[i], __ATOMIC_ACQ_REL);
		vm_resume(vm);
	}
	free(mask);
	return err;
}
