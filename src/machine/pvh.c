/* SPDX-License-Identifier: BSD-2-Clause */
/* PVH's hvm_start_info, version 1 (Xen xen/include/public/arch-x86/hvm/start_info.h), with module and memory map. */
#include <string.h>

#include "machine/boot.h"
#include "machine/layout.h"

enum { PVH_MAGIC = 0x336ec578 };

struct start_info {
	uint32_t magic, version, flags, n_modules;
	uint64_t modules_gpa, cmdline_gpa, rsdp_gpa, map_gpa;
	uint32_t n_map, reserved;
};

struct module {
	uint64_t gpa, size, cmdline_gpa, reserved;
};

struct map_entry {
	uint64_t base, size;
	uint32_t type, reserved;
};

struct pvh_block { /* as it lies in guest memory */
	struct start_info info;
	struct module initrd;
	struct map_entry map[BOOT_MAP_MAX];
};

_Static_assert(sizeof(struct start_info) == 56 && sizeof(struct module) == 32 && sizeof(struct map_entry) == 24,
	       "as the specification has them");

int pvh_start_info_write(struct memory *mem, const struct boot_info *info)
{
	const uint64_t base = PVH_START_INFO_GPA;
	struct boot_map_entry map[BOOT_MAP_MAX];
	struct pvh_block block;

	memset(&block, 0, sizeof(block));
	block.info = (struct start_info){
		.magic = PVH_MAGIC, .version = 1, .n_modules = info->initrd_size != 0,
		.modules_gpa = base + offsetof(struct pvh_block, initrd), .cmdline_gpa = CMDLINE_GPA,
		.rsdp_gpa = info->rsdp_gpa, .map_gpa = base + offsetof(struct pvh_block, map),
		.n_map = boot_memory_map(info, map),
	};
	block.initrd = (struct module){.gpa = info->initrd_gpa, .size = info->initrd_size};
	for (unsigned k = 0; k < block.info.n_map; k++)
		block.map[k] = (struct map_entry){map[k].base, map[k].size, map[k].type, 0};
	return mem_write(mem, base, &block, sizeof(block));
}
