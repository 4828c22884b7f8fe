/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Kernel files, good and bad: every compression, ELF with and without PVH note, what is refused and with which words; the
 * structures handed over; ACPI tables.
 */
#include "base/bytes.h"
#include "machine/acpi.h"
#include "machine/boot.h"
#include "machine/layout.h"

#include <elf.h>
#include <errno.h>
#include <lz4.h>
#include <lzma.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>
#include <cmocka.h>

enum { RAM_SIZE = 32 << 20, FILE_MAX = 13 << 20, LOAD = 0x1000000, CODE_SIZE = 0x3000, BIG_CODE_SIZE = 12 << 20 };

static uint8_t *ram;
static struct memory mem;
static struct kernel kernel;
static struct boot_message why;

static int set_up(void **state)
{
	struct mem_slot slot = {.size = RAM_SIZE, .fd = -1};

	ram = aligned_alloc(PAGE_SIZE, RAM_SIZE);
	memset(ram, 0, RAM_SIZE);
	slot.hva = ram;
	memory_init(&mem);
	return memory_set_slot(&mem, &slot);
}

static int tear_down(void **state)
{
	memory_deinit(&mem);
	free(ram);
	return 0;
}

/* --- making files --- */

struct file {
	size_t size;
	uint8_t bytes[FILE_MAX];
};

static struct file elf, packed, image;

/* An ELF file: one segment of code_size recognisable bytes and CODE_SIZE more that are zero, and perhaps a note. */
static void make_elf_of(size_t code_size, uint64_t paddr, uint32_t pvh_entry)
{
	Elf64_Ehdr header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, 1}, .e_type = ET_EXEC,
			     .e_machine = EM_X86_64, .e_version = 1, .e_entry = paddr + 0x10, .e_phoff = sizeof(header),
			     .e_ehsize = sizeof(header), .e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 1 + (pvh_entry != 0)};
	Elf64_Phdr ph[2] = {{.p_type = PT_LOAD, .p_offset = 0x200, .p_paddr = paddr, .p_vaddr = paddr,
			     .p_filesz = code_size, .p_memsz = code_size + CODE_SIZE},
			    {.p_type = PT_NOTE, .p_offset = 0x180, .p_filesz = 20, .p_memsz = 20}};
	Elf64_Nhdr note = {4, 4, 18};

	memset(&elf, 0, sizeof(elf));
	memcpy(elf.bytes, &header, sizeof(header));
	memcpy(elf.bytes + sizeof(header), ph, sizeof(ph));
	memcpy(elf.bytes + 0x180, &note, sizeof(note));
	memcpy(elf.bytes + 0x18c, "Xen", 4);
	put_le32(elf.bytes + 0x190, pvh_entry);
	for (unsigned k = 0; k < code_size; k++)
		elf.bytes[0x200 + k] = k * 7 + k / 256 + k / 65536;
	elf.size = 0x200 + code_size;
}

static void make_elf(uint64_t paddr, uint32_t pvh_entry)
{
	make_elf_of(CODE_SIZE, paddr, pvh_entry);
}

static size_t pack_gzip(void)
{
	z_stream z = {.next_in = elf.bytes, .avail_in = elf.size, .next_out = packed.bytes, .avail_out = FILE_MAX};

	deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
	deflate(&z, Z_FINISH);
	deflateEnd(&z);
	return z.total_out;
}

static size_t pack_xz(void)
{
	size_t at = 0;

	assert_int_equal(lzma_easy_buffer_encode(6, LZMA_CHECK_CRC32, NULL, elf.bytes, elf.size, packed.bytes, &at,
						 FILE_MAX), LZMA_OK);
	return at;
}

static size_t pack_lzma(void)
{
	lzma_stream z = LZMA_STREAM_INIT;
	lzma_options_lzma options;

	lzma_lzma_preset(&options, 6);
	assert_int_equal(lzma_alone_encoder(&z, &options), LZMA_OK);
	z.next_in = elf.bytes;
	z.avail_in = elf.size;
	z.next_out = packed.bytes;
	z.avail_out = FILE_MAX;
	assert_int_equal(lzma_code(&z, LZMA_FINISH), LZMA_STREAM_END);
	lzma_end(&z);
	return z.total_out;
}

