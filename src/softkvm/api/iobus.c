/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guest writes that need no exit.
 *
 * One table holds ioeventfds and coalesced zones of both spaces. Readers are vCPUs inside KVM_RUN and take no lock;
 * a change, under vm->lock, publishes a new table and frees the old one while all vCPUs are stopped.
 *
 * The coalesced ring is one page per VM, mapped into every run area: `first` is advanced by the user, `last` by us,
 * under ring_lock as several vCPUs may write. A full ring means an ordinary exit.
 *
 * Compiled without vector registers: runs with the guest's vector state live.
 */
#include "softkvm/api/iobus.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "softkvm/api/eventfd.h"
#include "softkvm/api/kick.h"

enum { IOBUS_MAX_DEVICES = 1000, RING_MAX = (PAGE_SIZE - 8) / sizeof(struct kvm_coalesced_mmio) };

struct io_range {
	uint64_t addr, len; /* len 0 with an fd: a write of any length */
	bool pio;
	bool any_value;
	uint64_t datamatch;
	int fd; /* the eventfd, owned; -1: a coalesced zone */
};

struct io_table {
	unsigned count;
	struct io_range range[];
};

struct iobus {
	_Atomic(struct io_table *) table;
	pthread_mutex_t ring_lock;
};

/* --- the vCPU's side --- */

static uint64_t load_value(const void *data, unsigned len)
{
	const uint8_t *bytes = data;
	uint64_t value = 0;

	for (unsigned i = 0; i < len && i < 8; i++)
		value |= (uint64_t)bytes[i] << (8 * i);
	return value;
}

static bool is_doorbell(const struct io_range *r, uint64_t addr, unsigned len, uint64_t value)
{
	if (r->addr != addr)
		return false;
	if (!r->len)
		return true;
	return r->len == len && (r->any_value || r->datamatch == value);
}

static void signal_eventfd(int fd)
{
	uint64_t one = 1;
	int saved = errno;

	while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
	errno = saved;
}

