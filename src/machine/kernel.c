/* SPDX-License-Identifier: BSD-2-Clause */
/* Which kind of kernel file it is, and where an initrd goes. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/bytes.h"
#include "machine/boot.h"
#include "machine/layout.h"

int boot_refuse(struct boot_message *message, int err, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(message->text, sizeof(message->text), format, args);
	va_end(args);
	return err;
}

static int load_elf_kernel(struct memory *mem, struct span file, uint64_t low_ram, struct kernel *kernel,
			   struct boot_message *message)
{
	struct elf_loading *loading;
	uint64_t pvh_entry = 0;
	int err = elf_begin(mem, file, file.size, low_ram, kernel, message, &loading);

	if (!err)
		err = elf_take(loading, file);
	if (!err)
		err = elf_end(loading, &pvh_entry);
	elf_free(loading);
	if (err)
		return err;
	kernel->protocol = pvh_entry ? BOOT_PVH : BOOT_LINUX64;
	kernel->how = pvh_entry ? "ELF, PVH entry" : "ELF, 64-bit entry";
	if (pvh_entry)
		kernel->entry = pvh_entry;
	kernel->initrd_max = 0x7fffffff;
	kernel->cmdline_max = 2047;
	return 0;
}

int kernel_load(struct memory *mem, struct span file, uint64_t low_ram, struct kernel *kernel,
		struct boot_message *message)
{
	int err;

	*kernel = (struct kernel){0};
	message->text[0] = 0;
	if (!file.size)
		return boot_refuse(message, -ENOEXEC, "the file is empty");
	if (is_elf(file))
		return load_elf_kernel(mem, file, low_ram, kernel, message);
	err = bzimage_load(mem, file, low_ram, kernel, message);
	if (err == -ENOEXEC && !message->text[0])
		return boot_refuse(message, err, "neither a Linux bzImage nor an ELF file");
	return err;
}

uint64_t initrd_place(const struct kernel *kernel, uint64_t low_ram, uint64_t size)
{
	uint64_t end = low_ram, gpa;

	if (kernel->initrd_max < UINT64_MAX && end > kernel->initrd_max + 1)
		end = kernel->initrd_max + 1;
	if (!size || size > end)
		return 0;
	gpa = align_down(end - size, PAGE_SIZE);
	if (gpa + size > kernel->start && gpa < kernel->end) { /* between low memory and the kernel, then? */
		if (size > kernel->start)
			return 0;
		gpa = align_down(kernel->start - size, PAGE_SIZE);
	}
	return gpa >= ONE_MIB ? gpa : 0;
}

unsigned boot_memory_map(const struct boot_info *info, struct boot_map_entry map[BOOT_MAP_MAX])
{
	unsigned n = 0;

	map[n++] = (struct boot_map_entry){0, LOW_RAM_USABLE, E820_RAM};
	map[n++] = (struct boot_map_entry){LOW_RAM_USABLE, 0xa0000 - LOW_RAM_USABLE, E820_RESERVED};
	map[n++] = (struct boot_map_entry){ACPI_GPA, ACPI_MAX, E820_RESERVED};
	map[n++] = (struct boot_map_entry){ONE_MIB, info->low_ram - ONE_MIB, E820_RAM};
	map[n++] = (struct boot_map_entry){PCI_ECAM_BASE, 1 << 20, E820_RESERVED};
	map[n++] = (struct boot_map_entry){KVM_IDENTITY_MAP, 0x4000, E820_RESERVED};
	if (info->high_ram)
		map[n++] = (struct boot_map_entry){HIGH_RAM_BASE, info->high_ram, E820_RAM};
	return n;
}
