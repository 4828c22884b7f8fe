/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Items are read-only blobs by 16-bit key. Keys from 20h up are files, listed by name in the directory (item 19h).
 * The guest selects an item, then reads its bytes one after another through the data port, zeros after the end; or
 * gives the address of a control block and has them copied by DMA. Writing items is not offered: the control block then
 * shows the error bit.
 */
#include "devices/fw_cfg.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

enum { KEY_SIGNATURE = 0, KEY_ID = 1, KEY_DIRECTORY = 0x19, KEY_FILES = 0x20, MAX_FILES = 64,
       KEY_COUNT = KEY_FILES + MAX_FILES };
enum { ID_TRADITIONAL = 1, ID_DMA = 2 };
enum { DMA_ERROR = 1, DMA_READ = 2, DMA_SKIP = 4, DMA_SELECT = 8, DMA_WRITE = 16 };
enum { NAME_SIZE = 56, ENTRY_SIZE = 64, CONTROL_SIZE = 16 };
enum { OFF_SELECT = 0, OFF_DATA = 1, OFF_DMA_HIGH = 4, OFF_DMA_LOW = 8 };

struct item {
	uint8_t *bytes;
	size_t size;
};

struct fw_cfg {
	struct dma dma;
	struct item item[KEY_COUNT]; /* fixed once the machine runs */
	unsigned n_files;
	pthread_mutex_t lock; /* protects all below */
	uint16_t key;
	size_t at;
	uint64_t dma_gpa;
};

static struct item *selected(struct fw_cfg *fw)
{
	static struct item none;

	return fw->key < KEY_COUNT ? &fw->item[fw->key] : &none;
}

static uint8_t next_byte(struct fw_cfg *fw)
{
	struct item *item = selected(fw);

	return fw->at < item->size ? item->bytes[fw->at++] : 0;
}

/* Copy `len` bytes from the selected item to the guest; beyond its end, zeros. */
static int dma_out(struct fw_cfg *fw, gpa_t gpa, uint32_t len)
{
	static const uint8_t zeros[4096];
	struct item *item = selected(fw);

	while (len) {
		size_t left = item->size - (fw->at < item->size ? fw->at : item->size);
		size_t step = left ? left : sizeof(zeros);
		int err;

		if (step > len)
			step = len;
		err = dma_write(&fw->dma, gpa, left ? item->bytes + fw->at : zeros, step);
		if (err)
			return err;
		if (left)
			fw->at += step;
		gpa += step;
		len -= step;
	}
	return 0;
}

static void skip(struct fw_cfg *fw, uint32_t len)
{
	size_t left = selected(fw)->size - fw->at;

	fw->at += len < left ? len : left;
}

static void run_dma(struct fw_cfg *fw, gpa_t gpa)
{
	uint8_t block[CONTROL_SIZE], done[4];
	uint32_t control, len;
	int err = 0;

	if (dma_read(&fw->dma, gpa, block, sizeof(block)))
		return;
	control = get_be32(block);
	len = get_be32(block + 4);
	if (control & DMA_SELECT) {
		fw->key = control >> 16;
		fw->at = 0;
	}
	if (control & DMA_READ)
		err = dma_out(fw, get_be64(block + 8), len);
	else if (control & DMA_WRITE)
		err = -EROFS;
	else if (control & DMA_SKIP)
		skip(fw, len);
	put_be32(done, err ? DMA_ERROR : 0);
	dma_write(&fw->dma, gpa, done, sizeof(done));
}

static uint64_t fw_cfg_read(void *opaque, uint64_t offset, unsigned size)
{
	static const char signature[] = "QEMU CFG"; /* what the DMA register reads as, if there is one */
	struct fw_cfg *fw = opaque;
	uint64_t value = 0;

	if (offset >= OFF_DMA_HIGH) {
		for (unsigned k = 0; k < size; k++)
			value |= (uint64_t)(uint8_t)signature[offset - OFF_DMA_HIGH + k] << 8 * k;
		return value;
	}
	pthread_mutex_lock(&fw->lock);
	if (offset == OFF_DATA)
		value = next_byte(fw);
	pthread_mutex_unlock(&fw->lock);
	return value;
}

