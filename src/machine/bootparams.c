/* SPDX-License-Identifier: BSD-2-Clause */
/* Linux's boot_params page (Linux Documentation/arch/x86/zero-page.rst): setup header, memory map, initrd, command line. */
#include <asm/bootparam.h>
#include <errno.h>
#include <string.h>

#include "machine/boot.h"
#include "machine/layout.h"

_Static_assert(sizeof(struct boot_params) == 4096, "the page is one page");

enum { LOADER_UNKNOWN = 0xff, HEADER_MAGIC = 0x53726448 };

static void fill_header(struct setup_header *header, const struct kernel *kernel, const struct boot_info *info)
{
	if (kernel->setup_header_size) {
		memcpy(header, kernel->setup_header,
		       kernel->setup_header_size < sizeof(*header) ? kernel->setup_header_size : sizeof(*header));
	} else { /* a bare ELF file has none: say what a loader would */
		header->boot_flag = 0xaa55;
		header->header = HEADER_MAGIC;
		header->version = 0x20c;
		header->kernel_alignment = 0x200000;
	}
	header->type_of_loader = LOADER_UNKNOWN;
	header->loadflags |= LOADED_HIGH | KEEP_SEGMENTS;
	header->cmd_line_ptr = CMDLINE_GPA;
	header->cmdline_size = strlen(info->cmdline);
	header->ramdisk_image = info->initrd_gpa;
	header->ramdisk_size = info->initrd_size;
}

int boot_params_write(struct memory *mem, const struct kernel *kernel, const struct boot_info *info)
{
	struct boot_map_entry map[BOOT_MAP_MAX];
	struct boot_params params;

	memset(&params, 0, sizeof(params));
	fill_header(&params.hdr, kernel, info);
	params.ext_ramdisk_image = info->initrd_gpa >> 32;
	params.ext_ramdisk_size = info->initrd_size >> 32;
	params.acpi_rsdp_addr = info->rsdp_gpa;
	params.e820_entries = boot_memory_map(info, map);
	for (unsigned k = 0; k < params.e820_entries; k++)
		params.e820_table[k] = (struct boot_e820_entry){map[k].base, map[k].size, map[k].type};
	return mem_write(mem, BOOT_PARAMS_GPA, &params, sizeof(params));
}