static bool ring_put(struct vm *vm, bool pio, uint64_t addr, unsigned len, const void *data)
{
	struct kvm_coalesced_mmio_ring *ring = (void *)vm->coalesced_ring;
	struct kvm_coalesced_mmio *entry;
	uint32_t last, next;
	bool has_room;

	pthread_mutex_lock(&vm->iobus->ring_lock);
	last = __atomic_load_n(&ring->last, __ATOMIC_RELAXED);
	next = (last + 1) % RING_MAX;
	/* Pairs with the user's store of `first` after it has read the entry. A bad `last` is the user's own doing. */
	has_room = last < RING_MAX && next != __atomic_load_n(&ring->first, __ATOMIC_ACQUIRE);
	if (has_room) {
		entry = &ring->coalesced_mmio[last];
		entry->phys_addr = addr;
		entry->len = len;
		for (unsigned i = 0; i < len && i < sizeof(entry->data); i++)
			entry->data[i] = ((const uint8_t *)data)[i];
		entry->pio = pio;
		/* Pairs with the user's load of `last` before it reads the entry. */
		__atomic_store_n(&ring->last, next, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&vm->iobus->ring_lock);
	return has_room;
}

bool iobus_write(struct vm *vm, bool pio, uint64_t addr, unsigned len, const void *data)
{
	struct io_table *table = atomic_load_explicit(&vm->iobus->table, memory_order_acquire);
	uint64_t value;

	if (!table)
		return false;
	value = load_value(data, len);
	for (unsigned i = 0; i < table->count; i++) {
		const struct io_range *r = &table->range[i];

		if (r->pio != pio)
			continue;
		if (r->fd >= 0) {
			if (is_doorbell(r, addr, len, value)) {
				signal_eventfd(r->fd);
				return true;
			}
		} else if (len <= 8 && addr >= r->addr && addr + len <= r->addr + r->len) {
			return ring_put(vm, pio, addr, len, data);
		}
	}
	return false;
}

/* --- changes --- */

static struct io_table *table_copy(const struct io_table *old, unsigned count)
{
	struct io_table *table = calloc(1, sizeof(*table) + count * sizeof(table->range[0]));

	if (!table)
		return NULL;
	table->count = count;
	for (unsigned i = 0; old && i < old->count && i < count; i++)
		table->range[i] = old->range[i];
	return table;
}

static void publish(struct vm *vm, struct io_table *table)
{
	struct io_table *old = vm->iobus->table;

	vm_stop(vm, 0);
	atomic_store_explicit(&vm->iobus->table, table, memory_order_release);
	vm_resume(vm);
	free(old);
}

static int add_range(struct vm *vm, const struct io_range *range)
{
	struct io_table *old = vm->iobus->table, *table;
	unsigned count = old ? old->count : 0;

	if (count >= IOBUS_MAX_DEVICES)
		return -ENOSPC;
	table = table_copy(old, count + 1);
	if (!table)
		return -ENOMEM;
	table->range[count] = *range;
	publish(vm, table);
	return 0;
}

static int del_range(struct vm *vm, unsigned index)
{
	struct io_table *old = vm->iobus->table, *table = table_copy(old, old->count);

	if (!table)
		return -ENOMEM;
	for (unsigned i = index; i + 1 < table->count; i++)
		table->range[i] = table->range[i + 1];
	table->count--;
	publish(vm, table);
	return 0;
}

/* Two doorbells that a single write could both mean. */
static bool is_collision(const struct io_range *a, const struct io_range *b)
{
	return a->fd >= 0 && b->fd >= 0 && a->pio == b->pio && a->addr == b->addr &&
	       (!a->len || !b->len ||
		(a->len == b->len && (a->any_value || b->any_value || a->datamatch == b->datamatch)));
}

static bool is_same_doorbell(const struct io_range *a, const struct io_range *b)
{
	return a->fd >= 0 && a->pio == b->pio && a->addr == b->addr && a->len == b->len &&
	       a->any_value == b->any_value && (a->any_value || a->datamatch == b->datamatch) &&
	       eventfd_is_same(a->fd, b->fd);
}

static int assign(struct vm *vm, struct io_range *range)
{
	struct io_table *table = vm->iobus->table;
	int err, fd = eventfd_hold(range->fd);

	if (fd < 0)
		return fd;
	range->fd = fd;
	for (unsigned i = 0; table && i < table->count; i++)
		if (is_collision(&table->range[i], range)) {
			close(fd);
			return -EEXIST;
		}
	err = add_range(vm, range);
	if (err)
		close(fd);
	return err;
}

static int deassign(struct vm *vm, const struct io_range *range)
{
	struct io_table *table = vm->iobus->table;
	int err, fd = eventfd_hold(range->fd);

	if (fd < 0)
		return fd;
	close(fd);
	for (unsigned i = 0; table && i < table->count; i++) {
		if (!is_same_doorbell(&table->range[i], range))
			continue;
		fd = table->range[i].fd;
		err = del_range(vm, i);
		if (!err)
			close(fd);
		return err;
	}
	return -ENOENT;
}

int iobus_ioeventfd(struct vm *vm, const struct kvm_ioeventfd *args)
{
	const uint32_t known = KVM_IOEVENTFD_FLAG_DATAMATCH | KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DEASSIGN;
	struct io_range range = {.addr = args->addr, .len = args->len, .fd = args->fd,
				 .pio = args->flags & KVM_IOEVENTFD_FLAG_PIO,
				 .any_value = !(args->flags & KVM_IOEVENTFD_FLAG_DATAMATCH),
				 .datamatch = args->datamatch};

	if (!range.any_value && args->len < 8)
		range.datamatch &= (1ull << (8 * args->len)) - 1;
	if (args->flags & KVM_IOEVENTFD_FLAG_DEASSIGN)
		return deassign(vm, &range);
	if (args->flags & ~known)
		return -EINVAL;
	if (args->len != 0 && args->len != 1 && args->len != 2 && args->len != 4 && args->len != 8)
		return -EINVAL;
	if (args->addr + args->len < args->addr || (!args->len && !range.any_value))
		return -EINVAL;
	return assign(vm, &range);
}

int iobus_coalesce(struct vm *vm, const struct kvm_coalesced_mmio_zone *zone, bool add)
{
	const struct io_range range = {.addr = zone->addr, .len = zone->size, .pio = zone->pio, .fd = -1};
	struct io_table *table = vm->iobus->table;

	if (zone->pio > 1)
		return -EINVAL;
	if (add)
		return zone->size ? add_range(vm, &range) : 0;
	for (unsigned i = 0; table && i < table->count; i++) {
		const struct io_range *r = &table->range[i];

		/* As the kernel: every zone that lies within what is taken away */
		if (r->fd < 0 && r->pio == range.pio && r->addr >= range.addr &&
		    r->addr + r->len <= range.addr + range.len) {
			int err = del_range(vm, i--);

			if (err)
				return err;
			table = vm->iobus->table;
		}
	}
	return 0;
}

/* --- life --- */

int iobus_new(struct vm *vm)
{
	vm->coalesced_ring_fd = memfd_create("guise-ring", MFD_CLOEXEC);
	if (vm->coalesced_ring_fd < 0 || ftruncate(vm->coalesced_ring_fd, PAGE_SIZE))
		return -errno;
	vm->coalesced_ring = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, vm->coalesced_ring_fd, 0);
	if (vm->coalesced_ring == MAP_FAILED) {
		vm->coalesced_ring = NULL;
		return -errno;
	}
	vm->iobus = calloc(1, sizeof(*vm->iobus));
	if (!vm->iobus)
		return -ENOMEM;
	pthread_mutex_init(&vm->iobus->ring_lock, NULL);
	return 0;
}

void iobus_free(struct vm *vm)
{
	struct io_table *table = vm->iobus ? vm->iobus->table : NULL;

	for (unsigned i = 0; table && i < table->count; i++)
		if (table->range[i].fd >= 0)
			close(table->range[i].fd);
	free(table);
	if (vm->iobus)
		pthread_mutex_destroy(&vm->iobus->ring_lock);
	free(vm->iobus);
	if (vm->coalesced_ring)
		munmap(vm->coalesced_ring, PAGE_SIZE);
	if (vm->coalesced_ring_fd >= 0)
		close(vm->coalesced_ring_fd);
}