static size_t pack_lz4(void)
{
	size_t at = 4;

	put_le32(packed.bytes, 0x184c2102);
	for (size_t done = 0, size; done < elf.size; done += size) {
		int n;

		size = elf.size - done < UNPACK_PIECE ? elf.size - done : UNPACK_PIECE;
		n = LZ4_compress_default((char *)elf.bytes + done, (char *)packed.bytes + at + 4, size, FILE_MAX - at - 4);
		put_le32(packed.bytes + at, n);
		at += 4 + n;
	}
	return at;
}

static size_t pack_zstd(void)
{
	return ZSTD_compress(packed.bytes, FILE_MAX, elf.bytes, elf.size, 3);
}

static size_t pack_unknown(void)
{
	memcpy(packed.bytes, "\x89LZO", 4);
	memset(packed.bytes + 4, 0x55, 1000);
	return 1004;
}

/* A bzImage around the packed ELF file: two sectors of set-up, 600h bytes of decompressor, the payload. */
static void make_bzimage(size_t (*pack)(void))
{
	uint8_t *f = image.bytes;

	memset(&image, 0, sizeof(image));
	packed.size = pack();
	put_le32(packed.bytes + packed.size, elf.size);
	packed.size += 4;
	f[0x1f1] = 1;
	put_le16(f + 0x1fe, 0xaa55);
	f[0x200] = 0xeb;
	f[0x201] = 0x66;
	memcpy(f + 0x202, "HdrS", 4);
	put_le16(f + 0x206, 0x20f);
	put_le32(f + 0x22c, 0x7fffffff);
	f[0x234] = 1;
	put_le16(f + 0x236, 0x7f);
	put_le32(f + 0x238, 2047);
	put_le32(f + 0x248, 0x600);
	put_le32(f + 0x24c, packed.size);
	put_le64(f + 0x258, LOAD);
	put_le32(f + 0x260, 1 << 20);
	memset(f + 1024, 0x90, 0x600);
	memcpy(f + 1024 + 0x600, packed.bytes, packed.size);
	image.size = 1024 + 0x600 + packed.size;
}

static int load(const struct file *file, size_t size, uint64_t low_ram)
{
	uint8_t *copy = malloc(size ? size : 1); /* exactly as long as it is, for the sanitizer */
	int err;

	memcpy(copy, file->bytes, size);
	err = kernel_load(&mem, (struct span){copy, size}, low_ram, &kernel, &why);
	free(copy);
	if (err)
		assert_int_not_equal(why.text[0], 0);
	return err;
}

static void refused(const struct file *file, size_t size, int err, const char *words)
{
	assert_int_equal(load(file, size, RAM_SIZE), err);
	if (!strstr(why.text, words))
		fail_msg("'%s' does not say '%s'", why.text, words);
}

/* --- tests --- */

static void loads_elf(void **state)
{
	make_elf(LOAD, 0);
	assert_int_equal(load(&elf, elf.size, RAM_SIZE), 0);
	assert_int_equal(kernel.protocol, BOOT_LINUX64);
	assert_int_equal(kernel.entry, LOAD + 0x10);
	assert_int_equal(kernel.end, LOAD + 2 * CODE_SIZE);
	assert_memory_equal(ram + LOAD, elf.bytes + 0x200, CODE_SIZE);
	make_elf(LOAD, LOAD + 0x20);
	assert_int_equal(load(&elf, elf.size, RAM_SIZE), 0);
	assert_int_equal(kernel.protocol, BOOT_PVH);
	assert_int_equal(kernel.entry, LOAD + 0x20);
}

static size_t (*const packers[])(void) = {pack_gzip, pack_xz, pack_lzma, pack_lz4, pack_zstd};
enum { PACKERS = sizeof(packers) / sizeof(packers[0]) };

static void unpacks_everything(void **state)
{
	for (unsigned k = 0; k < PACKERS; k++) {
		memset(ram + LOAD, 0, CODE_SIZE);
		make_elf(LOAD, LOAD + 0x20);
		make_bzimage(packers[k]);
		if (load(&image, image.size, RAM_SIZE))
			fail_msg("packer %u: %s", k, why.text);
		assert_int_equal(kernel.protocol, BOOT_LINUX64);
		assert_int_equal(kernel.entry, LOAD + 0x10);
		assert_int_equal(kernel.cmdline_max, 2047);
		assert_memory_equal(ram + LOAD, elf.bytes + 0x200, CODE_SIZE);
		for (size_t cut = 1; cut < image.size; cut = cut * 2 + 1) /* truncated, at many places */
			assert_true(load(&image, image.size - cut, RAM_SIZE) < 0);
		image.bytes[image.size - packed.size / 2] ^= 0x10;
		image.bytes[image.size - packed.size / 2 + 3] ^= 0x81;
		load(&image, image.size, RAM_SIZE); /* damaged: no crash, whatever is said */
	}
}

