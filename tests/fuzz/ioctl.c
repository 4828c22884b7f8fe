/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Any sequence of ioctls with any contents on a VM: none may crash, hang or touch what is not theirs.
 *
 * The input is a program: two bytes choose a request and how its argument is made, then come some of the argument's bytes;
 * the others are what the call before left, so that a GET followed by a SET is a valid state with a few bytes changed. What a
 * client vouches for is put right first: addresses of its own memory and file descriptors (memory slots, dirty
 * bitmaps, attributes, eventfds) are replaced by valid or by plainly bad ones. A second thread kicks the vCPUs, as guests
 * made of noise need not end.
 */
#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#include "softkvm/api/handle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RAM_SIZE = 256 << 10, MAX_VCPUS = 3, MAX_CALLS = 64, ARG_SIZE = 16 << 10, KICK_US = 300 };

struct input {
	const uint8_t *data;
	size_t left;
};

struct client {
	struct softkvm *system, *vm, *_Atomic vcpu[MAX_VCPUS];
	uint8_t *ram;
	int eventfd[2];
	void *bad;
	uint8_t arg[ARG_SIZE] __attribute__((aligned(16)));
	uint8_t scratch[4096];
	/* A count in arg may ask for more than arg holds: up to 4096 routes. The caller's memory goes on. */
	uint8_t rest[4096 * sizeof(struct kvm_irq_routing_entry)];
};

static struct client client;

static uint8_t take_byte(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->data++;
}

static void take(struct input *in, void *to, size_t size)
{
	size_t n = size < in->left ? size : in->left;

	memset(to, 0, size);
	memcpy(to, in->data, n);
	in->data += n;
	in->left -= n;
}

/* --- arguments --- */

static int some_fd(uint32_t value)
{
	const int fds[] = {client.eventfd[0], client.eventfd[1], -1, 0};

	return fds[value & 3];
}

static uint64_t some_address(uint64_t value)
{
	return (uintptr_t)(value & 1 ? client.bad : client.scratch);
}

static void vouch(unsigned long request)
{
	void *arg = client.arg;

	if (request == KVM_SET_USER_MEMORY_REGION) {
		struct kvm_userspace_memory_region *r = arg;

		r->slot &= 7;
		r->guest_phys_addr &= 0xffff000;
		r->memory_size &= 0xf000;
		r->userspace_addr = (uintptr_t)client.ram + (r->userspace_addr & 0x1f000);
	} else if (request == KVM_GET_DIRTY_LOG) {
		((struct kvm_dirty_log *)arg)->dirty_bitmap = (void *)some_address(((struct kvm_dirty_log *)arg)->padding2);
	} else if (request == KVM_CLEAR_DIRTY_LOG) {
		struct kvm_clear_dirty_log *log = arg;

		log->dirty_bitmap = (void *)some_address(log->padding2);
		log->num_pages &= 0x7f;
	} else if (request == KVM_IOEVENTFD) {
		((struct kvm_ioeventfd *)arg)->fd = some_fd((uint32_t)((struct kvm_ioeventfd *)arg)->fd);
	} else if (request == KVM_IRQFD) {
		((struct kvm_irqfd *)arg)->fd = (uint32_t)some_fd(((struct kvm_irqfd *)arg)->fd);
		((struct kvm_irqfd *)arg)->resamplefd = (uint32_t)some_fd(((struct kvm_irqfd *)arg)->resamplefd);
	} else if (request == KVM_X86_SET_MSR_FILTER) {
		struct kvm_msr_filter_range *range = ((struct kvm_msr_filter *)arg)->ranges;

		for (unsigned k = 0; k < KVM_MSR_FILTER_MAX_RANGES; k++)
			range[k].bitmap = (void *)some_address((uintptr_t)range[k].bitmap);
	} else if (request == KVM_SET_DEVICE_ATTR || request == KVM_GET_DEVICE_ATTR) {
		((struct kvm_device_attr *)arg)->addr = some_address(((struct kvm_device_attr *)arg)->addr);
	}
}

/* Overwrite up to 31 bytes of the argument somewhere, or nothing, or all of its beginning by zeros first. */
static void change_arg(struct input *in, unsigned long request)
{
	uint8_t how = take_byte(in);
	size_t size = _IOC_SIZE(request) + 128, at = take_byte(in) * 64 % size;

	if (how & 0x80)
		memset(client.arg, 0, sizeof(client.arg));
	if (how & 0x40)
		at = 0;
	take(in, client.arg + at, how & 0x1f);
}

/* --- calls --- */

