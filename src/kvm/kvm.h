/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Typed KVM calls for the machine, bound either to the kernel's /dev/kvm or to softkvm; the machine cannot tell.
 * Structs are those of <linux/kvm.h>. All calls return 0 (or a positive result) or -errno.
 */
#ifndef GUISE_KVM_KVM_H
#define GUISE_KVM_KVM_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kvm;	 /* the system */
struct kvm_vm;	 /* a virtual machine */
struct kvm_vcpu; /* a virtual CPU */

enum kvm_engine { KVM_ENGINE_AUTO, KVM_ENGINE_KERNEL, KVM_ENGINE_INTERPRET, KVM_ENGINE_TRANSLATE, KVM_ENGINE_VERIFY };

/*
 * Open the engine asked for; AUTO tries /dev/kvm first. *why (static or inside *kvm, never NULL after success)
 * says which engine it is and why in one line, e.g. "translate: no hardware virtualization (/dev/kvm: No such file
 * or directory)". On failure *why says what is missing and how to get it.
 */
int kvm_open(enum kvm_engine engine, struct kvm **kvm, const char **why);
void kvm_close(struct kvm *kvm);
const char *kvm_engine_name(const struct kvm *kvm); /* "kvm", "translate", ... */
bool kvm_is_soft(const struct kvm *kvm);
bool kvm_has_hardware(void); /* does this processor show VMX or SVM? */

int kvm_check_extension(struct kvm *kvm, long cap);
int kvm_get_supported_cpuid(struct kvm *kvm, struct kvm_cpuid2 *cpuid);
int kvm_vm_new(struct kvm *kvm, struct kvm_vm **vm);
void kvm_vm_free(struct kvm_vm *vm); /* after its vCPUs */

/* Any VM or vCPU ioctl by number, for what has no typed call of its own. */
long kvm_vm_ioctl(struct kvm_vm *vm, unsigned long request, void *arg);
long kvm_vcpu_ioctl(struct kvm_vcpu *vcpu, unsigned long request, void *arg);

int kvm_vm_set_memory(struct kvm_vm *vm, uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t size, void *hva);
int kvm_vm_create_irqchip(struct kvm_vm *vm);
int kvm_vm_create_pit(struct kvm_vm *vm);
int kvm_vm_irq_line(struct kvm_vm *vm, uint32_t gsi, int level);
int kvm_vm_signal_msi(struct kvm_vm *vm, uint64_t address, uint32_t data);
int kvm_vm_ioeventfd(struct kvm_vm *vm, const struct kvm_ioeventfd *io);
int kvm_vm_irqfd(struct kvm_vm *vm, const struct kvm_irqfd *irqfd);
int kvm_vm_set_gsi_routing(struct kvm_vm *vm, const struct kvm_irq_routing *routing);
/* Device threads wrote guest RAM at [gpa, gpa+len): no-op on the kernel's KVM. Any thread. */
void kvm_vm_memory_written(struct kvm_vm *vm, uint64_t gpa, uint64_t len);

int kvm_vcpu_new(struct kvm_vm *vm, unsigned id, struct kvm_vcpu **vcpu);
void kvm_vcpu_free(struct kvm_vcpu *vcpu);
struct kvm_run *kvm_vcpu_run_area(struct kvm_vcpu *vcpu);
int kvm_vcpu_run(struct kvm_vcpu *vcpu); /* 0: look at the run area's exit_reason; -EINTR: kicked */
/* Make kvm_vcpu_run() of another thread return -EINTR; sticky until that return. Any thread. */
void kvm_vcpu_kick(struct kvm_vcpu *vcpu);
int kvm_vcpu_get_regs(struct kvm_vcpu *vcpu, struct kvm_regs *regs);
int kvm_vcpu_set_regs(struct kvm_vcpu *vcpu, const struct kvm_regs *regs);
int kvm_vcpu_get_sregs(struct kvm_vcpu *vcpu, struct kvm_sregs *sregs);
int kvm_vcpu_set_sregs(struct kvm_vcpu *vcpu, const struct kvm_sregs *sregs);
int kvm_vcpu_set_cpuid(struct kvm_vcpu *vcpu, const struct kvm_cpuid2 *cpuid);
int kvm_vcpu_set_msrs(struct kvm_vcpu *vcpu, const struct kvm_msrs *msrs);

#endif
