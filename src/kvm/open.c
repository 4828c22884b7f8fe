/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Choosing the engine, and saying why.
 *
 * A kernel may offer /dev/kvm without hardware virtualization (page-table based VMs for guests that know of it).
 * Ordinary kernels run there badly or not at all, so AUTO passes it by; it is used when asked for by name.
 */
#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kvm/binding.h"

static const char *const soft_names[] = {
	[KVM_ENGINE_INTERPRET] = "interpret",
	[KVM_ENGINE_TRANSLATE] = "translate",
	[KVM_ENGINE_VERIFY] = "verify",
};

static int open_soft(struct kvm *kvm, enum kvm_engine engine)
{
	int err = kvm_soft_open(soft_names[engine], &kvm->handle);

	if (err)
		return err;
	kvm->binding = &kvm_binding_soft;
	kvm->name = soft_names[engine];
	return 0;
}

static int open_kernel(struct kvm *kvm, char *reason, size_t size)
{
	int err = kvm_kernel_open(&kvm->handle, reason, size);

	if (err)
		return err;
	kvm->binding = &kvm_binding_kernel;
	kvm->name = "kvm";
	return 0;
}

bool kvm_has_hardware(void)
{
	unsigned a, b, c, d;

	if (__get_cpuid(1, &a, &b, &c, &d) && (c & 1 << 5)) /* VMX */
		return true;
	return __get_cpuid(0x80000001, &a, &b, &c, &d) && (c & 1 << 2); /* SVM */
}

/* The kernel's KVM if it is there, else the fastest engine of our own. */
static int open_auto(struct kvm *kvm)
{
	char reason[120] = "/dev/kvm is there, but without hardware virtualization";
	int err = kvm_has_hardware() || access("/dev/kvm", F_OK) ? open_kernel(kvm, reason, sizeof(reason)) : -ENODEV;

	if (!err) {
		snprintf(kvm->why, sizeof(kvm->why), "kvm: /dev/kvm is available");
		return 0;
	}
	err = open_soft(kvm, KVM_ENGINE_TRANSLATE);
	if (err)
		err = open_soft(kvm, KVM_ENGINE_INTERPRET);
	if (!err)
		snprintf(kvm->why, sizeof(kvm->why), "%s: %s", kvm->name, reason);
	return err;
}

static int open_asked(struct kvm *kvm, enum kvm_engine engine)
{
	int err;

	if (engine == KVM_ENGINE_AUTO)
		return open_auto(kvm);
	if (engine == KVM_ENGINE_KERNEL) {
		err = open_kernel(kvm, kvm->why, sizeof(kvm->why));
		if (!err)
			snprintf(kvm->why, sizeof(kvm->why), "kvm: as asked for");
		return err;
	}
	err = open_soft(kvm, engine);
	if (!err)
		snprintf(kvm->why, sizeof(kvm->why), "%s: as asked for", kvm->name);
	else
		snprintf(kvm->why, sizeof(kvm->why), "%s: %s", soft_names[engine], strerror(-err));
	return err;
}

int kvm_open(enum kvm_engine engine, struct kvm **out, const char **why)
{
	static _Thread_local char failure[sizeof(((struct kvm *)0)->why)];
	struct kvm *kvm = calloc(1, sizeof(*kvm));
	int err = kvm ? open_asked(kvm, engine) : -ENOMEM;

	if (err) {
		snprintf(failure, sizeof(failure), "%s", kvm && kvm->why[0] ? kvm->why : strerror(-err));
		*why = failure;
		free(kvm);
		return err;
	}
	*why = kvm->why;
	*out = kvm;
	return 0;
}

void kvm_close(struct kvm *kvm)
{
	if (!kvm)
		return;
	kvm->binding->close(kvm->handle);
	free(kvm);
}

const char *kvm_engine_name(const struct kvm *kvm)
{
	return kvm->name;
}

bool kvm_is_soft(const struct kvm *kvm)
{
	return kvm->binding == &kvm_binding_soft;
}