/* Of more than one piece; the note is in the first, the segment in both. */
static void unpacks_in_pieces(void **state)
{
	for (unsigned k = 0; k < PACKERS; k++) {
		memset(ram + LOAD, 0, BIG_CODE_SIZE);
		make_elf_of(BIG_CODE_SIZE, LOAD, LOAD + 0x20);
		make_bzimage(packers[k]);
		if (load(&image, image.size, RAM_SIZE))
			fail_msg("packer %u: %s", k, why.text);
		assert_int_equal(kernel.entry, LOAD + 0x10);
		assert_memory_equal(ram + LOAD, elf.bytes + 0x200, BIG_CODE_SIZE);
	}
}

/* The stream holds other than the size that is told of it; the ELF file itself would be whole either way. */
static void refuses_other_sizes(void **state)
{
	for (unsigned k = 0; k < PACKERS; k++) {
		for (int more = -1; more <= 1; more += 2) {
			make_elf(LOAD, 0);
			elf.size += 100;
			make_bzimage(packers[k]);
			put_le32(image.bytes + image.size - 4, (uint32_t)((int)elf.size + more));
			refused(&image, image.size, -EINVAL, "does not unpack");
		}
	}
}

static void lets_it_unpack_itself(void **state)
{
	make_elf(LOAD, 0);
	make_bzimage(pack_unknown);
	assert_int_equal(load(&image, image.size, RAM_SIZE), 0);
	assert_int_equal(kernel.entry, LOAD + 0x200);
	assert_int_equal(kernel.end, LOAD + (1 << 20));
	assert_int_equal(ram[LOAD + 0x200], 0x90);
	assert_int_equal(load(&image, image.size, LOAD + 4096), -ENOSPC);
	put_le64(image.bytes + 0x258, UINT64_MAX - 4095);
	refused(&image, image.size, -ENOSPC, "larger than memory");
}

/* A 32-bit kernel unpacks itself whatever packed it, and is entered at its start. */
static void loads_32bit_whole(void **state)
{
	make_elf(LOAD, 0);
	make_bzimage(pack_gzip);
	put_le16(image.bytes + 0x236, 0);
	assert_int_equal(load(&image, image.size, RAM_SIZE), 0);
	assert_int_equal(kernel.protocol, BOOT_LINUX32);
	assert_int_equal(kernel.entry, LOAD);
}

static void refuses_other_files(void **state)
{
	static struct file text = {.size = 600, .bytes = "#!/bin/sh\n"};

	refused(&text, text.size, -ENOEXEC, "neither");
	refused(&text, 0, -ENOEXEC, "empty");
	make_elf(LOAD, 0);
	refused(&elf, 20, -EINVAL, "truncated");
	refused(&elf, 70, -EINVAL, "truncated");
	refused(&elf, elf.size - 1, -EINVAL, "truncated");
	elf.bytes[EI_CLASS] = ELFCLASS32;
	refused(&elf, elf.size, -ENOEXEC, "32-bit");
	make_elf(LOAD, 0);
	elf.bytes[18] = 183;
	refused(&elf, elf.size, -ENOEXEC, "another processor");
	make_elf(LOAD, 0);
	elf.bytes[16] = ET_REL;
	refused(&elf, elf.size, -ENOEXEC, "no executable");
	make_elf(RAM_SIZE - CODE_SIZE, 0);
	refused(&elf, elf.size, -ENOSPC, "larger than memory");
	make_elf(0x1000, 0);
	refused(&elf, elf.size, -ENOEXEC, "below 1 MiB");
	make_elf(LOAD, 0);
	put_le64(elf.bytes + 24, 0x10);
	refused(&elf, elf.size, -EINVAL, "outside");
	make_elf(LOAD, RAM_SIZE - 1);
	refused(&elf, elf.size, -EINVAL, "outside");
	make_elf(LOAD, 0);
	make_bzimage(pack_gzip);
	put_le16(image.bytes + 0x206, 0x203);
	refused(&image, image.size, -ENOEXEC, "protocol 2.03");
	refused(&image, 0x220, -EINVAL, "truncated");
}

