/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * After its back end died, a ring says itself what was finished.
 *
 * Split: the used index. Chains made available after it, counted in ring order, are offered again. That is
 * right for devices that finish in the order of the avail ring, as network back ends do; one that does not
 * keeps an inflight area.
 *
 * Packed: each descriptor carries its state. The driver's position is where the AVAIL bits change from this
 * lap's value to the last one's (everywhere the same: at entry 0). Going back from there, entries that are
 * available and not used are outstanding; the first used one ends them. Entries of a used list but its first
 * were never overwritten and still look available; they carry the used entry's buffer id, by which they are
 * told from outstanding ones. That cannot be told from a list of one whose id the driver used again at once,
 * so it is not looked for where INDIRECT is negotiated: such drivers put longer lists into tables.
 */
#include "vhost/restore.h"

enum { AVAIL_BIT = 1 << VRING_PACKED_DESC_F_AVAIL, USED_BIT = 1 << VRING_PACKED_DESC_F_USED };

static uint16_t flags_of(const struct vring_packed_desc *ring, uint32_t at)
{
	return __atomic_load_n(&ring[at].flags,
			       __ATOMIC_ACQUIRE); /* before the entry's id: the driver stores flags last */
}

static bool avail_bit(const struct vring_packed_desc *ring, uint32_t at)
{
	return flags_of(ring, at) & AVAIL_BIT;
}

static bool is_outstanding(uint16_t flags)
{
	return !!(flags & AVAIL_BIT) != !!(flags & USED_BIT);
}

/*
 * What is left of the list whose first entry was used at `used`: entries up to one without NEXT, if that one
 * carries the used id (only a list's last entry need have it, 2.8.6).
 */
static uint32_t rest_of_list(const struct vring_packed_desc *ring, uint32_t size, uint32_t used,
			     uint32_t n_outstanding)
{
	uint16_t id = __atomic_load_n(&ring[used].id, __ATOMIC_RELAXED);

	if (!__atomic_load_n(&ring[used].addr,
			     __ATOMIC_RELAXED)) /* nobody has written here yet: the first lap */
		return 0;
	for (uint32_t n = 1; n <= n_outstanding; n++) {
		uint32_t at = (used + n) % size;

		if (!(flags_of(ring, at) & VRING_DESC_F_NEXT))
			return __atomic_load_n(&ring[at].id, __ATOMIC_RELAXED) == id ? n : 0;
	}
	return 0;
}

static uint32_t packed_base(const struct virtq_config *config, const struct vring_packed_desc *ring)
{
	uint32_t size = config->size, avail = 0, n_outstanding = 0, used;
	bool avail_wrap = !avail_bit(ring, size - 1), used_wrap;

	while (avail < size && avail_bit(ring, avail) == avail_wrap)
		avail++;
	if (avail == size) /* cannot be: the last entry has the other value */
		avail = 0;
	while (n_outstanding < size &&
	       is_outstanding(flags_of(ring, (avail + size - 1 - n_outstanding) % size)))
		n_outstanding++;
	if (n_outstanding && n_outstanding < size && !(config->options & VIRTQ_INDIRECT))
		n_outstanding -=
			rest_of_list(ring, size, (avail + size - 1 - n_outstanding) % size, n_outstanding);
	used = (avail + size - n_outstanding) % size;
	used_wrap = n_outstanding > avail ? !avail_wrap : avail_wrap;
	return used | (uint32_t)used_wrap << 15 | used << 16 | (uint32_t)used_wrap << 31;
}

uint32_t vhost_restore_base(const struct virtq_config *config, const void *desc, const void *driver,
			    const void *device)
{
	const struct vring_used *used = device;

	if (config->options & VIRTQ_PACKED)
		return packed_base(config, desc);
	return __atomic_load_n(&used->idx, __ATOMIC_ACQUIRE);
}
