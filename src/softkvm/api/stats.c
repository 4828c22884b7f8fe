/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * KVM_GET_STATS_FD: counters of a VM or a vCPU as a file that describes itself (Documentation/virt/kvm/api.rst, 4.133), which
 * the user reads at any time, while vCPUs run.
 *
 * The file is one page of a memfd. Counters lie in struct vm or vcpu until somebody asks for the file; then they move to
 * its page, where they go on. Each file descriptor is opened anew and for reading only.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "softkvm/api/handle.h"

enum { NAME_SIZE = 48 };

struct stats_desc { /* struct kvm_stats_desc with its name */
	uint32_t flags;
	int16_t exponent;
	uint16_t size;
	uint32_t offset, bucket_size;
	char name[NAME_SIZE];
};

struct stats_file {
	int fd;
	uint8_t *page;
};

/* Every counter by the kernel's name: a number that only grows. */
static const struct stats_desc vcpu_descs[] = {
#define COUNTER(field) {KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_NONE, 0, 1, offsetof(struct vcpu_counts, field), 0, #field}
	COUNTER(exits), COUNTER(io_exits), COUNTER(mmio_exits), COUNTER(signal_exits), COUNTER(irq_window_exits), COUNTER(halt_exits),
	COUNTER(hypercalls), COUNTER(irq_injections), COUNTER(nmi_injections),
#undef COUNTER
};
static const struct stats_desc vm_descs[] = {
	{KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_NONE, 0, 1, offsetof(struct vm_counts, remote_tlb_flush), 0, "remote_tlb_flush"},
};

_Static_assert(sizeof(struct stats_desc) == sizeof(struct kvm_stats_desc) + NAME_SIZE, "the descriptors are as the header says");
_Static_assert(sizeof(vcpu_descs) / sizeof(vcpu_descs[0]) == sizeof(struct vcpu_counts) / 8, "no counter is forgotten");
_Static_assert(sizeof(struct kvm_stats_header) + NAME_SIZE + sizeof(vcpu_descs) + sizeof(struct vcpu_counts) <= PAGE_SIZE, "one page");

/* Lays the file out, but for the counters. Where they come: its offset. */
static uint32_t fill(uint8_t *page, const char *id, const struct stats_desc *descs, uint32_t count)
{
	struct kvm_stats_header header = {.name_size = NAME_SIZE, .num_desc = count, .id_offset = sizeof(header)};

	header.desc_offset = header.id_offset + NAME_SIZE;
	header.data_offset = header.desc_offset + count * (uint32_t)sizeof(*descs);
	memcpy(page, &header, sizeof(header));
	snprintf((char *)page + header.id_offset, NAME_SIZE, "%s", id);
	memcpy(page + header.desc_offset, descs, count * sizeof(*descs));
	return header.data_offset;
}

static int file_new(struct stats_file **out, size_t size)
{
	struct stats_file *f = calloc(1, sizeof(*f));

	if (!f)
		return -ENOMEM;
	f->page = MAP_FAILED;
	f->fd = memfd_create("guise-kvm-stats", MFD_CLOEXEC);
	if (f->fd >= 0 && !ftruncate(f->fd, (off_t)size))
		f->page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
	if (f->page == MAP_FAILED) {
		int err = -errno;

		if (f->fd >= 0)
			close(f->fd);
		free(f);
		return err;
	}
	*out = f;
	return 0;
}

void stats_file_free(struct stats_file *f)
{
	if (!f)
		return;
	munmap(f->page, PAGE_SIZE);
	close(f->fd);
	free(f);
}

/* A descriptor of the user's. */
static long reopen(const struct stats_file *f)
{
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", f->fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* vCPU: it is not running. */
static int vcpu_file(struct vcpu *v)
{
	const uint32_t count = sizeof(vcpu_descs) / sizeof(vcpu_descs[0]);
	struct stats_file *f;
	char id[NAME_SIZE];
	uint8_t *data;
	int err;

	err = file_new(&f, sizeof(struct kvm_stats_header) + NAME_SIZE + sizeof(vcpu_descs) + sizeof(struct vcpu_counts));
	if (err)
		return err;
	snprintf(id, sizeof(id), "kvm-%d/vcpu-%u", (int)getpid(), v->id);
	data = f->page + fill(f->page, id, vcpu_descs, count);
	v->counts = memcpy(data, v->counts, sizeof(*v->counts));
	v->api->stats = f;
	return 0;
}

static int vm_file(struct vm *vm)
{
	struct stats_file *f;
	char id[NAME_SIZE];
	uint8_t *data;
	int err;

	err = file_new(&f, sizeof(struct kvm_stats_header) + NAME_SIZE + sizeof(vm_descs) + sizeof(struct vm_counts));
	if (err)
		return err;
	snprintf(id, sizeof(id), "kvm-%d", (int)getpid());
	data = f->page + fill(f->page, id, vm_descs, 1);
	vm->counts = memcpy(data, vm->counts, sizeof(*vm->counts));
	vm->stats = f;
	return 0;
}

long get_vcpu_stats_fd(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	int err = h->vcpu->api->stats ? 0 : vcpu_file(h->vcpu);

	return err ? err : reopen(h->vcpu->api->stats);
}

long get_vm_stats_fd(struct softkvm *h, void *data, uintptr_t arg, struct softkvm **child)
{
	int err = h->vm->stats ? 0 : vm_file(h->vm);

	return err ? err : reopen(h->vm->stats);
}
