/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Linux's bzImage (Linux Documentation/arch/x86/boot.rst): a setup header, real-mode code that is not needed here, and
 * the protected-mode part: a decompressor with the kernel proper, an ELF file, packed inside.
 *
 * Where possible the payload is unpacked here, natively, and the kernel entered at its own 64-bit entry: that spares the
 * guest the slowest second of its life on a software CPU. If the payload is packed in a way that is not known here, the
 * guest does it: the protected-mode part is loaded whole and entered 200h bytes in, or at its start by a 32-bit kernel.
 */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "machine/boot.h"
#include "machine/layout.h"

enum {
	SETUP_SECTS = 0x1f1, BOOT_FLAG = 0x1fe, JUMP = 0x200, HEADER_MAGIC = 0x202, VERSION = 0x206,
	INITRD_ADDR_MAX = 0x22c, RELOCATABLE = 0x234, XLOADFLAGS = 0x236, CMDLINE_SIZE = 0x238, PAYLOAD_OFFSET = 0x248,
	PAYLOAD_LENGTH = 0x24c, PREF_ADDRESS = 0x258, INIT_SIZE = 0x260, HEADER_END = 0x268
};
enum { XLF_KERNEL_64 = 1, SECTOR = 512, ENTRY_64 = 0x200, VERSION_MIN = 0x20c };
#define UNPACKED_MAX (1u << 30)

static int check_header(struct span file, struct boot_message *message)
{
	const uint8_t *f = file.bytes;

	if (file.size < HEADER_END || get_le16(f + BOOT_FLAG) != 0xaa55 || memcmp(f + HEADER_MAGIC, "HdrS", 4)) {
		if (file.size >= HEADER_MAGIC + 4 && !memcmp(f + HEADER_MAGIC, "HdrS", 4))
			return boot_refuse(message, -EINVAL, "truncated: a bzImage's header is longer than the file");
		return -ENOEXEC;
	}
	if (get_le16(f + VERSION) < VERSION_MIN)
		return boot_refuse(message, -ENOEXEC, "a bzImage of boot protocol %u.%02u; 2.12 is the oldest that is booted",
				   f[VERSION + 1], f[VERSION]);
	return 0;
}

/* The protected-mode part of the file. */
static int find_code(struct span file, struct span *code, struct boot_message *message)
{
	unsigned sectors = file.bytes[SETUP_SECTS] ? file.bytes[SETUP_SECTS] : 4;
	size_t start = (sectors + 1) * SECTOR;

	if (start >= file.size)
		return boot_refuse(message, -EINVAL, "truncated: %zu bytes, its code starts at %zu", file.size, start);
	*code = (struct span){file.bytes + start, file.size - start};
	return 0;
}

static void keep_header(struct span file, struct kernel *kernel)
{
	size_t end = HEADER_MAGIC + file.bytes[JUMP + 1]; /* where its first jump goes: the header ends there */

	if (end > SETUP_HEADER_OFFSET + SETUP_HEADER_MAX)
		end = SETUP_HEADER_OFFSET + SETUP_HEADER_MAX;
	if (end > file.size)
		end = file.size;
	kernel->setup_header_size = end - SETUP_HEADER_OFFSET;
	memcpy(kernel->setup_header, file.bytes + SETUP_HEADER_OFFSET, kernel->setup_header_size);
	kernel->initrd_max = get_le32(file.bytes + INITRD_ADDR_MAX);
	kernel->cmdline_max = get_le32(file.bytes + CMDLINE_SIZE);
}

/* An unpacked kernel on its way into guest memory. */
struct unpacking {
	struct memory *mem;
	uint64_t size, low_ram;
	struct kernel *kernel;
	struct boot_message *message;
	struct elf_loading *elf; /* from the first piece on */
};

static int take_unpacked(void *opaque, struct span piece)
{
	struct unpacking *u = opaque;
	int err = 0;

	if (!u->elf)
		err = elf_begin(u->mem, piece, u->size, u->low_ram, u->kernel, u->message, &u->elf);
	return err ? err : elf_take(u->elf, piece);
}

static int load_unpacked(struct memory *mem, struct span packed, uint64_t low_ram, struct kernel *kernel,
			 struct boot_message *message)
{
	size_t size = get_le32(packed.bytes + packed.size - 4); /* the build appends it; gzip has it there anyway */
	struct unpacking u = {mem, size, low_ram, kernel, message, NULL};
	uint64_t pvh_entry;
	const char *format;
	int err;

	if (!size || size > UNPACKED_MAX)
		return -EINVAL;
	err = unpack(packed, size, take_unpacked, &u, &format);
	if (!err)
		err = elf_end(u.elf, &pvh_entry);
	else if (err == -EINVAL && !message->text[0])
		boot_refuse(message, err, "damaged: its %s payload does not unpack to %zu bytes", format, size);
	elf_free(u.elf);
	return err;
}

/* -ENOTSUP: better let the kernel unpack itself. */
static int load_payload(struct memory *mem, struct span file, struct span code, uint64_t low_ram,
			struct kernel *kernel, struct boot_message *message)
{
	uint64_t offset = get_le32(file.bytes + PAYLOAD_OFFSET), size = get_le32(file.bytes + PAYLOAD_LENGTH);
	int err;

	if (size < 16)
		return -ENOTSUP;
	if (offset > code.size || size > code.size - offset)
		return boot_refuse(message, -EINVAL, "truncated: its payload of %llu bytes at %llu, only %zu are there",
				   (unsigned long long)size, (unsigned long long)offset, code.size);
	err = load_unpacked(mem, (struct span){code.bytes + offset, size}, low_ram, kernel, message);
	kernel->how = "bzImage, unpacked before the start";
	return err;
}

static int load_whole(struct memory *mem, struct span file, struct span code, uint64_t low_ram, struct kernel *kernel,
		      struct boot_message *message)
{
	uint64_t base = get_le64(file.bytes + PREF_ADDRESS), size = get_le32(file.bytes + INIT_SIZE);

	if (size < code.size)
		size = code.size;
	if (base < ONE_MIB || base > low_ram || size > low_ram - base)
		return boot_refuse(message, -ENOSPC,
				   "larger than memory: needs %llu MiB at %#llx, the machine has %llu MiB there",
				   (unsigned long long)size >> 20, (unsigned long long)base,
				   (unsigned long long)low_ram >> 20);
	if (code.size <= ENTRY_64)
		return boot_refuse(message, -EINVAL, "truncated: no code");
	kernel->start = base;
	kernel->end = base + size;
	kernel->entry = base + (kernel->protocol == BOOT_LINUX64 ? ENTRY_64 : 0);
	kernel->how = "bzImage, unpacks itself";
	return mem_write(mem, base, code.bytes, code.size);
}

int bzimage_load(struct memory *mem, struct span file, uint64_t low_ram, struct kernel *kernel,
		 struct boot_message *message)
{
	struct span code = {NULL, 0};
	int err = check_header(file, message);

	if (!err)
		err = find_code(file, &code, message);
	if (err)
		return err;
	kernel->protocol = get_le16(file.bytes + XLOADFLAGS) & XLF_KERNEL_64 ? BOOT_LINUX64 : BOOT_LINUX32;
	keep_header(file, kernel);
	err = kernel->protocol == BOOT_LINUX64 ? load_payload(mem, file, code, low_ram, kernel, message) : -ENOTSUP;
	if (err == -ENOTSUP)
		err = load_whole(mem, file, code, low_ram, kernel, message);
	if (err && !message->text[0])
		boot_refuse(message, err, "damaged: %s", strerror(-err));
	return err;
}
