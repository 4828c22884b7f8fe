/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Booting without firmware: a kernel file and an initrd into guest memory, and the registers of the first vCPU.
 *
 * Kernel files come from anywhere: every offset, size and address in them is checked against the file and against guest
 * memory before use. What cannot be booted is refused with one sentence that says why.
 */
#ifndef GUISE_MACHINE_BOOT_H
#define GUISE_MACHINE_BOOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory/memory.h"

struct boot_message {
	char text[256];
};

/* Fill in the message; returns err, so that a check can end with `return boot_refuse(...)`. */
int boot_refuse(struct boot_message *message, int err, const char *format, ...) __attribute__((format(printf, 3, 4)));

struct span {
	const uint8_t *bytes;
	size_t size;
};

enum boot_protocol {
	BOOT_LINUX64, /* 64-bit mode, RSI → boot_params (Linux Documentation/arch/x86/boot.rst) */
	BOOT_LINUX32, /* the same in 32-bit mode without paging, for 32-bit kernels */
	BOOT_PVH      /* 32-bit mode, EBX → hvm_start_info (Xen docs/misc/pvh.pandoc) */
};

/* bzImage's setup header is kept as bytes: it is copied into boot_params as it stands. */
enum { SETUP_HEADER_OFFSET = 0x1f1, SETUP_HEADER_MAX = 0x290 - 0x1f1 };

struct kernel {
	enum boot_protocol protocol;
	uint64_t entry;
	uint64_t start, end;	/* guest-physical range that the kernel uses before it looks at the memory map */
	uint64_t initrd_max;	/* highest address of the initrd's last byte */
	uint64_t cmdline_max;	/* bytes without the final zero */
	const char *how;	/* "unpacked here", "unpacks itself", "PVH", ... for the log */
	size_t setup_header_size;
	uint8_t setup_header[SETUP_HEADER_MAX];
};

/*
 * Put a kernel file's contents into guest memory, of which [0, low_ram) is RAM and zero. 0; -ENOEXEC: not a kernel that
 * can be booted; -ENOSPC: larger than memory; -EINVAL: damaged; -ENOMEM. The message says what.
 */
int kernel_load(struct memory *mem, struct span file, uint64_t low_ram, struct kernel *kernel,
		struct boot_message *message);

/* --- parts of kernel_load() --- */

/* bzimage.c: -ENOEXEC without a message if the file is no bzImage at all. */
int bzimage_load(struct memory *mem, struct span file, uint64_t low_ram, struct kernel *kernel,
		 struct boot_message *message);
bool is_elf(struct span file);
/*
 * elf.c: segments to guest memory, from a file that comes piece by piece. elf_begin() is shown the first piece, in which the
 * headers must be (-ENOTSUP: they are not, or it is no ELF file), and checks them; elf_take() then takes all pieces in their
 * order, the first one too; elf_end() sets entry, start and end, and *pvh_entry, which is 0 without a PVH note.
 */
struct elf_loading;
int elf_begin(struct memory *mem, struct span first, uint64_t file_size, uint64_t low_ram, struct kernel *kernel,
	      struct boot_message *message, struct elf_loading **loading);
int elf_take(struct elf_loading *loading, struct span piece);
int elf_end(struct elf_loading *loading, uint64_t *pvh_entry);
void elf_free(struct elf_loading *loading);
/*
 * unpack.c: decompress `packed`, of which exactly out_size bytes should become, and hand them on in pieces of UNPACK_PIECE, the
 * last as large as is left. 0; -ENOTSUP: unknown format; -EINVAL: damaged, or not of that size; -ENOMEM; or what `take`
 * returned other than 0, which ends it. *format is its name, or NULL.
 */
enum { UNPACK_PIECE = 8 << 20 };
typedef int unpack_taker(void *opaque, struct span piece);
int unpack(struct span packed, size_t out_size, unpack_taker *take, void *opaque, const char **format);

/* --- hand-over --- */

struct boot_map_entry {
	uint64_t base, size;
	uint32_t type; /* E820_* */
};
enum { E820_RAM = 1, E820_RESERVED = 2 };

struct boot_info {
	uint64_t low_ram, high_ram; /* bytes from 0 and from 4 GiB */
	const char *cmdline;
	uint64_t initrd_gpa, initrd_size;
	uint64_t rsdp_gpa;
};

enum { BOOT_MAP_MAX = 8 };
/* The memory map for the guest; returns the number of entries. */
unsigned boot_memory_map(const struct boot_info *info, struct boot_map_entry map[BOOT_MAP_MAX]);
/* Where an initrd of that size goes: as high as allowed, page-aligned, off the kernel. 0: no room. */
uint64_t initrd_place(const struct kernel *kernel, uint64_t low_ram, uint64_t size);
/* bootparams.c, pvh.c: the structures that the kernel is handed. 0/-EFAULT. */
int boot_params_write(struct memory *mem, const struct kernel *kernel, const struct boot_info *info);
int pvh_start_info_write(struct memory *mem, const struct boot_info *info);

struct kvm_vcpu;
/* entry.c: page tables and GDT in guest memory, registers of the boot vCPU. 0/-errno. */
int boot_entry(struct kvm_vcpu *vcpu, struct memory *mem, const struct kernel *kernel);

#endif
