/* SPDX-License-Identifier: BSD-2-Clause */
/* The typed calls, the same for both bindings. */
#include <errno.h>
#include <stdlib.h>

#include "kvm/binding.h"

static long system_ioctl(struct kvm *kvm, unsigned long request, void *arg)
{
	return kvm->binding->ioctl(kvm->handle, request, arg, NULL);
}

int kvm_check_extension(struct kvm *kvm, long cap)
{
	return system_ioctl(kvm, KVM_CHECK_EXTENSION, (void *)cap);
}

int kvm_get_supported_cpuid(struct kvm *kvm, struct kvm_cpuid2 *cpuid)
{
	return system_ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid);
}

int kvm_vm_new(struct kvm *kvm, struct kvm_vm **out)
{
	struct kvm_vm *vm = calloc(1, sizeof(*vm));
	long err;

	if (!vm)
		return -ENOMEM;
	vm->kvm = kvm;
	err = kvm->binding->ioctl(kvm->handle, KVM_CREATE_VM, NULL, &vm->handle);
	if (err) {
		free(vm);
		return err;
	}
	*out = vm;
	return 0;
}

void kvm_vm_free(struct kvm_vm *vm)
{
	if (!vm)
		return;
	vm->kvm->binding->close(vm->handle);
	free(vm);
}

long kvm_vm_ioctl(struct kvm_vm *vm, unsigned long request, void *arg)
{
	return vm->kvm->binding->ioctl(vm->handle, request, arg, NULL);
}

long kvm_vcpu_ioctl(struct kvm_vcpu *vcpu, unsigned long request, void *arg)
{
	return vcpu->binding->ioctl(vcpu->handle, request, arg, NULL);
}

int kvm_vm_set_memory(struct kvm_vm *vm, uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t size, void *hva)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot, .flags = flags, .guest_phys_addr = gpa, .memory_size = size,
		.userspace_addr = (uintptr_t)hva,
	};

	return kvm_vm_ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);
}

int kvm_vm_create_irqchip(struct kvm_vm *vm)
{
	return kvm_vm_ioctl(vm, KVM_CREATE_IRQCHIP, NULL);
}

int kvm_vm_create_pit(struct kvm_vm *vm)
{
	struct kvm_pit_config config = {.flags = KVM_PIT_SPEAKER_DUMMY};

	return kvm_vm_ioctl(vm, KVM_CREATE_PIT2, &config);
}

int kvm_vm_irq_line(struct kvm_vm *vm, uint32_t gsi, int level)
{
	struct kvm_irq_level line = {.irq = gsi, .level = level};

	return kvm_vm_ioctl(vm, KVM_IRQ_LINE, &line);
}

int kvm_vm_signal_msi(struct kvm_vm *vm, uint64_t address, uint32_t data)
{
	struct kvm_msi msi = {.address_lo = address, .address_hi = address >> 32, .data = data};

	return kvm_vm_ioctl(vm, KVM_SIGNAL_MSI, &msi);
}

int kvm_vm_ioeventfd(struct kvm_vm *vm, const struct kvm_ioeventfd *io)
{
	return kvm_vm_ioctl(vm, KVM_IOEVENTFD, (void *)(uintptr_t)io);
}

int kvm_vm_irqfd(struct kvm_vm *vm, const struct kvm_irqfd *irqfd)
{
	return kvm_vm_ioctl(vm, KVM_IRQFD, (void *)(uintptr_t)irqfd);
}

int kvm_vm_set_gsi_routing(struct kvm_vm *vm, const struct kvm_irq_routing *routing)
{
	return kvm_vm_ioctl(vm, KVM_SET_GSI_ROUTING, (void *)(uintptr_t)routing);
}

void kvm_vm_memory_written(struct kvm_vm *vm, uint64_t gpa, uint64_t len)
{
	vm->kvm->binding->memory_written(vm->handle, gpa, len);
}

int kvm_vcpu_new(struct kvm_vm *vm, unsigned id, struct kvm_vcpu **out)
{
	struct kvm_vcpu *vcpu = calloc(1, sizeof(*vcpu));
	long size = system_ioctl(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, NULL), err;

	if (!vcpu)
		return -ENOMEM;
	vcpu->binding = vm->kvm->binding;
	vcpu->run_size = size;
	err = size < 0 ? size : 0;
	if (!err)
		err = vcpu->binding->ioctl(vm->handle, KVM_CREATE_VCPU, (void *)(uintptr_t)id, &vcpu->handle);
	if (err) {
		free(vcpu);
		return err;
	}
	vcpu->run = vcpu->binding->map_run_area(vcpu->handle, size);
	if (!vcpu->run) {
		kvm_vcpu_free(vcpu);
		return -ENOMEM;
	}
	*out = vcpu;
	return 0;
}

void kvm_vcpu_free(struct kvm_vcpu *vcpu)
{
	if (!vcpu)
		return;
	if (vcpu->run)
		vcpu->binding->unmap_run_area(vcpu->run, vcpu->run_size);
	vcpu->binding->close(vcpu->handle);
	free(vcpu);
}

struct kvm_run *kvm_vcpu_run_area(struct kvm_vcpu *vcpu)
{
	return vcpu->run;
}

int kvm_vcpu_run(struct kvm_vcpu *vcpu)
{
	return vcpu->binding->run(vcpu);
}

void kvm_vcpu_kick(struct kvm_vcpu *vcpu)
{
	vcpu->binding->kick(vcpu);
}

int kvm_vcpu_get_regs(struct kvm_vcpu *vcpu, struct kvm_regs *regs)
{
	return kvm_vcpu_ioctl(vcpu, KVM_GET_REGS, regs);
}

int kvm_vcpu_set_regs(struct kvm_vcpu *vcpu, const struct kvm_regs *regs)
{
	return kvm_vcpu_ioctl(vcpu, KVM_SET_REGS, (void *)(uintptr_t)regs);
}

int kvm_vcpu_get_sregs(struct kvm_vcpu *vcpu, struct kvm_sregs *sregs)
{
	return kvm_vcpu_ioctl(vcpu, KVM_GET_SREGS, sregs);
}

int kvm_vcpu_set_sregs(struct kvm_vcpu *vcpu, const struct kvm_sregs *sregs)
{
	return kvm_vcpu_ioctl(vcpu, KVM_SET_SREGS, (void *)(uintptr_t)sregs);
}

int kvm_vcpu_set_cpuid(struct kvm_vcpu *vcpu, const struct kvm_cpuid2 *cpuid)
{
	return kvm_vcpu_ioctl(vcpu, KVM_SET_CPUID2, (void *)(uintptr_t)cpuid);
}

int kvm_vcpu_set_msrs(struct kvm_vcpu *vcpu, const struct kvm_msrs *msrs)
{
	return kvm_vcpu_ioctl(vcpu, KVM_SET_MSRS, (void *)(uintptr_t)msrs);
}
