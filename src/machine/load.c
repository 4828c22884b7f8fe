/* SPDX-License-Identifier: BSD-2-Clause */
/* Files and tables into the new machine's memory, and the boot vCPU at the kernel's entry. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "machine/acpi.h"
#include "machine/internal.h"
#include "machine/layout.h"
#include "memory/touch.h"

struct message {
	char *text;
	size_t size;
};

static int say(const struct message *message, int err, const char *path, const char *what)
{
	snprintf(message->text, message->size, "%s: %s", path, what);
	return err;
}

static int open_regular(const char *path, uint64_t *size, const struct message *message)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang us */
	struct stat st;

	if (fd < 0 || fstat(fd, &st)) {
		int err = -errno;

		if (fd >= 0)
			close(fd);
		return say(message, err, path, strerror(-err));
	}
	if (!S_ISREG(st.st_mode)) {
		close(fd);
		return say(message, -EINVAL, path, S_ISDIR(st.st_mode) ? "is a directory" : "not a regular file");
	}
	*size = st.st_size;
	return fd;
}

static int read_all(int fd, uint8_t *to, uint64_t size)
{
	for (uint64_t done = 0; done < size;) {
		ssize_t n = read(fd, to + done, size - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO; /* it shrank */
		done += n;
	}
	return 0;
}

/* A whole file in private memory; munmap() it. A mapping of the file itself could change or vanish under us. */
static int read_file(const char *path, uint64_t size_max, struct span *file, const struct message *message)
{
	uint64_t size;
	int fd = open_regular(path, &size, message), err;
	void *bytes;

	if (fd < 0)
		return fd;
	*file = (struct span){NULL, 0};
	if (size > size_max) {
		close(fd);
		return say(message, -EFBIG, path, "the file is larger than the guest's memory");
	}
	if (!size) {
		close(fd);
		return 0;
	}
	bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	err = bytes == MAP_FAILED ? -ENOMEM : 0;
	if (!err) {
		madvise(bytes, size, MADV_HUGEPAGE);
		err = read_all(fd, bytes, size);
		if (err)
			munmap(bytes, size);
	}
	close(fd);
	if (err)
		return say(message, err, path, strerror(-err));
	*file = (struct span){bytes, size};
	return 0;
}

static int load_kernel(struct machine *m, struct kernel *kernel, const struct message *message)
{
	struct boot_message why;
	struct span file;
	int err = read_file(m->config.kernel, m->config.mem_size, &file, message);

	if (err)
		return err;
	err = kernel_load(&m->mem, file, m->low_ram, kernel, &why);
	if (file.size)
		munmap((void *)(uintptr_t)file.bytes, file.size);
	return err ? say(message, err, m->config.kernel, why.text) : 0;
}

static int load_initrd(struct machine *m, const struct kernel *kernel, struct boot_info *info,
		       const struct message *message)
{
	uint64_t size, gpa;
	int fd, err;
	void *to;

	if (!m->config.initrd)
		return 0;
	fd = open_regular(m->config.initrd, &size, message);
	if (fd < 0)
		return fd;
	gpa = initrd_place(kernel, m->low_ram, size);
	to = gpa ? mem_at(&m->mem, gpa, size, MEM_WRITE) : NULL;
	if (to)
		memory_fill_ahead(&m->mem, gpa, size);
	err = to ? read_all(fd, to, size) : -ENOSPC;
	close(fd);
	if (err == -ENOSPC)
		return say(message, err, m->config.initrd, size ? "larger than memory beside the kernel" : "the file is empty");
	if (err)
		return say(message, err, m->config.initrd, strerror(-err));
	info->initrd_gpa = gpa;
	info->initrd_size = size;
	return 0;
}

static bool has_word(const char *text, const char *word)
{
	size_t size = strlen(word);

	for (const char *at = text; (at = strstr(at, word)); at += size)
		if ((at == text || at[-1] == ' ') && (!at[size] || at[size] == ' '))
			return true;
	return false;
}

/* A kernel that will not look at ACPI is told of virtio-mmio devices by its command line. The caller frees it. */
static char *name_virtio_mmio(const struct machine *m, const char *cmdline)
{
	enum { EACH = 64 };
	size_t size = strlen(cmdline) + 1 + (size_t)m->n_virtio_mmio * EACH, used = strlen(cmdline);
	char *text = malloc(size);

	if (!text)
		return NULL;
	memcpy(text, cmdline, used + 1);
	for (unsigned k = 0; k < m->n_virtio_mmio; k++)
		used += (size_t)snprintf(text + used, size - used, " virtio_mmio.device=0x%x@0x%llx:%u:%u", VIRTIO_MMIO_SIZE,
					 VIRTIO_MMIO_BASE + k * VIRTIO_MMIO_SIZE, irq_of_virtio_mmio(k), k);
	return text;
}

static int load_cmdline(struct machine *m, const struct kernel *kernel, struct boot_info *info,
			const struct message *message)
{
	const char *text = m->config.cmdline ? m->config.cmdline : "";
	size_t size;

	if (m->n_virtio_mmio && has_word(text, "acpi=off")) {
		m->long_cmdline = name_virtio_mmio(m, text);
		if (!m->long_cmdline)
			return say(message, -ENOMEM, "--append", strerror(ENOMEM));
		text = m->long_cmdline;
	}
	size = strlen(text) + 1;
	if (size > CMDLINE_MAX || (kernel->cmdline_max && size - 1 > kernel->cmdline_max))
		return say(message, -E2BIG, "--append", "longer than this kernel's limit");
	info->cmdline = text;
	return mem_write(&m->mem, CMDLINE_GPA, text, size);
}

static int write_tables(struct machine *m, const struct kernel *kernel, struct boot_info *info,
			const struct message *message)
{
	struct acpi_config acpi = {.cpu_count = m->config.cpu_count, .pci_mmio64_base = m->mmio64_base,
				   .pci_mmio64_size = PCI_MMIO64_SIZE, .has_pvpanic = true, .n_virtio_mmio = m->n_virtio_mmio};
	int err = acpi_write(&m->mem, &acpi, &info->rsdp_gpa);

	if (!err && kernel->protocol != BOOT_PVH)
		err = boot_params_write(&m->mem, kernel, info);
	else if (!err)
		err = pvh_start_info_write(&m->mem, info);
	return err ? say(message, err, "boot tables", strerror(-err)) : 0;
}

int machine_load(struct machine *m, char *error, size_t error_size)
{
	const struct message message = {error, error_size};
	struct boot_info info = {.low_ram = m->low_ram, .high_ram = m->high_ram};
	struct kernel kernel;
	int err = load_kernel(m, &kernel, &message);

	if (!err)
		err = load_initrd(m, &kernel, &info, &message);
	if (!err)
		err = load_cmdline(m, &kernel, &info, &message);
	if (!err)
		err = write_tables(m, &kernel, &info, &message);
	if (err)
		return err;
	log_debug("%s: %s at %#llx", m->config.kernel, kernel.how, (unsigned long long)kernel.entry);
	err = boot_entry(m->cpu[0].vcpu, &m->mem, &kernel);
	return err ? say(&message, err, "registers of the boot vCPU", strerror(-err)) : 0;
}
