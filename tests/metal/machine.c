/* SPDX-License-Identifier: BSD-2-Clause */
/* The machine of runner.c: devices, exits, vCPU threads. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runner.h"

enum { LOAD_AT = 0x7c00, TESTDEV_MEM = 0xff000000 };

static void stop(struct metal *m, int status)
{
	int running = -1;

	if (atomic_compare_exchange_strong(&m->status, &running, status))
		for (unsigned i = 0; i < m->cpus; i++)
			kvm_vcpu_kick(m->vcpu[i]);
}

static void latch_access(struct metal *m, unsigned at, uint8_t *data, unsigned size, bool is_write)
{
	for (unsigned i = 0; i < size && at + i < 4; i++) {
		unsigned shift = (at + i) * 8;

		if (is_write)
			m->latch = (m->latch & ~(0xffu << shift)) | (uint32_t)data[i] << shift;
		else
			data[i] = (uint8_t)(m->latch >> shift);
	}
}

static void port_access(struct metal *m, uint16_t port, uint8_t *data, unsigned size, bool is_write)
{
	if (!is_write)
		memset(data, 0xff, size);
	if (port == 0xe9 && is_write)
		putchar(data[0]);
	else if (port == 0xe9)
		data[0] = 0xe9;
	else if (port == 0xf4 && is_write)
		stop(m, data[0] != 0);
	else if (port >= 0xe0 && port < 0xe4)
		latch_access(m, port - 0xe0, data, size, is_write);
	else if (port >= 0x2000 && port < 0x2018 && is_write)
		kvm_vm_irq_line(m->vm, port - 0x2000, data[0] & 1);
}

static void io_exit(struct metal *m, struct kvm_run *run)
{
	uint8_t *data = (uint8_t *)run + run->io.data_offset;

	pthread_mutex_lock(&m->lock);
	for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size)
		port_access(m, run->io.port, data, run->io.size, run->io.direction == KVM_EXIT_IO_OUT);
	pthread_mutex_unlock(&m->lock);
}

static void mmio_exit(struct metal *m, struct kvm_run *run)
{
	uint64_t at = run->mmio.phys_addr - TESTDEV_MEM;

	pthread_mutex_lock(&m->lock);
	if (at >= TESTDEV_SIZE || run->mmio.len > TESTDEV_SIZE - at)
		memset(run->mmio.data, 0xff, run->mmio.is_write ? 0 : 8);
	else if (run->mmio.is_write)
		memcpy(m->device_memory + at, run->mmio.data, run->mmio.len);
	else
		memcpy(run->mmio.data, m->device_memory + at, run->mmio.len);
	pthread_mutex_unlock(&m->lock);
}

static void unexpected_exit(struct metal *m, struct kvm_vcpu *vcpu, const struct kvm_run *run)
{
	struct kvm_regs regs = {0};

	kvm_vcpu_get_regs(vcpu, &regs);
	printf("FAIL exit reason %u at rip %#llx rax %#llx rsp %#llx\n", run->exit_reason,
	       (unsigned long long)regs.rip, (unsigned long long)regs.rax, (unsigned long long)regs.rsp);
	if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
		printf("internal error %u\n", run->internal.suberror);
	stop(m, 1);
}

static void vcpu_exit(struct metal *m, struct kvm_vcpu *vcpu, struct kvm_run *run)
{
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		io_exit(m, run);
		break;
	case KVM_EXIT_MMIO:
		mmio_exit(m, run);
		break;
	case KVM_EXIT_SHUTDOWN:
		if (!m->expect_shutdown)
			unexpected_exit(m, vcpu, run);
		stop(m, 0);
		break;
	case KVM_EXIT_INTR:
		break;
	default:
		unexpected_exit(m, vcpu, run);
	}
}

struct vcpu_thread {
	struct metal *m;
	unsigned index;
	pthread_t thread;
};

static void *vcpu_main(void *arg)
{
	struct vcpu_thread *t = arg;
	struct metal *m = t->m;
	struct kvm_vcpu *vcpu = m->vcpu[t->index];

	while (atomic_load(&m->status) < 0 && !atomic_load(&m->pause)) {
		int err = kvm_vcpu_run(vcpu);

		if (err == -EINTR || err == -EAGAIN)
			continue;
		if (err < 0) {
			printf("FAIL KVM_RUN: %s\n", strerror(-err));
			stop(m, 2);
			break;
		}
		vcpu_exit(m, vcpu, kvm_vcpu_run_area(vcpu));
	}
	return NULL;
}

/* CPUID as supported, with the vCPU's own APIC id. */
static int give_cpuid(struct metal *m, unsigned index)
{
	enum { ENTRIES = 256 };
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + ENTRIES * sizeof(struct kvm_cpuid_entry2));
	int err;

	cpuid->nent = ENTRIES;
	err = kvm_get_supported_cpuid(m->kvm, cpuid);
	for (uint32_t i = 0; err >= 0 && i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *e = &cpuid->entries[i];

		if (e->function == 1)
			e->ebx = (e->ebx & 0x0000ffff) | m->cpus << 16 | index << 24;
		if (e->function == 1)
			e->ecx |= 1u << 31;
		if (e->function == 0xb)
			e->edx = index;
	}
	if (err >= 0)
		err = kvm_vcpu_set_cpuid(m->vcpu[index], cpuid);
	free(cpuid);
	return err;
}