static void write_dma_register(struct fw_cfg *fw, uint64_t offset, unsigned size, uint64_t value)
{
	if (offset == OFF_DMA_HIGH && size == 8) {
		run_dma(fw, __builtin_bswap64(value));
	} else if (offset == OFF_DMA_HIGH && size == 4) {
		fw->dma_gpa = (uint64_t)__builtin_bswap32(value) << 32;
	} else if (offset == OFF_DMA_LOW && size == 4) {
		run_dma(fw, fw->dma_gpa | __builtin_bswap32(value));
		fw->dma_gpa = 0;
	}
}

static void fw_cfg_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct fw_cfg *fw = opaque;

	pthread_mutex_lock(&fw->lock);
	if (offset == OFF_SELECT && size == 2) {
		fw->key = value;
		fw->at = 0;
	} else if (offset >= OFF_DMA_HIGH) {
		write_dma_register(fw, offset, size, value);
	}
	pthread_mutex_unlock(&fw->lock);
}

const struct bus_ops fw_cfg_ops = {fw_cfg_read, fw_cfg_write};

int fw_cfg_add_item(struct fw_cfg *fw, uint16_t key, const void *bytes, size_t size)
{
	struct item *item;

	if (key >= KEY_COUNT)
		return -ENOSPC;
	item = &fw->item[key];
	if (item->bytes)
		return -EEXIST;
	item->bytes = malloc(size ? size : 1);
	if (!item->bytes)
		return -ENOMEM;
	memcpy(item->bytes, bytes, size);
	item->size = size;
	return 0;
}

static int list_file(struct fw_cfg *fw, unsigned key, const char *name, size_t size)
{
	struct item *directory = &fw->item[KEY_DIRECTORY];
	uint8_t *grown = realloc(directory->bytes, directory->size + ENTRY_SIZE), *entry;

	if (!grown)
		return -ENOMEM;
	entry = grown + directory->size;
	memset(entry, 0, ENTRY_SIZE);
	put_be32(entry, size);
	entry[4] = key >> 8;
	entry[5] = key;
	strcpy((char *)entry + 8, name);
	directory->bytes = grown;
	directory->size += ENTRY_SIZE;
	put_be32(grown, ++fw->n_files);
	return 0;
}

int fw_cfg_add_file(struct fw_cfg *fw, const char *name, const void *bytes, size_t size)
{
	unsigned key = KEY_FILES + fw->n_files;
	int err;

	if (strlen(name) >= NAME_SIZE || size > UINT32_MAX)
		return -EINVAL;
	if (fw->n_files == MAX_FILES)
		return -ENOSPC;
	err = fw_cfg_add_item(fw, key, bytes, size);
	return err ? err : list_file(fw, key, name, size);
}

int fw_cfg_new(struct fw_cfg **out, const struct dma *dma)
{
	struct fw_cfg *fw = calloc(1, sizeof(*fw));
	uint8_t id[4], no_files[4] = {0};
	int err;

	if (!fw)
		return -ENOMEM;
	fw->dma = *dma;
	pthread_mutex_init(&fw->lock, NULL);
	put_le32(id, ID_TRADITIONAL | ID_DMA);
	err = fw_cfg_add_item(fw, KEY_SIGNATURE, "QEMU", 4);
	if (!err)
		err = fw_cfg_add_item(fw, KEY_ID, id, sizeof(id));
	if (!err)
		err = fw_cfg_add_item(fw, KEY_DIRECTORY, no_files, sizeof(no_files));
	if (err) {
		fw_cfg_free(fw);
		return err;
	}
	*out = fw;
	return 0;
}

void fw_cfg_free(struct fw_cfg *fw)
{
	if (!fw)
		return;
	for (unsigned k = 0; k < KEY_COUNT; k++)
		free(fw->item[k].bytes);
	pthread_mutex_destroy(&fw->lock);
	free(fw);
}