static void places_the_initrd(void **state)
{
	struct kernel k = {.start = LOAD, .end = LOAD + (8 << 20), .initrd_max = 0x7fffffff};

	assert_int_equal(initrd_place(&k, 64 << 20, 5000), (64 << 20) - 8192);
	assert_int_equal(initrd_place(&k, 0xc0000000, 4096), 0x80000000 - 4096);
	assert_int_equal(initrd_place(&k, 32 << 20, 12 << 20), 4 << 20); /* only below the kernel is room */
	assert_int_equal(initrd_place(&k, 32 << 20, 20 << 20), 0);
	assert_int_equal(initrd_place(&k, 32 << 20, UINT64_MAX), 0);
	assert_int_equal(initrd_place(&k, 32 << 20, 0), 0);
}

static void hands_over(void **state)
{
	struct boot_info info = {.low_ram = RAM_SIZE, .high_ram = 1 << 30, .cmdline = "quiet", .initrd_gpa = 0x1800000,
				 .initrd_size = 12345, .rsdp_gpa = ACPI_GPA};
	const uint8_t *p = ram + BOOT_PARAMS_GPA, *s = ram + PVH_START_INFO_GPA;

	make_elf(LOAD, 0);
	make_bzimage(pack_gzip);
	assert_int_equal(load(&image, image.size, RAM_SIZE), 0);
	assert_int_equal(boot_params_write(&mem, &kernel, &info), 0);
	assert_memory_equal(p + 0x202, "HdrS", 4);
	assert_int_equal(get_le32(p + 0x218), 0x1800000);
	assert_int_equal(get_le32(p + 0x21c), 12345);
	assert_int_equal(get_le32(p + 0x228), CMDLINE_GPA);
	assert_int_equal(get_le64(p + 0x70), ACPI_GPA);
	assert_int_equal(p[0x1e8], 7);
	assert_int_equal(get_le64(p + 0x2d0 + 6 * 20), HIGH_RAM_BASE);
	assert_int_equal(get_le64(p + 0x2d0 + 6 * 20 + 8), 1 << 30);
	assert_int_equal(pvh_start_info_write(&mem, &info), 0);
	assert_int_equal(get_le32(s), 0x336ec578);
	assert_int_equal(get_le64(ram + get_le64(s + 16)), 0x1800000);
	assert_int_equal(get_le32(s + 48), 7);
}

static uint8_t sum(const uint8_t *p, size_t size)
{
	return checksum8(p, size);
}

static void acpi_tables_are_whole(void **state)
{
	struct acpi_config config = {.cpu_count = 64, .pci_mmio64_base = 1ull << 36, .pci_mmio64_size = 1ull << 36,
				     .has_pvpanic = true};
	uint64_t rsdp_gpa;
	const uint8_t *rsdp, *xsdt, *table;
	unsigned seen = 0;

	assert_int_equal(acpi_write(&mem, &config, &rsdp_gpa), 0);
	rsdp = ram + rsdp_gpa;
	assert_memory_equal(rsdp, "RSD PTR ", 8);
	assert_int_equal(rsdp_gpa % 16, 0);
	assert_int_equal(sum(rsdp, 20) | sum(rsdp, 36), 0);
	xsdt = ram + get_le64(rsdp + 24);
	assert_int_equal(sum(xsdt, get_le32(xsdt + 4)), 0);
	for (unsigned at = 36; at < get_le32(xsdt + 4); at += 8) {
		table = ram + get_le64(xsdt + at);
		assert_int_equal(sum(table, get_le32(table + 4)), 0);
		seen++;
		if (!memcmp(table, "FACP", 4)) {
			table = ram + get_le64(table + 140);
			assert_memory_equal(table, "DSDT", 4);
			assert_int_equal(sum(table, get_le32(table + 4)), 0);
		}
	}
	assert_int_equal(seen, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(loads_elf),
		cmocka_unit_test(unpacks_everything),
		cmocka_unit_test(unpacks_in_pieces),
		cmocka_unit_test(refuses_other_sizes),
		cmocka_unit_test(lets_it_unpack_itself),
		cmocka_unit_test(loads_32bit_whole),
		cmocka_unit_test(refuses_other_files),
		cmocka_unit_test(places_the_initrd),
		cmocka_unit_test(hands_over),
		cmocka_unit_test(acpi_tables_are_whole),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