int metal_start(struct metal *m)
{
	struct kvm_vcpu *vcpu = m->vcpu[0];
	struct kvm_regs regs = {.rip = LOAD_AT, .rsp = LOAD_AT, .rflags = 2};
	struct kvm_sregs sregs;
	int err = kvm_vcpu_get_sregs(vcpu, &sregs);

	if (err < 0)
		return err;
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	err = kvm_vcpu_set_sregs(vcpu, &sregs);
	return err < 0 ? err : kvm_vcpu_set_regs(vcpu, &regs);
}

/* A PC's wiring: interrupt 0 is the I/O APIC's pin 2, the others go to both controllers. */
static int route_interrupts(struct metal *m)
{
	enum { PINS = 24, PIC_INPUTS = 16 };
	struct kvm_irq_routing *r =
	    calloc(1, sizeof(*r) + (PINS + PIC_INPUTS) * sizeof(struct kvm_irq_routing_entry));
	int err;

	for (uint32_t gsi = 0; gsi < PINS; gsi++) {
		struct kvm_irq_routing_entry *e = &r->entries[r->nr];

		e[0] = (struct kvm_irq_routing_entry){
		    .gsi = gsi,
		    .type = KVM_IRQ_ROUTING_IRQCHIP,
		    .u.irqchip = {.irqchip = KVM_IRQCHIP_IOAPIC, .pin = gsi == 0 ? 2 : gsi}};
		if (gsi != 2)
			r->nr++;
		if (gsi < PIC_INPUTS)
			r->entries[r->nr++] = (struct kvm_irq_routing_entry){
			    .gsi = gsi,
			    .type = KVM_IRQ_ROUTING_IRQCHIP,
			    .u.irqchip = {.irqchip = gsi / 8 ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER,
					  .pin = gsi % 8}};
	}
	err = kvm_vm_set_gsi_routing(m->vm, r);
	free(r);
	return err;
}

int metal_build(struct metal *m)
{
	int err = kvm_vm_new(m->kvm, &m->vm);

	if (err >= 0 && !kvm_is_soft(m->kvm))
		err = (int)kvm_vm_ioctl(m->vm, KVM_SET_TSS_ADDR, (void *)0xfffbd000);
	if (err >= 0)
		err = kvm_vm_create_irqchip(m->vm);
	if (err >= 0)
		err = route_interrupts(m);
	if (err >= 0)
		err = kvm_vm_create_pit(m->vm);
	if (err >= 0)
		err = kvm_vm_set_memory(m->vm, 0, 0, 0, RAM_SIZE, m->ram);
	for (unsigned i = 0; i < m->cpus && err >= 0; i++) {
		err = kvm_vcpu_new(m->vm, i, &m->vcpu[i]);
		if (err >= 0)
			err = give_cpuid(m, i);
	}
	return err;
}

int metal_load(struct metal *m, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, m->ram + LOAD_AT, 0xa0000 - LOAD_AT);

	if (fd >= 0)
		close(fd);
	return size > 0 ? 0 : -EIO;
}

/* A device access under way must be over before the state is looked at. */
static void finish_io(struct metal *m, struct kvm_vcpu *vcpu)
{
	struct kvm_run *run = kvm_vcpu_run_area(vcpu);

	run->immediate_exit = 1;
	while (atomic_load(&m->status) < 0 && kvm_vcpu_run(vcpu) != -EINTR)
		vcpu_exit(m, vcpu, run);
	run->immediate_exit = 0;
}

static void pause_all(struct metal *m)
{
	atomic_store(&m->pause, true);
	for (unsigned i = 0; i < m->cpus; i++)
		kvm_vcpu_kick(m->vcpu[i]);
}

int metal_run(struct metal *m, unsigned slice_us)
{
	struct vcpu_thread threads[MAX_CPUS];

	atomic_store(&m->pause, false);
	for (unsigned i = 0; i < m->cpus; i++) {
		threads[i] = (struct vcpu_thread){.m = m, .index = i};
		if (pthread_create(&threads[i].thread, NULL, vcpu_main, &threads[i]))
			abort();
	}
	if (slice_us) {
		usleep(slice_us);
		pause_all(m);
	}
	for (unsigned i = 0; i < m->cpus; i++)
		pthread_join(threads[i].thread, NULL);
	for (unsigned i = 0; i < m->cpus; i++)
		finish_io(m, m->vcpu[i]);
	return m->status;
}

void metal_free(struct metal *m)
{
	for (unsigned i = 0; i < m->cpus; i++)
		if (m->vcpu[i])
			kvm_vcpu_free(m->vcpu[i]);
	if (m->vm)
		kvm_vm_free(m->vm);
	memset(m->vcpu, 0, sizeof(m->vcpu));
	m->vm = NULL;
}
