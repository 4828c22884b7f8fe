/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * An x86-64 ELF executable into guest memory by its physical addresses, and its PVH note (an ELF note of owner "Xen",
 * type 18, whose contents are the physical address of a 32-bit entry point).
 *
 * Only the program headers are looked at. Memory is fresh and zero, so the part of a segment beyond its file size is
 * already what it must be and stays untouched. Of the file no more than a piece has to be there at a time.
 */
#include "base/bytes.h"
#include "machine/boot.h"
#include "machine/layout.h"
#include "memory/touch.h"

#include <elf.h> /* last: its PF_* macros would hide x86's */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { XEN_ELFNOTE_PHYS32_ENTRY = 18, MAX_HEADERS = 128, MAX_NOTES = 64 << 10 };

struct elf_loading {
	struct memory *mem;
	uint64_t file_size, low_ram, at; /* at: of the next piece in the file */
	struct kernel *kernel;
	struct boot_message *message;
	Elf64_Ehdr header;
	Elf64_Phdr ph[MAX_HEADERS];
	uint64_t pvh_entry;
	uint8_t notes[MAX_NOTES]; /* of the segment of notes that is coming in */
};

bool is_elf(struct span file)
{
	return file.size >= SELFMAG && !memcmp(file.bytes, ELFMAG, SELFMAG);
}

static bool is_inside(const struct elf_loading *l, uint64_t offset, uint64_t size)
{
	return size <= l->file_size && offset <= l->file_size - size;
}

static int check_header(struct elf_loading *l, struct span first)
{
	struct boot_message *message = l->message;
	Elf64_Ehdr *header = &l->header;
	uint64_t headers_size;

	if (first.size < sizeof(*header))
		return boot_refuse(message, -EINVAL, "truncated: the ELF header alone is longer than the file");
	memcpy(header, first.bytes, sizeof(*header));
	if (header->e_ident[EI_CLASS] != ELFCLASS64)
		return boot_refuse(message, -ENOEXEC, "a 32-bit ELF file; only 64-bit kernels are booted");
	if (header->e_ident[EI_DATA] != ELFDATA2LSB || header->e_machine != EM_X86_64)
		return boot_refuse(message, -ENOEXEC, "an ELF file for another processor (machine %u)", header->e_machine);
	if (header->e_type != ET_EXEC && header->e_type != ET_DYN)
		return boot_refuse(message, -ENOEXEC, "an ELF file that is no executable (type %u)", header->e_type);
	if (header->e_phentsize != sizeof(Elf64_Phdr) || !header->e_phnum || header->e_phnum > MAX_HEADERS)
		return boot_refuse(message, -EINVAL, "damaged: %u ELF program headers of %u bytes", header->e_phnum,
				   header->e_phentsize);
	headers_size = (uint64_t)header->e_phnum * sizeof(Elf64_Phdr);
	if (!is_inside(l, header->e_phoff, headers_size))
		return boot_refuse(message, -EINVAL, "truncated: ELF program headers at %#llx are beyond the end",
				   (unsigned long long)header->e_phoff);
	if (header->e_phoff + headers_size > first.size)
		return -ENOTSUP;
	memcpy(l->ph, first.bytes + header->e_phoff, headers_size);
	return 0;
}

static int check_segment(struct elf_loading *l, const Elf64_Phdr *ph)
{
	struct boot_message *message = l->message;
	struct kernel *kernel = l->kernel;

	if (!ph->p_memsz)
		return 0;
	if (ph->p_filesz > ph->p_memsz || !is_inside(l, ph->p_offset, ph->p_filesz))
		return boot_refuse(message, -EINVAL, "truncated: ELF segment at offset %#llx, %llu bytes, file of %llu",
				   (unsigned long long)ph->p_offset, (unsigned long long)ph->p_filesz,
				   (unsigned long long)l->file_size);
	if (ph->p_paddr > l->low_ram || ph->p_memsz > l->low_ram - ph->p_paddr)
		return boot_refuse(message, -ENOSPC,
				   "larger than memory: needs %llu MiB at %#llx, the machine has %llu MiB there",
				   (unsigned long long)ph->p_memsz >> 20, (unsigned long long)ph->p_paddr,
				   (unsigned long long)l->low_ram >> 20);
	if (ph->p_paddr < ONE_MIB)
		return boot_refuse(message, -ENOEXEC, "wants to be loaded at %#llx, below 1 MiB",
				   (unsigned long long)ph->p_paddr);
	if (ph->p_paddr < kernel->start)
		kernel->start = ph->p_paddr;
	if (ph->p_paddr + ph->p_memsz > kernel->end)
		kernel->end = ph->p_paddr + ph->p_memsz;
	return 0;
}

