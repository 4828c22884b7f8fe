/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * An x86-64 ELF executable into guest memory by its physical addresses, and its PVH note (an ELF note of owner "Xen",
 * type 18, whose contents are the physical address of a 32-bit entry point).
 *
 * Only the program headers are looked at. Memory is fresh and zero, so the part of a segment beyond its file size is
 * already what it must be and stays untouched.
 */
#include "base/bytes.h"
#include "machine/boot.h"
#include "machine/layout.h"

#include <elf.h> /* last: its PF_* macros would hide x86's */
#include <errno.h>
#include <string.h>

enum { XEN_ELFNOTE_PHYS32_ENTRY = 18, MAX_HEADERS = 128 };

bool is_elf(struct span file)
{
	return file.size >= SELFMAG && !memcmp(file.bytes, ELFMAG, SELFMAG);
}

static bool is_inside(struct span file, uint64_t offset, uint64_t size)
{
	return size <= file.size && offset <= file.size - size;
}

static int check_header(struct span file, Elf64_Ehdr *header, struct boot_message *message)
{
	if (file.size < sizeof(*header))
		return boot_refuse(message, -EINVAL, "truncated: the ELF header alone is longer than the file");
	memcpy(header, file.bytes, sizeof(*header));
	if (header->e_ident[EI_CLASS] != ELFCLASS64)
		return boot_refuse(message, -ENOEXEC, "a 32-bit ELF file; only 64-bit kernels are booted");
	if (header->e_ident[EI_DATA] != ELFDATA2LSB || header->e_machine != EM_X86_64)
		return boot_refuse(message, -ENOEXEC, "an ELF file for another processor (machine %u)", header->e_machine);
	if (header->e_type != ET_EXEC && header->e_type != ET_DYN)
		return boot_refuse(message, -ENOEXEC, "an ELF file that is no executable (type %u)", header->e_type);
	if (header->e_phentsize != sizeof(Elf64_Phdr) || !header->e_phnum || header->e_phnum > MAX_HEADERS)
		return boot_refuse(message, -EINVAL, "damaged: %u ELF program headers of %u bytes", header->e_phnum,
				   header->e_phentsize);
	if (!is_inside(file, header->e_phoff, (uint64_t)header->e_phnum * sizeof(Elf64_Phdr)))
		return boot_refuse(message, -EINVAL, "truncated: ELF program headers at %#llx are beyond the end",
				   (unsigned long long)header->e_phoff);
	return 0;
}

static Elf64_Phdr program_header(struct span file, const Elf64_Ehdr *header, unsigned k)
{
	Elf64_Phdr ph;

	memcpy(&ph, file.bytes + header->e_phoff + k * sizeof(ph), sizeof(ph));
	return ph;
}

static int load_segment(struct memory *mem, struct span file, const Elf64_Phdr *ph, uint64_t low_ram,
			struct kernel *kernel, struct boot_message *message)
{
	if (!ph->p_memsz)
		return 0;
	if (ph->p_filesz > ph->p_memsz || !is_inside(file, ph->p_offset, ph->p_filesz))
		return boot_refuse(message, -EINVAL, "truncated: ELF segment at offset %#llx, %llu bytes, file of %zu",
				   (unsigned long long)ph->p_offset, (unsigned long long)ph->p_filesz, file.size);
	if (ph->p_paddr > low_ram || ph->p_memsz > low_ram - ph->p_paddr)
		return boot_refuse(message, -ENOSPC,
				   "larger than memory: needs %llu MiB at %#llx, the machine has %llu MiB there",
				   (unsigned long long)ph->p_memsz >> 20, (unsigned long long)ph->p_paddr,
				   (unsigned long long)low_ram >> 20);
	if (ph->p_paddr < ONE_MIB)
		return boot_refuse(message, -ENOEXEC, "wants to be loaded at %#llx, below 1 MiB",
				   (unsigned long long)ph->p_paddr);
	if (ph->p_paddr < kernel->start)
		kernel->start = ph->p_paddr;
	if (ph->p_paddr + ph->p_memsz > kernel->end)
		kernel->end = ph->p_paddr + ph->p_memsz;
	return ph->p_filesz ? mem_write(mem, ph->p_paddr, file.bytes + ph->p_offset, ph->p_filesz) : 0;
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

int elf_load(struct memory *mem, struct span file, uint64_t low_ram, struct kernel *kernel, uint64_t *pvh_entry,
	     struct boot_message *message)
{
	Elf64_Ehdr header;
	int err = check_header(file, &header, message);

	*pvh_entry = 0;
	kernel->start = UINT64_MAX;
	kernel->end = 0;
	for (unsigned k = 0; !err && k < header.e_phnum; k++) {
		Elf64_Phdr ph = program_header(file, &header, k);

		if (ph.p_type == PT_LOAD)
			err = load_segment(mem, file, &ph, low_ram, kernel, message);
		else if (ph.p_type == PT_NOTE && !*pvh_entry && is_inside(file, ph.p_offset, ph.p_filesz))
			*pvh_entry = find_pvh_note((struct span){file.bytes + ph.p_offset, ph.p_filesz});
	}
	if (err)
		return err;
	if (!is_in_kernel(kernel, header.e_entry))
		return boot_refuse(message, -EINVAL, "entry point %#llx lies outside of the file's segments",
				   (unsigned long long)header.e_entry);
	if (*pvh_entry && !is_in_kernel(kernel, *pvh_entry))
		return boot_refuse(message, -EINVAL, "PVH entry point %#llx lies outside of the file's segments",
				   (unsigned long long)*pvh_entry);
	kernel->entry = header.e_entry;
	return 0;
}
