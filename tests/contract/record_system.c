// SPDX-License-Identifier: BSD-2-Clause
/* /dev/kvm itself: version, capabilities (also of a VM), CPUID and MSR lists. */
#include "record.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { LAST_CAP = 240, MAX_ENTRIES = 256 };

static void capabilities(const char *what, int fd)
{
	char key[64];

	for (unsigned cap = 0; cap <= LAST_CAP; cap++) {
		int ret = call_number(fd, KVM_CHECK_EXTENSION, cap);

		snprintf(key, sizeof(key), "%s capability %u", what, cap);
		if (ret)
			say_result(key, ret);
	}
}

static void cpuid(const char *what, unsigned long request)
{
	struct kvm_cpuid2 *list = calloc(1, sizeof(*list) + MAX_ENTRIES * sizeof(struct kvm_cpuid_entry2));
	char key[64];

	list->nent = MAX_ENTRIES;
	snprintf(key, sizeof(key), "%s", what);
	say_result(key, call(kvm_fd, request, list));
	for (unsigned i = 0; i < list->nent && i < MAX_ENTRIES; i++) {
		const struct kvm_cpuid_entry2 *e = &list->entries[i];

		snprintf(key, sizeof(key), "%s %08x.%x flags", what, e->function, e->index);
		say(key, "%x", e->flags);
		snprintf(key, sizeof(key), "%s %08x.%x registers", what, e->function, e->index);
		say(key, "%08x %08x %08x %08x", e->eax, e->ebx, e->ecx, e->edx);
	}
	list->nent = 1;
	snprintf(key, sizeof(key), "%s with room for 1", what);
	say_result(key, call(kvm_fd, request, list));
	list->nent = 0;
	snprintf(key, sizeof(key), "%s with room for 0", what);
	say_result(key, call(kvm_fd, request, list));
	list->nent = 1000;
	snprintf(key, sizeof(key), "%s with room for 1000", what);
	say_result(key, call(kvm_fd, request, list));
	free(list);
}

static void msr_list(const char *what, unsigned long request, bool values)
{
	struct kvm_msr_list *list = calloc(1, sizeof(*list) + MAX_ENTRIES * sizeof(list->indices[0]));
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msr;
	char key[64];
	int ret;

	snprintf(key, sizeof(key), "%s with room for 0", what);
	say_result(key, call(kvm_fd, request, list));
	list->nmsrs = MAX_ENTRIES;
	ret = call(kvm_fd, request, list);
	say_result(what, ret);
	for (unsigned i = 0; !ret && i < list->nmsrs; i++) {
		snprintf(key, sizeof(key), "%s %08x", what, list->indices[i]);
		msr.head.nmsrs = 1;
		msr.entry = (struct kvm_msr_entry){.index = list->indices[i]};
		if (!values)
			say(key, "listed");
		else if (call(kvm_fd, KVM_GET_MSRS, &msr) == 1)
			say(key, "%llx", msr.entry.data);
		else
			say(key, "not readable");
	}
	free(list);
}

void record_system(void)
{
	int vm;

	say_result("API version", call_number(kvm_fd, KVM_GET_API_VERSION, 0));
	say_result("API version with an argument", call_number(kvm_fd, KVM_GET_API_VERSION, 1));
	say_result("run area with an argument", call_number(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 1));
	say_result("run area", call_number(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0));
	say_result("a VM of type 1", call_number(kvm_fd, KVM_CREATE_VM, 1));
	say_result("a VM of type 2^32-1", call_number(kvm_fd, KVM_CREATE_VM, 0xffffffff));
	capabilities("system", kvm_fd);
	vm = new_vm(NO_IRQCHIP);
	capabilities("VM", vm);
	close(vm);
	cpuid("supported CPUID", KVM_GET_SUPPORTED_CPUID);
	cpuid("emulated CPUID", KVM_GET_EMULATED_CPUID);
	msr_list("MSR", KVM_GET_MSR_INDEX_LIST, false);
	msr_list("feature MSR", KVM_GET_MSR_FEATURE_INDEX_LIST, true);
}
