/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Ports and physical addresses to device handlers.
 *
 * Each space is a sorted array of ranges behind a pointer. Accesses come from every vCPU at any moment, changes only
 * when a device appears or a guest moves a PCI BAR; so readers take the read side of a lock that is nearly never
 * written. The range is copied out before its handler runs: handlers are called without the lock and may change the
 * bus themselves. An access that a removal on another thread races with may still reach the handler, as on a real bus,
 * therefore devices live until the vCPUs have stopped.
 *
 * The processor splits accesses that cross a range's end; here such an access is served bytewise.
 */
#include "bus/bus.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct range {
	uint64_t base, size;
	const struct bus_ops *ops;
	void *opaque;
	const char *name;
};

struct space {
	struct range *range; /* sorted by base; protected by bus.lock */
	unsigned count;
};

struct bus {
	pthread_rwlock_t lock;
	struct space space[2];
};

int bus_new(struct bus **bus)
{
	*bus = calloc(1, sizeof(**bus));
	if (!*bus)
		return -ENOMEM;
	pthread_rwlock_init(&(*bus)->lock, NULL);
	return 0;
}

void bus_free(struct bus *bus)
{
	if (!bus)
		return;
	free(bus->space[BUS_PIO].range);
	free(bus->space[BUS_MMIO].range);
	pthread_rwlock_destroy(&bus->lock);
	free(bus);
}

/* Index of the first range that ends above addr. */
static unsigned first_after(const struct space *s, uint64_t addr)
{
	unsigned low = 0, high = s->count;

	while (low < high) {
		unsigned mid = (low + high) / 2;

		if (s->range[mid].base + (s->range[mid].size - 1) < addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static int insert(struct space *s, const struct range *range)
{
	unsigned at = first_after(s, range->base);
	struct range *grown;

	if (at < s->count && s->range[at].base <= range->base + (range->size - 1))
		return -EEXIST;
	grown = realloc(s->range, (s->count + 1) * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	s->range = grown;
	memmove(&grown[at + 1], &grown[at], (s->count - at) * sizeof(*grown));
	grown[at] = *range;
	s->count++;
	return 0;
}

int bus_add(struct bus *bus, enum bus_space space, uint64_t base, uint64_t size, const struct bus_ops *ops, void *opaque,
	    const char *name)
{
	struct range range = {base, size, ops, opaque, name};
	int err;

	if (!size || base + (size - 1) < base || (space == BUS_PIO && base + size > 0x10000))
		return -EINVAL;
	pthread_rwlock_wrlock(&bus->lock);
	err = insert(&bus->space[space], &range);
	pthread_rwlock_unlock(&bus->lock);
	return err;
}

void bus_del(struct bus *bus, enum bus_space space, uint64_t base)
{
	struct space *s = &bus->space[space];
	unsigned at;

	pthread_rwlock_wrlock(&bus->lock);
	at = first_after(s, base);
	if (at < s->count && s->range[at].base == base) {
		memmove(&s->range[at], &s->range[at + 1], (s->count - at - 1) * sizeof(s->range[0]));
		s->count--;
	}
	pthread_rwlock_unlock(&bus->lock);
}

static bool find(struct bus *bus, enum bus_space space, uint64_t addr, struct range *range)
{
	struct space *s = &bus->space[space];
	unsigned at;
	bool found;

	pthread_rwlock_rdlock(&bus->lock);
	at = first_after(s, addr);
	found = at < s->count && s->range[at].base <= addr;
	if (found)
		*range = s->range[at];
	pthread_rwlock_unlock(&bus->lock);
	return found;
}

static void serve(const struct range *r, uint64_t offset, unsigned size, bool is_write, void *data)
{
	uint64_t value = 0;

	if (is_write) {
		memcpy(&value, data, size);
		r->ops->write(r->opaque, offset, size, value);
	} else {
		value = r->ops->read(r->opaque, offset, size);
		memcpy(data, &value, size);
	}
}

bool bus_access(struct bus *bus, enum bus_space space, uint64_t addr, unsigned size, bool is_write, void *data)
{
	struct range r;
	bool any = false;

	if (find(bus, space, addr, &r) && size <= r.size - (addr - r.base) && (size & (size - 1)) == 0 && size <= 8) {
		serve(&r, addr - r.base, size, is_write, data);
		return true;
	}
	for (unsigned k = 0; k < size; k++) {
		uint8_t *byte = (uint8_t *)data + k;

		if (find(bus, space, addr + k, &r)) {
			serve(&r, addr + k - r.base, 1, is_write, byte);
			any = true;
		} else if (!is_write) {
			*byte = 0xff;
		}
	}
	return any;
}
