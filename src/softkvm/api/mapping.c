/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Changes of what is mapped under a memory slot, while vCPUs run.
 *
 * The kernel's KVM follows munmap(), mprotect() and their like by its MMU notifiers. Here soft TLBs hold host addresses, so
 * whoever changes a mapping says so first (preload does it for its program):
 *
 *	softkvm_mapping_begin()	all vCPUs of the VMs concerned stop; the pages count as suspect from now on: before an
 *				access is entered into a TLB, mem_is_backed() asks whether the page is there
 *	the change
 *	softkvm_mapping_end()	TLBs and decoded code are dropped, the vCPUs go on
 *
 * An access to what is not there then ends KVM_RUN with -EFAULT, the instruction not executed. Where only the contents
 * change and the mapping stays (MADV_DONTNEED, MAP_FIXED over it), softkvm_mapping_replaced() afterwards will do: a host
 * address leads to the new contents by itself, only decoded code must go.
 *
 * A slot may be made over a hole: with softkvm_mapping_watch() each new slot is compared with /proc/self/maps.
 *
 * Limits: a change that nobody tells (a system call made directly, a file cut short) ends in SIGSEGV or SIGBUS. A signal
 * handler that changes a mapping inside KVM_RUN cannot stop its own vCPU: that one sees the change at its next boundary.
 *
 * Locks: `lock` of the list of VMs, then vm->lock of every VM concerned, from begin to end. A vCPU takes neither inside
 * KVM_RUN.
 */
#include "softkvm/api/mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "softkvm/api/handle.h"
#include "softkvm/api/kick.h"
#include "softkvm/engine.h"
#include "softkvm/mmu/mmu.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct vm *vms; /* protected by lock, linked by vm->next */
static bool watches;

/* After fork() the VMs are the parent's, and their vCPUs run there. */
static void forget_all(void)
{
	pthread_mutex_init(&lock, NULL);
	vms = NULL;
}

static void before_first(void)
{
	pthread_atfork(NULL, NULL, forget_all);
}

void mapping_add_vm(struct vm *vm)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, before_first);
	pthread_mutex_lock(&lock);
	vm->next = vms;
	vms = vm;
	pthread_mutex_unlock(&lock);
}

void mapping_del_vm(struct vm *vm)
{
	pthread_mutex_lock(&lock);
	for (struct vm **p = &vms; *p; p = &(*p)->next) {
		if (*p == vm) {
			*p = vm->next;
			break;
		}
	}
	pthread_mutex_unlock(&lock);
}

/* --- the part of a range that lies in a slot --- */

struct part {
	struct mem_slot *slot;
	uint64_t offset, len;
};

static bool part_of(struct mem_slot *slot, uintptr_t from, uintptr_t to, struct part *part)
{
	uintptr_t start = (uintptr_t)slot->hva, end = start + slot->size;

	if (from >= end || to <= start)
		return false;
	part->slot = slot;
	part->offset = from > start ? from - start : 0;
	part->len = (to < end ? to : end) - start - part->offset;
	return true;
}

typedef void part_fn(struct vm *vm, const struct part *part);

/* Calls fn (if any) for each slot that the range touches; returns whether there is any. Under vm->lock. */
static bool for_parts(struct vm *vm, uintptr_t addr, size_t len, part_fn *fn)
{
	struct mem_table *table = vm->mem.table;
	uintptr_t to = addr + len < addr ? UINTPTR_MAX : addr + len;
	struct part part;
	bool any = false;

	for (unsigned i = 0; table && i < table->count; i++) {
		if (!part_of(table->slot[i], addr, to, &part))
			continue;
		any = true;
		if (fn)
			fn(vm, &part);
	}
	return any;
}

/* Without memory for the note an access may end in SIGSEGV: no worse than not being told. */
static void suspect(struct vm *vm, const struct part *part)
{
	mem_suspect(part->slot, part->offset, part->len);
}

static void forget_code(struct vm *vm, const struct part *part)
{
	if (vm->engine->code_changed)
		vm->engine->code_changed(vm, part->slot->gpa + part->offset, part->len, NULL);
}

static void contents_changed(struct vm *vm, const struct part *part)
{
	code_written(vm, part->slot->gpa + part->offset, part->len);
}

/* --- changes --- */

bool softkvm_mapping_begin(void *addr, size_t len)
{
	bool any = false, inside = is_inside_run();

	if (!vms || !len)
		return false;
	pthread_mutex_lock(&lock);
	for (struct vm *vm = vms; vm; vm = vm->next) {
		pthread_mutex_lock(&vm->lock);
		vm->mapping_changes = for_parts(vm, (uintptr_t)addr, len, NULL);
		if (!vm->mapping_changes) {
			pthread_mutex_unlock(&vm->lock);
			continue;
		}
		any = true;
		if (!inside)
			vm_stop(vm, VREQ_MEMORY);
		for_parts(vm, (uintptr_t)addr, len, suspect);
	}
	if (!any)
		pthread_mutex_unlock(&lock);
	return any;
}

static void kick_all(struct vm *vm)
{
	for (unsigned i = 0; i < atomic_load(&vm->vcpu_count); i++)
		vcpu_kick(vm->vcpu[i], VREQ_MEMORY);
}

void softkvm_mapping_end(void *addr, size_t len)
{
	for (struct vm *vm = vms; vm; vm = vm->next) {
		if (!vm->mapping_changes)
			continue;
		vm->mapping_changes = false;
		for_parts(vm, (uintptr_t)addr, len, forget_code);
		if (is_inside_run())
			kick_all(vm);
		else
			vm_resume(vm);
		pthread_mutex_unlock(&vm->lock);
	}
	pthread_mutex_unlock(&lock);
}

void softkvm_mapping_replaced(void *addr, size_t len)
{
	if (!vms || !len)
		return;
	pthread_mutex_lock(&lock);
	for (struct vm *vm = vms; vm; vm = vm->next) {
		pthread_mutex_lock(&vm->lock);
		for_parts(vm, (uintptr_t)addr, len, contents_changed);
		pthread_mutex_unlock(&vm->lock);
	}
	pthread_mutex_unlock(&lock);
}

/* --- new slots --- */

void softkvm_mapping_watch(void)
{
	watches = true;
}

static void suspect_between(struct mem_slot *slot, uintptr_t from, uintptr_t to)
{
	struct part part;

	if (from < to && part_of(slot, from, to, &part))
		mem_suspect(slot, part.offset, part.len);
}

/* Lines are sorted by address: what lies between good ones is suspect. */
void mapping_check_slot(struct mem_slot *slot)
{
	const char needed = slot->flags & SLOT_READONLY ? 'r' : 'w';
	uintptr_t good_to = 0, start, end;
	char line[512], mode[8];
	FILE *maps;

	if (!watches)
		return;
	maps = fopen("/proc/self/maps", "re");
	if (!maps)
		return;
	while (fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%lx-%lx %7s", &start, &end, mode) != 3 || mode[0] != 'r' || !strchr(mode, needed))
			continue;
		suspect_between(slot, good_to, start);
		good_to = end;
	}
	suspect_between(slot, good_to, UINTPTR_MAX);
	fclose(maps);
}