/* The PVH entry point in a segment of notes, or 0. */
static uint64_t find_pvh_note(struct span notes)
{
	size_t at = 0;

	while (notes.size - at >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr note;
		uint64_t name_at = at + sizeof(note), desc_at, next;

		memcpy(&note, notes.bytes + at, sizeof(note));
		desc_at = name_at + align_up(note.n_namesz, 4);
		next = desc_at + align_up(note.n_descsz, 4);
		if (next > notes.size)
			return 0;
		if (note.n_type == XEN_ELFNOTE_PHYS32_ENTRY && note.n_namesz == 4 &&
		    !memcmp(notes.bytes + name_at, "Xen", 4)) {
			if (note.n_descsz >= 8)
				return get_le64(notes.bytes + desc_at);
			return note.n_descsz >= 4 ? get_le32(notes.bytes + desc_at) : 0;
		}
		at = next;
	}
	return 0;
}

static bool is_in_kernel(const struct kernel *kernel, uint64_t gpa)
{
	return gpa >= kernel->start && gpa < kernel->end;
}

int elf_begin(struct memory *mem, struct span first, uint64_t file_size, uint64_t low_ram, struct kernel *kernel,
	      struct boot_message *message, struct elf_loading **loading)
{
	struct elf_loading *l;
	int err;

	*loading = NULL;
	if (!is_elf(first))
		return -ENOTSUP;
	l = malloc(sizeof(*l));
	if (!l)
		return boot_refuse(message, -ENOMEM, "no memory for reading its headers");
	*l = (struct elf_loading){.mem = mem, .file_size = file_size, .low_ram = low_ram, .kernel = kernel, .message = message};
	kernel->start = UINT64_MAX;
	kernel->end = 0;
	err = check_header(l, first);
	for (unsigned k = 0; !err && k < l->header.e_phnum; k++)
		if (l->ph[k].p_type == PT_LOAD)
			err = check_segment(l, &l->ph[k]);
	if (err)
		free(l);
	else
		*loading = l;
	return err;
}

/* What of the segment is in the piece; *offset: from the segment's start. */
static struct span part_of(const struct elf_loading *l, const Elf64_Phdr *ph, struct span piece, uint64_t *offset)
{
	uint64_t from = ph->p_offset > l->at ? ph->p_offset : l->at;
	uint64_t end = ph->p_offset + ph->p_filesz, piece_end = l->at + piece.size;

	if (end > piece_end)
		end = piece_end;
	*offset = from - ph->p_offset;
	return from < end ? (struct span){piece.bytes + (from - l->at), end - from} : (struct span){NULL, 0};
}

static int take_segment(struct elf_loading *l, const Elf64_Phdr *ph, struct span piece)
{
	uint64_t offset;
	struct span part = part_of(l, ph, piece, &offset);

	if (!part.size)
		return 0;
	memory_fill_ahead(l->mem, ph->p_paddr + offset, part.size);
	return mem_write(l->mem, ph->p_paddr + offset, part.bytes, part.size);
}

static void take_notes(struct elf_loading *l, const Elf64_Phdr *ph, struct span piece)
{
	uint64_t offset;
	struct span part;

	if (ph->p_filesz > MAX_NOTES || !is_inside(l, ph->p_offset, ph->p_filesz))
		return;
	part = part_of(l, ph, piece, &offset);
	if (!part.size)
		return;
	memcpy(l->notes + offset, part.bytes, part.size);
	if (offset + part.size == ph->p_filesz && !l->pvh_entry)
		l->pvh_entry = find_pvh_note((struct span){l->notes, ph->p_filesz});
}

int elf_take(struct elf_loading *l, struct span piece)
{
	int err = 0;

	for (unsigned k = 0; !err && k < l->header.e_phnum; k++) {
		if (l->ph[k].p_type == PT_LOAD)
			err = take_segment(l, &l->ph[k], piece);
		else if (l->ph[k].p_type == PT_NOTE)
			take_notes(l, &l->ph[k], piece);
	}
	l->at += piece.size;
	return err;
}

int elf_end(struct elf_loading *l, uint64_t *pvh_entry)
{
	uint64_t entry = l->header.e_entry;

	if (!is_in_kernel(l->kernel, entry))
		return boot_refuse(l->message, -EINVAL, "entry point %#llx lies outside of the file's segments",
				   (unsigned long long)entry);
	if (l->pvh_entry && !is_in_kernel(l->kernel, l->pvh_entry))
		return boot_refuse(l->message, -EINVAL, "PVH entry point %#llx lies outside of the file's segments",
				   (unsigned long long)l->pvh_entry);
	l->kernel->entry = entry;
	*pvh_entry = l->pvh_entry;
	return 0;
}

void elf_free(struct elf_loading *l)
{
	free(l);
}
