/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The main executable, as it lies in memory: what its read-only segments say, and where its functions begin. The latter are
 * in the table of .eh_frame_hdr (LSB core specification, 10.6.2), which compilers for x86-64 make by default and stripping leaves. Its
 * encodings are what linkers write; with others no function is found.
 */
#include "softkvm/preload/program.h"

#include <errno.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>

struct table_head {
	uint8_t version, eh_frame_encoding, count_encoding, table_encoding;
	int32_t eh_frame;
	uint32_t count;
};

struct table_row {
	int32_t function, fde; /* from the head's address on */
};

struct fde_head {
	uint32_t length, cie;
	int32_t function; /* from this field's address on */
	uint32_t size;
};

enum { PCREL_SDATA4 = 0x1b, UDATA4 = 0x03, DATAREL_SDATA4 = 0x3b };

static int first_object(struct dl_phdr_info *info, size_t size, void *found)
{
	*(struct dl_phdr_info *)found = *info;
	return 1;
}

static const uint8_t *address(const struct dl_phdr_info *program, const ElfW(Phdr) *segment)
{
	return (const uint8_t *)(program->dlpi_addr + segment->p_vaddr);
}

static void note_segment(struct program *p, const uint8_t *start, const ElfW(Phdr) *segment)
{
	struct program_segment *s = &p->segment[p->segments];

	if (segment->p_flags & PF_W || !(segment->p_flags & PF_R) || p->segments == PROGRAM_SEGMENTS)
		return;
	s->start = start;
	s->size = segment->p_filesz;
	s->executable = segment->p_flags & PF_X;
	p->segments++;
}

static void note_table(struct program *p, const uint8_t *start, size_t size)
{
	const struct table_head *head = (const void *)start;

	if (size < sizeof(*head) || head->version != 1 || head->eh_frame_encoding != PCREL_SDATA4 ||
	    head->count_encoding != UDATA4 || head->table_encoding != DATAREL_SDATA4 ||
	    head->count > (size - sizeof(*head)) / sizeof(struct table_row))
		return;
	p->table = head;
}

void program_look(struct program *p)
{
	struct dl_phdr_info program = {0};

	memset(p, 0, sizeof(*p));
	dl_iterate_phdr(first_object, &program);
	for (unsigned k = 0; k < program.dlpi_phnum; k++) {
		const ElfW(Phdr) *segment = &program.dlpi_phdr[k];

		if (segment->p_type == PT_LOAD)
			note_segment(p, address(&program, segment), segment);
		else if (segment->p_type == PT_GNU_EH_FRAME)
			note_table(p, address(&program, segment), segment->p_memsz);
	}
}

bool program_says(const struct program *p, const char *text)
{
	for (unsigned k = 0; k < p->segments; k++)
		if (memmem(p->segment[k].start, p->segment[k].size, text, strlen(text)))
			return true;
	return false;
}

static bool holds(const struct program *p, const void *at, size_t size)
{
	for (unsigned k = 0; k < p->segments; k++) {
		const struct program_segment *s = &p->segment[k];
		size_t offset = (size_t)((const uint8_t *)at - s->start);

		if ((const uint8_t *)at >= s->start && offset <= s->size && size <= s->size - offset)
			return true;
	}
	return false;
}

/* The last row whose function does not begin behind `at`. */
static const struct table_row *find_row(const struct table_head *head, const uint8_t *at)
{
	const struct table_row *rows = (const void *)(head + 1);
	const uint8_t *base = (const uint8_t *)head;
	uint32_t low = 0, high = head->count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (base + rows[middle].function <= at)
			low = middle + 1;
		else
			high = middle;
	}
	return low ? &rows[low - 1] : NULL;
}

const uint8_t *program_function(const struct program *p, const uint8_t *at)
{
	const struct table_head *head = p->table;
	const struct table_row *row = head ? find_row(head, at) : NULL;
	const struct fde_head *fde;
	const uint8_t *function;

	if (!row)
		return NULL;
	function = (const uint8_t *)head + row->function;
	fde = (const void *)((const uint8_t *)head + row->fde);
	if (!holds(p, fde, sizeof(*fde)) || (const uint8_t *)&fde->function + fde->function != function)
		return NULL;
	return at < function + fde->size ? function : NULL;
}
