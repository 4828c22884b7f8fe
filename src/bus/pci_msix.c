/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * MSI-X (PCI 3.0, 6.8.2): a table of address, data and mask per vector, and a bit array of pending vectors, in a
 * memory BAR. A vector that is notified while masked, itself or by the function mask, becomes pending and is sent when
 * the mask goes.
 *
 * Locks: msix.lock protects table and pending bits. The enable and mask bits of the function are copied from the
 * configuration space (under the PCI bus's lock, taken first) into `control` under msix.lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "bus/pci_internal.h"

enum { ENTRY_SIZE = 16, ENTRY_DATA = 8, ENTRY_CONTROL = 12, VECTOR_MASKED = 1 };
enum { CONTROL_ENABLE = 1 << 15, CONTROL_MASK = 1 << 14 };
enum { MAX_VECTORS = 2048, CAP_SIZE = 12 };

struct msix {
	struct pci_device *device;
	struct msix_listener listener;
	unsigned n_vectors;
	uint32_t pba_offset;
	pthread_mutex_t lock; /* protects all below */
	uint16_t control;
	uint8_t *table;	   /* n_vectors entries as the guest sees them */
	uint64_t *pending; /* a bit per vector */
};

static uint8_t *entry(struct msix *m, unsigned vector)
{
	return m->table + vector * ENTRY_SIZE;
}

static bool is_masked(struct msix *m, unsigned vector)
{
	return !(m->control & CONTROL_ENABLE) || (m->control & CONTROL_MASK) ||
	       (get_le32(entry(m, vector) + ENTRY_CONTROL) & VECTOR_MASKED);
}

static void send(struct msix *m, unsigned vector)
{
	const struct pci_bus_config *config = &m->device->pci->config;

	config->msi(config->msi_opaque, get_le64(entry(m, vector)), get_le32(entry(m, vector) + ENTRY_DATA));
}

static void tell_listener(struct msix *m, unsigned vector)
{
	if (m->listener.changed)
		m->listener.changed(m->listener.opaque, vector, is_masked(m, vector), get_le64(entry(m, vector)),
				    get_le32(entry(m, vector) + ENTRY_DATA));
}

/* A vector's entry or mask changed. */
static void vector_changed(struct msix *m, unsigned vector)
{
	uint64_t bit = 1ull << vector % 64, *word = &m->pending[vector / 64];

	tell_listener(m, vector);
	if ((*word & bit) && !is_masked(m, vector)) {
		*word &= ~bit;
		send(m, vector);
	}
}

void pci_msix_notify(struct pci_device *device, unsigned vector)
{
	struct msix *m = device->msix;

	if (!m || vector >= m->n_vectors)
		return; /* "no vector" is how a driver says that it wants no interrupt */
	pthread_mutex_lock(&m->lock);
	if (!is_masked(m, vector))
		send(m, vector);
	else if (m->control & CONTROL_ENABLE)
		m->pending[vector / 64] |= 1ull << vector % 64;
	pthread_mutex_unlock(&m->lock);
}

bool pci_msix_is_enabled(struct pci_device *device)
{
	struct msix *m = device->msix;
	bool enabled;

	if (!m)
		return false;
	pthread_mutex_lock(&m->lock);
	enabled = m->control & CONTROL_ENABLE;
	pthread_mutex_unlock(&m->lock);
	return enabled;
}

void msix_control_written(struct pci_device *device)
{
	struct msix *m = device->msix;
	uint16_t control = get_le16(device->config + device->msix_cap + 2), changed;

	pthread_mutex_lock(&m->lock);
	changed = control ^ m->control;
	m->control = control;
	if (changed & (CONTROL_ENABLE | CONTROL_MASK))
		for (unsigned k = 0; k < m->n_vectors; k++)
			vector_changed(m, k);
	pthread_mutex_unlock(&m->lock);
}

static uint64_t msix_read(void *opaque, uint64_t offset, unsigned size)
{
	struct msix *m = opaque;
	uint64_t value = 0, table_size = (uint64_t)m->n_vectors * ENTRY_SIZE, pba_size = (m->n_vectors + 63) / 64 * 8;

	pthread_mutex_lock(&m->lock);
	if (offset + size <= table_size)
		memcpy(&value, m->table + offset, size);
	else if (offset >= m->pba_offset && offset + size <= m->pba_offset + pba_size)
		memcpy(&value, (uint8_t *)m->pending + (offset - m->pba_offset), size);
	pthread_mutex_unlock(&m->lock);
	return value;
}

static void msix_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct msix *m = opaque;

	if (size < 4 || offset % size || offset + size > (uint64_t)m->n_vectors * ENTRY_SIZE)
		return; /* only aligned 32- and 64-bit accesses are defined */
	pthread_mutex_lock(&m->lock);
	memcpy(m->table + offset, &value, size);
	entry(m, offset / ENTRY_SIZE)[ENTRY_CONTROL] &= VECTOR_MASKED;
	memset(entry(m, offset / ENTRY_SIZE) + ENTRY_CONTROL + 1, 0, 3);
	vector_changed(m, offset / ENTRY_SIZE);
	pthread_mutex_unlock(&m->lock);
}

static const struct bus_ops msix_ops = {msix_read, msix_write};

static uint64_t power_of_two(uint64_t at_least)
{
	uint64_t v = PCI_FUNCTION_ECAM_SIZE;

	while (v < at_least)
		v *= 2;
	return v;
}

static int add_capability(struct pci_device *device, const struct msix *m, unsigned bar)
{
	int cap = pci_add_capability(device, PCI_CAP_MSIX, CAP_SIZE);

	if (cap < 0)
		return cap;
	put_le16(device->config + cap + 2, m->n_vectors - 1);
	put_le32(device->config + cap + 4, bar);
	put_le32(device->config + cap + 8, m->pba_offset | bar);
	pci_set_writable(device, cap + 2, 2, CONTROL_ENABLE | CONTROL_MASK);
	device->msix_cap = cap;
	return 0;
}

int pci_add_msix(struct pci_device *device, unsigned bar, unsigned n_vectors, const struct msix_listener *listener)
{
	struct msix *m;
	int err;

	if (!n_vectors || n_vectors > MAX_VECTORS || device->msix)
		return -EINVAL;
	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->device = device;
	m->n_vectors = n_vectors;
	m->pba_offset = power_of_two(n_vectors * ENTRY_SIZE * 2) / 2;
	if (listener)
		m->listener = *listener;
	pthread_mutex_init(&m->lock, NULL);
	m->table = calloc(n_vectors, ENTRY_SIZE);
	m->pending = calloc((n_vectors + 63) / 64, sizeof(uint64_t));
	err = m->table && m->pending ? 0 : -ENOMEM;
	for (unsigned k = 0; !err && k < n_vectors; k++)
		entry(m, k)[ENTRY_CONTROL] = VECTOR_MASKED;
	if (!err)
		err = pci_add_bar(device, bar, PCI_BAR_MEM32, m->pba_offset * 2, &msix_ops, m);
	if (!err)
		err = add_capability(device, m, bar);
	if (err) {
		msix_free(m);
		return err;
	}
	device->msix = m;
	return 0;
}

void msix_free(struct msix *m)
{
	if (!m)
		return;
	pthread_mutex_destroy(&m->lock);
	free(m->table);
	free(m->pending);
	free(m);
}
