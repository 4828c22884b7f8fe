/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guest physical memory: a table of memory slots, each a contiguous GPA range with one HVA. The machine keeps one
 * for its devices; softkvm keeps one per VM, filled by KVM_SET_USER_MEMORY_REGION. Look-ups take no lock: the
 * table is an immutable array that is replaced whole when a slot changes, and the old one is freed only when
 * the owner knows that no reader is left (memory_quiesce).
 *
 * An address travels with its length: nothing here takes a bare GPA.
 */
#ifndef GUISE_MEMORY_MEMORY_H
#define GUISE_MEMORY_MEMORY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "x86/arch.h" /* gpa_t */

enum { SLOT_READONLY = 1, SLOT_LOG_DIRTY = 2 };

struct mem_slot {
	gpa_t gpa;	       /* multiple of 4096 */
	uint64_t size;	       /* bytes, multiple of 4096 */
	uint8_t *hva;	       /* not owned */
	uint32_t id;	       /* caller's number, unique in the table */
	uint32_t flags;	       /* SLOT_* */
	int fd;		       /* memfd behind hva, or -1; not owned */
	uint64_t fd_offset;
	uint64_t *dirty;       /* one bit per page if SLOT_LOG_DIRTY, else NULL; atomic access */
	uint64_t *suspect;     /* one bit per page that may not be mapped: mem_is_backed() asks; NULL: all are */
	uint64_t *untouched;   /* one bit per HUGE_PAGE of HVA that nobody has used yet, see mem_touch(); NULL: of no interest */
	void *user;	       /* the owner's per-slot data (softkvm: code-page table) */
};

struct mem_table {	       /* immutable once published */
	unsigned count;
	struct mem_slot *slot[]; /* sorted by gpa, not overlapping */
};

enum mem_access { MEM_READ, MEM_WRITE };

struct memory {
	_Atomic(struct mem_table *) table;
	atomic_uint generation; /* counts changes of the table: who keeps a copy of a slot compares it */
	void *retired;	       /* tables and slots awaiting memory_quiesce */
	/*
	 * Where slots are translations that come on demand (an IOTLB): asks for gpa's and waits. true: look again; false: there
	 * is none. Called by the look-ups below on their thread; NULL: what is not in the table is not there.
	 */
	bool (*miss)(void *opaque, gpa_t gpa, enum mem_access access);
	void *miss_opaque;
};

void memory_init(struct memory *mem);
void memory_deinit(struct memory *mem);

/*
 * Add, change (same id: flags, or move) or remove (size 0) a slot. Writers are serialised by the caller.
 * 0; -EINVAL: bad alignment, range wraps, size change of a live slot, unknown id; -EEXIST: overlaps another slot;
 * -ENOMEM. The slot's dirty bitmap is allocated and freed here.
 */
int memory_set_slot(struct memory *mem, const struct mem_slot *slot);

/* Free retired tables and slots: call only when no other thread is inside a look-up or holds a slot pointer. */
void memory_quiesce(struct memory *mem);

/* The slot holding gpa, or NULL. Any thread. */
struct mem_slot *memory_find(struct memory *mem, gpa_t gpa);

/*
 * HVA of [gpa, gpa+len) if the whole range lies in one slot (and, for MEM_WRITE, that slot is writable), else
 * NULL. For MEM_WRITE the pages are marked dirty when the slot logs. len 0 is refused. Any thread.
 */
void *mem_at(struct memory *mem, gpa_t gpa, uint64_t len, enum mem_access access);

/* Copy across slot borders. 0 or -EFAULT (nothing, or a prefix, was copied). Any thread. */
int mem_read(struct memory *mem, gpa_t gpa, void *buf, uint64_t len);
int mem_write(struct memory *mem, gpa_t gpa, const void *buf, uint64_t len);

/*
 * Are the pages of [offset, offset+len) of a slot really mapped, for reading or for writing? mem_at() and the copies ask by
 * themselves. Any thread; needs no vector registers.
 */
bool mem_is_backed(const struct mem_slot *slot, uint64_t offset, uint64_t len, enum mem_access access);

/* Have mem_is_backed() ask about these pages from now on. 0/-ENOMEM. No look-up may be under way. */
int mem_suspect(struct mem_slot *slot, uint64_t offset, uint64_t len);

/* Is this process's page at an aligned word mapped so that it may be read, or written? */
bool page_is_readable(uintptr_t word);
bool page_is_writable(uintptr_t word);

/* Mark [offset, offset+len) of a slot dirty if it logs. Atomic, any thread. */
void mem_mark_dirty(struct mem_slot *slot, uint64_t offset, uint64_t len);

/*
 * Give [gpa, gpa + len), multiples of the page size in one slot, back to the host; it reads as zeroes from then on. The
 * caller tells CPU engines that it changed (dma.written). 0; -EFAULT; -errno of the file system. Any thread.
 */
int memory_discard(struct memory *mem, gpa_t gpa, uint64_t len);

/*
 * Guest RAM: `size` bytes of shared memory on a memfd (or a file in `dir` if not NULL), named for /proc/PID/maps.
 * `populate`: have the kernel back it with pages now, in large steps. 0/-errno; *hva and *fd are the caller's,
 * released by ram_free.
 */
int ram_alloc(const char *name, uint64_t size, const char *dir, bool populate, uint8_t **hva, int *fd);
void ram_free(uint8_t *hva, uint64_t size, int fd);

#endif
