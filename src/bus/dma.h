/* SPDX-License-Identifier: BSD-2-Clause */
/* A device's access to guest memory: the slots, and whom to tell that bytes changed behind the vCPUs' backs. */
#ifndef GUISE_BUS_DMA_H
#define GUISE_BUS_DMA_H

#include "memory/memory.h"

struct dma {
	struct memory *mem;
	void (*written)(void *opaque, gpa_t gpa, uint64_t len); /* may be NULL; any thread */
	void *opaque;
};

static inline int dma_read(const struct dma *dma, gpa_t gpa, void *buf, uint64_t len)
{
	return mem_read(dma->mem, gpa, buf, len);
}

static inline int dma_write(const struct dma *dma, gpa_t gpa, const void *buf, uint64_t len)
{
	int err = mem_write(dma->mem, gpa, buf, len);

	if (dma->written)
		dma->written(dma->opaque, gpa, len);
	return err;
}

#endif