static const struct ioctl_row *some_row(uint8_t n)
{
	const struct ioctl_row *tables[] = {system_ioctls, vm_ioctls, vcpu_ioctls, state_ioctls};
	unsigned count = 0;

	for (unsigned pass = 0; pass < 2; pass++) {
		unsigned i = 0;

		for (unsigned t = 0; t < 4; t++)
			for (const struct ioctl_row *row = tables[t]; row->handler; row++, i++)
				if (pass && i == n % count)
					return row;
		count = i;
	}
	return NULL;
}

static struct softkvm *some_handle(unsigned kinds, uint8_t how)
{
	if (kinds & HANDLE_VCPU)
		return client.vcpu[(how >> 4) % MAX_VCPUS];
	return kinds & HANDLE_VM ? client.vm : client.system;
}

static void keep_child(unsigned long request, struct softkvm *child)
{
	for (unsigned i = 0; request == KVM_CREATE_VCPU && i < MAX_VCPUS; i++)
		if (!client.vcpu[i]) {
			client.vcpu[i] = child;
			return;
		}
	softkvm_close(child);
}

/* What the user may have left in the run area: registers to take, an answer to the last exit. */
static void fill_run_area(struct softkvm *vcpu, struct input *in)
{
	struct kvm_run *run = softkvm_run_area(vcpu);

	run->kvm_valid_regs = take_byte(in);
	run->kvm_dirty_regs = take_byte(in);
	run->msr.error = run->kvm_dirty_regs >> 4 & 1;
	memcpy(&run->s.regs, client.arg, sizeof(run->s.regs));
}

static void one_call(struct input *in)
{
	const struct ioctl_row *row = some_row(take_byte(in));
	uint8_t how = take_byte(in);
	struct softkvm *h = some_handle(row->kinds, how), *child = NULL;
	uintptr_t arg = (uintptr_t)client.arg;

	if (!h)
		return;
	if ((how & 15) == 15) {
		arg = (uintptr_t)client.bad;
	} else if (row->request == KVM_CREATE_VCPU || row->flags & ARG_ZERO) {
		arg = how & 8 ? how & 3 : 0;
	} else if (row->flags == 0 && (how & 14) == 14) {
		arg = take_byte(in);
	} else {
		change_arg(in, row->request);
		vouch(row->request);
	}
	if (row->request == KVM_RUN && how & 4)
		fill_run_area(h, in);
	if (softkvm_ioctl(h, row->request, arg, &child) == 0 && child)
		keep_child(row->request, child);
}

/* --- the second thread --- */

static void *kicker(void *arg)
{
	const struct timespec pause = {.tv_nsec = KICK_US * 1000};

	while (!atomic_load((_Atomic bool *)arg)) {
		nanosleep(&pause, NULL);
		for (unsigned i = 0; i < MAX_VCPUS; i++)
			if (client.vcpu[i])
				softkvm_kick(client.vcpu[i]);
	}
	return NULL;
}

static void set_up_once(void)
{
	if (client.ram)
		return;
	client.ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	client.bad = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	client.eventfd[0] = eventfd(0, EFD_NONBLOCK);
	client.eventfd[1] = eventfd(0, EFD_NONBLOCK);
}

/* The first byte says what the VM begins with; RAM holds the input, so the guest's code is in it too. */
static void open_vm(struct input *in)
{
	struct kvm_userspace_memory_region region = {0, 0, 0, RAM_SIZE, (uintptr_t)client.ram};
	uint8_t with = take_byte(in);
	struct softkvm *vcpu;

	for (size_t at = 0; in->left && at + in->left <= RAM_SIZE; at += RAM_SIZE / 4)
		memcpy(client.ram + at, in->data, in->left < RAM_SIZE / 4 ? in->left : RAM_SIZE / 4);
	if (!(with & 16) || softkvm_open("translate", &client.system))
		softkvm_open("interpret", &client.system);
	softkvm_ioctl(client.system, KVM_CREATE_VM, 0, &client.vm);
	if (with & 1)
		softkvm_ioctl(client.vm, KVM_CREATE_IRQCHIP, 0, NULL);
	if (with & 2)
		softkvm_ioctl(client.vm, KVM_SET_USER_MEMORY_REGION, (uintptr_t)&region, NULL);
	if (with & 12 && !softkvm_ioctl(client.vm, KVM_CREATE_VCPU, 0, &vcpu))
		client.vcpu[0] = vcpu;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	_Atomic bool stop = false;
	pthread_t thread;

	set_up_once();
	open_vm(&in);
	if (pthread_create(&thread, NULL, kicker, &stop))
		return 0;
	for (int i = 0; i < MAX_CALLS && in.left; i++)
		one_call(&in);
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
	for (unsigned i = 0; i < MAX_VCPUS; i++) {
		softkvm_close(client.vcpu[i]);
		client.vcpu[i] = NULL;
	}
	softkvm_close(client.vm);
	softkvm_close(client.system);
	return 0;
}
